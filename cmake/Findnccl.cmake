# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# NCCL::nccl: from nccl_ROOT, beside the CUDA toolkit, or where libraries are.
find_path(nccl_include_dir nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(nccl_library NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
mark_as_advanced(nccl_include_dir nccl_library)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(nccl REQUIRED_VARS nccl_library nccl_include_dir)
if(nccl_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES
    IMPORTED_LOCATION ${nccl_library}
    INTERFACE_INCLUDE_DIRECTORIES ${nccl_include_dir})
endif()
