// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the kernels of attention's backward pass on matrix units, run on the host.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include <cuda/attention_backward.hpp>
#include <cuda/emulation.hpp>
#include <gistkv/backends/cuda/attention_backward_tile.hpp>

namespace gistkv {
namespace {

using namespace emulation;

/// @param change  what is wrong in a launch by keys
template <class T, int HeadDim>
void run(
    std::deque<backward_case<T>>& cases, std::uint64_t seed, fault planted = fault::none,
    const std::function<void(backward_tiles<T>&)>& change = [](backward_tiles<T>&) {}) {
  backward_tiles<T> b;
  for (backward_case<T>& c : cases) b.add(c.call());
  std::vector<tile_bounds> bounds(static_cast<std::size_t>(b.n_tiles));
  b.bounds = bounds.data();
  const auto launch = [&](int n_items, auto&& kernel) {
    for (int i = 0; i < n_items; ++i) {
      run_block(backward_warps, backward_shared_bytes<HeadDim>, seed + static_cast<unsigned>(i),
                planted, [&](group<32>& w) { kernel(w, i); });
    }
  };
  launch(b.n_query_items(), [&](group<32>& w, int i) { backward_queries<T, HeadDim>(w, b, i); });
  for (const int part : {local_part, own_part}) {
    b.set_part(part, part == own_part ? 3 : 1);
    change(b);
    const auto n = static_cast<std::size_t>(b.n_derivatives(HeadDim));
    std::vector<float> sums(n * static_cast<std::size_t>(b.n_splits),
                            std::numeric_limits<float>::quiet_NaN());
    b.sums = sums.data();
    launch(b.n_key_items(), [&](group<32>& w, int i) { backward_keys<T, HeadDim>(w, b, i); });
    for (std::size_t at = 0; at < n; ++at) {
      add_splits<group<32>>(b, HeadDim, static_cast<index_t>(at));
    }
  }
}

template <class T>
std::deque<backward_case<T>> cases_of(layout<T>& texts, const layout_options& options) {
  std::deque<backward_case<T>> all;
  for (auto& text : texts.cases()) all.emplace_back(text, options, texts.scale());
  return all;
}
template <class T>
double worst_of(std::deque<backward_case<T>>& cases) {
  double worst = 0.0;
  for (backward_case<T>& c : cases) worst = std::max(worst, c.worst());
  return worst;
}

template <class T, int HeadDim>
void check(int begin, int end) {
  double worst = 0.0;
  for (int i = begin; i < end; ++i) {
    layout_options options = sweep(i, HeadDim);
    options.n_sequences = 1 + i % 3;
    options.most_tokens = 100 / options.n_sequences;
    options.most_past = 100 / options.n_sequences;
    options.prefix = false;
    CAPTURE(options.text());
    layout<T> texts(options);
    auto cases = cases_of(texts, options);
    run<T, HeadDim>(cases, options.seed);
    for (backward_case<T>& c : cases) {
      CHECK(c.worst() <= 1.0);
      CHECK(c.guards_hold());
    }
    worst = std::max(worst, worst_of(cases));
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
    auto cases = cases_of(texts, options);
    bool right = false;
    try {
      run<bf16, 64>(cases, options.seed, planted);
      right = worst_of(cases) <= 1.0;
    } catch (const std::runtime_error&) {
    }
    CHECK(right == (planted == fault::none));
  }
}

TEST_CASE("sequences that get into each other's way show") {
  using tiles = backward_tiles<bf16>;
  const std::function<void(tiles&)> faults[] = {
      [](tiles&) {},
      [](tiles& b) { b.calls[1].forward.first_tile = 0; },
      [](tiles& b) { b.calls[1].forward.spans = b.calls[0].forward.spans; },
      [](tiles& b) { b.calls[1].statistics = b.calls[0].statistics; },
      [](tiles& b) { b.calls[1].forward.n_tokens = 1; },
      [](tiles& b) { b.n_sequences -= 1; },
  };
  for (std::size_t f = 0; f < std::size(faults); ++f) {
    CAPTURE(f);
    layout_options options = hard_layout(40, 60);
    options.n_sequences = 2;
    options.prefix = false;
    layout<bf16> texts(options);
    // The first is not the shorter one: nobody reads what is not there.
    if (texts.cases()[0].n_tokens < texts.cases()[1].n_tokens) {
      std::swap(texts.cases()[0], texts.cases()[1]);
    }
    auto cases = cases_of(texts, options);
    run<bf16, 64>(cases, options.seed, fault::none, faults[f]);
    CHECK((worst_of(cases) <= 1.0) == (f == 0));
  }
}

}  // namespace
}  // namespace gistkv
