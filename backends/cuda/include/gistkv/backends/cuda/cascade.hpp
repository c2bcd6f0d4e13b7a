// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <gistkv/backends/cuda/attention_plan.hpp>

/// Attention out of a library's products: for a tile of tokens and a piece of a part's rows, scores
/// = q k^T, softmax, o = weights v; pieces are merged by the logs of their sums. Takes any head
/// dimension and any element type. It is what stands in where the matrix kernels do not fit, and
/// what they are compared with: it shares nothing with them but the bounds of a tile.

namespace gistkv::backends::cuda_detail {

/// Two partial results of a row as one: o = first a.o + second b.o, lse its log of the sum. An
/// empty one has lse = -inf and counts for nothing, whatever its o is.
struct merge_weights {
  float first = 0.0F, second = 0.0F, lse = 0.0F;

  template <class Math>
  GISTKV_HD static merge_weights of(float a, float b) {
    const float top = greatest(a, b);
    if (top == Math::minus_infinity()) return {0.0F, 0.0F, top};
    const float x = Math::exp(a - top), y = Math::exp(b - top);
    return {x / (x + y), y / (x + y), top + Math::log(x + y)};
  }
};

/// Memory of one tile and piece; rows are [head of the group][token of the tile].
template <class T>
struct cascade_memory {
  float* scores = nullptr;  ///< [rows, most_keys]
  T* weights = nullptr;     ///< [rows, most_keys]
  float* part = nullptr;    ///< [rows, head_dim]
  float* part_lse = nullptr;
  float* all = nullptr;  ///< [rows, head_dim]
  float* all_lse = nullptr;
  int most_tokens = 0;
  int most_keys = 0;

  /// Cuts n_bytes, aligned to 16, into these.
  static cascade_memory of(void* memory, std::size_t n_bytes, int group, int head_dim) {
    cascade_memory m;
    m.most_tokens = 128;
    const auto fixed = static_cast<std::size_t>(2 * head_dim + 2) * sizeof(float);
    constexpr std::size_t per_key = sizeof(float) + sizeof(T);
    const auto keys_for = [&](int tokens) {
      const std::size_t of_row = (n_bytes - 64) / static_cast<std::size_t>(group * tokens);
      return of_row <= fixed ? 0 : static_cast<int>((of_row - fixed) / per_key / 32 * 32);
    };
    while (m.most_tokens > 1 && keys_for(m.most_tokens) < 256) m.most_tokens /= 2;
    m.most_keys = least(keys_for(m.most_tokens), 8192);
    const index_t rows = index_t{group} * m.most_tokens;
    m.scores = static_cast<float*>(memory);
    m.part = m.scores + rows * m.most_keys;
    m.all = m.part + rows * head_dim;
    m.part_lse = m.all + rows * head_dim;
    m.all_lse = m.part_lse + rows;
    // Lists of floats end where one of T may begin, but its rows are wanted at 16 bytes.
    const auto end = reinterpret_cast<std::uintptr_t>(m.all_lse + rows);
    m.weights = reinterpret_cast<T*>((end + 15) / 16 * 16);
    return m;
  }
};

/// Which elements a product takes: row r of head g of the group at g * head + r * row.
template <class T>
struct cascade_matrix {
  T* data = nullptr;
  index_t head = 0;
  index_t row = 0;
};

/// One sequence. `library` does the work, in order:
///   multiply(o, a, b, group, m, n, k, transpose_b)     o = a b, or a b^T
///   weigh(memory, block, spans, group, m, scale)       scores to weights and part_lse
///   merge(memory, group, m, head_dim, first)           all = part if it is the first, else merged
///   store(memory, o, lse, group, m, head_dim, empty)   all, or nothing where no key was seen
/// @param seen  s.spans, on the host
template <class T, class Library>
void attend_cascade(Library& library, const attention_sequence<T>& s,
                    std::span<const visible_spans> seen, int n_kv_heads, int group, int head_dim,
                    float scale, const cascade_memory<T>& memory) {
  const index_t of_tile = memory.most_tokens;
  for (int begin = 0; begin < s.n_tokens; begin += memory.most_tokens) {
    const int m = least(memory.most_tokens, s.n_tokens - begin);
    tile_bounds bounds;
    for (int i = begin; i < begin + m; ++i) bounds.add(seen[static_cast<std::size_t>(i)]);
    const key_blocks<1> keys(bounds, s.parts[shared_part].rows);  // For the rows of each part.
    const int n_rows[n_parts] = {keys.n_local, keys.n_shared, keys.n_own};
    for (int h = 0; h < n_kv_heads; ++h) {
      const cascade_matrix<const T> q{s.q + begin * s.q_token + index_t{h} * group * s.q_head,
                                      s.q_head, s.q_token};
      const cascade_matrix<float> scores{memory.scores, of_tile * memory.most_keys,
                                         memory.most_keys};
      const cascade_matrix<float> part{memory.part, of_tile * head_dim, head_dim};
      bool first = true;
      for (int p = 0; p < n_parts; ++p) {
        const attention_part<T>& from = s.parts[p];
        for (int done = 0; done < n_rows[p]; done += memory.most_keys) {
          key_block block;
          block.part = p;
          block.row = done + (p == local_part ? keys.local_begin : 0);
          block.rows = least(memory.most_keys, n_rows[p] - done);
          block.anchor = done + (p == own_part ? keys.n_shared : 0);
          const cascade_matrix<const T> k{from.k + h * from.k_head + block.row * from.k_row, 0,
                                          from.k_row};
          const cascade_matrix<const T> v{from.v + h * from.v_head + block.row * from.v_row, 0,
                                          from.v_row};
          library.multiply(scores, q, k, group, m, block.rows, head_dim, true);
          library.weigh(memory, block, s.spans + begin, group, m, scale);
          library.multiply(part, cascade_matrix<const T>{memory.weights, scores.head, scores.row},
                           v, group, m, head_dim, block.rows, false);
          library.merge(memory, group, m, head_dim, first);
          first = false;
        }
      }
      const cascade_matrix<T> o{s.o + begin * s.o_token + index_t{h} * group * s.o_head, s.o_head,
                                s.o_token};
      cascade_matrix<T> lse;
      if (s.lse != nullptr) {
        lse = {s.lse + begin * s.lse_token + index_t{h} * group * s.lse_head, s.lse_head,
               s.lse_token};
      }
      library.store(memory, o, lse, group, m, head_dim, first);
    }
  }
}

}  // namespace gistkv::backends::cuda_detail
