// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/workspace.hpp>
#include <gistkv/model/block.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/ops/rows.hpp>
#include <gistkv/train/parameters.hpp>
#include <gistkv/train/trainable_linear.hpp>

namespace gistkv::train {

/// What the head learns from: rows of hidden states, what each should predict, and how much that
/// counts. With teacher rows, the distribution that the head gives for these is mixed in.
struct head_targets {
  std::span<const std::int32_t> rows = {};
  std::span<const std::int32_t> tokens = {};
  std::span<const float> weights = {};
  std::span<const std::int32_t> teacher_rows = {};
  double mix = 0.0;
};

namespace detail {
/// What a teacher knows of a vocabulary with gists behind it.
struct first_columns {
  index_t n;
  GISTKV_HD constexpr bool operator()(index_t, index_t k) const { return k < n; }
};
}  // namespace detail

/// The map from hidden states to logits, fused with the loss: logits exist for a few rows at a
/// time, and rows that predict nothing are never multiplied.
template <class B, class T>
requires Trains<B, T>
class language_head {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;
  using const_matrix = matrix_view<const T, space>;

  /// @param map      [n_vocab, d_model]; a bias stays constant
  /// @param weight   trained [n_vocab, d_model], or null: that of `map` is constant
  /// @param gists    trained [n_gist, d_model], or null: none
  language_head(B& be, const model::host_linear& map, parameter<B, T>* weight,
                parameter<B, T>* gists)
      : be_(&be),
        n_vocab_(map.weight.rows),
        d_(map.weight.cols),
        weight_(weight),
        gists_(gists),
        bias_(model::load_vector<T>(be, map.bias)) {
    if (weight_ != nullptr) return;
    const host_matrix& source = map.weight;
    packed_.emplace(be.pack(source));
    const std::vector<float> values = floats_of(source);
    std::vector<float> columns(values.size());
    for (index_t r = 0; r < n_vocab_; ++r) {
      for (index_t c = 0; c < d_; ++c) {
        columns[static_cast<std::size_t>(c * n_vocab_ + r)] =
            values[static_cast<std::size_t>(r * d_ + c)];
      }
    }
    transposed_.emplace(be.pack({"head transposed", weight_type::f32, d_, n_vocab_,
                                 std::as_bytes(std::span<const float>(columns))}));
  }

  index_t width() const { return n_vocab_ + (gists_ != nullptr ? gists_->rows : 0); }

  std::size_t workspace_size(bool teacher) const {
    const auto bytes = [](index_t n) { return workspace<B>::template bytes_for<T>(n); };
    return (teacher ? 2 : 1) * bytes(piece * row_stride()) + 4 * bytes(piece * d_) +
           workspace<B>::template bytes_for<number>(piece) +
           3 * workspace<B>::template bytes_for<std::int32_t>(piece);
  }

  /// Sum of the weighted losses; with d_hidden also the derivatives, those of trained weights
  /// added to their gradients.
  /// @param[in]     hidden    [n, d_model], behind the final norm
  /// @param[in,out] d_hidden  [n, d_model], rows with a target are overwritten; or empty
  /// @param[in]     teacher   hidden states that targets.teacher_rows index
  double loss(const_matrix hidden, matrix d_hidden, const head_targets& targets,
              const_matrix teacher, workspace<B>& scratch) {
    const auto n = static_cast<index_t>(targets.rows.size());
    if (losses_.size() < n) losses_ = buffer<number, B>(*be_, n);
    for (index_t begin = 0; begin < n; begin += piece) {
      const index_t count = std::min(piece, n - begin);
      loss_of_piece(hidden, d_hidden, targets, begin, count, teacher, scratch);
    }
    // Waits for the backend: once, not once a piece.
    std::vector<number> found(static_cast<std::size_t>(n));
    if (n > 0) be_->download(found.data(), losses_.data(), found.size() * sizeof(number));
    double sum = 0;
    for (const number loss : found) sum += static_cast<double>(loss);
    return sum;
  }

 private:
  using number = accumulate_t<T>;
  /// Of logits: every row begins where a cache line does, whatever the number of gists, as products
  /// and losses like it that move many bytes at a time.
  index_t row_stride() const { return (width() + 63) / 64 * 64; }
  matrix take_logits(index_t n, workspace<B>& scratch) const {
    return scratch.template take<T>({n, row_stride()}).slice(1, 0, width());
  }
  /// Rows whose logits exist at a time: few, to stay in the caches of a CPU, or as many as a
  /// backend says it needs to be busy.
  static constexpr index_t piece = [] {
    if constexpr (requires { B::head_rows; }) {
      return index_t{B::head_rows};
    } else {
      return index_t{128};
    }
  }();

  static tensor_view<T, 3, space> one(matrix m) {
    return {m.data(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}};
  }
  static tensor_view<const T, 3, space> one(const_matrix m) {
    return {m.data(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}};
  }
  template <class U>
  vector_view<U, space> uploaded(std::span<const U> from, workspace<B>& scratch) {
    const auto to = scratch.template take<U>({static_cast<index_t>(from.size())});
    be_->upload(to.data(), from.data(), from.size_bytes());
    return to;
  }

  void base_logits(matrix o, const_matrix hidden) {
    if (weight_ != nullptr) {
      ops::matmul<B, T>(*be_, one(o), one(hidden), one(const_matrix(weight_->matrix())),
                        {.transpose_b = true});
    } else {
      ops::linear<B, T>(*be_, o, hidden, *packed_);
    }
    if (bias_.size() > 0) {
      ops::add<B, T>(*be_, o, o, repeat_rows(bias_.view({n_vocab_}), o.extent(0)));
    }
  }

  void loss_of_piece(const_matrix hidden, matrix d_hidden, const head_targets& targets,
                     index_t begin, index_t count, const_matrix teacher, workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const auto part = [begin, count](auto all) {
      return all.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    };
    const auto rows = uploaded(part(targets.rows), scratch);
    const matrix x = scratch.template take<T>({count, d_});
    ops::gather_rows<B, T>(*be_, x, hidden, rows);
    const matrix logits = take_logits(count, scratch);
    const matrix base = logits.slice(1, 0, n_vocab_);
    base_logits(base, x);
    const matrix of_gists = logits.slice(1, n_vocab_, width() - n_vocab_);
    if (gists_ != nullptr) {
      ops::matmul<B, T>(*be_, one(of_gists), one(const_matrix(x)),
                        one(const_matrix(gists_->matrix())), {.transpose_b = true});
    }
    matrix taught;
    if (!targets.teacher_rows.empty()) taught = teach(part(targets.teacher_rows), teacher, scratch);

    const auto tokens = uploaded(part(targets.tokens), scratch);
    const auto given = part(targets.weights);
    const std::vector<number> converted(given.begin(), given.end());
    const auto weights = uploaded(std::span<const number>(converted), scratch);
    const vector_view<number, space> losses(losses_.data() + begin, {count});
    ops::cross_entropy<B, T>(*be_, logits, losses, tokens, weights, taught, targets.mix);
    if (d_hidden.empty()) return;

    const matrix dx = scratch.template take<T>({count, d_});
    if (weight_ != nullptr) {
      ops::matmul<B, T>(*be_, one(dx), one(const_matrix(base)),
                        one(const_matrix(weight_->matrix())));
      ops::accumulate_products<B, T>(*be_, weight_->gradient_matrix(), base, x);
    } else {
      ops::linear<B, T>(*be_, dx, base, *transposed_);
    }
    if (gists_ != nullptr) {
      ops::matmul<B, T>(*be_, one(dx), one(const_matrix(of_gists)),
                        one(const_matrix(gists_->matrix())), {.accumulate = true});
      ops::accumulate_products<B, T>(*be_, gists_->gradient_matrix(), of_gists, x);
    }
    ops::scatter_rows<B, T>(*be_, d_hidden, dx, rows);
  }

  /// The teacher's probabilities; gists, which it does not know, have none.
  matrix teach(std::span<const std::int32_t> rows, const_matrix hidden, workspace<B>& scratch) {
    const matrix x = scratch.template take<T>({static_cast<index_t>(rows.size()), d_});
    ops::gather_rows<B, T>(*be_, x, hidden, uploaded(rows, scratch));
    const matrix p = take_logits(x.extent(0), scratch);
    base_logits(p.slice(1, 0, n_vocab_), x);
    ops::masked_softmax<B, T>(*be_, one(p), detail::first_columns{n_vocab_}, {});
    return p;
  }
  B* be_;
  index_t n_vocab_;
  index_t d_;
  parameter<B, T>* weight_;
  parameter<B, T>* gists_;
  buffer<T, B> bias_;
  buffer<number, B> losses_;
  std::optional<packed_weight_t<B>> packed_;
  std::optional<packed_weight_t<B>> transposed_;
};

}  // namespace gistkv::train
