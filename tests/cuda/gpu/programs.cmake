# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# Programs that need a GPU: built where nvcc is, and skipped by ctest where no device is.

if(NOT TARGET gistkv::cuda)
  gistkv_absent_test(cuda/gpu/conformance.cpp gpu "gistkv::cuda is off")
  gistkv_absent_test(cuda/gpu/nccl.cpp gpu "gistkv::cuda is off")
  gistkv_absent_test(cuda/code.cpp gpu "gistkv::cuda is off")
  gistkv_absent_test(cuda/runtime/calls.cpp cuda "gistkv::cuda is off")
  return()
endif()

# Plays the CUDA runtime itself: it needs the headers, but no device, and nvcc would link the real one.
gistkv_test_program(gistkv_test_cuda_runtime cuda/runtime/calls.cu)
set_source_files_properties(cuda/runtime/calls.cu PROPERTIES LANGUAGE CXX)
target_include_directories(gistkv_test_cuda_runtime PRIVATE ${PROJECT_SOURCE_DIR}/backends/cuda/include)
target_include_directories(gistkv_test_cuda_runtime SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
gistkv_test(cuda.runtime.calls COMMAND gistkv_test_cuda_runtime LABELS cuda)

# Warnings of both compilers are errors; -Wpedantic is not for what nvcc makes of a source.
add_library(gistkv_cuda_dev INTERFACE)
target_link_libraries(gistkv_cuda_dev INTERFACE gistkv::cuda gistkv::conformance)
target_include_directories(gistkv_cuda_dev INTERFACE ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(gistkv_cuda_dev INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${GISTKV_WARNINGS_AS_ERRORS}>>:-Werror=all-warnings>)

file(GLOB gpu_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/gpu/*.cu)
add_executable(gistkv_test_gpu ${gpu_sources})
target_link_libraries(gistkv_test_gpu PRIVATE gistkv_cuda_dev)
gistkv_test(cuda.gpu.conformance COMMAND gistkv_test_gpu LABELS gpu)

add_executable(gistkv_test_gpu_golden $<TARGET_OBJECTS:gistkv_test_main> cuda/golden/golden.cu)
target_link_libraries(gistkv_test_gpu_golden PRIVATE gistkv_cuda_dev gistkv_dev doctest::doctest)
# The reference backend, which the goldens' support includes, has pragmas for g++.
target_compile_options(gistkv_test_gpu_golden PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-diag-suppress=1675>)
gistkv_test(cuda.gpu.golden COMMAND gistkv_test_gpu_golden LABELS gpu)

if(TARGET gistkv::nccl)
  add_executable(gistkv_test_nccl cuda/nccl/sum.cu)
  target_link_libraries(gistkv_test_nccl PRIVATE gistkv_cuda_dev gistkv::nccl)
  if(TARGET gistkv::mpi)
    target_compile_definitions(gistkv_test_nccl PRIVATE GISTKV_TEST_MPI)
    target_link_libraries(gistkv_test_nccl PRIVATE gistkv::mpi)
  endif()
  gistkv_test(cuda.gpu.nccl COMMAND gistkv_test_nccl LABELS gpu)
else()
  gistkv_absent_test(cuda/gpu/nccl.cpp gpu "gistkv::nccl is off")
endif()

gistkv_test(cuda.code
  COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/cuda/code/inspect.sh LABELS gpu
  ENVIRONMENT NVCC=${CMAKE_CUDA_COMPILER} SOURCE=${PROJECT_SOURCE_DIR}
    SCRATCH=${CMAKE_CURRENT_BINARY_DIR})
