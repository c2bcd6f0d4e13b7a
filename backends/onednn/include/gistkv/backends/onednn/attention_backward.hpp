// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <gistkv/backends/onednn/scratch.hpp>
#include <gistkv/backends/onednn/training_kernels.hpp>
#include <gistkv/core/tensor_view.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::backends::onednn_detail {

/// The backward pass of attention on two spans (FlashAttention 2, Dao 2023, algorithm 2, with the
/// keys that a tile of queries sees taken at once).
///
/// The queries of a KV head are cut into a number of pieces that depends on their number only. A
/// piece is one task: its tiles of tokens times heads of the group go through scores, softmax and
/// the three derivatives while these fit the cache, and derivatives of keys add up in memory of the
/// task, which the end adds in one order. So no result depends on the threads, and memory is linear
/// in the number of rows: a piece holds the anchors that it sees and its own stretch of local rows.
///
/// A tile has all scores of its rows, so it normalises them itself instead of with the log-sum-exp
/// of the forward pass: that may have had factors of bf16, and e^(s - lse) with scores s of other
/// roundings is no probability where scores are large.
class attention_backward_pass {
 public:
  using tensor = tensor_view<float, 3>;
  using const_tensor = tensor_view<const float, 3>;
  using span = kv_span<float, host_space>;

  struct arguments {
    tensor dq;
    tensor dk_own, dv_own;
    tensor dk_local, dv_local;
    const_tensor d_o, q;
    span own, local;
    std::span<const visible_spans> spans;
    float scale = 1.0F;
  };

  /// @param for_rows  for_rows(n, work, f) calls f(i) for i < n on the threads
  template <class ForRows>
  void run(const training_kernels& kernels, const arguments& a, ForRows&& for_rows) {
    d_ = a.q.extent(2);
    n_kv_heads_ = std::max(a.own.k.extent(0), a.local.k.extent(0));
    group_ = a.q.extent(1) / n_kv_heads_;
    n_anchors_ = a.own.rows();
    n_keys_ = n_anchors_ + a.local.rows();
    transpose_keys(a, for_rows);
    cut(a);
    const auto n_pieces = static_cast<index_t>(pieces_.size());
    float* partial = partial_.get<float>(static_cast<std::size_t>(n_kv_heads_ * partial_floats_));
    float* tiles =
        tiles_.get<float>(static_cast<std::size_t>(n_kv_heads_ * n_pieces * tile_floats_));
    const index_t work = a.q.extent(0) / n_pieces * group_ * d_ * 64;
    for_rows(n_kv_heads_ * n_pieces, work, [&](index_t task) {
      const index_t h = task % n_kv_heads_;
      const piece& p = pieces_[static_cast<std::size_t>(task / n_kv_heads_)];
      attend(kernels, a, h, p, partial + h * partial_floats_ + p.offset,
             tiles + task * tile_floats_);
    });
    for_rows(n_kv_heads_, n_keys_ * d_, [&](index_t h) {
      for (const piece& p : pieces_) add_up(a, h, p, partial + h * partial_floats_ + p.offset);
    });
  }

 private:
  static constexpr index_t tile_tokens = 32;
  static constexpr index_t piece_tokens = 160;

  struct piece {
    index_t begin = 0;  ///< Queries [begin, end).
    index_t end = 0;
    index_t anchors = 0;  ///< Keys that any of them sees: anchors [0, anchors)
    index_t first = 0;    ///< and local rows [first, last).
    index_t last = 0;
    index_t offset = 0;  ///< Of its part of the partial sums, in floats.

    index_t n_keys() const { return anchors + last - first; }
  };

  /// The keys that queries [begin, end) see.
  static piece seen(std::span<const visible_spans> spans, index_t begin, index_t end,
                    index_t n_local) {
    const seen_keys k = seen_by(
        spans.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
        n_local);
    return {begin, end, k.n_anchors, k.local_begin, k.local_end, 0};
  }

  void cut(const arguments& a) {
    pieces_.clear();
    partial_floats_ = 0;
    tile_floats_ = 0;
    const index_t n = a.q.extent(0);
    const index_t n_local = a.local.rows();
    const index_t n_pieces = std::clamp<index_t>(n / piece_tokens, 1, 16);
    for (index_t i = 0; i < n_pieces; ++i) {
      piece p = seen(a.spans, n * i / n_pieces, n * (i + 1) / n_pieces, n_local);
      p.offset = partial_floats_;
      partial_floats_ += 2 * p.n_keys() * d_;
      pieces_.push_back(p);
      for (index_t t = p.begin; t < p.end; t += tile_tokens) {
        const piece tile = seen(a.spans, t, std::min(t + tile_tokens, p.end), n_local);
        const index_t rows = (tile.end - tile.begin) * group_;
        tile_floats_ = std::max(tile_floats_, 2 * rows * tile.n_keys() + 3 * rows * d_);
      }
    }
    tile_floats_ = (tile_floats_ + 31) / 16 * 16;
  }

  /// Keys and values of each head as [d][anchors | local rows].
  template <class ForRows>
  void transpose_keys(const arguments& a, ForRows& for_rows) {
    const index_t one = d_ * n_keys_;
    transposed_at_ = transposed_.get<float>(static_cast<std::size_t>(2 * n_kv_heads_ * one));
    constexpr index_t tile = 64;
    const index_t n_tiles = (n_keys_ + tile - 1) / tile;
    for_rows(2 * n_kv_heads_ * n_tiles, 2 * tile * d_, [&](index_t task) {
      const index_t which = task / n_tiles;
      const index_t h = which / 2;
      float* to = transposed_at_ + which * one;
      const index_t begin = task % n_tiles * tile;
      for (index_t r = begin; r < std::min(n_keys_, begin + tile); ++r) {
        const bool anchor = r < n_anchors_;
        const span& from = anchor ? a.own : a.local;
        const const_tensor& x = which % 2 == 0 ? from.k : from.v;
        const float* row = x.data() + x.offset(h, anchor ? r : r - n_anchors_, 0);
        for (index_t j = 0; j < d_; ++j) to[j * n_keys_ + r] = row[j];
      }
    });
  }

  void attend(const training_kernels& kernels, const arguments& a, index_t h, const piece& p,
              float* partial, float* scratch) const {
    float* dk = partial;
    float* dv = partial + p.n_keys() * d_;
    std::fill_n(partial, 2 * p.n_keys() * d_, 0.0F);
    const float* keys = transposed_at_ + 2 * h * d_ * n_keys_;
    const float* values = keys + d_ * n_keys_;
    for (index_t begin = p.begin; begin < p.end; begin += tile_tokens) {
      const piece t = seen(a.spans, begin, std::min(begin + tile_tokens, p.end), a.local.rows());
      const index_t n = t.n_keys();
      const index_t n_local = t.last - t.first;
      const index_t rows = (t.end - t.begin) * group_;
      float* s = scratch;
      float* ds = s + rows * n;
      float* q = ds + rows * n;
      float* d_o = q + rows * d_;
      float* dq = d_o + rows * d_;
      for (index_t r = 0; r < rows; ++r) {
        const index_t i = t.begin + r / group_;
        const index_t head = h * group_ + r % group_;
        std::copy_n(a.q.data() + a.q.offset(i, head, 0), d_, q + r * d_);
        std::copy_n(a.d_o.data() + a.d_o.offset(i, head, 0), d_, d_o + r * d_);
      }
      const auto scores = [&](float* o, const float* left, const float* right) {
        kernels.product(o, n, left, d_, 1, right, n_keys_, rows, t.anchors, d_, false, 1.0F);
        kernels.product(o + t.anchors, n, left, d_, 1, right + n_anchors_ + t.first, n_keys_, rows,
                        n_local, d_, false, 1.0F);
      };
      scores(s, q, keys);
      scores(ds, d_o, values);
      for (index_t r = 0; r < rows; ++r) {
        const index_t i = t.begin + r / group_;
        const visible_spans& v = a.spans[static_cast<std::size_t>(i)];
        const bool any = v.local_begin < v.local_end;
        const index_t first = any ? t.anchors + v.local_begin - t.first : n;
        const index_t last = any ? t.anchors + v.local_end - t.first : n;
        kernels.attention_weights(s + r * n, ds + r * n, n, v.anchors, first, last, a.scale);
      }
      // dq = ds k, anchors first.
      const auto back = [&](const span& from, index_t row, index_t column, index_t count,
                            bool accumulate) {
        if (count == 0 && accumulate) return;
        const float* k = count == 0 ? nullptr : from.k.data() + from.k.offset(h, row, 0);
        kernels.product(dq, d_, ds + column, n, 1, k, from.k.stride(1), rows, d_, count, accumulate,
                        1.0F);
      };
      back(a.own, 0, 0, t.anchors, false);
      back(a.local, t.first, t.anchors, n_local, true);
      for (index_t r = 0; r < rows; ++r) {
        const index_t i = t.begin + r / group_;
        std::copy_n(dq + r * d_, d_, a.dq.data() + a.dq.offset(i, h * group_ + r % group_, 0));
      }
      const auto add = [&](float* to, const float* weights, const float* right) {
        kernels.product(to, d_, weights, 1, n, right, d_, t.anchors, d_, rows, true, 1.0F);
        kernels.product(to + (p.anchors + t.first - p.first) * d_, d_, weights + t.anchors, 1, n,
                        right, d_, n_local, d_, rows, true, 1.0F);
      };
      add(dk, ds, q);
      add(dv, s, d_o);
    }
  }

  void add_up(const arguments& a, index_t h, const piece& p, const float* partial) const {
    const auto add = [&](const tensor& own, const tensor& local, const float* from) {
      for (index_t r = 0; r < p.n_keys(); ++r) {
        const bool anchor = r < p.anchors;
        float* to = anchor ? own.data() + own.offset(h, r, 0)
                           : local.data() + local.offset(h, p.first + r - p.anchors, 0);
        for (index_t j = 0; j < d_; ++j) to[j] += from[r * d_ + j];
      }
    };
    add(a.dk_own, a.dk_local, partial);
    add(a.dv_own, a.dv_local, partial + p.n_keys() * d_);
  }

  index_t d_ = 0;
  index_t n_kv_heads_ = 0;
  index_t group_ = 0;
  index_t n_anchors_ = 0;
  index_t n_keys_ = 0;
  index_t partial_floats_ = 0;
  index_t tile_floats_ = 0;
  std::vector<piece> pieces_;
  float* transposed_at_ = nullptr;
  scratch transposed_;
  scratch partial_;
  scratch tiles_;
};

}  // namespace gistkv::backends::onednn_detail
