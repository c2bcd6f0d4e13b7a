// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <memory>

#include <cli/backends/eigen.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/eigen.hpp>

namespace gistkv::cli {

namespace {

template <class KV>
backend_ptr make(int n_threads) {
  using eigen = backends::eigen<float>;
  return std::make_shared<typed_backend<eigen, KV>>(std::make_shared<eigen>(n_threads),
                                                    Eigen::SimdInstructionSetsInUse());
}

}  // namespace

backend_ptr make_eigen_f16(int n_threads) { return make<f16>(n_threads); }
backend_ptr make_eigen_q8(int n_threads) { return make<q8>(n_threads); }

}  // namespace gistkv::cli
