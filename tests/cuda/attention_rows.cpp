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

template <class T, class KV = T>
void sweep_layouts(int begin, int end, double budget) {
  const auto options_of = [](int i) {
    constexpr int head_dims[] = {64, 8, 80, 5, 128, 1};
    layout_options options = sweep(i, head_dims[i % 6]);
    options.most_tokens = 12;
    return options;
  };
  check_layouts<T, KV>(
      begin, end, budget, options_of, [](layout<T, KV>& texts, const layout_options& options, int) {
        const int head_dim = options.head_dim;
        const attention_batch<T, KV> batch = texts.batch(options.group);
        for (int item = 0; item < batch.n_tiles * batch.n_kv_heads; ++item) {
          run_block(row_warps, row_shared_bytes(head_dim), options.seed, fault::none,
                    [&](group<32>& w) { attend_rows(w, batch, head_dim, item); });
        }
      });
}

// The budget of float is what is likely, not the most there can be: four times that is allowed.
TEST_CASE("row kernel, float") { sweep_layouts<float>(0, 70, 2.0); }
TEST_CASE("row kernel, bf16") { sweep_layouts<bf16>(70, 140, 1.0); }
TEST_CASE("row kernel, f16") { sweep_layouts<f16>(140, 210, 1.0); }
TEST_CASE("row kernel, bf16, caches of q8") { sweep_layouts<bf16, q8>(210, 250, 1.0); }
TEST_CASE("row kernel, float, caches of q8") { sweep_layouts<float, q8>(250, 290, 2.0); }

}  // namespace
}  // namespace gistkv
