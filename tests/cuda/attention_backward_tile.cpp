// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the kernels of attention's backward pass on matrix units, run on the host.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <vector>

#include <cuda/attention_backward.hpp>
#include <cuda/emulation.hpp>
#include <gistkv/backends/cuda/attention_backward_tile.hpp>

namespace gistkv {
namespace {

using namespace emulation;

template <class T, int HeadDim>
void run(const attention_backward_call<T>& call, std::uint64_t seed, fault planted = fault::none) {
  backward_tiles<T> b;
  b.call = call;
  b.tile_tokens = backward_rows / call.group;
  b.n_tiles = ceil_div(call.forward.n_tokens, b.tile_tokens);
  std::vector<tile_bounds> bounds(static_cast<std::size_t>(b.n_tiles));
  b.bounds = bounds.data();
  const auto launch = [&](int n_items, auto&& kernel) {
    for (int i = 0; i < n_items; ++i) {
      run_block(backward_warps, backward_shared_bytes<HeadDim>, seed + static_cast<unsigned>(i),
                planted, [&](group<32>& w) { kernel(w, i); });
    }
  };
  launch(b.n_tiles * call.n_kv_heads,
         [&](group<32>& w, int i) { backward_queries<T, HeadDim>(w, b, i); });
  for (const int part : {local_part, own_part}) {
    b.part = part;
    const index_t rows = call.forward.parts[part].rows;
    b.n_splits = part == own_part ? 3 : 1;
    const auto n = static_cast<std::size_t>(call.n_kv_heads * rows * 2 * HeadDim);
    std::vector<float> sums(n * static_cast<std::size_t>(b.n_splits),
                            std::numeric_limits<float>::quiet_NaN());
    b.sums = sums.data();
    launch(ceil_div(static_cast<int>(rows), backward_rows) * call.n_kv_heads * b.n_splits,
           [&](group<32>& w, int i) { backward_keys<T, HeadDim>(w, b, i); });
    for (std::size_t at = 0; at < n; ++at) {
      add_splits<group<32>>(b, HeadDim, static_cast<index_t>(at));
    }
  }
}

template <class T, int HeadDim>
void check(int begin, int end) {
  double worst = 0.0;
  for (int i = begin; i < end; ++i) {
    layout_options options = sweep(i, HeadDim);
    options.n_sequences = 1;
    options.most_past = 100;
    options.prefix = false;
    CAPTURE(options.text());
    layout<T> texts(options);
    backward_case<T> expected(texts.cases().front(), options, texts.scale());
    run<T, HeadDim>(expected.call(), options.seed);
    CHECK(expected.worst() <= 1.0);
    CHECK(expected.guards_hold());
    worst = std::max(worst, expected.worst());
  }
  MESSAGE("greatest error: ", worst, " of what rounding explains");
}

TEST_CASE("backward on matrix units, head dim 64, bf16") { check<bf16, 64>(0, 14); }
TEST_CASE("backward on matrix units, head dim 64, f16") { check<f16, 64>(14, 21); }
TEST_CASE("backward on matrix units, head dim 128, bf16") { check<bf16, 128>(21, 28); }

TEST_CASE("planted errors show") {
  for (const fault planted :
       {fault::none, fault::barrier_missing, fault::values_not_transposed,
        fault::right_operand_swapped, fault::left_operand_off_by_one, fault::maximum_ignored,
        fault::sum_of_pairs, fault::bounds_of_first_lane, fault::copy_not_awaited}) {
    CAPTURE(static_cast<int>(planted));
    layout_options options = hard_layout(100, 150);
    options.n_sequences = 1;
    options.prefix = false;
    layout<bf16> texts(options);
    backward_case<bf16> expected(texts.cases().front(), options, texts.scale());
    bool right = false;
    try {
      run<bf16, 64>(expected.call(), options.seed, planted);
      right = expected.worst() <= 1.0;
    } catch (const std::runtime_error&) {
    }
    CHECK(right == (planted == fault::none));
  }
}

}  // namespace
}  // namespace gistkv
