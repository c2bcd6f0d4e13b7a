// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <type_traits>

#include <gistkv/core/training_backend.hpp>
#include <gistkv/ops/check.hpp>

/// What training needs beside the forward operations. `d` names the derivative of the loss with
/// respect to what follows. All calls are asynchronous and throw shape_error.

namespace gistkv::ops {

/// o[i, j] += alpha sum_t a[t, i] b[t, j]
///
/// The gradient of a product with respect to its constant factor: o = dW of y = x W^T is made of
/// a = dy, b = x. Sums are carried in accumulate_t<T>.
/// @param[in,out] o  [m, n]; must not alias a or b
/// @param[in]     a  [k, m]
/// @param[in]     b  [k, n]
template <class B, class T>
requires Trains<B, T>
void accumulate_products(B& be, matrix_view<accumulate_t<T>, space_of<B>> o,
                         std::type_identity_t<matrix_view<const T, space_of<B>>> a,
                         std::type_identity_t<matrix_view<const T, space_of<B>>> b,
                         double alpha = 1.0) {
  expect_shape("accumulate_products", "a", a, {a.extent(0), o.extent(0)});
  expect_shape("accumulate_products", "b", b, {a.extent(0), o.extent(1)});
  expect_contiguous_rows("accumulate_products", "o", o);
  expect_contiguous_rows("accumulate_products", "a", a);
  expect_contiguous_rows("accumulate_products", "b", b);
  if (!o.empty() && a.extent(0) > 0) be.accumulate_products(o, a, b, alpha);
}

/// dx += dy dn/dx and dw += dy dn/dw of ops::norm without bias. With r = 1 / sqrt(var + eps),
/// z = (x - mean) r and h = dy w:
///   dx += r (h - mean(h) - z mean(h z)),  dw += sum_i dy z
/// The root mean square norm has mean = 0 and no term mean(h).
/// @param[in,out] dx  [n, d]; not dy, not x
/// @param[in,out] dw  [d], or empty where the weight is constant
/// @param[in] dy, x   [n, d]
/// @param[in] weight  [d]
template <class B, class T>
requires Trains<B, T>
void norm_backward(B& be, matrix_view<T, space_of<B>> dx,
                   vector_view<accumulate_t<T>, space_of<B>> dw,
                   std::type_identity_t<matrix_view<const T, space_of<B>>> dy,
                   std::type_identity_t<matrix_view<const T, space_of<B>>> x,
                   std::type_identity_t<vector_view<const T, space_of<B>>> weight,
                   const norm_options& options) {
  expect_shape("norm_backward", "dy", dy, dx.extents());
  expect_shape("norm_backward", "x", x, dx.extents());
  expect_shape("norm_backward", "weight", weight, {dx.extent(1)});
  if (!dw.empty()) expect_shape("norm_backward", "dw", dw, {dx.extent(1)});
  expect_contiguous_rows("norm_backward", "dx", dx);
  expect_contiguous_rows("norm_backward", "dy", dy);
  expect_contiguous_rows("norm_backward", "x", x);
  expect_contiguous_rows("norm_backward", "weight", weight);
  if (!dx.empty()) be.norm_backward(dx, dw, dy, x, weight, options);
}

/// d_gate = dy act'(gate) up,  d_up = dy act(gate) of ops::activation; without `up`, `d_up` is
/// empty and the factor up is 1.
/// @param[out] d_gate, d_up  [n, d]; may be gate and up, not dy
template <class B, class T>
requires Trains<B, T>
void activation_backward(B& be, matrix_view<T, space_of<B>> d_gate,
                         matrix_view<T, space_of<B>> d_up,
                         std::type_identity_t<matrix_view<const T, space_of<B>>> dy,
                         std::type_identity_t<matrix_view<const T, space_of<B>>> gate,
                         std::type_identity_t<matrix_view<const T, space_of<B>>> up,
                         activation_kind kind) {
  expect_shape("activation_backward", "dy", dy, d_gate.extents());
  expect_shape("activation_backward", "gate", gate, d_gate.extents());
  expect_contiguous_rows("activation_backward", "d_gate", d_gate);
  expect_contiguous_rows("activation_backward", "dy", dy);
  expect_contiguous_rows("activation_backward", "gate", gate);
  if (!up.empty()) {
    expect_shape("activation_backward", "up", up, d_gate.extents());
    expect_shape("activation_backward", "d_up", d_up, d_gate.extents());
    expect_contiguous_rows("activation_backward", "up", up);
    expect_contiguous_rows("activation_backward", "d_up", d_up);
  }
  if (!d_gate.empty()) be.activation_backward(d_gate, d_up, dy, gate, up, kind);
}

/// d[h, i, j] = alpha p[h, i, j] (d[h, i, j] - sum_k p[h, i, k] d[h, i, k])
///
/// From the derivative with respect to the probabilities p = softmax(alpha s), in place, to that
/// with respect to the scores s.
/// @param[in,out] d  [batch, n_q, n_k]
/// @param[in]     p  [batch, n_q, n_k]
template <class B, class T>
requires Trains<B, T>
void softmax_backward(B& be, tensor_view<T, 3, space_of<B>> d,
                      std::type_identity_t<tensor_view<const T, 3, space_of<B>>> p, double alpha) {
  expect_shape("softmax_backward", "p", p, d.extents());
  expect_contiguous_rows("softmax_backward", "d", d);
  expect_contiguous_rows("softmax_backward", "p", p);
  if (!d.empty()) be.softmax_backward(d, p, alpha);
}

/// losses[i] = w_i ((1 - mix) (lse_i - x[i, t_i]) + mix sum_j q[i, j] (log q[i, j] - x[i, j] +
/// lse_i)), and x becomes its derivative w_i (softmax(x_i) - (1 - mix) onehot(t_i) - mix q_i).
///
/// Cross-entropy with the token that came, mixed with the divergence from a teacher's distribution
/// q (Hinton et al. 2015) if there is one; else mix is 0.
/// @param[in,out] x        [n, n_vocab], logits
/// @param[out]    losses   [n]
/// @param[in]     targets  [n], each in [0, n_vocab): not checked
/// @param[in]     weights  [n]
/// @param[in]     teacher  [n, n_vocab] with rows that sum to 1, or empty
template <class B, class T>
requires Trains<B, T>
void cross_entropy(B& be, matrix_view<T, space_of<B>> x,
                   vector_view<accumulate_t<T>, space_of<B>> losses,
                   std::type_identity_t<vector_view<const std::int32_t, space_of<B>>> targets,
                   std::type_identity_t<vector_view<const accumulate_t<T>, space_of<B>>> weights,
                   std::type_identity_t<matrix_view<const T, space_of<B>>> teacher = {},
                   double mix = 0.0) {
  expect_shape("cross_entropy", "losses", losses, {x.extent(0)});
  expect_shape("cross_entropy", "targets", targets, {x.extent(0)});
  expect_shape("cross_entropy", "weights", weights, {x.extent(0)});
  if (!teacher.empty()) expect_shape("cross_entropy", "teacher", teacher, x.extents());
  expect_contiguous_rows("cross_entropy", "x", x);
  if (!x.empty()) be.cross_entropy(x, losses, targets, weights, teacher, mix);
}

/// o[rows[i], :] += x[i, :] where rows[i] >= 0; rows may repeat
///
/// The derivative of gather_rows. Added up in the order of i.
/// @param[in,out] o     [m, d], of T or, a parameter's gradient, of accumulate_t<T>
/// @param[in]     x     [n, d]
/// @param[in]     rows  [n], each below m: not checked
template <class B, class T, class O = T>
requires Trains<B, T> &&
    (std::same_as<O, T> || std::same_as<O, accumulate_t<T>>)void scatter_add_rows(
        B& be, matrix_view<O, space_of<B>> o,
        std::type_identity_t<matrix_view<const T, space_of<B>>> x,
        std::type_identity_t<vector_view<const std::int32_t, space_of<B>>> rows) {
  expect_shape("scatter_add_rows", "rows", rows, {x.extent(0)});
  expect_shape("scatter_add_rows", "o", o, {o.extent(0), x.extent(1)});
  expect_contiguous_rows("scatter_add_rows", "o", o);
  expect_contiguous_rows("scatter_add_rows", "x", x);
  if (!x.empty()) be.scatter_add_rows(o, x, rows);
}

/// o[e] = x[e] / (1 - p) for elements that stay, else 0; see dropout_options. Its own derivative.
/// @param[out] o  [n, d]; may be x
template <class B, class T>
requires Trains<B, T>
void dropout(B& be, matrix_view<T, space_of<B>> o,
             std::type_identity_t<matrix_view<const T, space_of<B>>> x,
             const dropout_options& options) {
  expect_shape("dropout", "x", x, o.extents());
  expect_contiguous_rows("dropout", "o", o);
  expect_contiguous_rows("dropout", "x", x);
  if (!(options.probability >= 0.0 && options.probability < 1.0)) {
    throw argument_error("dropout: probability is " + std::to_string(options.probability) +
                         ", expected a number in [0, 1)");
  }
  if (!o.empty()) be.dropout(o, x, options);
}

/// sum_i x[i]^2, carried in double. Waits for the backend.
template <class B, class T>
requires Trains<B, T>
double squared_norm(B& be, vector_view<const accumulate_t<T>, space_of<B>> x) {
  expect_contiguous_rows("squared_norm", "x", x);
  return x.empty() ? 0.0 : be.squared_norm(x);
}

/// With g the gradient times gradient_scale:
///   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
///   p = (1 - rate decay) p - rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
/// @param[in,out] p, m, v   [n]
/// @param[in]     gradient  [n]
template <class B, class T>
requires Trains<B, T>
void adamw(B& be, vector_view<accumulate_t<T>, space_of<B>> p,
           std::type_identity_t<vector_view<const accumulate_t<T>, space_of<B>>> gradient,
           std::type_identity_t<vector_view<accumulate_t<T>, space_of<B>>> m,
           std::type_identity_t<vector_view<accumulate_t<T>, space_of<B>>> v,
           const adamw_options& options) {
  expect_shape("adamw", "gradient", gradient, p.extents());
  expect_shape("adamw", "m", m, p.extents());
  expect_shape("adamw", "v", v, p.extents());
  for (const auto& x : {p, m, v}) expect_contiguous_rows("adamw", "a vector", x);
  if (!p.empty()) be.adamw(p, gradient, m, v, options);
}

/// o = x, rounded to T
/// @param[out] o  [n]
/// @param[in]  x  [n]
template <class B, class T>
requires Trains<B, T> &&(!std::same_as<T, accumulate_t<T>>)void narrow(
    B& be, vector_view<T, space_of<B>> o,
    std::type_identity_t<vector_view<const accumulate_t<T>, space_of<B>>> x) {
  expect_shape("narrow", "x", x, o.extents());
  expect_contiguous_rows("narrow", "o", o);
  expect_contiguous_rows("narrow", "x", x);
  if (!o.empty()) be.narrow(o, x);
}

}  // namespace gistkv::ops
