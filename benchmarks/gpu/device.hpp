// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>

#include <cuda_runtime.h>

namespace gistkv {

/// Whether there is something to measure on; if not, a line of the results says so.
inline bool has_device() {
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) == cudaSuccess && n_devices > 0) return true;
  std::puts("{\"what\": \"skipped\", \"reason\": \"no CUDA device\"}");
  return false;
}

}  // namespace gistkv
