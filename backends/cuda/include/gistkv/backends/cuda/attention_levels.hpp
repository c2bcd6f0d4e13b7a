// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_softmax.hpp>
#include <gistkv/core/q8.hpp>

/// Attention of one 16-row fragment over rows of q8 (core/q8.hpp), for attention_split.hpp.
///
/// Levels are whole numbers that 16 bits hold without rounding, so the matrix unit multiplies them
/// as they are: scores are multiplied with the scale of their key, weights with that of their value
/// before they are rounded. Rows lie end to end, so that a block of them is one run of bytes, which
/// begins where its row begins: at any multiple of four. Shared memory keeps that offset.
///
/// What the columns of the fragments stand for is chosen so that every lane reads whole words: the
/// order of the dimensions is free in q k, that of the result's is undone where it is stored, and
/// that of the keys follows from one product to the other.

namespace gistkv::backends::cuda_detail {

template <int HeadDim_, int Warps_, int Keys_, int Stages_>
struct level_shape {
  static constexpr int head_dim = HeadDim_;
  static constexpr int warps = Warps_;
  static constexpr int keys = Keys_;  ///< Of a stage, of one warp.
  static constexpr int stages = Stages_;
  static constexpr int fragments = 1;
  static constexpr int width = static_cast<int>(row_width<q8>(head_dim));  ///< Bytes of a row.
  static constexpr int matrix_pieces = (keys * width + 15) / 16 + 1;       ///< Of 16 bytes.
  static constexpr std::uint32_t matrix_bytes = matrix_pieces * 16;
  static constexpr std::uint32_t stage_bytes = 2 * matrix_bytes;
  static constexpr std::uint32_t shared_bytes = stages * stage_bytes;
  static_assert(head_dim % 32 == 0 && keys % 32 == 0);
};

struct level_order {
  /// A lane's pairs of a product lie in one word: dimensions 4 c, ..., 4 c + 3 of 16, c = lane % 4.
  GISTKV_HD static constexpr int query_dim(int lane, int e) {
    return e / 2 * 16 + lane % 4 * 4 + e % 2 * 2;
  }
  /// Columns 2 c and 2 c + 1 of all fragments are eight neighbours. Rows are an odd number of words
  /// apart, so that what the lanes read of the values at a time lies in different banks.
  GISTKV_HD static constexpr int column_key(int fragment, int col) {
    return fragment / 4 * 32 + col / 2 * 8 + fragment % 4 * 2 + col % 2;
  }
  GISTKV_HD static constexpr int key(int lane, int e) {
    return column_key(e / 4, lane % 4 * 2 + e % 2);
  }
  /// Column g of fragments 4 u, ..., 4 u + 3 is word g + 8 u of a value.
  GISTKV_HD static constexpr int result_dim(int lane, int e) {
    return 4 * (lane % 4 * 2 + e % 2 + e / 16 * 8) + e / 4 % 4;
  }
};

template <class T, class Shape, class W>
struct level_attention {
  template <class V, int N>
  using registers = typename W::template registers<V, N>;
  using order = level_order;
  /// Weights are rounded as multiples of this. With 1 those of small values would be too small for
  /// f16; with 1 / 127 and below those of its largest values too large.
  static constexpr float unit = 1.0F / 64;

  registers<std::uint32_t, Shape::head_dim / 4> q[1];
  attention_state<W, Shape::head_dim> state[1];

  GISTKV_HD void begin(W& w, const attention_sequence<T, q8>& s, const attention_item& item,
                       int group, int first_row) {
    load_queries<T, Shape::head_dim, order>(w, q[0], s, item, group, first_row);
    state[0].clear(w);
  }

  /// Starts the copies of one block's keys and values; behind its last row all is 0.
  GISTKV_HD static void copy(W& w, const attention_part<q8>& part, const key_block& block,
                             int kv_head, std::uint32_t to) {
    const q8* from[2] = {first_row(part.k, part.k_head, kv_head, block),
                         first_row(part.v, part.v_head, kv_head, block)};
    w.each([&](int lane) {
      for (int i = lane; i < Shape::matrix_pieces; i += 32) {
        for (int m = 0; m < 2; ++m) {
          const int lead = offset_in_piece(from[m]);
          const int left = lead + block.rows * Shape::width - 16 * i;
          const int n_bytes = greatest(0, least(16, left));
          const q8* piece = from[m] - lead + (n_bytes > 0 ? 16 * i : 0);
          w.copy_async(to + static_cast<std::uint32_t>(m) * Shape::matrix_bytes +
                           static_cast<std::uint32_t>(16 * i),
                       piece, n_bytes);
        }
      }
    });
  }

  GISTKV_HD void take(W& w, const attention_part<q8>& part, const key_block& block, int kv_head,
                      const visible_spans* spans, int n_rows, int group, float scale_log2,
                      std::uint32_t stage) {
    const std::uint32_t keys =
        stage +
        static_cast<std::uint32_t>(offset_in_piece(first_row(part.k, part.k_head, kv_head, block)));
    const std::uint32_t values =
        stage + Shape::matrix_bytes +
        static_cast<std::uint32_t>(offset_in_piece(first_row(part.v, part.v_head, kv_head, block)));
    registers<float, Shape::keys / 2> s;
    w.each([&](int lane) {
      for (int e = 0; e < Shape::keys / 2; ++e) s(lane, e) = 0.0F;
    });
    for (int t = 0; t < Shape::head_dim / 16; ++t) {
      unrolled<Shape::keys / 8>([&](int n) {
        registers<std::uint32_t, 2> b;
        w.each([&](int lane) {
          const std::uint32_t x =
              word(w, keys, order::column_key(n, lane % 32 / 4), 4 * t + lane % 4);
          b(lane, 0) = W::template pack_levels<T>(x, 0, x, 1);
          b(lane, 1) = W::template pack_levels<T>(x, 2, x, 3);
        });
        w.template multiply<T>(s, 4 * n, q[0], 4 * t, b, 0);
      });
    }
    w.each([&](int lane) {
      for (int e = 0; e < 2; ++e) {
        for (int i = e; i < Shape::keys / 2; i += 4) {
          const float scale = scale_of(w, keys, order::key(lane, i));
          s(lane, i) *= scale;
          s(lane, i + 2) *= scale;  // The same key, eight rows below.
        }
      }
    });
    if (!block.whole) {
      mask_scores<W, Shape::keys / 2, order>(w, s, block, spans, 0, n_rows, group);
    }
    registers<float, 2> shrink;
    weigh_scores<W, Shape::keys / 2>(w, s, state[0], shrink, scale_log2);
    shrink_state(w, state[0], shrink);
    w.each([&](int lane) {
      for (int e = 0; e < 2; ++e) {
        for (int i = e; i < Shape::keys / 2; i += 4) {
          const float scale = scale_of(w, values, order::key(lane, i)) / unit;
          s(lane, i) *= scale;
          s(lane, i + 2) *= scale;
        }
      }
    });
    registers<std::uint32_t, Shape::keys / 4> a;
    pack_weights<T, W, Shape::keys / 2>(w, a, s);
    for (int t = 0; t < Shape::keys / 16; ++t) {
      unrolled<Shape::head_dim / 32>([&](int u) {
        registers<std::uint32_t, 4> x;  // Of the four keys of a lane.
        w.each([&](int lane) {
          for (int i = 0; i < 4; ++i) {
            const int key = order::column_key(2 * t + i / 2, lane % 4 * 2 + i % 2);
            x(lane, i) = word(w, values, key, lane % 32 / 4 + 8 * u);
          }
        });
        unrolled<4>([&](int byte) {
          registers<std::uint32_t, 2> b;
          w.each([&](int lane) {
            b(lane, 0) = W::template pack_levels<T>(x(lane, 0), byte, x(lane, 1), byte);
            b(lane, 1) = W::template pack_levels<T>(x(lane, 2), byte, x(lane, 3), byte);
          });
          w.template multiply<T>(state[0].o, 16 * u + 4 * byte, a, 4 * t, b, 0);
        });
      });
    }
  }

 private:
  GISTKV_HD static const q8* first_row(const q8* of_part, index_t head_stride, int kv_head,
                                       const key_block& block) {
    return of_part + kv_head * head_stride + index_t{block.row} * Shape::width;
  }
  GISTKV_HD static int offset_in_piece(const q8* p) {
    return static_cast<int>(reinterpret_cast<std::uintptr_t>(p) % 16);
  }
  GISTKV_HD static std::uint32_t word(W& w, std::uint32_t matrix, int row, int i) {
    return *w.template shared<std::uint32_t>(
        matrix + static_cast<std::uint32_t>(row * Shape::width + 4 * i));
  }
  GISTKV_HD static float scale_of(W& w, std::uint32_t matrix, int row) {
    return *w.template shared<float>(
        matrix + static_cast<std::uint32_t>(row * Shape::width + Shape::head_dim));
  }
};

}  // namespace gistkv::backends::cuda_detail
