// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/eigen.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/eigen.hpp>

namespace gistkv::cli {

using backends::eigen;

backend_ptr make_eigen_f32(int n_threads) {
  return std::make_shared<typed_backend<eigen<float>, float>>(
      std::make_shared<eigen<float>>(n_threads), Eigen::SimdInstructionSetsInUse());
}

conformance::report check_eigen_f32(int n_threads, bool quick) {
  eigen<float> be(n_threads);
  return run_suite(be, quick);
}

}  // namespace gistkv::cli
