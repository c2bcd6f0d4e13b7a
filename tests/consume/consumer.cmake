# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# The project of a stranger, whichever way it found the library: with one of its backends (BACKEND), and
# with the eigen backend also all that needs none.
add_executable(consumer_${BACKEND} ../consumer_${BACKEND}.cpp)
target_link_libraries(consumer_${BACKEND} PRIVATE gistkv::${BACKEND})
set(components core ${BACKEND})
if(BACKEND STREQUAL eigen)
  list(APPEND components io conformance)
  target_link_libraries(consumer_eigen PRIVATE gistkv::io gistkv::conformance)
  # A backend of nothing but the standard library passes the suite that the package brings along.
  add_executable(own_backend
    ${CMAKE_CURRENT_LIST_DIR}/../../examples/05_bring_your_own_backend.cpp)
  target_link_libraries(own_backend PRIVATE gistkv::conformance)
  add_library(core_only OBJECT ../core_only.cpp)
  target_link_libraries(core_only PRIVATE gistkv::core)
endif()

foreach(component IN LISTS components)
  foreach(property INTERFACE_COMPILE_OPTIONS INTERFACE_COMPILE_DEFINITIONS INTERFACE_LINK_OPTIONS)
    get_target_property(value gistkv::${component} ${property})
    if(value)
      message(FATAL_ERROR "gistkv::${component} forces on its consumers: ${property} ${value}")
    endif()
  endforeach()
endforeach()
