// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_tile.hpp>

/// Attention over anchors and local rows for sm_90a. One warpgroup has the copy engine (TMA) fill a
/// ring of stages; the others multiply (wgmma) 64 rows of the tile each, so that one copy of the
/// keys serves them all. The scores of one block are computed while the values of the one before
/// are being added up (Shah et al. 2024, FlashAttention-3, section 3.2).
///
/// G is a warpgroup: 128 lanes in step.

namespace gistkv::backends::cuda_detail {

/// Rows of 128 bytes, 64 elements, are what one swizzle pattern spans: a matrix of more columns
/// lies in shared memory as panels of 64, one behind the other.
inline constexpr int panel_cols = 64;

template <int HeadDim_, int Consumers_, int Keys_, int Stages_, int FewRegisters_,
          int ManyRegisters_>
struct wgmma_shape {
  static constexpr int head_dim = HeadDim_;
  static constexpr int consumers = Consumers_;
  static constexpr int keys = Keys_;
  static constexpr int stages = Stages_;
  static constexpr int few_registers = FewRegisters_;    ///< Of a thread of the producer.
  static constexpr int many_registers = ManyRegisters_;  ///< Of a thread of a consumer.
  static constexpr int groups = consumers + 1;
  static constexpr int rows = consumers * 64;
  static constexpr int panels = head_dim / panel_cols;
  static constexpr std::uint32_t panel_bytes = keys * panel_cols * 2;
  static constexpr std::uint32_t matrix_bytes = panels * panel_bytes;
  static constexpr std::uint32_t query_bytes = 64 * head_dim * 2;  ///< Of one consumer.
  // Where things lie in shared memory, behind keys and values.
  static constexpr std::uint32_t queries = 2 * stages * matrix_bytes;
  static constexpr std::uint32_t barriers = queries + consumers * query_bytes;
  static constexpr std::uint32_t shared_bytes = barriers + 4 * stages * 8;
  static_assert(panel_bytes % 1024 == 0);

  /// Of a thread when the block begins: as many as let it run at all, in eights. Warpgroups can
  /// only take what others have given back of these, else they would wait for ever.
  static constexpr int entry_registers = 65536 / (groups * 128) / 8 * 8;
  static_assert(few_registers % 8 == 0 && few_registers >= 24 && few_registers <= entry_registers);
  static_assert(many_registers % 8 == 0 && many_registers <= 256 &&
                many_registers >= entry_registers);
  static_assert(few_registers + consumers * many_registers <= groups * entry_registers);
};

/// What wgmma is told of an operand in shared memory: where it begins and how far apart its 8 x 64
/// pieces lie, in bytes, in the layout that TMA writes with a swizzle of 128 bytes.
GISTKV_HD constexpr std::uint64_t operand_descriptor(std::uint32_t begin, std::uint32_t leading,
                                                     std::uint32_t stride) {
  const auto field = [](std::uint32_t bytes) {
    return static_cast<std::uint64_t>((bytes & 0x3ffffU) >> 4);
  };
  return field(begin) | field(leading) << 16 | field(stride) << 32 | std::uint64_t{1} << 62;
}

/// Queries of 64 rows as left operand of the scores, 16 dimensions from 16 t on.
GISTKV_HD constexpr std::uint64_t queries_descriptor(std::uint32_t matrix, int t) {
  constexpr std::uint32_t panel_bytes = 64 * panel_cols * 2;
  return operand_descriptor(matrix + static_cast<std::uint32_t>(t / 4) * panel_bytes +
                                static_cast<std::uint32_t>(t % 4) * 32,
                            16, 1024);
}
/// Byte of element (row, col) in a matrix of n_rows rows, in the layout that the copy engine
/// writes.
GISTKV_HD constexpr std::uint32_t panel_offset(int n_rows, int row, int col) {
  return static_cast<std::uint32_t>(col / panel_cols * n_rows * panel_cols * 2) +
         tile_offset<8>(row, col % panel_cols / 8) + static_cast<std::uint32_t>(col % 8) * 2;
}
/// Keys as right operand of the scores: rows are keys, 16 dimensions from 16 t on.
template <class Shape>
GISTKV_HD constexpr std::uint64_t keys_descriptor(std::uint32_t matrix, int t) {
  const auto panel = static_cast<std::uint32_t>(t / 4) * Shape::panel_bytes;
  return operand_descriptor(matrix + panel + static_cast<std::uint32_t>(t % 4) * 32, 16, 1024);
}
/// Values as right operand of the result, to be read across: 16 keys from 16 t on, all dimensions.
template <class Shape>
GISTKV_HD constexpr std::uint64_t values_descriptor(std::uint32_t matrix, int t) {
  return operand_descriptor(matrix + static_cast<std::uint32_t>(t) * 2048, Shape::panel_bytes,
                            1024);
}

/// How the copy engine sees the parts of the sequences.
template <class G>
struct tensor_maps {
  typename G::tensor_map k[max_sequences][n_parts];
  typename G::tensor_map v[max_sequences][n_parts];
};

/// The copy engine's stride along a dimension. One of a single element is never stepped along, but
/// its stride is checked: it must not be less than a row.
GISTKV_HD constexpr index_t mapped_stride(index_t stride, index_t extent, int head_dim) {
  return extent > 1 ? stride : greatest<index_t>(stride, head_dim);
}
/// Does the copy engine take the batch? Not rows or heads that overlap, as heads that all read the
/// same rows by a stride of 0.
template <class T>
constexpr bool can_be_mapped(const attention_batch<T>& batch, int head_dim) {
  const auto fits = [&](index_t stride, index_t extent) {
    return mapped_stride(stride, extent, head_dim) >= head_dim;
  };
  bool all = true;
  for (int i = 0; i < batch.n_sequences; ++i) {
    for (const attention_part<T>& p : batch.sequences[i].parts) {
      if (p.rows == 0) continue;
      all = all && fits(p.k_row, p.rows) && fits(p.v_row, p.rows) &&
            fits(p.k_head, batch.n_kv_heads) && fits(p.v_head, batch.n_kv_heads);
    }
  }
  return all;
}

/// A place in the ring: the running number of a block of keys, over all items.
template <class Shape>
struct ring_place {
  int stage = 0;
  std::uint32_t parity = 0;

  GISTKV_HD void advance() {
    if (++stage == Shape::stages) {
      stage = 0;
      parity ^= 1U;
    }
  }
  GISTKV_HD std::uint32_t keys() const {
    return static_cast<std::uint32_t>(stage) * Shape::matrix_bytes;
  }
  GISTKV_HD std::uint32_t values() const {
    return static_cast<std::uint32_t>(Shape::stages + stage) * Shape::matrix_bytes;
  }
  /// Barriers: keys and values are there; keys and values are no longer needed.
  GISTKV_HD std::uint32_t barrier(int kind) const {
    return Shape::barriers + static_cast<std::uint32_t>(kind * Shape::stages + stage) * 8;
  }
};
inline constexpr int keys_full = 0, values_full = 1, keys_free = 2, values_free = 3;

template <class T, class Shape, class G>
GISTKV_HD key_blocks<Shape::keys> blocks_of(G& g, const attention_sequence<T>& s,
                                            const attention_item& item) {
  return key_blocks<Shape::keys>(bounds_of(g, s.spans + item.begin, item.count),
                                 s.parts[shared_part].rows);
}

/// Keeps the ring full. By one warp alone: barriers know the parity of their phase only, and a warp
/// that waited without being waited for could fall a round of the ring behind and wait for ever.
template <class T, class Shape, class G>
GISTKV_HD void produce(G& g, const attention_batch<T>& batch, const tensor_maps<G>& maps,
                       int first_item, int step) {
  ring_place<Shape> place;
  place.parity = 1;  // The first round finds every stage free.
  for (int i = first_item; i < batch.n_tiles * batch.n_kv_heads; i += step) {
    const attention_item item = item_of(batch, i);
    const auto blocks = blocks_of<T, Shape>(g, batch.sequences[item.sequence], item);
    for (int b = 0; b < blocks.count(); ++b, place.advance()) {
      const key_block block = blocks.at(b);
      const auto copy = [&](const typename G::tensor_map& map, std::uint32_t to, int free,
                            int full) {
        g.wait_barrier(place.barrier(free), place.parity);
        g.expect_bytes(place.barrier(full), Shape::matrix_bytes);
        for (int p = 0; p < Shape::panels; ++p) {
          g.copy_tile(to + static_cast<std::uint32_t>(p) * Shape::panel_bytes, map, p * panel_cols,
                      block.row, item.kv_head, place.barrier(full));
        }
      };
      copy(maps.k[item.sequence][block.part], place.keys(), keys_free, keys_full);
      copy(maps.v[item.sequence][block.part], place.values(), values_free, values_full);
    }
  }
}

/// Puts a warpgroup's queries where wgmma reads them. Rows behind the last are 0.
template <class T, class Shape, class G>
GISTKV_HD void place_queries(G& g, const attention_sequence<T>& s, const attention_item& item,
                             int group, int first_row, std::uint32_t to) {
  g.sync_group();  // All are done with the last ones.
  g.each([&](int lane) {
    for (int i = lane; i < 64 * Shape::head_dim / 2; i += 128) {
      const int row = i / (Shape::head_dim / 2);
      const int col = i % (Shape::head_dim / 2) * 2;
      const int at = first_row + row;
      std::uint32_t pair = 0;
      if (at < item.count * group) {
        pair = G::load_pair(s.q + (item.begin + at / group) * s.q_token +
                            (item.kv_head * group + at % group) * s.q_head + col);
      }
      *g.template shared<std::uint32_t>(to + panel_offset(64, row, col)) = pair;
    }
  });
  g.publish_shared();
  g.sync_group();
}

/// Rows of a part behind those that the tile sees come with the block. Their weights are 0, but 0
/// times what lies there may be NaN: the values become 0. Every consumer does it for itself, none
/// waits for another; who reads then sees zeros, whoever wrote them last.
template <class Shape, class G>
GISTKV_HD void clear_unseen(G& g, std::uint32_t values, int n_seen) {
  if (n_seen == Shape::keys) return;
  g.each([&](int lane) {
    for (int i = n_seen * Shape::head_dim / 2 + lane; i < Shape::keys * Shape::head_dim / 2;
         i += 128) {
      const int row = i / (Shape::head_dim / 2);
      const int col = i % (Shape::head_dim / 2) * 2;
      *g.template shared<std::uint32_t>(values + panel_offset(Shape::keys, row, col)) = 0;
    }
  });
  g.publish_shared();  // To the products, and before the copies that fill the stage again.
  g.sync_group();
}

/// One warpgroup's 64 rows of every tile.
template <class T, class Shape, class G>
GISTKV_HD void consume(G& g, const attention_batch<T>& batch, int first_item, int step) {
  constexpr int n_scores = Shape::keys / 2;
  const float scale_log2 = batch.scale * log2_e;
  const int first_row = (g.index() - 1) * 64;
  const std::uint32_t queries =
      Shape::queries + static_cast<std::uint32_t>(g.index() - 1) * Shape::query_bytes;
  ring_place<Shape> key_place, value_place;
  for (int i = first_item; i < batch.n_tiles * batch.n_kv_heads; i += step) {
    const attention_item item = item_of(batch, i);
    const attention_sequence<T>& s = batch.sequences[item.sequence];
    const visible_spans* spans = s.spans + item.begin;
    const auto blocks = blocks_of<T, Shape>(g, s, item);
    const int n_blocks = blocks.count();
    const int n_rows = item.count * batch.group;

    typename G::template registers<float, n_scores> scores;
    typename G::template registers<std::uint32_t, n_scores / 2> weights;
    typename G::template registers<float, 2> shrink;
    attention_state<G, Shape::head_dim> state;
    place_queries<T, Shape>(g, s, item, batch.group, first_row, queries);
    state.clear(g);

    const auto score = [&] {
      g.wait_barrier(key_place.barrier(keys_full), key_place.parity);
      g.begin_products(scores);
      unrolled<Shape::head_dim / 16>([&](int t) {
        g.template multiply_async<T>(scores, queries_descriptor(queries, t),
                                     keys_descriptor<Shape>(key_place.keys(), t), t > 0);
      });
      g.commit_products();
    };
    const auto add_values = [&](int b) {
      g.wait_barrier(value_place.barrier(values_full), value_place.parity);
      clear_unseen<Shape>(g, value_place.values(), blocks.at(b).rows);
      g.begin_products(state.o, weights);
      unrolled<Shape::keys / 16>([&](int t) {
        g.template multiply_transposed_async<T>(state.o, weights, 4 * t,
                                                values_descriptor<Shape>(value_place.values(), t));
      });
      g.commit_products();
    };
    const auto weigh = [&](int b) {
      const key_block block = blocks.at(b);
      if (!block.whole) {
        mask_scores<G, n_scores>(g, scores, block, spans, first_row, n_rows, batch.group);
      }
      weigh_scores<G, n_scores>(g, scores, state, shrink, scale_log2);
    };
    const auto release = [&](ring_place<Shape>& place, int kind) {
      g.arrive(place.barrier(kind));
      place.advance();
    };

    if (n_blocks > 0) {
      score();
      g.template await_products<0>(scores);
      release(key_place, keys_free);
      weigh(0);
      pack_weights<T, G, n_scores>(g, weights, scores);
    }
    for (int b = 1; b < n_blocks; ++b) {
      score();
      add_values(b - 1);
      g.template await_products<1>(scores);
      release(key_place, keys_free);
      weigh(b);
      g.template await_products<0>(state.o, weights);
      release(value_place, values_free);
      shrink_state(g, state, shrink);
      pack_weights<T, G, n_scores>(g, weights, scores);
    }
    if (n_blocks > 0) {
      add_values(n_blocks - 1);
      g.template await_products<0>(state.o, weights);
      release(value_place, values_free);
    }
    store_result<T, Shape::head_dim>(g, state, s, item, batch.group, first_row, batch.scale);
  }
}

/// The work of one block of threads: items first_item, first_item + step, ...
template <class T, class Shape, class G>
GISTKV_HD void attend_wgmma(G& g, const attention_batch<T>& batch, const tensor_maps<G>& maps,
                            int first_item, int step) {
  if (g.index() == 0) {
    ring_place<Shape> place;
    for (; place.parity == 0; place.advance()) {
      g.init_barrier(place.barrier(keys_full), 1);
      g.init_barrier(place.barrier(values_full), 1);
      // Every warp of every consumer says that it is done.
      g.init_barrier(place.barrier(keys_free), Shape::consumers * 4);
      g.init_barrier(place.barrier(values_free), Shape::consumers * 4);
    }
    g.publish_barriers();
  }
  g.sync_block();
  if (g.index() == 0) {
    g.template fewer_registers<Shape::few_registers>();
    g.first_warp([&] { produce<T, Shape>(g, batch, maps, first_item, step); });
  } else {
    g.template more_registers<Shape::many_registers>();
    consume<T, Shape>(g, batch, first_item, step);
  }
}

}  // namespace gistkv::backends::cuda_detail
