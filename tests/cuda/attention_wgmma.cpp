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
      const auto map = [&](const T* data, index_t row, index_t head) {
        return emulated_tensor_map{data,
                                   Shape::head_dim,
                                   x.rows,
                                   batch.n_kv_heads,
                                   mapped_stride(row, x.rows, Shape::head_dim),
                                   mapped_stride(head, batch.n_kv_heads, Shape::head_dim),
                                   panel_cols,
                                   Shape::keys};
      };
      maps.k[i][p] = map(x.k, x.k_row, x.k_head);
      maps.v[i][p] = map(x.v, x.v_row, x.v_head);
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
        Shape::groups + other_warps, Shape::shared_bytes, seed + static_cast<std::uint64_t>(i),
        planted, [&](warpgroup& g) { attend_wgmma<T, Shape>(g, batch, maps, i, n_blocks); });
  }
}

template <class T, int HeadDim>
void sweep_layouts(int begin, int end) {
  using shape = wgmma_shape_for<HeadDim>;
  check_layouts<T>(
      begin, end, 1.0, [](int i) { return sweep(i, HeadDim); },
      [](layout<T>& texts, const layout_options& options, int i) {
        const attention_batch<T> batch = texts.batch(shape::rows);
        CHECK(can_be_mapped(batch, HeadDim));
        run<T, shape>(batch, 1 + i % 3, options.seed);
      });
}

TEST_CASE("wgmma kernel, head dim 64, bf16") { sweep_layouts<bf16, 64>(0, 56); }
TEST_CASE("wgmma kernel, head dim 64, f16") { sweep_layouts<f16, 64>(56, 112); }
TEST_CASE("wgmma kernel, head dim 128, bf16") { sweep_layouts<bf16, 128>(112, 160); }
TEST_CASE("wgmma kernel, head dim 128, f16") { sweep_layouts<f16, 128>(160, 208); }

TEST_CASE("the copy engine steps as the tensors do, or is not asked") {
  CHECK(mapped_stride(192, 100, 64) == 192);
  CHECK(mapped_stride(0, 2, 64) == 0);
  CHECK(mapped_stride(0, 1, 64) == 64);
  CHECK(mapped_stride(192, 1, 64) == 192);

  layout<bf16> texts(hard_layout(100, 700));
  attention_batch<bf16> batch = texts.batch(192);
  CHECK(can_be_mapped(batch, 64));
  attention_part<bf16>& part = batch.sequences[1].parts[own_part];
  index_t* const strides[] = {&part.k_head, &part.k_row, &part.v_head, &part.v_row};
  for (index_t* stride : strides) {
    const index_t before = *stride;
    for (const index_t below : {-64, 0, 56}) {
      *stride = below;
      CHECK_FALSE(can_be_mapped(batch, 64));
    }
    *stride = before;
  }
  // One head, as one row, may have any stride, and no rows need none.
  batch.n_kv_heads = 1;
  part.k_head = part.v_head = 0;
  CHECK(can_be_mapped(batch, 64));
  part.rows = 1;
  part.k_row = part.v_row = 0;
  CHECK(can_be_mapped(batch, 64));
  part.rows = 2;
  CHECK_FALSE(can_be_mapped(batch, 64));
  part.rows = 0;
  CHECK(can_be_mapped(batch, 64));
}

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
