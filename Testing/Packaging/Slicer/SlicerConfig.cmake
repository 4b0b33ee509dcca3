# A stand-in for an installed Slicer's CMake package: enough of its documented behaviour to configure, build, install and
# package a scripted extension without Slicer. `find_package(Slicer)` finds it with -DSlicer_DIR=<this folder>.
#
# With -DREAL_SLICER_SOURCE and -DREAL_CTK_SOURCE (checkouts of Slicer and CTK), their own macros are used instead of the
# ones written here.

set(Slicer_CMAKE_DIR "${CMAKE_CURRENT_LIST_DIR}")
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/ExtensionCPack.cmake")

set(Slicer_VERSION 5.10)
set(Slicer_REVISION 34045)
set(Slicer_OS linux)
set(Slicer_ARCHITECTURE amd64)
set(Slicer_WC_ROOT "https://github.com/Slicer/Slicer")
set(Slicer_USE_PYTHONQT ON)
set(Slicer_LAUNCHER_EXECUTABLE "Slicer")
set(Slicer_ExternalData_DATA_MANAGEMENT_TARGET StandInData)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-${Slicer_VERSION}/qt-scripted-modules")
set(Slicer_CLIMODULES_LIB_DIR "lib/Slicer-${Slicer_VERSION}/cli-modules")
set(Slicer_QTLOADABLEMODULES_LIB_DIR "lib/Slicer-${Slicer_VERSION}/qt-loadable-modules")
set(Slicer_INSTALL_ROOT "")
set(Slicer_SHARE_DIR "share/Slicer-${Slicer_VERSION}")

set(Slicer_FOUND TRUE)
