// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <gistkv/backends/cuda/attention_plan.hpp>
#include <gistkv/core/q8.hpp>

/// New keys and values into the caches of the batch: all tokens, all heads, anchors and local rows
/// in one launch. A warp takes a row of one head and writes it to both places.

namespace gistkv::backends::cuda_detail {

/// Rows of all heads: row r of head h at h * head + r * row.
template <class KV>
struct append_target {
  KV* k = nullptr;
  KV* v = nullptr;
  index_t k_head = 0, k_row = 0, v_head = 0, v_row = 0;
  const std::int32_t* rows = nullptr;  ///< Of each token; negative: none.
  index_t rows_step = 0;
};

/// Tokens [first_token, first_token + n_tokens) of k and v go to two targets.
template <class KV>
struct append_sequence {
  append_target<KV> anchors, local;
  std::int32_t first_token = 0;
  std::int32_t n_tokens = 0;
};

inline constexpr int max_appended = 16;  ///< Sequences of a launch.

/// What goes into one launch, as the parameter of a kernel; token t of head h at t * token + h *
/// head.
template <class T, class KV>
struct append_batch {
  const T* k = nullptr;
  const T* v = nullptr;
  index_t k_token = 0, k_head = 0, v_token = 0, v_head = 0;
  append_sequence<KV> sequences[max_appended];
  std::int32_t n_sequences = 0;
  std::int32_t n_kv_heads = 0;
  std::int32_t head_dim = 0;
};

/// Stores one row of T in up to two rows of a cache of KV.
template <class T, class KV, class W>
GISTKV_HD void store_row(W& w, const T* from, int d, KV* first, KV* second) {
  if (first == nullptr && second == nullptr) return;
  if constexpr (std::is_same_v<KV, q8>) {
    // The greatest of the bits is that of the numbers, and NaN is greater than all.
    struct largest_bits {
      int bits;
    };
    typename W::template registers<largest_bits, 1> part;
    w.each([&](int lane) {
      part(lane, 0).bits = 0;
      for (int i = lane % 32; i < d; i += 32) {
        const auto bits = std::bit_cast<std::uint32_t>(W::to_float(from[i])) & 0x7fffffffU;
        part(lane, 0).bits = greatest(part(lane, 0).bits, static_cast<int>(bits));
      }
    });
    const int bits = w.greatest_of(part, &largest_bits::bits);
    const q8_grid grid = q8_grid::of(std::bit_cast<float>(bits));
    const int stored = static_cast<int>(q8_scale_offset(d));
    w.each([&](int lane) {
      for (int place = 0; place < 2; ++place) {
        KV* to = place == 0 ? first : second;
        if (to == nullptr) continue;
        for (int i = lane % 32; i < stored; i += 32) {
          to[i] = i < d ? grid.level(W::to_float(from[i])) : q8{};
        }
        if (lane % 32 == 0) set_q8_scale(to, d, grid.scale);
      }
    });
  } else {
    static_assert(std::is_same_v<T, KV>);
    w.each([&](int lane) {
      for (int i = lane % 32; i < d; i += 32) {
        if (first != nullptr) first[i] = from[i];
        if (second != nullptr) second[i] = from[i];
      }
    });
  }
}

/// Row of a target, or nullptr where the token has none.
template <class KV>
GISTKV_HD KV* place(KV* data, index_t head_stride, index_t row_stride, int head,
                    const append_target<KV>& target, int token) {
  if (data == nullptr || target.rows == nullptr) return nullptr;
  const std::int32_t row = target.rows[token * target.rows_step];
  return row < 0 ? nullptr : data + head * head_stride + row * row_stride;
}

/// Rows of a batch that warps take one by one.
template <class T, class KV>
GISTKV_HD int append_items(const append_batch<T, KV>& batch) {
  int n = 0;
  for (int i = 0; i < batch.n_sequences; ++i) n += batch.sequences[i].n_tokens;
  return n * batch.n_kv_heads * 2;
}

/// Item number `number`: keys, then values of a head, then the next head, then the next token.
template <class T, class KV, class W>
GISTKV_HD void append_row(W& w, const append_batch<T, KV>& batch, int number) {
  const bool values = number % 2 != 0;
  const int head = number / 2 % batch.n_kv_heads;
  int token = number / 2 / batch.n_kv_heads;
  int i = 0;
  while (token >= batch.sequences[i].n_tokens) token -= batch.sequences[i++].n_tokens;
  const append_sequence<KV>& s = batch.sequences[i];
  const index_t source = s.first_token + token;
  const auto to = [&](const append_target<KV>& t) {
    return values ? place(t.v, t.v_head, t.v_row, head, t, token)
                  : place(t.k, t.k_head, t.k_row, head, t, token);
  };
  const T* from = values ? batch.v + source * batch.v_token + head * batch.v_head
                         : batch.k + source * batch.k_token + head * batch.k_head;
  store_row(w, from, batch.head_dim, to(s.anchors), to(s.local));
}

}  // namespace gistkv::backends::cuda_detail
