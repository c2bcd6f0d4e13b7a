// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the kernel for everything else, run on the host one block of threads at a time.
#include <doctest/doctest.h>

#include <algorithm>

#include <cuda/emulation.hpp>
#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/attention_rows.hpp>

namespace gistkv {
namespace {

using namespace emulation;

template <class T>
void sweep_layouts(double budget) {
  constexpr int head_dims[] = {64, 8, 80, 5, 128, 1};
  double worst = 0.0;
  for (int i = 0; i < 24; ++i) {
    const int head_dim = head_dims[i % 6];
    layout_options options = sweep(i, head_dim);
    options.most_tokens = 12;
    CAPTURE(options.text());
    layout<T> texts(options);
    const attention_batch<T> batch = texts.batch(options.group);
    for (int item = 0; item < batch.n_tiles * batch.n_kv_heads; ++item) {
      run_block(row_warps, row_shared_bytes(head_dim), options.seed, fault::none,
                [&](group<32>& w) { attend_rows(w, batch, head_dim, item); });
    }
    const auto found = texts.compare();
    CHECK(found.worst <= budget);
    CHECK(found.largest > 0.1);
    CHECK(found.guards_hold);
    worst = std::max(worst, found.worst);
  }
  MESSAGE("greatest error: ", worst, ", budget ", budget);
}

// Sums of a few hundred terms: some dozen roundings of float.
TEST_CASE("row kernel, float") { sweep_layouts<float>(64.0); }
TEST_CASE("row kernel, bf16") { sweep_layouts<bf16>(1.0); }
TEST_CASE("row kernel, f16") { sweep_layouts<f16>(1.0); }

}  // namespace
}  // namespace gistkv
