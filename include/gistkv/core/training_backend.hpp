// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include <gistkv/core/backend.hpp>

/// The optional tier of a backend that trains: what the backward pass needs beside the nine
/// primitives, and the optimiser's step. Gradients of `linear` are products with the transposed
/// weight, packed once; those of `rope` are rotations by the opposite angle; attention is composed
/// (ops/composed/attention_backward.hpp) unless a backend declares a native path.
///
/// Formulas and shapes stand at the front doors in ops/backward.hpp. Gradients are accumulated
/// where several terms meet (`+=`), and overwritten where there is one.
///
/// Activations and their derivatives are of T. What has to add up over a batch or over steps is of
/// accumulate_t<T>: losses, gradients of parameters, moments, and the parameters themselves, of
/// which the products then read a copy in T (`narrow`). For float and double both are the same.

namespace gistkv {

/// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2, with bias correction).
struct adamw_options {
  double rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double decay = 0.0;           ///< Weight decay, times the rate.
  double gradient_scale = 1.0;  ///< Multiplies the gradient first: clipping.
  index_t step = 1;             ///< Of this parameter, from 1.
};

/// A tensor among many that the optimiser changes in one call: n elements of each, side by side in
/// the backend's memory.
template <class T>
struct trained_tensor {
  accumulate_t<T>* p = nullptr;
  accumulate_t<T>* gradient = nullptr;
  accumulate_t<T>* first = nullptr;  ///< Moments.
  accumulate_t<T>* second = nullptr;
  T* narrow = nullptr;  ///< p rounded to T, if products read a copy; else null.
  index_t n = 0;
  index_t options = 0;  ///< Number of its adamw_options among those of the call.
};

/// Zeroes elements at random and scales up the others (Srivastava et al. 2014): element e of a
/// dense tensor stays where a hash of seed + e, as a fraction, is at least `probability`. The same
/// options give the same elements, so that the backward pass needs no mask.
struct dropout_options {
  double probability = 0.0;
  std::uint64_t seed = 0;
};

template <class B, class T>
concept Trains = Computes<B, T> &&
    requires(B& be, matrix_view<T, space_of<B>> o, matrix_view<const T, space_of<B>> x,
             tensor_view<T, 3, space_of<B>> o3, tensor_view<const T, 3, space_of<B>> x3,
             vector_view<const T, space_of<B>> v, matrix_view<accumulate_t<T>, space_of<B>> sums,
             vector_view<accumulate_t<T>, space_of<B>> p,
             vector_view<const accumulate_t<T>, space_of<B>> g,
             vector_view<const std::int32_t, space_of<B>> rows) {
  be.accumulate_products(sums, x, x, 1.0);
  be.norm_backward(o, p, x, x, v, norm_options{});
  be.activation_backward(o, o, x, x, x, activation_kind::silu);
  be.softmax_backward(o3, x3, 1.0);
  be.cross_entropy(o, p, rows, g, x, 0.0);
  be.scatter_add_rows(o, x, rows);
  be.scatter_add_rows(sums, x, rows);
  be.dropout(o, x, dropout_options{});
  { be.squared_norm(g) } -> std::same_as<double>;
  be.adamw(p, g, p, p, adamw_options{});
} &&(std::same_as<T, accumulate_t<T>> ||
     requires(B & be, vector_view<T, space_of<B>> o,
              vector_view<const accumulate_t<T>, space_of<B>> x) {
       be.narrow(o, x);
       requires B::native_attention_backward;
     });

/// Whether a backend has `adamw_many(tensors, options)`, `squared_norm_many(tensors)` and
/// `clear_gradients(tensors)` as in ops/many_tensors.hpp: a model's parameters are hundreds of
/// tensors, most of them small, and a launch for each takes longer than what it does.
template <class B>
inline constexpr bool native_many_tensors = requires {
  requires B::native_many_tensors;
};

/// Whether a backend has `attention_backward` as ops::attention_backward, without scratch.
template <class B>
inline constexpr bool native_attention_backward = requires {
  requires B::native_attention_backward;
};

/// Whether it also has `attention_backward_batch(calls, scale)` as ops::attention_backward_batch.
template <class B>
inline constexpr bool native_attention_backward_batch = requires {
  requires B::native_attention_backward_batch;
};

}  // namespace gistkv
