// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The three macros of the library: version, host/device marker, assertion.

#define GISTKV_VERSION_MAJOR 0
#define GISTKV_VERSION_MINOR 1
#define GISTKV_VERSION_PATCH 0

/// Marks a function that a CUDA kernel may call too. Empty for a host compiler.
#if defined(__CUDACC__)
#define GISTKV_HD __host__ __device__
#else
#define GISTKV_HD
#endif

/// Internal consistency check of debug builds. Caller errors are exceptions, never assertions.
#if defined(NDEBUG)
#define GISTKV_ASSERT(condition) static_cast<void>(0)
#else
#include <cassert>
#define GISTKV_ASSERT(condition) assert(condition)
#endif
