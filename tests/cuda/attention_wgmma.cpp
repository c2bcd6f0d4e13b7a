// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the kernel for sm_90a, run on the host one block of threads at a time.
#include <doctest/doctest.h>

#include <algorithm>

#include <cuda/emulation_hopper.hpp>
#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/attention_shapes.hpp>
#include <gistkv/backends/cuda/attention_wgmma.hpp>

namespace gistkv {
namespace {

using namespace emulation;

template <class T, class Shape>
tensor_maps<warpgroup> maps_of(const attention_batch<T>& batch) {
  tensor_maps<warpgroup> maps;
  for (int i = 0; i < batch.n_sequences; ++i) {
    for (int p = 0; p < n_parts; ++p) {
      const attention_part<T>& x = batch.sequences[i].parts[p];
      maps.k[i][p] = {x.k,     Shape::head_dim, x.rows,     batch.n_kv_heads,
                      x.k_row, x.k_head,        panel_cols, Shape::keys};
      maps.v[i][p] = {x.v,     Shape::head_dim, x.rows,     batch.n_kv_heads,
                      x.v_row, x.v_head,        panel_cols, Shape::keys};
    }
  }
  return maps;
}

/// As many blocks of threads as `n_blocks` share the items.
template <class T, class Shape>
void run(const attention_batch<T>& batch, int n_blocks, std::uint64_t seed,
         fault planted = fault::none) {
  const auto maps = maps_of<T, Shape>(batch);
  for (int i = 0; i < n_blocks; ++i) {
    run_block<warpgroup, hopper_block>(
        Shape::groups, Shape::shared_bytes, seed + static_cast<std::uint64_t>(i), planted,
        [&](warpgroup& g) { attend_wgmma<T, Shape>(g, batch, maps, i, n_blocks); });
  }
}

template <class T, int HeadDim>
void sweep_layouts(int begin, int end) {
  using shape = wgmma_shape_for<HeadDim>;
  check_layouts<T>(
      begin, end, 1.0, [](int i) { return sweep(i, HeadDim); },
      [](layout<T>& texts, const layout_options& options, int i) {
        run<T, shape>(texts.batch(shape::rows), 1 + i % 3, options.seed);
      });
}

TEST_CASE("wgmma kernel, head dim 64, bf16") { sweep_layouts<bf16, 64>(0, 56); }
TEST_CASE("wgmma kernel, head dim 64, f16") { sweep_layouts<f16, 64>(56, 112); }
TEST_CASE("wgmma kernel, head dim 128, bf16") { sweep_layouts<bf16, 128>(112, 160); }
TEST_CASE("wgmma kernel, head dim 128, f16") { sweep_layouts<f16, 128>(160, 208); }

TEST_CASE("an error planted in the machine under the wgmma kernel is seen") {
  using shape = wgmma_shape_for<128>;
  const layout_options hard = hard_layout(100, 2500, 128);
  using enum fault;
  for (const fault planted : {none, maximum_of_pairs, sum_of_pairs, bounds_of_first_lane,
                              maximum_ignored, arrival_not_awaited, release_not_awaited,
                              product_not_awaited, swizzle_missing, stride_of_other_panel}) {
    CAPTURE(static_cast<int>(planted));
    layout<bf16> texts(hard);
    double worst = std::numeric_limits<double>::infinity();
    try {
      run<bf16, shape>(texts.batch(shape::rows), 2, 5, planted);
      worst = texts.compare().worst;
    } catch (const std::runtime_error&) {  // The machine itself objects.
    }
    CHECK((worst <= 1.0) == (planted == none));
  }
}

}  // namespace
}  // namespace gistkv
