// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the kernel for few rows, run on the host one block of threads at a time.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <cuda/emulation.hpp>
#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/attention_shapes.hpp>
#include <gistkv/backends/cuda/attention_split.hpp>

namespace gistkv {
namespace {

using namespace emulation;

/// All splits of all items, in an order that the seed draws. Returns whether the counters are left
/// as they were found.
template <class T, class Shape, class KV>
bool run(const attention_batch<T, KV>& batch, int n_splits, std::uint64_t seed,
         fault planted = fault::none) {
  const int n_items = batch.n_tiles * batch.n_kv_heads;
  std::vector<float> partials(
      static_cast<std::size_t>(n_items * n_splits * partial_rows<Shape::head_dim>::floats),
      std::numeric_limits<float>::quiet_NaN());
  std::vector<unsigned int> counters(static_cast<std::size_t>(n_items), 0);
  std::vector<int> order;
  for (int i = 0; i < n_items * n_splits; ++i) order.push_back(i);
  random_generator random(seed);
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<index_t>(i)))]);
  }
  for (const int i : order) {
    run_block(Shape::warps, split_shared_bytes<Shape>, random.next(), planted, [&](group<32>& w) {
      attend_split<T, Shape>(w, batch, {partials.data(), counters.data(), n_splits}, i / n_splits,
                             i % n_splits);
    });
  }
  return std::all_of(counters.begin(), counters.end(), [](unsigned int c) { return c == 0; });
}

/// A decode step or the close of a sentence: at most 16 rows.
layout_options few_rows(int i, int head_dim) {
  layout_options options = sweep(i, head_dim);
  options.most_tokens = std::max(1, std::min(5, split_rows / options.group));
  options.most_past = i % 3 == 0 ? 2000 : 400;
  return options;
}

template <class T, int HeadDim>
void sweep_layouts(int begin, int end) {
  using shape = split_shape_for<HeadDim, T>;
  check_layouts<T>(
      begin, end, 1.0, [](int i) { return few_rows(i, HeadDim); },
      [](layout<T>& texts, const layout_options& options, int i) {
        constexpr int split_counts[] = {1, 2, 3, 7};
        const int n_splits = split_counts[i % 4];
        CAPTURE(n_splits);
        CHECK(run<T, shape>(texts.batch(split_rows), n_splits, options.seed));
      });
}

TEST_CASE("split kernel, head dim 64, bf16") { sweep_layouts<bf16, 64>(0, 60); }
TEST_CASE("split kernel, head dim 64, f16") { sweep_layouts<f16, 64>(60, 120); }
TEST_CASE("split kernel, head dim 128, bf16") { sweep_layouts<bf16, 128>(120, 170); }
TEST_CASE("split kernel, head dim 128, f16") { sweep_layouts<f16, 128>(170, 220); }

TEST_CASE("an error planted in the machine under the split kernel is seen") {
  using shape = split_shape_for<64, bf16>;
  const layout_options hard = hard_layout(5, 3000);
  using enum fault;
  for (const fault planted : {none, barrier_missing, copy_not_awaited, values_not_transposed,
                              right_operand_swapped, left_operand_off_by_one, maximum_of_pairs,
                              sum_of_pairs, rest_not_zeroed, maximum_ignored}) {
    CAPTURE(static_cast<int>(planted));
    layout<bf16> texts(hard);
    run<bf16, shape>(texts.batch(split_rows), 3, 5, planted);
    const auto found = texts.compare();
    CHECK((found.worst <= 1.0) == (planted == none));
  }
}

}  // namespace
}  // namespace gistkv
