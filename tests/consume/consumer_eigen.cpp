// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/ops/add.hpp>

#include <cstdio>
#include <vector>

int main() {
  gistkv::backends::eigen<float> be;
  const std::vector<float> three(4, 3.0F);
  gistkv::buffer<float, gistkv::backends::eigen<float>> x(be, std::span(three));
  gistkv::ops::add(be, x.view({2, 2}), x.view({2, 2}), x.view({2, 2}));
  if (x.to_host() != std::vector<float>(4, 6.0F)) {
    std::puts("3 + 3 is not 6");
    return 1;
  }
  std::printf("gistkv %d.%d.%d\n", GISTKV_VERSION_MAJOR, GISTKV_VERSION_MINOR,
              GISTKV_VERSION_PATCH);
  return 0;
}
