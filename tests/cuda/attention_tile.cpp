// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the tile kernel, run on the host one block of threads at a time.
#include <doctest/doctest.h>

#include <limits>

#include <cuda/emulation.hpp>
#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/attention_shapes.hpp>
#include <gistkv/backends/cuda/attention_tile.hpp>

namespace gistkv {
namespace {

using namespace emulation;

template <class T, class Shape>
void run(const attention_batch<T>& batch, std::uint64_t seed, fault planted = fault::none) {
  for (int item = 0; item < batch.n_tiles * batch.n_kv_heads; ++item) {
    run_block(Shape::warps, Shape::shared_bytes, seed + static_cast<std::uint64_t>(item), planted,
              [&](group<32>& w) { attend_tile<T, Shape>(w, batch, item); });
  }
}

template <class T, int HeadDim>
void sweep_layouts(int begin, int end) {
  using shape = tile_shape_for<HeadDim>;
  check_layouts<T>(
      begin, end, 1.0, [](int i) { return sweep(i, HeadDim); },
      [](layout<T>& texts, const layout_options& options, int) {
        run<T, shape>(texts.batch(shape::rows), options.seed);
      });
}

TEST_CASE("tile kernel, head dim 64, bf16") { sweep_layouts<bf16, 64>(0, 56); }
TEST_CASE("tile kernel, head dim 64, f16") { sweep_layouts<f16, 64>(56, 112); }
TEST_CASE("tile kernel, head dim 128, bf16") { sweep_layouts<bf16, 128>(112, 160); }
TEST_CASE("tile kernel, head dim 128, f16") { sweep_layouts<f16, 128>(160, 208); }

const layout_options hard = hard_layout(100, 700);

TEST_CASE("an error planted in the machine under the tile kernel is seen") {
  using shape = tile_shape_for<64>;
  using enum fault;
  for (const fault planted :
       {none, barrier_missing, copy_not_awaited, values_not_transposed, right_operand_swapped,
        left_operand_off_by_one, maximum_of_pairs, sum_of_pairs, rest_not_zeroed,
        bounds_of_first_lane, maximum_ignored}) {
    CAPTURE(static_cast<int>(planted));
    layout<bf16> texts(hard);
    run<bf16, shape>(texts.batch(shape::rows), 5, planted);
    const auto found = texts.compare();
    CHECK((found.worst <= 1.0) == (planted == none));
  }
}

TEST_CASE("an error in what the tile kernel is told is seen") {
  using shape = tile_shape_for<64>;
  const auto worst_with = [](auto&& spoil) {
    layout<bf16> texts(hard);
    attention_batch<bf16> batch = texts.batch(shape::rows);
    spoil(texts, batch);
    run<bf16, shape>(batch, 5);
    return texts.compare().worst;
  };
  CHECK(worst_with([](auto&, auto&) {}) <= 1.0);
  CHECK(worst_with([](auto& texts, auto&) {
          for (auto& c : texts.cases()) {
            for (auto& s : c.spans) s.anchors -= s.anchors > 0;
          }
        }) > 1.0);
  CHECK(worst_with([](auto& texts, auto&) {
          for (auto& c : texts.cases()) {
            for (auto& s : c.spans) s.local_begin += s.local_end - s.local_begin > 1;
          }
        }) > 1.0);
  CHECK(worst_with([](auto&, auto& b) { b.scale *= 1.01F; }) > 1.0);
  CHECK(worst_with([](auto&, auto& b) {
          std::swap(b.sequences[0].parts[1], b.sequences[0].parts[2]);
        }) > 1.0);
  CHECK(worst_with([](auto&, auto& b) { b.sequences[1].parts[0].v_head = 0; }) > 1.0);
  CHECK(worst_with([](auto&, auto& b) {
          std::swap(b.sequences[0].q_token, b.sequences[0].q_head);
        }) > 1.0);
}

}  // namespace
}  // namespace gistkv
