# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# oneDNN: dnnl_FOUND, dnnl_VERSION and the target DNNL::dnnl, named as in oneDNN's own configuration.
# That one stops on a fresh Debian 12, where it asks for OpenCL headers that its package does not bring
# along; so the headers and the library are looked for directly, in dnnl_ROOT, CMAKE_PREFIX_PATH, an
# active Python environment (PyPI: onednn-devel-cpu-gomp) and where the system keeps them.

find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp HINTS ENV VIRTUAL_ENV PATH_SUFFIXES include)
cmake_path(GET DNNL_INCLUDE_DIR PARENT_PATH dnnl_prefix)
# Headers and library of one version: beside each other first.
find_library(DNNL_LIBRARY dnnl HINTS "${dnnl_prefix}" PATH_SUFFIXES lib)
mark_as_advanced(DNNL_INCLUDE_DIR DNNL_LIBRARY)

if(DNNL_INCLUDE_DIR)
  file(STRINGS "${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h" dnnl_VERSION
    REGEX "^#define DNNL_VERSION_(MAJOR|MINOR|PATCH) [0-9]+$")
  list(TRANSFORM dnnl_VERSION REPLACE ".* " "")
  list(JOIN dnnl_VERSION "." dnnl_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(dnnl
  REQUIRED_VARS DNNL_LIBRARY DNNL_INCLUDE_DIR
  VERSION_VAR dnnl_VERSION
  HANDLE_VERSION_RANGE)

if(dnnl_FOUND AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl SHARED IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES
    IMPORTED_LOCATION "${DNNL_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${DNNL_INCLUDE_DIR}")
endif()
