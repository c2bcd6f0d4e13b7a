// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include <support/random_model.hpp>

namespace gistkv::gpu_tests {

/// Three layers with heads of 64, as the kernels like them.
inline model::host_model small_model() {
  return test::random_model({.n_layers = 3,
                             .n_heads = 6,
                             .n_kv_heads = 2,
                             .head_dim = 64,
                             .d_model = 192,
                             .d_ff = 512,
                             .n_vocab = 300,
                             .biases = true});
}

/// |a - b| / |b|; NaN where sizes differ, which no bound admits.
inline double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::nan("");
  double squares = 0.0, differences = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    squares += std::pow(static_cast<double>(b[i]), 2);
    differences += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  }
  return std::sqrt(differences / squares);
}

}  // namespace gistkv::gpu_tests
