// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <gistkv/backends/onednn.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/ops/linear.hpp>

#include <cstdio>
#include <span>
#include <vector>

#ifdef _OPENMP
#error "gistkv::onednn switches OpenMP on"
#endif

int main() {
  using backend = gistkv::backends::onednn<float>;
  backend be;
  const std::vector<float> matrix{1, 2, 3, 4, 5, 6};
  const auto weight =
      be.pack({"weight", gistkv::weight_type::f32, 3, 2, std::as_bytes(std::span(matrix))});
  const std::vector<float> ones(2, 1.0F);
  const gistkv::buffer<float, backend> x(be, std::span(ones));
  gistkv::buffer<float, backend> o(be, 3);
  gistkv::ops::linear(be, o.view({1, 3}), x.view({1, 2}), weight);
  if (o.to_host() != std::vector<float>{3, 7, 11}) {
    std::puts("the sums of (1 2), (3 4), (5 6) are not 3, 7, 11");
    return 1;
  }
  std::printf("%d threads\n", be.n_threads());
  return 0;
}
