// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/ops/many_tensors.hpp>

namespace gistkv::train {

/// What a parameter is, as far as the optimiser cares.
enum class parameter_kind {
  gist,         ///< Rows of gist tokens, or slots.
  lora,         ///< Low-rank factors.
  second_lora,  ///< Those on all rows, beside others on gist rows.
  weight,       ///< Weights of the model itself.
  norm          ///< Norm weights and biases of the model: no weight decay, as usual.
};
inline constexpr std::array parameter_kinds{parameter_kind::gist, parameter_kind::lora,
                                            parameter_kind::second_lora, parameter_kind::weight,
                                            parameter_kind::norm};

/// A matrix that is trained, its gradient, and the two moments of AdamW, in a backend's memory.
/// Products read `value`, in the backend's element type. Where that is narrower than what sums are
/// carried in, steps are added up in `master`: many are smaller than the last digit of `value`.
template <Storage B, class T>
struct parameter {
  using number = accumulate_t<T>;
  static constexpr bool has_master = !std::same_as<T, number>;

  std::string name;
  parameter_kind kind = parameter_kind::weight;
  index_t rows = 0;
  index_t cols = 0;
  bool trained = true;  ///< false: constant, and its gradient says nothing.
  buffer<T, B> value;
  buffer<number, B> master;  ///< Empty unless has_master.
  buffer<number, B> gradient;
  buffer<number, B> first;  ///< Moments; allocated at the first update.
  buffer<number, B> second;

  matrix_view<T, space_of<B>> matrix() { return value.view({rows, cols}); }
  matrix_view<const T, space_of<B>> matrix() const { return value.view({rows, cols}); }
  matrix_view<number, space_of<B>> gradient_matrix() { return gradient.view({rows, cols}); }
  template <class U>
  vector_view<U, space_of<B>> flat(buffer<U, B>& of) {
    return of.view({of.size()});
  }

  /// What is trained, with all its digits.
  buffer<number, B>& exact() {
    if constexpr (has_master) {
      return master;
    } else {
      return value;
    }
  }
  const buffer<number, B>& exact() const { return const_cast<parameter*>(this)->exact(); }

  /// As the optimiser takes it.
  trained_tensor<T> tensor(index_t options = 0) {
    trained_tensor<T> t{exact().data(), gradient.data(), first.data(), second.data(),
                        nullptr,        rows * cols,     options};
    if constexpr (has_master) t.narrow = value.data();
    return t;
  }

  /// Takes over [rows, cols] elements from host memory.
  void assign(B& be, std::span<const number> values) {
    be.upload(exact().data(), values.data(), values.size_bytes());
    if constexpr (has_master) {
      const std::vector<T> narrow(values.begin(), values.end());
      be.upload(value.data(), narrow.data(), narrow.size() * sizeof(T));
    }
  }
};

struct optimiser_options {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
};

/// All parameters of a model that is trained, in the order in which they were added.
template <Storage B, class T>
class parameter_set {
 public:
  explicit parameter_set(B& be) : be_(&be) {}

  /// A new parameter with the given elements; its address does not change any more.
  /// @throws shape_error.
  parameter<B, T>& add(std::string name, parameter_kind kind, index_t rows, index_t cols,
                       std::span<const float> values) {
    if (static_cast<index_t>(values.size()) != rows * cols) {
      throw shape_error("parameter '" + name + "': " + std::to_string(values.size()) +
                        " elements, expected " + std::to_string(rows * cols));
    }
    auto p = std::make_unique<parameter<B, T>>();
    p->name = std::move(name);
    p->kind = kind;
    p->rows = rows;
    p->cols = cols;
    using number = accumulate_t<T>;
    const std::vector<number> converted(values.begin(), values.end());
    p->value = buffer<T, B>(*be_, rows * cols);
    if constexpr (parameter<B, T>::has_master) p->master = buffer<number, B>(*be_, rows * cols);
    p->assign(*be_, converted);
    p->gradient = buffer<number, B>(*be_, rows * cols);
    ops::clear(*be_, p->flat(p->gradient));
    return *all_.emplace_back(std::move(p));
  }

  B& backend() const { return *be_; }
  std::size_t size() const { return all_.size(); }
  parameter<B, T>& operator[](std::size_t i) { return *all_[i]; }
  const parameter<B, T>& operator[](std::size_t i) const { return *all_[i]; }
  /// Of what is trained.
  index_t n_elements() const {
    index_t n = 0;
    for (const auto& p : all_) n += p->trained ? p->rows * p->cols : 0;
    return n;
  }

  /// Before each step: passes add to the gradients there are.
  void clear_gradients() {
    std::vector<trained_tensor<T>> tensors;
    for (const auto& p : all_) tensors.push_back(p->tensor());
    ops::clear_gradients<B, T>(*be_, tensors);
  }

  /// Euclidean norm of all gradients of what is trained together.
  double gradient_norm() {
    std::vector<trained_tensor<T>> tensors;
    for (const auto& p : all_) {
      if (p->trained) tensors.push_back(p->tensor());
    }
    return std::sqrt(ops::squared_norm_many<B, T>(*be_, tensors));
  }

  /// Zero moments where there are none yet. Where memory runs out it may be called again.
  void make_moments() {
    for (const auto& p : all_) {
      for (auto* b : {&p->first, &p->second}) {
        if (!p->trained || b->size() > 0) continue;
        buffer<accumulate_t<T>, B> zeros(*be_, p->rows * p->cols);
        ops::clear(*be_, p->flat(zeros));
        *b = std::move(zeros);
      }
    }
  }

  /// One step of AdamW on what is trained, number `step` from 1. `rate(kind)` is the learning rate
  /// of a kind; gradients are multiplied with `scale` first. They stay: see clear_gradients.
  template <class Rate>
  void update(const optimiser_options& o, Rate&& rate, double scale, index_t step) {
    make_moments();
    std::vector<adamw_options> options;  // One for each kind.
    for (const parameter_kind kind : parameter_kinds) {
      const double decay = kind == parameter_kind::norm ? 0.0 : o.weight_decay;
      options.push_back({rate(kind), o.beta1, o.beta2, o.eps, decay, scale, step});
    }
    std::vector<trained_tensor<T>> tensors;
    for (const auto& p : all_) {
      if (p->trained) tensors.push_back(p->tensor(static_cast<index_t>(p->kind)));
    }
    ops::adamw_many<B, T>(*be_, tensors, options);
  }

 private:
  B* be_;
  std::vector<std::unique_ptr<parameter<B, T>>> all_;
};

}  // namespace gistkv::train
