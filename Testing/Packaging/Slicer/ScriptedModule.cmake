# Stand-ins for slicerMacroBuildScriptedModule and slicer_add_python_unittest, after their documented behaviour:
#
# - SCRIPTS and RESOURCES are relative to the module's folder and must exist; they keep their relative path below
#   <build>/lib/Slicer-X.Y/qt-scripted-modules, and everything found there is installed;
# - unknown keywords are an error; a path that climbs out with ".." ends up where nothing is installed from.

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: unknown keywords or no NAME: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  set(destination "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(outputs)
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    set(source "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
    if(NOT EXISTS "${source}")
      message(FATAL_ERROR "slicerMacroBuildScriptedModule: there is no ${file}")
    endif()
    add_custom_command(
      OUTPUT "${destination}/${file}"
      COMMAND ${CMAKE_COMMAND} -E copy "${source}" "${destination}/${file}"
      DEPENDS "${source}"
      )
    list(APPEND outputs "${destination}/${file}")
  endforeach()
  add_custom_target(${MY_NAME} ALL DEPENDS ${outputs})
  install(DIRECTORY "${destination}/" DESTINATION "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    COMPONENT RuntimeLibraries USE_SOURCE_PERMISSIONS)
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT}")
    message(FATAL_ERROR "slicer_add_python_unittest: there is no ${MY_SCRIPT}")
  endif()
  get_filename_component(name "${MY_SCRIPT}" NAME_WE)
  ExternalData_add_test(${Slicer_ExternalData_DATA_MANAGEMENT_TARGET}
    NAME py_${MY_TESTNAME_PREFIX}${name}
    COMMAND ${Slicer_LAUNCHER_EXECUTABLE} --no-splash --testing ${MY_SLICER_ARGS} --python-code "run ${name}")
endfunction()
