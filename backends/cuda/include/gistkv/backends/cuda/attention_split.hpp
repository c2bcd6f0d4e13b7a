// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_levels.hpp>
#include <gistkv/backends/cuda/attention_tile.hpp>

/// Attention of few rows (a decode step, or the forced gists that close a sentence) against many
/// keys. The keys of a tile are split over blocks of threads and, within a block, over its warps;
/// each warp has a ring of its own and waits for nobody. Partial results are merged in the block,
/// then by the block that comes last: one launch.
///
/// Which keys belong to a split follows from the spans, on the device; the launch knows only how
/// many splits there are. A captured launch stays right while the cache grows.

namespace gistkv::backends::cuda_detail {

inline constexpr int split_rows = 16;  ///< Of a tile: tokens times heads of a group.

/// Memory of a launch with more than one split; every counter is 0 before and after it.
struct split_scratch {
  float* partials = nullptr;
  unsigned int* counters = nullptr;  ///< One an item.
  std::int32_t n_splits = 1;
};

/// Partial results of one tile as floats: o [16, HeadDim] times sum, top [16], sum [16].
template <int HeadDim>
struct partial_rows {
  static constexpr int floats = split_rows * (HeadDim + 2);
  static constexpr int top = split_rows * HeadDim;
  static constexpr int sum = top + split_rows;
};

template <class Shape>
inline constexpr std::uint32_t split_shared_bytes =
    greatest(Shape::warps* Shape::shared_bytes,
             static_cast<std::uint32_t>(Shape::warps* partial_rows<Shape::head_dim>::floats * 4)) +
    16;

struct merged_pair {
  float first = 0.0F, second = 0.0F, top = 0.0F, sum = 0.0F;
};

/// Elements (row, col) and (row, col + 1) over n partial results that lie end to end.
template <int HeadDim, class W>
GISTKV_HD merged_pair merge_pair(const float* from, int n, int row, int col, float scale_log2) {
  using at = partial_rows<HeadDim>;
  merged_pair m;
  m.top = W::minus_infinity();
  for (int i = 0; i < n; ++i) m.top = greatest(m.top, from[i * at::floats + at::top + row]);
  if (m.top == W::minus_infinity()) return m;
  for (int i = 0; i < n; ++i) {
    const float* part = from + i * at::floats;
    const float weight = W::exp2((part[at::top + row] - m.top) * scale_log2);
    m.sum += weight * part[at::sum + row];
    m.first += weight * part[row * HeadDim + col];
    m.second += weight * part[row * HeadDim + col + 1];
  }
  return m;
}

/// How a warp reads a block of a cache of T: as the tile kernel does.
template <class T, class KV, class Shape, class W>
struct cache_reader : warp_attention<T, Shape, W> {
  using order = natural_order;
  static constexpr float unit = 1.0F;  ///< Of the result.

  GISTKV_HD static void copy(W& w, const attention_part<T>& part, const key_block& block,
                             int kv_head, std::uint32_t to) {
    w.each([&](int lane) { copy_block<T, Shape>(w, lane, 32, part, block, kv_head, to); });
  }
  GISTKV_HD void take(W& w, const attention_part<T>&, const key_block& block, int,
                      const visible_spans* spans, int n_rows, int group, float scale_log2,
                      std::uint32_t stage) {
    this->attend(w, block, spans, 0, n_rows, group, scale_log2, stage, stage + Shape::matrix_bytes);
  }
};
template <class T, class Shape, class W>
struct cache_reader<T, q8, Shape, W> : level_attention<T, Shape, W> {};

/// One warp's share of the blocks [first, last) of keys.
template <class T, class KV, class Shape, class W>
GISTKV_HD void attend_share(W& w, cache_reader<T, KV, Shape, W>& rows,
                            const attention_sequence<T, KV>& s, const attention_item& item,
                            int group, float scale_log2, const key_blocks<Shape::keys>& blocks,
                            int first, int last) {
  const visible_spans* spans = s.spans + item.begin;
  const std::uint32_t ring = static_cast<std::uint32_t>(w.index()) * Shape::shared_bytes;
  const int n =
      first + w.index() < last ? (last - first - w.index() + Shape::warps - 1) / Shape::warps : 0;
  const auto block_at = [&](int i) { return blocks.at(first + w.index() + i * Shape::warps); };
  const auto stage_of = [&](int i) {
    return ring + static_cast<std::uint32_t>(i % Shape::stages) * Shape::stage_bytes;
  };
  const auto copy = [&](int i) {
    if (i < n) {
      const key_block block = block_at(i);
      rows.copy(w, s.parts[block.part], block, item.kv_head, stage_of(i));
    }
    w.commit_copies();
  };
  for (int i = 0; i < Shape::stages - 1; ++i) copy(i);
  rows.begin(w, s, item, group, 0);
  for (int i = 0; i < n; ++i) {
    w.template wait_copies<Shape::stages - 2>();
    w.sync_warp();
    copy(i + Shape::stages - 1);
    const key_block block = block_at(i);
    rows.take(w, s.parts[block.part], block, item.kv_head, spans, item.count * group, group,
              scale_log2, stage_of(i));
  }
}

/// The work of one block of threads: split `split` of item number `number`.
template <class T, class Shape, class KV, class W>
GISTKV_HD void attend_split(W& w, const attention_batch<T, KV>& batch, const split_scratch& scratch,
                            int number, int split) {
  using at = partial_rows<Shape::head_dim>;
  const attention_item item = item_of(batch, number);
  const attention_sequence<T, KV>& s = batch.sequences[item.sequence];
  const key_blocks<Shape::keys> blocks(bounds_of(w, s.spans + item.begin, item.count),
                                       s.parts[shared_part].rows);
  const int per_split = ceil_div(blocks.count(), scratch.n_splits);
  const int first = least(blocks.count(), split * per_split);
  const int last = least(blocks.count(), first + per_split);
  const float scale_log2 = batch.scale * log2_e;

  using reader = cache_reader<T, KV, Shape, W>;
  using order = typename reader::order;
  reader rows;
  attend_share(w, rows, s, item, batch.group, scale_log2, blocks, first, last);

  // What the warps have found goes where their rings were.
  w.template wait_copies<0>();
  w.sync_block();
  float* partials = w.template shared<float>(0);
  auto& state = rows.state[0];
  w.quad_sum(state.sum);
  w.each([&](int lane) {
    float* own = partials + w.index() * at::floats;
    for (int e = 0; e < Shape::head_dim / 2; ++e) {
      own[fragment_row(lane, e) * Shape::head_dim + order::result_dim(lane, e)] =
          state.o(lane, e) * reader::unit;
    }
    for (int h = 0; h < 2; ++h) {
      if (lane % 4 != 0) continue;
      own[at::top + fragment_row(lane, 2 * h)] = state.top(lane, h);
      own[at::sum + fragment_row(lane, 2 * h)] = state.sum(lane, h);
    }
  });
  w.sync_block();

  const int n_rows = item.count * batch.group;
  constexpr int pairs = Shape::head_dim / 2;
  constexpr int threads = Shape::warps * 32;
  const auto for_pairs = [&](auto&& f) {
    w.each([&](int lane) {
      for (int i = w.index() * 32 + lane; i < n_rows * pairs; i += threads) {
        f(i / pairs, i % pairs * 2);
      }
    });
  };
  const auto store = [&](const float* from, int n) {
    for_pairs([&](int row, int col) {
      const merged_pair m = merge_pair<Shape::head_dim, W>(from, n, row, col, scale_log2);
      const float factor = m.sum > 0.0F ? 1.0F / m.sum : 0.0F;
      const index_t token = item.begin + row / batch.group;
      const index_t head = item.kv_head * batch.group + row % batch.group;
      W::store_pair(s.o + token * s.o_token + head * s.o_head + col,
                    W::template pack<T>(m.first * factor, m.second * factor));
      if (s.lse != nullptr && col == 0) {
        W::store(s.lse + token * s.lse_token + head * s.lse_head,
                 m.sum > 0.0F ? m.top * batch.scale + W::log(m.sum) : W::minus_infinity());
      }
    });
  };
  if (scratch.n_splits == 1) return store(partials, Shape::warps);

  float* of_item = scratch.partials + static_cast<index_t>(number) * scratch.n_splits * at::floats;
  float* mine = of_item + split * at::floats;
  for_pairs([&](int row, int col) {
    const merged_pair m =
        merge_pair<Shape::head_dim, W>(partials, Shape::warps, row, col, scale_log2);
    mine[row * Shape::head_dim + col] = m.first;
    mine[row * Shape::head_dim + col + 1] = m.second;
    if (col != 0) return;
    mine[at::top + row] = m.top;
    mine[at::sum + row] = m.sum;
  });
  w.publish();  // Before the count says so.
  w.sync_block();
  auto* arrived = w.template shared<unsigned int>(split_shared_bytes<Shape> - 16);
  if (w.index() == 0) {
    w.each([&](int lane) {
      if (lane == 0) *arrived = w.count_up(scratch.counters + number);
    });
  }
  w.sync_block();
  if (*arrived + 1 != static_cast<unsigned int>(scratch.n_splits)) return;
  w.publish();  // What the others wrote is seen from here on.
  store(of_item, scratch.n_splits);
  if (w.index() == 0) {
    w.each([&](int lane) {
      if (lane == 0) scratch.counters[number] = 0;
    });
  }
}

}  // namespace gistkv::backends::cuda_detail
