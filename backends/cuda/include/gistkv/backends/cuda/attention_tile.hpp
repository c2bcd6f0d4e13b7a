// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_softmax.hpp>

/// Attention over anchors and local rows for GPUs from sm_80 on: mma.sync on 16-bit operands,
/// cp.async through a ring of stages. Two spans a query say what it sees; see attention_plan.hpp.

namespace gistkv::backends::cuda_detail {

inline constexpr float log2_e = 1.4426950408889634F;

/// What one block of threads does at a time.
template <int HeadDim_, int Warps_, int Fragments_, int Keys_, int Stages_>
struct tile_shape {
  static constexpr int head_dim = HeadDim_;
  static constexpr int warps = Warps_;
  static constexpr int fragments = Fragments_;  ///< Of 16 rows, of one warp.
  static constexpr int keys = Keys_;            ///< Of a stage.
  static constexpr int stages = Stages_;
  static constexpr int rows = warps * fragments * 16;
  static constexpr int pieces = head_dim / 8;  ///< 16-byte pieces of a row.
  static constexpr std::uint32_t matrix_bytes = keys * head_dim * 2;
  static constexpr std::uint32_t stage_bytes = 2 * matrix_bytes;
  static constexpr std::uint32_t shared_bytes = stages * stage_bytes;
};

/// Sixteen-row fragments of one warp against one block of keys in shared memory.
template <class T, class Shape, class W>
struct warp_attention {
  template <class V, int N>
  using registers = typename W::template registers<V, N>;

  registers<std::uint32_t, Shape::head_dim / 4> q[Shape::fragments];
  attention_state<W, Shape::head_dim> state[Shape::fragments];

  GISTKV_HD void begin(W& w, const attention_sequence<T>& s, const attention_item& item, int group,
                       int first_row) {
    unrolled<Shape::fragments>([&](int f) {
      load_queries<T, Shape::head_dim>(w, q[f], s, item, group, first_row + 16 * f);
      state[f].clear(w);
    });
  }

  /// @param keys, values  bytes of shared memory where the block's matrices begin
  GISTKV_HD void attend(W& w, const key_block& block, const visible_spans* spans, int first_row,
                        int n_rows, int group, float scale_log2, std::uint32_t keys,
                        std::uint32_t values) {
    registers<float, Shape::keys / 2> s[Shape::fragments];
    unrolled<Shape::fragments>([&](int f) {
      w.each([&](int lane) {
        for (int e = 0; e < Shape::keys / 2; ++e) s[f](lane, e) = 0.0F;
      });
    });
    for (int t = 0; t < Shape::head_dim / 16; ++t) {
      for (int n = 0; n < Shape::keys / 16; ++n) {
        registers<std::uint32_t, 4> b;
        w.load_matrices(b, [&](int lane) {
          return keys + tile_offset<Shape::pieces>(16 * n + pieces_first_row(lane),
                                                   2 * t + pieces_first_piece(lane));
        });
        unrolled<Shape::fragments>([&](int f) {
          w.template multiply<T>(s[f], 8 * n, q[f], 4 * t, b, 0);
          w.template multiply<T>(s[f], 8 * n + 4, q[f], 4 * t, b, 2);
        });
      }
    }
    registers<std::uint32_t, Shape::keys / 4> a[Shape::fragments];
    unrolled<Shape::fragments>([&](int f) {
      if (!block.whole) {
        mask_scores<W, Shape::keys / 2>(w, s[f], block, spans, first_row + 16 * f, n_rows, group);
      }
      registers<float, 2> shrink;
      weigh_scores<W, Shape::keys / 2>(w, s[f], state[f], shrink, scale_log2);
      shrink_state(w, state[f], shrink);
      pack_weights<T, W, Shape::keys / 2>(w, a[f], s[f]);
    });
    for (int t = 0; t < Shape::keys / 16; ++t) {
      for (int n = 0; n < Shape::head_dim / 16; ++n) {
        registers<std::uint32_t, 4> b;
        w.load_matrices_transposed(b, [&](int lane) {
          return values + tile_offset<Shape::pieces>(16 * t + rows_first_row(lane),
                                                     2 * n + rows_first_piece(lane));
        });
        unrolled<Shape::fragments>([&](int f) {
          w.template multiply<T>(state[f].o, 8 * n, a[f], 4 * t, b, 0);
          w.template multiply<T>(state[f].o, 8 * n + 4, a[f], 4 * t, b, 2);
        });
      }
    }
  }
};

/// Starts the copies of one block's keys and values into shared memory; rows behind its last
/// become 0. Lane `lane` of `n_lanes` takes its share.
template <class T, class Shape, class W>
GISTKV_HD void copy_block(W& w, int lane, int n_lanes, const attention_part<T>& part,
                          const key_block& block, int kv_head, std::uint32_t to) {
  const T* k = part.k + kv_head * part.k_head + block.row * part.k_row;
  const T* v = part.v + kv_head * part.v_head + block.row * part.v_row;
  for (int i = lane; i < Shape::keys * Shape::pieces; i += n_lanes) {
    const int row = i / Shape::pieces;
    const int piece = i % Shape::pieces;
    const std::uint32_t at = to + tile_offset<Shape::pieces>(row, piece);
    const bool inside = row < block.rows;
    const int n_bytes = inside ? 16 : 0;
    w.copy_async(at, inside ? k + row * part.k_row + piece * 8 : k, n_bytes);
    w.copy_async(at + Shape::matrix_bytes, inside ? v + row * part.v_row + piece * 8 : v, n_bytes);
  }
}

/// What tokens [begin, begin + count) see; every warp finds out for itself.
template <class W>
GISTKV_HD tile_bounds bounds_of(W& w, const visible_spans* spans, int count) {
  typename W::template registers<tile_bounds, 1> part;
  w.each([&](int lane) {
    part(lane, 0) = tile_bounds{};
    for (int i = lane % 32; i < count; i += 32) part(lane, 0).add(spans[i]);
  });
  tile_bounds all;
  all.anchors_least = w.least_of(part, &tile_bounds::anchors_least);
  all.anchors_greatest = w.greatest_of(part, &tile_bounds::anchors_greatest);
  all.begin_least = w.least_of(part, &tile_bounds::begin_least);
  all.begin_greatest = w.greatest_of(part, &tile_bounds::begin_greatest);
  all.end_least = w.least_of(part, &tile_bounds::end_least);
  all.end_greatest = w.greatest_of(part, &tile_bounds::end_greatest);
  return all;
}

/// The work of one block of threads: item number `number` of the batch.
template <class T, class Shape, class W>
GISTKV_HD void attend_tile(W& w, const attention_batch<T>& batch, int number) {
  const attention_item item = item_of(batch, number);
  const attention_sequence<T>& s = batch.sequences[item.sequence];
  const visible_spans* spans = s.spans + item.begin;
  const key_blocks<Shape::keys> blocks(bounds_of(w, spans, item.count), s.parts[shared_part].rows);
  const int n_blocks = blocks.count();
  const int first_row = w.index() * Shape::fragments * 16;
  const int n_rows = item.count * batch.group;

  const auto copy = [&](int b) {
    if (b < n_blocks) {
      const key_block block = blocks.at(b);
      const std::uint32_t to = static_cast<std::uint32_t>(b % Shape::stages) * Shape::stage_bytes;
      w.each([&](int lane) {
        copy_block<T, Shape>(w, w.index() * 32 + lane, Shape::warps * 32, s.parts[block.part],
                             block, item.kv_head, to);
      });
    }
    w.commit_copies();  // Also without copies, so that counting them tells which have landed.
  };
  for (int b = 0; b < Shape::stages - 1; ++b) copy(b);
  warp_attention<T, Shape, W> rows;
  rows.begin(w, s, item, batch.group, first_row);
  for (int b = 0; b < n_blocks; ++b) {
    w.template wait_copies<Shape::stages - 2>();
    // All copies of block b are there, and all warps are done with the stage that is filled next.
    w.sync_block();
    copy(b + Shape::stages - 1);
    const std::uint32_t stage = static_cast<std::uint32_t>(b % Shape::stages) * Shape::stage_bytes;
    rows.attend(w, blocks.at(b), spans, first_row, n_rows, batch.group, batch.scale * log2_e, stage,
                stage + Shape::matrix_bytes);
  }
  unrolled<Shape::fragments>([&](int f) {
    store_result<T, Shape::head_dim>(w, rows.state[f], s, item, batch.group, first_row + 16 * f,
                                     batch.scale);
  });
}

}  // namespace gistkv::backends::cuda_detail
