// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/cuda.hpp>

#include <memory>
#include <string>

#include <cli/typed_backend.hpp>
#include <gistkv/backends/cuda.cuh>

namespace gistkv::cli {

// The host's threads have nothing to do with how fast a GPU is.
backend_ptr make_cuda_bf16(int) {
  using cuda = backends::cuda<bf16>;
  auto be = std::make_shared<cuda>();
  const std::string architecture = "sm_" + std::to_string(be->architecture());
  return std::make_shared<typed_backend<cuda, bf16>>(std::move(be), architecture);
}

conformance::report check_cuda_bf16(int, bool quick) {
  backends::cuda<bf16> be;
  return run_suite(be, quick);
}

}  // namespace gistkv::cli
