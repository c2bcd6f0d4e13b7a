// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the kernel for few rows on caches of q8, run on the host one block of threads at a
// time.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <limits>
#include <vector>

#include <cuda/emulation.hpp>
#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/attention_shapes.hpp>
#include <gistkv/backends/cuda/attention_split.hpp>
#include <gistkv/backends/cuda/few_rows.hpp>

namespace gistkv {
namespace {

using namespace emulation;

template <class T, class Shape>
void run(const attention_batch<T, q8>& batch, int n_splits, std::uint64_t seed,
         fault planted = fault::none) {
  const int n_items = batch.n_tiles * batch.n_kv_heads;
  std::vector<float> partials(
      static_cast<std::size_t>(n_items * n_splits * partial_rows<Shape::head_dim>::floats),
      std::numeric_limits<float>::quiet_NaN());
  std::vector<unsigned int> counters(static_cast<std::size_t>(n_items), 0);
  for (int i = 0; i < n_items * n_splits; ++i) {
    run_block(Shape::warps, split_shared_bytes<Shape>, seed + static_cast<std::uint64_t>(i),
              planted, [&](group<32>& w) {
                attend_split<T, Shape>(w, batch, {partials.data(), counters.data(), n_splits},
                                       i / n_splits, i % n_splits);
              });
  }
}

/// Also more tokens than a tile holds: on these caches the kernel takes all there are.
template <class T, int HeadDim>
void sweep_layouts(int begin, int end) {
  using shape = split_shape_for<HeadDim, q8>;
  const auto options_of = [](int i) {
    layout_options options = sweep(i, HeadDim);
    options.most_tokens = i % 4 == 0 ? 20 : std::max(1, std::min(5, split_rows / options.group));
    options.most_past = i % 3 == 0 ? 2000 : 400;
    return options;
  };
  check_layouts<T, q8>(begin, end, 1.0, options_of,
                       [](layout<T, q8>& texts, const layout_options& options, int i) {
                         constexpr int split_counts[] = {1, 2, 3, 7};
                         run<T, shape>(texts.batch(split_rows), split_counts[i % 4], options.seed);
                       });
}

TEST_CASE("split kernel on q8, head dim 64, bf16") { sweep_layouts<bf16, 64>(0, 60); }
TEST_CASE("split kernel on q8, head dim 64, f16") { sweep_layouts<f16, 64>(60, 120); }
TEST_CASE("split kernel on q8, head dim 128, bf16") { sweep_layouts<bf16, 128>(120, 165); }
TEST_CASE("split kernel on q8, head dim 128, f16") { sweep_layouts<f16, 128>(165, 210); }

/// What a block of threads can have on sm_80, and on sm_86, sm_89 and sm_120.
constexpr std::uint32_t most_shared_sm_80 = 163 * 1024;
constexpr std::uint32_t most_shared_sm_86 = 99 * 1024;

TEST_CASE_TEMPLATE("split shapes fit into the shared memory of sm_80", KV, bf16, q8) {
  CHECK(split_fits<64, KV>(most_shared_sm_80));
  CHECK(split_fits<128, KV>(most_shared_sm_80));
}

TEST_CASE("what sm_86 is asked for fits into its shared memory") {
  CHECK(tile_shape_for<64>::shared_bytes <= most_shared_sm_86);
  CHECK(tile_shape_for<128>::shared_bytes <= most_shared_sm_86);
  CHECK(split_fits<64, bf16>(most_shared_sm_86));
  CHECK(split_fits<128, bf16>(most_shared_sm_86));
  CHECK(split_fits<64, q8>(most_shared_sm_86));
  CHECK_FALSE(split_fits<128, q8>(most_shared_sm_86));  // Those go by rows.
  CHECK(few_rows_most_shared(most_shared_sm_86) == most_shared_sm_86);
  CHECK(few_rows_most_shared(most_shared_sm_80) == 112 * 1024);
}

const layout_options hard = hard_layout(5, 3000);

TEST_CASE("an error planted in the machine under the kernel on q8 is seen") {
  using shape = split_shape_for<64, q8>;
  using enum fault;
  for (const fault planted :
       {none, barrier_missing, copy_not_awaited, right_operand_swapped, left_operand_off_by_one,
        maximum_of_pairs, sum_of_pairs, rest_not_zeroed, bounds_of_first_lane, maximum_ignored}) {
    CAPTURE(static_cast<int>(planted));
    layout<bf16, q8> texts(hard);
    run<bf16, shape>(texts.batch(split_rows), 3, 5, planted);
    CHECK((texts.compare().worst <= 1.0) == (planted == none));
  }
}

TEST_CASE("an error in a cache of q8 is seen") {
  using shape = split_shape_for<64, q8>;
  const auto worst_with = [](auto&& spoil) {
    layout<bf16, q8> texts(hard);
    attention_batch<bf16, q8> batch = texts.batch(split_rows);
    spoil(texts, batch);
    run<bf16, shape>(batch, 2, 5);
    return texts.compare().worst;
  };
  // The first row that the last token sees of its own sentence.
  const auto row_seen = [](auto& texts, auto which) {
    auto& c = texts.cases()[0];
    return (c.*which)[local_part].row(0, c.spans.back().local_begin);
  };
  using text = text_case<bf16, q8>;
  CHECK(worst_with([](auto&, auto&) {}) <= 1.0);
  CHECK(worst_with([&](auto& texts, auto&) {
          q8* row = row_seen(texts, &text::k);
          set_q8_scale(row, 64, 2.0F * q8_scale(row, 64));
        }) > 1.0);
  CHECK(worst_with([&](auto& texts, auto&) {
          for (index_t r = 0; r < texts.cases()[0].n_rows[local_part]; ++r) {
            q8* row = texts.cases()[0].v[local_part].row(0, r);
            std::rotate(row, row + 1, row + 64);
          }
        }) > 1.0);
  CHECK(worst_with(
            [](auto&, auto& b) { b.sequences[0].parts[local_part].k += row_width<q8>(64); }) > 1.0);
}

}  // namespace
}  // namespace gistkv
