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

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/lora.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/train/parameters.hpp>
#include <gistkv/train/trainable_lora.hpp>

namespace gistkv::train {

/// One of the maps that a trainable_linear holds.
struct linear_source {
  std::string name;  ///< As a target of LoRA: "query".
  const model::host_linear* map = nullptr;
};

/// Elements of a matrix as floats. @throws shape_error for fewer bytes than its extents need.
inline std::vector<float> floats_of(const host_matrix& m) {
  std::vector<float> values(static_cast<std::size_t>(m.rows * m.cols));
  for (index_t r = 0; r < m.rows; ++r) dequantize_row(m, r, values.data() + r * m.cols);
  return values;
}

/// Maps of one activation side by side, y = [y_1 | y_2 | ...] with y_i = W_i x + b_i, with their
/// backward pass. Either constant, packed twice (for y and, transposed, for dx), or trained; LoRA
/// comes on top of either.
template <class B, class T>
requires Trains<B, T>
class trainable_linear {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;
  using const_matrix = matrix_view<const T, space>;

  /// @param prefix  of the names of parameters: "blocks.0."
  /// @param train   the weights themselves are parameters
  /// @param lora    some that come on top, most_loras at most
  trainable_linear(parameter_set<B, T>& set, const std::string& prefix,
                   std::span<const linear_source> maps, bool train,
                   std::span<const lora_options> lora)
      : be_(&set.backend()) {
    cols_ = maps.front().map->weight.cols;
    std::vector<float> weights;
    std::vector<float> biases;
    std::string names;
    std::vector<linear_part> parts;
    bool any_bias = false;
    for (const linear_source& m : maps) any_bias |= !m.map->bias.empty();
    for (const linear_source& m : maps) {
      const host_matrix& w = m.map->weight;
      if (w.cols != cols_) {
        throw shape_error("trainable linear '" + prefix + m.name + "': " + std::to_string(w.cols) +
                          " columns, expected " + std::to_string(cols_));
      }
      const std::vector<float> values = floats_of(w);
      weights.insert(weights.end(), values.begin(), values.end());
      if (any_bias) {
        const std::vector<float> bias = m.map->bias.empty()
                                            ? std::vector<float>(static_cast<std::size_t>(w.rows))
                                            : floats_of(m.map->bias);
        biases.insert(biases.end(), bias.begin(), bias.end());
      }
      parts.push_back({m.name, rows_, w.rows});
      rows_ += w.rows;
      names += (names.empty() ? "" : "+") + m.name;
    }
    if (train) {
      weight_ = &set.add(prefix + names, parameter_kind::weight, rows_, cols_, weights);
      if (any_bias) {
        const T unit[] = {T(1)};
        unit_ = buffer<T, B>(*be_, std::span<const T>(unit));
        trained_bias_ = &set.add(prefix + names + ".bias", parameter_kind::norm, 1, rows_, biases);
      }
    } else {
      pack(prefix + names, weights);
      const std::vector<T> converted(biases.begin(), biases.end());
      if (any_bias) bias_ = buffer<T, B>(*be_, std::span<const T>(converted));
    }
    for (const lora_options& l : lora) lora_.emplace_back(set, prefix, parts, cols_, l);
  }

  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  /// Columns of what LoRA number i leaves in `forward` for `backward`; 0 where there is none.
  index_t total_rank(std::size_t i) const {
    return i < lora_.size() ? lora_[i].total_rank() : index_t{0};
  }
  /// Whether `backward` reads x.
  bool needs_input() const {
    return weight_ != nullptr || std::any_of(lora_.begin(), lora_.end(),
                                             [](const auto& l) { return l.total_rank() > 0; });
  }

  /// Bytes of scratch for n rows.
  std::size_t workspace_size(index_t n) const {
    std::size_t most = 0;
    for (const auto& l : lora_) most = std::max(most, l.workspace_size(n, rows_));
    return most;
  }

  /// o = W x + b, plus LoRA on its rows.
  /// @param[out] o     [n, rows()]
  /// @param[in]  x     [n, cols()]
  /// @param[out] down  of LoRA number i [on[i].count(n), total_rank(i)], for backward
  /// @param[in]  on    where each applies; those behind its end do not
  void forward(matrix o, const_matrix x, const lora_activations<T, space>& down,
               std::span<const lora_rows<space>> on, workspace<B>& scratch) {
    if (weight_ != nullptr) {
      ops::matmul<B, T>(*be_, one(o), one(x), one(const_matrix(weight_->matrix())),
                        {.transpose_b = true});
    } else {
      ops::linear<B, T>(*be_, o, x, *packed_);
    }
    if (trained_bias_ != nullptr || bias_.size() > 0) {
      const auto& b = trained_bias_ != nullptr ? trained_bias_->value : bias_;
      ops::add<B, T>(*be_, o, o, repeat_rows(b.view({rows_}), o.extent(0)));
    }
    for (std::size_t i = 0; i < lora_.size() && i < on.size(); ++i) {
      lora_[i].forward(o, x, down[i], on[i], scratch);
    }
  }

  /// dx = dy W, and the gradients of what is trained.
  /// @param[out] dx    [n, cols()]
  /// @param[in]  dy    [n, rows()]
  /// @param[in]  x     [n, cols()], or empty unless needs_input()
  /// @param[in]  down  what forward left
  void backward(matrix dx, const_matrix dy, const_matrix x, const lora_activations<T, space>& down,
                std::span<const lora_rows<space>> on, workspace<B>& scratch) {
    if (weight_ != nullptr) {
      ops::matmul<B, T>(*be_, one(dx), one(dy), one(const_matrix(weight_->matrix())));
      if (weight_->trained) {
        ops::accumulate_products<B, T>(*be_, weight_->gradient_matrix(), dy, x);
      }
    } else {
      ops::linear<B, T>(*be_, dx, dy, *transposed_);
    }
    if (trained_bias_ != nullptr && trained_bias_->trained) {
      const vector_view<const T, space> one_element = unit_.view({1});
      ops::accumulate_products<B, T>(*be_, trained_bias_->gradient_matrix(),
                                     repeat_rows(one_element, dy.extent(0)), dy);
    }
    for (std::size_t i = 0; i < lora_.size() && i < on.size(); ++i) {
      lora_[i].backward(dx, dy, x, down[i], on[i], scratch);
    }
  }

  /// Appends the factors of LoRA number i, if there is one, those of layer `layer`.
  void save(index_t layer, std::size_t i, std::vector<model::low_rank>& out) const {
    if (i < lora_.size()) lora_[i].save(layer, out);
  }
  /// LoRA number i, if there is one, takes over factors that were trained before.
  /// @throws as trainable_lora::load.
  void load(index_t layer, std::size_t i, std::span<const model::low_rank> from, load_step step) {
    if (i < lora_.size()) lora_[i].load(layer, from, step);
  }
  /// LoRA number i, if there is one, as trainable_lora::keep_for_teacher.
  void keep_for_teacher(std::size_t i) {
    if (i < lora_.size()) lora_[i].keep_for_teacher();
  }

 private:
  static tensor_view<T, 3, space> one(matrix m) {
    return {m.data(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}};
  }
  static tensor_view<const T, 3, space> one(const_matrix m) {
    return {m.data(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}};
  }
  void pack(const std::string& name, const std::vector<float>& weights) {
    packed_.emplace(be_->pack(
        {name, weight_type::f32, rows_, cols_, std::as_bytes(std::span<const float>(weights))}));
    std::vector<float> columns(weights.size());
    for (index_t r = 0; r < rows_; ++r) {
      for (index_t c = 0; c < cols_; ++c) {
        columns[static_cast<std::size_t>(c * rows_ + r)] =
            weights[static_cast<std::size_t>(r * cols_ + c)];
      }
    }
    transposed_.emplace(be_->pack({name + " transposed", weight_type::f32, cols_, rows_,
                                   std::as_bytes(std::span<const float>(columns))}));
  }

  B* be_;
  index_t rows_ = 0;
  index_t cols_ = 0;
  std::vector<trainable_lora<B, T>> lora_;
  std::optional<packed_weight_t<B>> packed_;
  std::optional<packed_weight_t<B>> transposed_;
  buffer<T, B> bias_;
  buffer<T, B> unit_;  ///< 1, whose product with dy is the sum of its rows.
  parameter<B, T>* weight_ = nullptr;
  parameter<B, T>* trained_bias_ = nullptr;
};

}  // namespace gistkv::train
