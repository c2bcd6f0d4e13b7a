# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# The project of a stranger, whichever way it found the library.
add_executable(consumer ../consumer.cpp)
target_link_libraries(consumer PRIVATE gistkv::eigen gistkv::io gistkv::conformance)
# A backend of nothing but the standard library passes the suite that the package brings along.
add_executable(own_backend ${CMAKE_CURRENT_LIST_DIR}/../../examples/05_bring_your_own_backend.cpp)
target_link_libraries(own_backend PRIVATE gistkv::conformance)
add_library(core_only OBJECT ../core_only.cpp)
target_link_libraries(core_only PRIVATE gistkv::core)

foreach(component core io conformance eigen)
  foreach(property INTERFACE_COMPILE_OPTIONS INTERFACE_COMPILE_DEFINITIONS INTERFACE_LINK_OPTIONS)
    get_target_property(value gistkv::${component} ${property})
    if(value)
      message(FATAL_ERROR "gistkv::${component} forces on its consumers: ${property} ${value}")
    endif()
  endforeach()
endforeach()
