# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# The kernels of backends/onednn for AVX-512 and AMX with functions in the place of their intrinsics, so
# that any CPU with AVX2 proves them.
set(onednn_include ${PROJECT_SOURCE_DIR}/backends/onednn/include)
set(emulated_include ${CMAKE_CURRENT_BINARY_DIR}/emulated/include)
file(GLOB_RECURSE onednn_headers CONFIGURE_DEPENDS ${onednn_include}/*.hpp ${onednn_include}/*.inc)
add_custom_command(OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/emulated/stamp
  COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/emulated/headers.sh ${onednn_include} ${emulated_include}
  COMMAND ${CMAKE_COMMAND} -E touch ${CMAKE_CURRENT_BINARY_DIR}/emulated/stamp
  DEPENDS ${onednn_headers} emulated/headers.sh VERBATIM)
add_custom_target(gistkv_emulated_headers DEPENDS ${CMAKE_CURRENT_BINARY_DIR}/emulated/stamp)

set(emulated_sources emulated/few_rows.cpp conformance/onednn.cpp conformance/onednn_codes.cpp
  conformance/onednn_training.cpp)
gistkv_test_program(gistkv_test_emulated ${emulated_sources})
gistkv_onednn_kernels(gistkv_emulated_kernels)
target_include_directories(gistkv_emulated_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(gistkv_test_emulated PRIVATE gistkv_emulated_kernels)
foreach(target gistkv_emulated_kernels gistkv_test_emulated)
  add_dependencies(${target} gistkv_emulated_headers)
  target_include_directories(${target} BEFORE PRIVATE ${emulated_include})
  # Vectors of 64 bytes are passed within the program only; what is in the functions is what takes the
  # time.
  target_compile_options(${target} PRIVATE -O1 -Wno-psabi)
endforeach()
foreach(source IN LISTS emulated_sources)
  gistkv_test_name(name ${source})
  string(REPLACE "conformance" "emulated" name ${name})
  set(cases "*")
  if(name STREQUAL emulated.onednn)
    set(cases "*conforms on every*,native attention*")  # The others have no vectors in them.
  endif()
  gistkv_test(${name} LABELS emulated
    COMMAND gistkv_test_emulated --source-file=*tests/${source} "--test-case=${cases}")
  set_tests_properties(${name} PROPERTIES COST 40)
endforeach()
