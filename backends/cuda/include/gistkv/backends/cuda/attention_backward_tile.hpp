// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_backward_rows.hpp>
#include <gistkv/backends/cuda/attention_tile.hpp>

/// The backward pass of attention on the matrix units, for 16-bit elements and head dimensions 64
/// and 128 (mma.sync, sm_80 and up). As in attention_backward_rows.hpp, one kernel goes by queries
/// and one by keys, nothing is added atomically, and so eight products take the place of five.
///
/// A tile is 64 rows, tokens with all heads of a KV head as in attention_plan.hpp. The kernel by
/// queries leaves what each tile sees; that by keys visits only tiles that see some of its 64 keys.
/// Anchors are seen by all later tiles: those are split over several blocks of threads, and the
/// parts are added up in one order. Up to eight sequences go in one launch, of whose tiles none
/// sees another's keys.

namespace gistkv::backends::cuda_detail {

inline constexpr int backward_warps = 4;
inline constexpr int backward_rows = backward_warps * 16;  ///< Of a tile of queries, or of keys.
template <int HeadDim>
inline constexpr int backward_block_keys = HeadDim == 64 ? 64 : 32;
template <int HeadDim>
using backward_shape = tile_shape<HeadDim, backward_warps, 1, backward_block_keys<HeadDim>, 1>;
template <int HeadDim>
inline constexpr std::uint32_t backward_matrix_bytes = backward_rows* HeadDim * 2;
/// Shared memory of either kernel: two matrices of 64 rows, and the statistics of 64 queries.
template <int HeadDim>
inline constexpr std::uint32_t backward_shared_bytes =
    2 * backward_matrix_bytes<HeadDim> + backward_rows * 8;

/// Sequences that go into one launch, with the same heads, as the parameter of the kernels.
template <class T>
struct backward_tiles {
  attention_backward_call<T> calls[max_sequences];
  std::int32_t n_sequences = 0;
  std::int32_t n_kv_heads = 0;
  std::int32_t tile_tokens = 0;
  std::int32_t n_tiles = 0;       ///< Of queries, of one KV head, of all sequences.
  tile_bounds* bounds = nullptr;  ///< [n_tiles]
  // Of one launch by keys; what the sequences before one have, and behind the last what all have.
  std::int32_t part = 0;
  std::int32_t n_splits = 1;
  std::int32_t first_row[max_sequences + 1] = {};
  std::int32_t first_key_tile[max_sequences + 1] = {};
  float* sums = nullptr;  ///< Of each sequence [n_splits, n_kv_heads, rows, 2, head_dim], dk and dv

  void add(const attention_backward_call<T>& c) {
    n_kv_heads = c.n_kv_heads;
    tile_tokens = backward_rows / c.group;
    calls[n_sequences] = c;
    calls[n_sequences++].forward.first_tile = n_tiles;
    n_tiles += ceil_div(c.forward.n_tokens, tile_tokens);
  }
  void set_part(int number, int splits) {
    part = number;
    n_splits = splits;
    for (int i = 0; i < n_sequences; ++i) {
      const std::int32_t rows = calls[i].forward.parts[part].rows;
      first_row[i + 1] = first_row[i] + rows;
      first_key_tile[i + 1] = first_key_tile[i] + ceil_div(rows, backward_rows);
    }
  }
  /// Of one sequence.
  int most_tiles() const {
    int most = 0;
    for (int i = 0; i < n_sequences; ++i) {
      most = greatest(most, ceil_div(calls[i].forward.n_tokens, tile_tokens));
    }
    return most;
  }
  int n_query_items() const { return n_tiles * n_kv_heads; }
  int n_key_items() const { return first_key_tile[n_sequences] * n_kv_heads * n_splits; }
  /// Elements of dk and dv.
  index_t n_derivatives(int head_dim) const {
    return index_t{first_row[n_sequences]} * n_kv_heads * 2 * head_dim;
  }
};
static_assert(sizeof(backward_tiles<float>) <= 4096);
/// The sequence that has number `x` of those that `first` counts.
GISTKV_HD inline int sequence_of(const std::int32_t* first, int n_sequences, index_t x) {
  int i = 0;
  while (i + 1 < n_sequences && first[i + 1] <= x) ++i;
  return i;
}

/// [16, columns] += rows of a left operand times rows of a matrix in shared memory: both over the
/// head dimension.
template <class T, int HeadDim, int Columns, class W>
GISTKV_HD void multiply_rows(W& w, typename W::template registers<float, Columns / 2>& s,
                             typename W::template registers<std::uint32_t, HeadDim / 4>& a,
                             std::uint32_t matrix) {
  w.each([&](int lane) {
    for (int e = 0; e < Columns / 2; ++e) s(lane, e) = 0.0F;
  });
  unrolled<HeadDim / 16>([&](int t) {
    unrolled<Columns / 16>([&](int n) {
      typename W::template registers<std::uint32_t, 4> b;
      w.load_matrices(b, [&](int lane) {
        return matrix + tile_offset<HeadDim / 8>(16 * n + pieces_first_row(lane),
                                                 2 * t + pieces_first_piece(lane));
      });
      w.template multiply<T>(s, 8 * n, a, 4 * t, b, 0);
      w.template multiply<T>(s, 8 * n + 4, a, 4 * t, b, 2);
    });
  });
}

/// [16, head_dim] += [16, Rows] in registers times a matrix [Rows, head_dim] in shared memory.
template <class T, int HeadDim, int Rows, class W>
GISTKV_HD void multiply_columns(W& w, typename W::template registers<float, HeadDim / 2>& o,
                                typename W::template registers<float, Rows / 2>& s,
                                std::uint32_t matrix) {
  typename W::template registers<std::uint32_t, Rows / 4> a;
  pack_weights<T, W, Rows / 2>(w, a, s);
  unrolled<Rows / 16>([&](int t) {
    unrolled<HeadDim / 16>([&](int n) {
      typename W::template registers<std::uint32_t, 4> b;
      w.load_matrices_transposed(b, [&](int lane) {
        return matrix + tile_offset<HeadDim / 8>(16 * t + rows_first_row(lane),
                                                 2 * n + rows_first_piece(lane));
      });
      w.template multiply<T>(o, 8 * n, a, 4 * t, b, 0);
      w.template multiply<T>(o, 8 * n + 4, a, 4 * t, b, 2);
    });
  });
}

/// Tile `tile` of all, of one of the sequences.
template <class T>
GISTKV_HD attention_item backward_item(const backward_tiles<T>& b, int sequence, int tile,
                                       int kv_head) {
  const attention_sequence<T>& s = b.calls[sequence].forward;
  attention_item item;
  item.sequence = sequence;
  item.kv_head = kv_head;
  item.begin = (tile - s.first_tile) * b.tile_tokens;
  item.count = least(b.tile_tokens, s.n_tokens - item.begin);
  return item;
}

/// By queries: tile `number` / n_kv_heads.
template <class T, int HeadDim, class W>
GISTKV_HD void backward_queries(W& w, const backward_tiles<T>& b, int number) {
  using shape = backward_shape<HeadDim>;
  constexpr int keys = shape::keys;
  // Late tiles see most and go first.
  const int tile = b.n_tiles - 1 - number / b.n_kv_heads;
  int sequence = 0;
  while (sequence + 1 < b.n_sequences && b.calls[sequence + 1].forward.first_tile <= tile) {
    ++sequence;
  }
  const attention_backward_call<T>& c = b.calls[sequence];
  const attention_sequence<T>& s = c.forward;
  const attention_item item = backward_item(b, sequence, tile, number % b.n_kv_heads);
  const visible_spans* spans = s.spans + item.begin;
  const tile_bounds bounds = bounds_of(w, spans, item.count);
  const key_blocks<keys> blocks(bounds, 0);
  const int n_blocks = blocks.count();
  const int n_rows = item.count * c.group;
  const int first_row = 16 * w.index();
  const int n_heads = c.n_kv_heads * c.group;
  const float scale_log2 = c.scale * log2_e;
  if (w.index() == 0 && item.kv_head == 0) {
    w.each([&](int lane) {
      if (lane == 0) b.bounds[tile] = bounds;
    });
  }

  attention_sequence<T> of_gradient = s;
  of_gradient.q = c.d_o;
  of_gradient.q_token = c.d_o_token;
  of_gradient.q_head = c.d_o_head;
  typename W::template registers<std::uint32_t, HeadDim / 4> q, d_o;
  load_queries<T, HeadDim>(w, q, s, item, c.group, first_row);
  load_queries<T, HeadDim>(w, d_o, of_gradient, item, c.group, first_row);

  const auto load = [&](int number_of_block) {
    const key_block block = blocks.at(number_of_block);
    w.sync_block();  // Nobody reads the last block any more.
    w.each([&](int lane) {
      copy_block<T, shape>(w, w.index() * 32 + lane, backward_warps * 32, s.parts[block.part],
                           block, item.kv_head, 0);
    });
    w.commit_copies();
    w.template wait_copies<0>();
    w.sync_block();
    return block;
  };
  const auto scores = [&](typename W::template registers<float, keys / 2>& x,
                          const key_block& block) {
    multiply_rows<T, HeadDim, keys>(w, x, q, 0);
    if (!block.whole) mask_scores<W, keys / 2>(w, x, block, spans, first_row, n_rows, c.group);
  };

  attention_state<W, 2> state;
  state.clear(w);
  for (int i = 0; i < n_blocks; ++i) {
    const key_block block = load(i);
    typename W::template registers<float, keys / 2> x;
    typename W::template registers<float, 2> shrink;
    scores(x, block);
    weigh_scores<W, keys / 2>(w, x, state, shrink, scale_log2);
  }
  w.quad_sum(state.sum);
  typename W::template registers<float, 2> along, lse;
  w.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      along(lane, h) = 0.0F;
      lse(lane, h) = W::minus_infinity();
      const int row = first_row + fragment_row(lane, 2 * h);
      if (row >= n_rows) continue;
      const index_t token = item.begin + row / c.group;
      const index_t head = item.kv_head * c.group + row % c.group;
      const T* o = s.o + token * s.o_token + head * s.o_head;
      const T* g = c.d_o + token * c.d_o_token + head * c.d_o_head;
      for (int d = lane % 4; d < HeadDim; d += 4) {
        along(lane, h) += W::to_float(o[d]) * W::to_float(g[d]);
      }
      if (state.sum(lane, h) > 0.0F) {
        lse(lane, h) = state.top(lane, h) * c.scale + W::log(state.sum(lane, h));
      }
    }
  });
  w.quad_sum(along);
  w.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + fragment_row(lane, 2 * h);
      if (row >= n_rows || lane % 4 != 0) continue;
      const index_t token = item.begin + row / c.group;
      const index_t head = item.kv_head * c.group + row % c.group;
      c.statistics[token * n_heads + head] = {lse(lane, h), along(lane, h)};
    }
  });

  typename W::template registers<float, HeadDim / 2> dq;
  w.each([&](int lane) {
    for (int e = 0; e < HeadDim / 2; ++e) dq(lane, e) = 0.0F;
  });
  for (int i = 0; i < n_blocks; ++i) {
    const key_block block = load(i);
    typename W::template registers<float, keys / 2> x, change;
    scores(x, block);
    multiply_rows<T, HeadDim, keys>(w, change, d_o, shape::matrix_bytes);
    w.each([&](int lane) {
      for (int e = 0; e < keys / 2; ++e) {
        const int h = e / 2 % 2;
        // A row that sees nothing has all scores -inf, and -inf - -inf is no number.
        const float base = lse(lane, h) == W::minus_infinity() ? 0.0F : lse(lane, h) * log2_e;
        const float weight = W::exp2(x(lane, e) * scale_log2 - base);
        x(lane, e) = c.scale * weight * (change(lane, e) - along(lane, h));
      }
    });
    multiply_columns<T, HeadDim, keys>(w, dq, x, 0);
  }
  w.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + fragment_row(lane, 2 * h);
      if (row >= n_rows) continue;
      T* to = c.dq + (item.begin + row / c.group) * c.dq_token +
              (item.kv_head * c.group + row % c.group) * c.dq_head;
      for (int e = 2 * h; e < HeadDim / 2; e += 4) {
        W::store_pair(to + fragment_col(lane, e),
                      W::template pack<T>(dq(lane, e), dq(lane, e + 1)));
      }
    }
  });
}

/// Does some token of a tile see some of the keys [first, end) of a part?
GISTKV_HD constexpr bool tile_sees(const tile_bounds& seen, int part, int first, int end) {
  return part == own_part ? seen.anchors_greatest > first
                          : seen.begin_least < end && seen.end_greatest > first;
}

/// The first tile from `from` on that sees some of the keys, or `end`.
template <class T, class W>
GISTKV_HD int next_tile(W& w, const backward_tiles<T>& b, int from, int end, int first_key,
                        int end_key) {
  struct candidate {
    int tile;
  };
  for (; from < end; from += 32) {
    typename W::template registers<candidate, 1> found;
    w.each([&](int lane) {
      const int tile = from + lane;
      found(lane, 0).tile =
          tile < end && tile_sees(b.bounds[tile], b.part, first_key, end_key) ? tile : end;
    });
    const int tile = w.least_of(found, &candidate::tile);
    if (tile < end) return tile;
  }
  return end;
}

/// By keys: item (key tile, KV head, split), 64 keys of the part.
template <class T, int HeadDim, class W>
GISTKV_HD void backward_keys(W& w, const backward_tiles<T>& b, int number) {
  constexpr int rows = backward_rows;
  // Some of the queries at a time: dk, dv and their operands fill most of the registers.
  constexpr int columns = HeadDim == 64 ? 32 : 16;
  const int split = number % b.n_splits;
  const int kv_head = number / b.n_splits % b.n_kv_heads;
  const int key_tile = number / b.n_splits / b.n_kv_heads;
  const int sequence = sequence_of(b.first_key_tile, b.n_sequences, key_tile);
  const attention_backward_call<T>& c = b.calls[sequence];
  const attention_sequence<T>& s = c.forward;
  const attention_part<T>& part = s.parts[b.part];
  const int first_key = (key_tile - b.first_key_tile[sequence]) * rows;
  const int end_key = least(first_key + rows, part.rows);
  const int own_first = first_key + 16 * w.index();
  const int n_heads = c.n_kv_heads * c.group;
  const float scale_log2 = c.scale * log2_e;
  const index_t n_tiles = ceil_div(s.n_tokens, b.tile_tokens);
  const int begin_tile = s.first_tile + static_cast<int>(n_tiles * split / b.n_splits);
  const int end_tile = s.first_tile + static_cast<int>(n_tiles * (split + 1) / b.n_splits);
  auto* statistics = w.template shared<row_statistics>(2 * backward_matrix_bytes<HeadDim>);

  typename W::template registers<std::uint32_t, HeadDim / 4> k, v;
  w.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      const int row = own_first + fragment_row(lane, 2 * h);
      const bool inside = row < end_key;
      const T* from_k = part.k + kv_head * part.k_head + row * part.k_row;
      const T* from_v = part.v + kv_head * part.v_head + row * part.v_row;
      for (int e = 0; e < HeadDim / 8; ++e) {
        const int d = natural_order::query_dim(lane, e);
        k(lane, 2 * e + h) = inside ? W::load_pair(from_k + d) : 0U;
        v(lane, 2 * e + h) = inside ? W::load_pair(from_v + d) : 0U;
      }
    }
  });
  typename W::template registers<float, HeadDim / 2> dk, dv;
  w.each([&](int lane) {
    for (int e = 0; e < HeadDim / 2; ++e) {
      dk(lane, e) = 0.0F;
      dv(lane, e) = 0.0F;
    }
  });

  for (int tile = next_tile(w, b, begin_tile, end_tile, first_key, end_key); tile < end_tile;
       tile = next_tile(w, b, tile + 1, end_tile, first_key, end_key)) {
    const attention_item item = backward_item(b, sequence, tile, kv_head);
    const visible_spans* spans = s.spans + item.begin;
    const int n_rows = item.count * c.group;
    w.sync_block();  // Nobody reads the last tile any more.
    w.each([&](int lane) {
      const int me = w.index() * 32 + lane;
      for (int i = me; i < rows * (HeadDim / 8); i += backward_warps * 32) {
        const int row = i / (HeadDim / 8);
        const int piece = i % (HeadDim / 8);
        const bool inside = row < n_rows;
        const index_t token = item.begin + row / c.group;
        const index_t head = kv_head * c.group + row % c.group;
        const std::uint32_t at = tile_offset<HeadDim / 8>(row, piece);
        w.copy_async(at, inside ? s.q + token * s.q_token + head * s.q_head + 8 * piece : s.q,
                     inside ? 16 : 0);
        w.copy_async(backward_matrix_bytes<HeadDim> + at,
                     inside ? c.d_o + token * c.d_o_token + head * c.d_o_head + 8 * piece : c.d_o,
                     inside ? 16 : 0);
      }
      for (int row = me; row < rows; row += backward_warps * 32) {
        statistics[row] = {W::minus_infinity(), 0.0F};
        if (row < n_rows) {
          statistics[row] = c.statistics[(item.begin + row / c.group) * n_heads +
                                         kv_head * c.group + row % c.group];
        }
      }
    });
    w.commit_copies();
    w.template wait_copies<0>();
    w.sync_block();
    for (int first_row = 0; first_row < rows; first_row += columns) {
      const std::uint32_t q = static_cast<std::uint32_t>(first_row * HeadDim * 2);
      const std::uint32_t d_o = backward_matrix_bytes<HeadDim> + q;
      typename W::template registers<float, columns / 2> x, change;
      multiply_rows<T, HeadDim, columns>(w, x, k, q);
      multiply_rows<T, HeadDim, columns>(w, change, v, d_o);
      w.each([&](int lane) {
        for (int e = 0; e < columns / 2; ++e) {
          const int row = first_row + fragment_col(lane, e);  // Of the tile.
          const int key = own_first + fragment_row(lane, e);
          bool sees = row < n_rows && key < end_key;
          if (sees) {
            const visible_spans seen = spans[row / c.group];
            sees = b.part == own_part ? key < seen.anchors
                                      : key >= seen.local_begin && key < seen.local_end;
          }
          const row_statistics of = statistics[row];
          const float weight = sees ? W::exp2(x(lane, e) * scale_log2 - of.lse * log2_e) : 0.0F;
          x(lane, e) = weight;
          change(lane, e) = sees ? c.scale * weight * (change(lane, e) - of.along) : 0.0F;
        }
      });
      multiply_columns<T, HeadDim, columns>(w, dv, x, d_o);
      multiply_columns<T, HeadDim, columns>(w, dk, change, q);
    }
  }
  w.each([&](int lane) {
    for (int e = 0; e < HeadDim / 2; ++e) {
      const int key = own_first + fragment_row(lane, e);
      if (key >= end_key) continue;
      const index_t before = index_t{b.n_splits} * b.n_kv_heads * b.first_row[sequence];
      float* to =
          b.sums +
          (before + (index_t{split} * b.n_kv_heads + kv_head) * part.rows + key) * 2 * HeadDim +
          fragment_col(lane, e);
      to[0] = dk(lane, e);
      to[HeadDim] = dv(lane, e);
    }
  });
}

/// Adds up the splits of element `at` of n_derivatives, those of each sequence
/// [n_kv_heads, rows, 2, head_dim], in order.
template <class W, class T>
GISTKV_HD void add_splits(const backward_tiles<T>& b, int head_dim, index_t at) {
  const index_t width = index_t{2} * head_dim * b.n_kv_heads;  // Of a row, all heads.
  const int sequence = sequence_of(b.first_row, b.n_sequences, at / width);
  const attention_backward_call<T>& c = b.calls[sequence];
  const index_t rows = c.forward.parts[b.part].rows;
  const index_t before = b.first_row[sequence] * width;
  at -= before;
  float sum = 0.0F;
  for (int i = 0; i < b.n_splits; ++i) {
    sum += b.sums[b.n_splits * before + i * rows * width + at];
  }
  const index_t d = at % head_dim;
  const bool value = at / head_dim % 2 != 0;
  const index_t row = at / (2 * head_dim) % rows;
  const index_t head = at / (2 * head_dim) / rows;
  T* to = value ? c.dv[b.part] + head * c.dv_head[b.part] + row * c.dv_row[b.part]
                : c.dk[b.part] + head * c.dk_head[b.part] + row * c.dk_row[b.part];
  W::store(to + d, W::to_float(to[d]) + sum);
}

}  // namespace gistkv::backends::cuda_detail
