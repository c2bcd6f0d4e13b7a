// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string>

#include <gistkv/core/error.hpp>
#include <gistkv/core/training_backend.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/clear.hpp>

/// What the optimiser does to all tensors of a model, in one call: a backend's own, or one tensor
/// after the other. Tensors must not overlap; those without elements change nothing.

namespace gistkv::ops {

namespace detail {
template <class T>
void expect_tensors(const char* what, std::span<const trained_tensor<T>> tensors,
                    std::size_t n_options) {
  for (const trained_tensor<T>& t : tensors) {
    if (t.n < 0) {
      throw shape_error(std::string(what) + ": a tensor of " + std::to_string(t.n) + " elements");
    }
    if (t.options < 0 || t.options >= static_cast<index_t>(n_options)) {
      throw argument_error(std::string(what) + ": options number " + std::to_string(t.options) +
                           " of " + std::to_string(n_options));
    }
  }
}
}  // namespace detail

/// ops::adamw of every tensor with options[tensor.options], and ops::narrow where it has a copy:
/// to the bit what these give. @throws shape_error, argument_error.
template <class B, class T>
requires Trains<B, T>
void adamw_many(B& be, std::span<const trained_tensor<T>> tensors,
                std::span<const adamw_options> options) {
  detail::expect_tensors("adamw_many", tensors, options.size());
  if (tensors.empty()) return;
  if constexpr (native_many_tensors<B>) {
    be.adamw_many(tensors, options);
  } else {
    using numbers = vector_view<accumulate_t<T>, space_of<B>>;
    for (const trained_tensor<T>& t : tensors) {
      const auto view = [&t](accumulate_t<T>* x) { return numbers(x, {t.n}); };
      adamw<B, T>(be, view(t.p), view(t.gradient), view(t.first), view(t.second),
                  options[static_cast<std::size_t>(t.options)]);
      if constexpr (!std::same_as<T, accumulate_t<T>>) {
        if (t.narrow != nullptr) {
          narrow<B, T>(be, vector_view<T, space_of<B>>(t.narrow, {t.n}), view(t.p));
        }
      }
    }
  }
}

/// Sum of the squares of all gradients, carried in double. Waits for the backend.
template <class B, class T>
requires Trains<B, T>
double squared_norm_many(B& be, std::span<const trained_tensor<T>> tensors) {
  if constexpr (native_many_tensors<B>) {
    return tensors.empty() ? 0.0 : be.squared_norm_many(tensors);
  } else {
    double sum = 0.0;
    for (const trained_tensor<T>& t : tensors) {
      sum += squared_norm<B, T>(be,
                                vector_view<const accumulate_t<T>, space_of<B>>(t.gradient, {t.n}));
    }
    return sum;
  }
}

/// Gradients <- 0.
template <class B, class T>
void clear_gradients(B& be, std::span<const trained_tensor<T>> tensors) {
  if constexpr (native_many_tensors<B>) {
    if (!tensors.empty()) be.clear_gradients(tensors);
  } else {
    using numbers = vector_view<accumulate_t<T>, space_of<B>>;
    for (const trained_tensor<T>& t : tensors) clear(be, numbers(t.gradient, {t.n}));
  }
}

}  // namespace gistkv::ops
