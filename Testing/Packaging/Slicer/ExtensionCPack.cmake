# The description of the extension, and its package: what Slicer's Extensions Manager gets.

foreach(file EXTENSION_README_FILE EXTENSION_LICENSE_FILE)
  if(NOT EXISTS "${${file}}")
    message(FATAL_ERROR "${file} names a file that does not exist: ${${file}}")
  endif()
endforeach()

set(description "${CMAKE_BINARY_DIR}/${EXTENSION_NAME}.s4ext")
if(COMMAND slicerFunctionGenerateExtensionDescription)
  slicerFunctionGenerateExtensionDescription(
    EXTENSION_NAME ${EXTENSION_NAME}
    EXTENSION_CATEGORY ${EXTENSION_CATEGORY}
    EXTENSION_ICONURL ${EXTENSION_ICONURL}
    EXTENSION_HOMEPAGE ${EXTENSION_HOMEPAGE}
    EXTENSION_CONTRIBUTORS ${EXTENSION_CONTRIBUTORS}
    EXTENSION_DESCRIPTION ${EXTENSION_DESCRIPTION}
    EXTENSION_SCREENSHOTURLS ${EXTENSION_SCREENSHOTURLS}
    EXTENSION_DEPENDS ${EXTENSION_DEPENDS}
    EXTENSION_WC_TYPE git
    EXTENSION_WC_REVISION main
    EXTENSION_WC_ROOT ${EXTENSION_HOMEPAGE}.git
    EXTENSION_WC_URL ${EXTENSION_HOMEPAGE}.git
    DESTINATION_DIR ${CMAKE_BINARY_DIR}
    SLICER_REVISION ${Slicer_REVISION}
    SLICER_WC_ROOT ${Slicer_WC_ROOT}
    )
else()
  string(CONCAT text
    "scm git\n"
    "scmurl ${EXTENSION_HOMEPAGE}.git\n"
    "scmrevision main\n"
    "depends ${EXTENSION_DEPENDS}\n"
    "homepage ${EXTENSION_HOMEPAGE}\n"
    "contributors ${EXTENSION_CONTRIBUTORS}\n"
    "category ${EXTENSION_CATEGORY}\n"
    "iconurl ${EXTENSION_ICONURL}\n"
    "description ${EXTENSION_DESCRIPTION}\n"
    "screenshoturls ${EXTENSION_SCREENSHOTURLS}\n"
    )
  file(WRITE "${description}" "${text}")
endif()
install(FILES "${description}" DESTINATION "${Slicer_INSTALL_ROOT}${Slicer_SHARE_DIR}" COMPONENT RuntimeLibraries)

set(CPACK_GENERATOR TGZ)
set(CPACK_MONOLITHIC_INSTALL ON)
set(CPACK_PACKAGE_FILE_NAME "${Slicer_REVISION}-${Slicer_OS}-${Slicer_ARCHITECTURE}-${EXTENSION_NAME}")
set(CPACK_RESOURCE_FILE_LICENSE "${EXTENSION_LICENSE_FILE}")
include(CPack)
