// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/conformance/guarded.hpp>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/ops/composed/attention.hpp>
#include <gistkv/ops/kv_spans.hpp>

/// Backends with one fault each, to test the suite: on every one of them `run` must fail. They work
/// on top of any backend, in whatever memory, by asking it for something slightly wrong.

namespace gistkv::conformance {

enum class fault {
  linear_drops_last_column,
  linear_changes_input,
  matmul_drops_last_term,
  matmul_ignores_transpose,
  matmul_ignores_accumulate,
  matmul_ignores_alpha,
  norm_ignores_eps,
  norm_ignores_weight,
  norm_ignores_bias,
  norm_is_always_rms,
  rope_position_off_by_one,
  rope_turns_backwards,
  rope_ignores_magnitude,
  activation_ignores_up,
  activation_is_always_silu,
  add_drops_b,
  masked_softmax_ignores_mask,
  masked_softmax_ignores_scale,
  masked_softmax_keeps_maximum,
  masked_softmax_lse_in_base_2,
  gather_rows_off_by_one,
  scatter_rows_writes_dropped_rows,
  scatter_rows_writes_past_the_end,
};

struct fault_entry {
  fault kind;
  std::string_view name;
  std::string_view op;  ///< The operation whose cases must fail.
};

inline constexpr std::array<fault_entry, 23> fault_table{{
    {fault::linear_drops_last_column, "linear_drops_last_column", "linear"},
    {fault::linear_changes_input, "linear_changes_input", "linear"},
    {fault::matmul_drops_last_term, "matmul_drops_last_term", "matmul"},
    {fault::matmul_ignores_transpose, "matmul_ignores_transpose", "matmul"},
    {fault::matmul_ignores_accumulate, "matmul_ignores_accumulate", "matmul"},
    {fault::matmul_ignores_alpha, "matmul_ignores_alpha", "matmul"},
    {fault::norm_ignores_eps, "norm_ignores_eps", "norm"},
    {fault::norm_ignores_weight, "norm_ignores_weight", "norm"},
    {fault::norm_ignores_bias, "norm_ignores_bias", "norm"},
    {fault::norm_is_always_rms, "norm_is_always_rms", "norm"},
    {fault::rope_position_off_by_one, "rope_position_off_by_one", "rope"},
    {fault::rope_turns_backwards, "rope_turns_backwards", "rope"},
    {fault::rope_ignores_magnitude, "rope_ignores_magnitude", "rope"},
    {fault::activation_ignores_up, "activation_ignores_up", "activation"},
    {fault::activation_is_always_silu, "activation_is_always_silu", "activation"},
    {fault::add_drops_b, "add_drops_b", "add"},
    {fault::masked_softmax_ignores_mask, "masked_softmax_ignores_mask", "masked_softmax"},
    {fault::masked_softmax_ignores_scale, "masked_softmax_ignores_scale", "masked_softmax"},
    {fault::masked_softmax_keeps_maximum, "masked_softmax_keeps_maximum", "masked_softmax"},
    {fault::masked_softmax_lse_in_base_2, "masked_softmax_lse_in_base_2", "masked_softmax"},
    {fault::gather_rows_off_by_one, "gather_rows_off_by_one", "gather_rows"},
    {fault::scatter_rows_writes_dropped_rows, "scatter_rows_writes_dropped_rows", "scatter_rows"},
    {fault::scatter_rows_writes_past_the_end, "scatter_rows_writes_past_the_end", "scatter_rows"},
}};

namespace detail {

/// Replaces each element by f(element), one round trip an element.
template <class B, class T, std::size_t Rank, class F>
void edit(B& be, const tensor_view<T, Rank, space_of<B>>& view, F&& f) {
  if constexpr (Rank > 1) {
    for (index_t i = 0; i < view.extent(0); ++i) edit(be, view.at(i), f);
  } else {
    for (index_t i = 0; i < view.extent(0); ++i) {
      std::remove_const_t<T> element;
      auto* at = const_cast<std::remove_const_t<T>*>(view.data()) + view.offset(i);
      be.download(&element, at, sizeof element);
      element = from_double<std::remove_const_t<T>>(f(to_double(element)));
      be.upload(at, &element, sizeof element);
    }
  }
}

/// A copy of the vector with every element replaced by f(element).
template <class B, class T, class F>
buffer<T, B> edited(B& be, const vector_view<const T, space_of<B>>& view, F&& f) {
  std::vector<T> host(static_cast<std::size_t>(view.extent(0)));
  if (!host.empty()) be.download(host.data(), view.data(), host.size() * sizeof(T));
  for (T& x : host) x = static_cast<T>(f(x));
  return buffer<T, B>(be, host);
}

}  // namespace detail

/// B without caches of other types and calls of several: these would only meet the faults again,
/// which are in primitives and attention.
template <Backend B>
class without_fused : public B {
 public:
  template <class>
  static constexpr bool native_cache = false;
  static constexpr bool native_linears = false;
  static constexpr bool native_append = false;
  static constexpr bool native_attention_batch = false;
  static constexpr bool native_few_rows = false;
  using B::B;
};

template <Backend B>
class broken : public without_fused<B> {
 public:
  using space = space_of<B>;
  template <class T>
  using vec = vector_view<const T, space>;
  template <class T>
  using mat = matrix_view<const T, space>;
  template <class T>
  using ten = tensor_view<const T, 3, space>;

  template <class... Args>
  explicit broken(fault kind, Args&&... args)
      : without_fused<B>(std::forward<Args>(args)...), fault_(kind) {}

  template <class T>
  void linear(matrix_view<T, space> o, std::type_identity_t<mat<T>> x,
              const packed_weight_t<B>& w) {
    B::linear(o, x, w);
    const auto zero = [](double) { return 0.0; };
    if (has(fault::linear_drops_last_column)) {
      detail::edit<B>(*this, o.slice(1, o.extent(1) - 1, 1), zero);
    }
    if (has(fault::linear_changes_input)) detail::edit<B>(*this, x.rows(0, 1), zero);
  }

  template <class T>
  void matmul(tensor_view<T, 3, space> o, std::type_identity_t<ten<T>> a,
              std::type_identity_t<ten<T>> b, matmul_options options) {
    const index_t k = a.extent(2);
    if (has(fault::matmul_drops_last_term) && k > 1) {
      a = a.slice(2, 0, k - 1);
      b = b.slice(options.transpose_b ? 2 : 1, 0, k - 1);
    }
    if (has(fault::matmul_ignores_transpose) && b.extent(1) == b.extent(2)) {
      options.transpose_b = false;
    }
    if (has(fault::matmul_ignores_accumulate)) options.accumulate = false;
    if (has(fault::matmul_ignores_alpha)) options.alpha = 1.0;
    B::matmul(o, a, b, options);
  }

  template <class T>
  void norm(matrix_view<T, space> o, std::type_identity_t<mat<T>> x,
            std::type_identity_t<vec<T>> weight, std::type_identity_t<vec<T>> bias,
            norm_options options) {
    const std::vector<T> ones(static_cast<std::size_t>(weight.extent(0)), from_double<T>(1.0));
    const buffer<T, B> unit(*this, ones);
    if (has(fault::norm_ignores_eps)) options.eps = 0.0;
    if (has(fault::norm_ignores_weight)) weight = unit.view({weight.extent(0)});
    if (has(fault::norm_ignores_bias)) bias = {};
    if (has(fault::norm_is_always_rms)) options.kind = norm_kind::rms;
    B::norm(o, x, weight, bias, options);
  }

  template <class T>
  void rope(tensor_view<T, 3, space> x, vec<std::int32_t> positions, vec<float> frequencies,
            rope_options options) {
    const int step = has(fault::rope_position_off_by_one) ? 1 : 0;
    const float sign = has(fault::rope_turns_backwards) ? -1.0F : 1.0F;
    B& base = *this;
    const auto p = detail::edited(base, positions, [&](std::int32_t at) { return at + step; });
    const auto f = detail::edited(base, frequencies, [&](float w) { return sign * w; });
    if (has(fault::rope_ignores_magnitude)) options.magnitude = 1.0;
    B::rope(x, p.view({positions.extent(0)}), f.view({frequencies.extent(0)}), options);
    B::synchronize();
  }

  template <class T>
  void activation(matrix_view<T, space> o, std::type_identity_t<mat<T>> gate,
                  std::type_identity_t<mat<T>> up, activation_kind kind) {
    if (has(fault::activation_ignores_up)) up = {};
    if (has(fault::activation_is_always_silu)) kind = activation_kind::silu;
    B::activation(o, gate, up, kind);
  }

  template <class T>
  void add(matrix_view<T, space> o, std::type_identity_t<mat<T>> a,
           std::type_identity_t<mat<T>> b) {
    const std::vector<T> zeros(static_cast<std::size_t>(o.extent(1)), from_double<T>(0.0));
    const buffer<T, B> nothing(*this, zeros);
    if (has(fault::add_drops_b)) {
      b = repeat_rows(nothing.view({o.extent(1)}), o.extent(0));
    }
    B::add(o, a, b);
    B::synchronize();
  }

  template <class T, AttentionMask M>
  void masked_softmax(tensor_view<T, 3, space> s, const M& mask, softmax_options options,
                      std::type_identity_t<matrix_view<T, space>> lse) {
    if (has(fault::masked_softmax_ignores_scale)) options.scale = 1.0;
    if (has(fault::masked_softmax_keeps_maximum)) {
      // e^x at an x that float cannot hold is infinite, and infinity / infinity is NaN.
      const double scale = options.scale;
      detail::edit<B>(*this, s, [&](double x) { return scale * x > 88.0 ? NAN : x; });
    }
    if (has(fault::masked_softmax_ignores_mask)) {
      B::masked_softmax(s, everything_mask{}, options, lse);
    } else {
      B::masked_softmax(s, mask, options, lse);
    }
    if (has(fault::masked_softmax_lse_in_base_2)) {
      detail::edit<B>(*this, lse, [](double x) { return x * std::numbers::log2e; });
    }
  }

  template <class T>
  void gather_rows(matrix_view<T, space> o, std::type_identity_t<mat<T>> x,
                   vec<std::int32_t> rows) {
    const std::int32_t step = has(fault::gather_rows_off_by_one) ? 1 : 0;
    B& base = *this;
    const auto r = detail::edited(
        base, rows, [&](std::int32_t at) { return std::max<std::int32_t>(at - step, 0); });
    B::gather_rows(o, x, r.view({rows.extent(0)}));
    B::synchronize();
  }

  template <class T>
  void scatter_rows(matrix_view<T, space> o, std::type_identity_t<mat<T>> x,
                    vec<std::int32_t> rows) {
    const bool keep = has(fault::scatter_rows_writes_dropped_rows);
    B& base = *this;
    const auto r =
        detail::edited(base, rows, [&](std::int32_t at) { return keep && at < 0 ? -1 - at : at; });
    B::scatter_rows(o, x, r.view({rows.extent(0)}));
    B::synchronize();
    if (has(fault::scatter_rows_writes_past_the_end)) {
      const matrix_view<T, space> behind(o.data() + o.extent(0) * o.stride(0), {1, 1});
      detail::edit<B>(*this, behind, [](double) { return 1.0; });
    }
  }

 private:
  bool has(fault kind) const { return fault_ == kind; }
  fault fault_;
};

/// A backend that declares a native attention which is composed::attention: right, to test that the
/// path is taken and accepted, or blind to the spans, to test that this is seen.
template <Backend B, bool IgnoresSpans>
class with_native_attention : public without_fused<B> {
 public:
  using space = space_of<B>;
  static constexpr bool native_attention = true;
  using without_fused<B>::without_fused;

  template <class T>
  void attention(tensor_view<T, 3, space> o, std::type_identity_t<tensor_view<const T, 3, space>> q,
                 const kv_spans<T, space>& kv, const span_list& spans, double scale,
                 std::type_identity_t<matrix_view<T, space>> lse) {
    const index_t n_anchors = kv.shared.rows() + kv.own.rows();
    std::vector<visible_spans> seen(spans.host.begin(), spans.host.end());
    if (IgnoresSpans) {
      const visible_spans all{static_cast<std::int32_t>(n_anchors), 0,
                              static_cast<std::int32_t>(kv.local.rows())};
      std::fill(seen.begin(), seen.end(), all);
    }
    B& base = *this;
    const buffer<visible_spans, B> device(base, seen);
    workspace<B> scratch(
        base, composed::attention_workspace_size<B, T>(q.extent(0), q.extent(1), kv.n_kv_heads(),
                                                       n_anchors + kv.local.rows()));
    composed::attention<B, T>(base, o, q, kv, {seen, device.data()}, scale, scratch, lse);
    B::synchronize();
  }
};

}  // namespace gistkv::conformance
