// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/scratch.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/mask/visible_spans.hpp>

/// What a CPU's instruction set has to provide for the onednn backend: functions on one row, and
/// attention of one tile. simd/ holds them once in terms of a vector register; portable.hpp,
/// x86/avx2.hpp and x86/avx512.hpp compile them for a kind of register each.

namespace gistkv::backends::onednn_detail {

/// Keys and values of consecutive rows of one KV head; strides in elements.
template <class T>
struct head_rows {
  const T* k = nullptr;
  const T* v = nullptr;
  index_t k_stride = 0;
  index_t v_stride = 0;
  index_t rows = 0;
};

/// Queries of one KV head (n_tokens times the heads of its group) and a range of the keys
/// [shared | own | local rows]: the unit in which attention is shared out to threads.
template <class T, class KV>
struct attention_tile {
  const T* q = nullptr;  ///< First token, first head of the group.
  index_t token_stride = 0;
  index_t head_stride = 0;
  const visible_spans* spans = nullptr;  ///< [n_tokens]
  index_t n_tokens = 0;
  index_t group = 0;
  index_t head_dim = 0;
  head_rows<KV> shared;
  head_rows<KV> own;
  head_rows<KV> local;
  index_t key_begin = 0;
  index_t key_end = 0;
  float scale = 1.0F;

  index_t n_rows() const { return n_tokens * group; }
};

/// Softmax-weighted values of some of the keys, to be merged with those of the others: row r, which
/// is head r % group of token r / group, has the sum o[r, :] of 2^(s - m[r]) v, and l[r] of
/// 2^(s - m[r]), over scores s in units of log 2; m = -inf where nothing was seen.
struct partial_attention {
  float* o = nullptr;  ///< [n_rows, padded head_dim]
  float* m = nullptr;
  float* l = nullptr;

  /// The same for the rows from `row` on.
  partial_attention from(index_t row, index_t stride) const {
    return {o + row * stride, m + row, l + row};
  }
};

/// Tokens of a tile times heads of a group: enough rows that unpacking a key block costs little.
inline constexpr index_t max_tile_rows = 192;
/// Keys unpacked at a time, at most.
inline constexpr index_t key_block = 128;

/// Rows that share scores and weights of a block, at most.
inline constexpr index_t most_group_rows = 16;

inline constexpr index_t padded(index_t n) { return (n + 15) / 16 * 16; }

/// Bytes that `attend` needs besides its result.
inline constexpr std::size_t attention_scratch_bytes(index_t n_rows, index_t head_dim) {
  const index_t d = padded(head_dim);
  return 4 * static_cast<std::size_t>(n_rows * d + 2 * key_block * d + 16 * d +
                                      2 * most_group_rows * key_block);
}

template <class T>
struct kernels {
  void (*convert)(float* o, const T* x, index_t n);
  void (*convert_back)(T* o, const float* x, index_t n);
  void (*add)(T* o, const T* a, const T* b, index_t n);
  void (*norm)(T* o, const T* x, const T* weight, const T* bias, index_t n, bool centred,
               float eps);
  void (*rope)(T* x, index_t n_heads, index_t head_stride, index_t half, const float* cosine,
               const float* sine);
  void (*silu)(T* o, const T* gate, const T* up, index_t n);
  void (*gelu_tanh)(T* o, const T* gate, const T* up, index_t n);
  float (*softmax)(T* x, index_t n, float scale);
  void (*product)(T* o, const T* a, const T* b, index_t ldb, index_t n, index_t k, bool transposed,
                  bool accumulate, float alpha);
  /// o[:d] of one row from `n` partial results, `stride` floats apart; returns the natural lse.
  /// Their sums `l` are lost.
  float (*merge)(T* o, index_t d, const partial_attention& parts, index_t n, index_t stride);
};

/// Rows of a weight in bf16 that lie side by side where oneDNN packs it in panels of
/// [cols / 32][16][64][2]: pairs of neighbours along a row, of 64 rows.
inline constexpr index_t weight_panel = 64;
/// So many rows of activations are multiplied by a panel while it is read once.
inline constexpr index_t most_few_rows = 6;

/// o[i, :n_out] of n <= most_few_rows rows i, for one panel of weights; n_out <= 64 of its outputs
/// exist. x [n, cols] has no gaps and an even number of columns.
template <class T>
using few_rows_function = void (*)(T* o, index_t ldo, const bf16* x, index_t n, index_t cols,
                                   const std::byte* panel, index_t n_out);

/// A matrix in panels of 16 rows, [cols][16] each, for CPUs that multiply floats: rows of
/// activations read a panel from front to back.
template <class W>
class weight_panels {
 public:
  static constexpr index_t rows = 16;

  weight_panels() = default;
  /// Without contents.
  weight_panels(index_t n_rows, index_t cols) : cols_(cols), count_((n_rows + rows - 1) / rows) {
    memory_.get<W>(static_cast<std::size_t>(count_ * rows * cols));
  }

  index_t count() const { return count_; }
  const W* panel(index_t p) const { return memory_.data<W>() + p * rows * cols_; }
  /// Row r, one of those past the end too.
  void put_row(index_t r, const float* x) {
    W* to = memory_.data<W>() + r / rows * rows * cols_ + r % rows;
    for (index_t k = 0; k < cols_; ++k) to[k * rows] = W(x[k]);
  }

 private:
  index_t cols_ = 0;
  index_t count_ = 0;
  scratch memory_;
};

/// o[i, :n_out] of n rows i, for weights in panels of which n_out outputs exist. x [n, cols] has no
/// gaps.
template <class T, class W>
using panel_function = void (*)(T* o, index_t ldo, const float* x, index_t n, index_t cols,
                                const W* panel, index_t n_out);
template <class T, class W>
struct panel_kernels {
  /// Of one panel; null where oneDNN does these products.
  panel_function<T, W> one = nullptr;
  /// Of two neighbouring panels for `many_rows` rows or more; null where nothing is gained by it.
  panel_function<T, W> two = nullptr;
  static constexpr index_t many_rows = 24;
};

/// Queries of T on a cache of KV.
template <class T, class KV>
using attend_function = void (*)(const attention_tile<T, KV>& t, const partial_attention& result,
                                 float* scratch);

}  // namespace gistkv::backends::onednn_detail
