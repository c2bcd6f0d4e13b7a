// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cuda/gpu/conformance.cuh>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/conformance/run.hpp>

namespace gistkv::gpu_tests {

conformance::report check_bf16(bool model_shapes) {
  backends::cuda<bf16> be;
  conformance::report found;
  conformance::run(be, found, {.model_shapes = model_shapes});
  return found;
}

}  // namespace gistkv::gpu_tests
