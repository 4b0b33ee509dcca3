# What including Slicer's use file gives an extension.

set(EXTENSION_NAME "${PROJECT_NAME}")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "${Slicer_INSTALL_ROOT}${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
include(CTest)

# Slicer's tests go through ExternalData; here they are only registered.
function(ExternalData_add_test target)
  add_test(${ARGN})
endfunction()

if(REAL_SLICER_SOURCE AND REAL_CTK_SOURCE)
  find_package(Python3 COMPONENTS Interpreter REQUIRED)
  set(PYTHONINTERP_FOUND TRUE)
  set(PYTHONLIBS_FOUND TRUE)
  set(PYTHON_EXECUTABLE "${Python3_EXECUTABLE}")
  set(PYTHON_LIBRARIES "${Python3_EXECUTABLE}") # only its folder is used
  set(CTK_CMAKE_DIR "${REAL_CTK_SOURCE}/CMake")
  list(PREPEND CMAKE_MODULE_PATH "${REAL_SLICER_SOURCE}/CMake" "${REAL_SLICER_SOURCE}/Extensions/CMake" "${CTK_CMAKE_DIR}")
  set(Slicer_CMAKE_DIR "${REAL_SLICER_SOURCE}/CMake")
  set(Slicer_EXTENSIONS_CMAKE_DIR "${REAL_SLICER_SOURCE}/Extensions/CMake")
  set(Slicer_PYTHON_MODULE_TEST_TEMPLATES_DIR "${REAL_SLICER_SOURCE}/Base/QTCore/Testing/Python")
  include(ctkFunctionExtractOptimizedLibrary)
  include(ctkMacroCompilePythonScript)
  include(SlicerMacroBuildScriptedModule)
  include(SlicerMacroPythonTesting)
  include(SlicerMacroConfigureGenericPythonModuleTests)
  include(SlicerFunctionGenerateExtensionDescription)
else()
  include("${CMAKE_CURRENT_LIST_DIR}/ScriptedModule.cmake")
endif()
