# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# The CUDA backend: gistkv::cuda, where nvcc and cuBLASLt are. Sets GISTKV_CUDA_MISSING, empty or why it
# is off.

set(GISTKV_CUDA_MISSING "")
if(NOT GISTKV_CUDA)
  set(GISTKV_CUDA_MISSING "GISTKV_CUDA is OFF")
  return()
endif()
if(CMAKE_CROSSCOMPILING)
  set(GISTKV_CUDA_MISSING "not where this cross-compiles to")
  return()
endif()

# CMake looks for nvcc on the PATH only; installers put it elsewhere.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(GISTKV_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(GISTKV_NVCC)
  if(NOT GISTKV_NVCC)
    set(GISTKV_CUDA_MISSING "nvcc was not found (CMAKE_CUDA_COMPILER names it)")
    return()
  endif()
  set(ENV{CUDACXX} ${GISTKV_NVCC})
endif()
# What tests and examples are built for; consumers choose for themselves. The default of CMake is older
# than CUDA 13 knows.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "Architectures of tests and examples")
endif()
if(NOT DEFINED ENV{CUDAARCHS})
  set(ENV{CUDAARCHS} 80)  # For the check, which knows no variables of ours.
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(GISTKV_CUDA_MISSING "nvcc does not compile here")
  return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.8 QUIET)
if(NOT CUDAToolkit_FOUND OR NOT TARGET CUDA::cublasLt)
  set(GISTKV_CUDA_MISSING "CUDA 12.8 or later with cuBLASLt was not found")
endif()
# NCCL adds up gradients between GPUs. A package of its own, or a folder of PyPI's nvidia-nccl-cu13
# (nccl_ROOT).
find_package(nccl QUIET MODULE)
set(GISTKV_NCCL_MISSING "")
if(NOT nccl_FOUND)
  set(GISTKV_NCCL_MISSING "NCCL was not found (PyPI: nvidia-nccl-cu13; nccl_ROOT names its folder)")
endif()
# CMake 3.25 does not know that nvcc compiles C++20.
set(GISTKV_CUDA_STANDARD "")
if(NOT "cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
  set(GISTKV_CUDA_STANDARD -std=c++20)
endif()
