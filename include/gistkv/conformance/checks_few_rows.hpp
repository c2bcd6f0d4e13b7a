// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include <gistkv/conformance/cases_fused.hpp>
#include <gistkv/conformance/checks_append.hpp>
#include <gistkv/conformance/checks_fused.hpp>
#include <gistkv/ops/few_rows.hpp>

/// The trials of the two halves of a block as one call each.

namespace gistkv::conformance {

namespace detail {

inline std::vector<double> magnitudes(std::vector<double> values) {
  for (double& x : values) x = std::abs(x);
  return values;
}

/// A weight with a bias, or none, behind a norm.
template <class B, class T>
struct biased_map {
  map_weight<B> weight;
  guarded<T, 1, B> bias;

  biased_map(B& be, random_generator& random, index_t rows, index_t cols, bool has_bias)
      : weight(be, random, weight_type::f32, rows, cols),
        bias(be, placement<1>({has_bias ? rows : 0}), normals(random, has_bias ? rows : 0)) {}

  linear_call<B, T> call() const { return {&weight.packed, bias.cview()}; }
  /// Of rows y: what errors of its parts may add up to is of the size that they are made of.
  expected apply(const expected& y, index_t n) const {
    const linear_case c{.n = n, .d_in = weight.packed.cols(), .d_out = weight.packed.rows()};
    expected o = oracle::linear(c, y.value, weight.stored.values, bias.original());
    o.scale =
        oracle::linear(c, y.scale, magnitudes(weight.stored.values), magnitudes(bias.original()))
            .value;
    return o;
  }
};

}  // namespace detail

/// Rows that are normed before they are multiplied.
template <class B, class T>
class normed_trial {
 public:
  normed_trial(B& be, random_generator& random, index_t n, index_t d, norm_kind kind, index_t pad)
      : case_{.n = n, .d = d, .kind = kind},
        x_(be, placement<2>({n, d}, pad), normals(random, n * d)),
        weight_(be, placement<1>({d}), normals(random, d)) {}

  matrix_view<const T, space_of<B>> x() const { return x_.cview(); }
  norm_call<B, T> norm() const { return {weight_.cview(), {.kind = case_.kind, .eps = eps}}; }
  expected normed() const {
    return oracle::norm(case_, eps, x_.original(), weight_.original(), {});
  }
  void verify(result& r) const {
    detail::expect_unchanged(r, "x", x_);
    detail::expect_unchanged(r, "norm weight", weight_);
  }

 private:
  static constexpr double eps = 1e-5;
  norm_case case_;
  guarded<T, 2, B> x_;
  guarded<T, 1, B> weight_;
};

template <class B, class T>
class trial<B, T, projection_case> {
 public:
  trial(B& be, const projection_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        rows_(be, random_, c.n(), c.d_model, c.kind, c.pad),
        q_(be, placement<3>({c.n(), c.n_heads, c.head_dim}), {}),
        k_(be, placement<3>({c.n(), c.n_kv_heads, c.head_dim}), {}),
        v_(be, placement<3>({c.n(), c.n_kv_heads, c.head_dim}), {}),
        caches_(be, random_, c.counts, 3, c.n_kv_heads, c.head_dim, c.pad) {
    for (const index_t heads : {c.n_heads, c.n_kv_heads, c.n_kv_heads}) {
      maps_.emplace_back(be, random_, heads * c.head_dim, c.d_model, c.biases);
    }
    for (index_t i = 0; i < c.n(); ++i) {
      positions_.push_back(static_cast<std::int32_t>(random_.below(1000)));
    }
    frequencies_ = rotation_frequencies(c.head_dim);
    device_positions_ = buffer<std::int32_t, B>(be, positions_);
    device_frequencies_ = buffer<float, B>(be, frequencies_);
  }

  void operator()() {
    const auto sequences = caches_.views();
    const projection_call<B, T> call{q_.view(),
                                     k_.view(),
                                     v_.view(),
                                     rows_.x(),
                                     rows_.norm(),
                                     {maps_[0].call(), maps_[1].call(), maps_[2].call()},
                                     device_positions_.view({c_.n()}),
                                     device_frequencies_.view({c_.head_dim / 2}),
                                     {.magnitude = c_.magnitude}};
    ops::project<B, T>(be_, call, std::span<const kv_append<T, space_of<B>>>(sequences));
  }
  void verify(result& r) const {
    rows_.verify(r);
    detail::expect_guards(r, "q", q_);
    detail::expect_guards(r, "k", k_);
    detail::expect_guards(r, "v", v_);
    for (const auto& m : maps_) detail::expect_unchanged(r, "bias", m.bias);
    detail::expect_unchanged(r, "positions", device_positions_, positions_);
    detail::expect_unchanged(r, "frequencies", device_frequencies_, frequencies_);
    const expected y = rows_.normed();
    const expected q = rotated(maps_[0].apply(y, c_.n()), c_.n_heads);
    const expected k = rotated(maps_[1].apply(y, c_.n()), c_.n_kv_heads);
    const expected v = maps_[2].apply(y, c_.n());
    detail::expect_values<B, T>(r, "q", q_.values(), q);
    detail::expect_values<B, T>(r, "k", k_.values(), k);
    detail::expect_values<B, T>(r, "v", v_.values(), v);
    caches_.verify(r, k, v);
  }

 private:
  expected rotated(const expected& x, index_t heads) const {
    const rope_case c{
        .n = c_.n(), .n_heads = heads, .head_dim = c_.head_dim, .magnitude = c_.magnitude};
    expected o = oracle::rope(c, x.value, positions_, frequencies_);
    o.scale = oracle::rope(c, x.scale, positions_, frequencies_).scale;
    return o;
  }

  B& be_;
  projection_case c_;
  random_generator random_;
  normed_trial<B, T> rows_;
  guarded<T, 3, B> q_;
  guarded<T, 3, B> k_;
  guarded<T, 3, B> v_;
  detail::appended_batch<B, T> caches_;
  std::deque<detail::biased_map<B, T>> maps_;
  std::vector<std::int32_t> positions_;
  std::vector<float> frequencies_;
  buffer<std::int32_t, B> device_positions_;
  buffer<float, B> device_frequencies_;
};

template <class B, class T>
class trial<B, T, gated_case> {
 public:
  trial(B& be, const gated_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        rows_(be, random_, c.n, c.d_model, c.kind, c.pad),
        gate_(be, random_, c.d_ff, c.d_model, c.biases),
        up_(be, random_, c.d_ff, c.d_model, c.biases),
        o_(be, placement<2>({c.n, c.d_ff}, c.pad), {}) {}

  void operator()() {
    ops::gated<B, T>(be_,
                     {o_.view(), rows_.x(), rows_.norm(), gate_.call(), up_.call(), c_.activation});
  }
  void verify(result& r) const {
    rows_.verify(r);
    detail::expect_guards(r, "o", o_);
    detail::expect_unchanged(r, "bias", gate_.bias);
    detail::expect_unchanged(r, "bias", up_.bias);
    const expected y = rows_.normed();
    const expected gate = gate_.apply(y, c_.n);
    const expected up = up_.apply(y, c_.n);
    expected want;
    constexpr double slope = 1.13;  // The steepest of the three activations has it.
    for (std::size_t i = 0; i < gate.value.size(); ++i) {
      const double act = oracle::activate(c_.activation, gate.value[i]);
      want.push(act * up.value[i],
                slope * gate.scale[i] * std::abs(up.value[i]) +
                    std::max(std::abs(act), std::min(std::abs(gate.value[i]), 1.0)) * up.scale[i]);
    }
    detail::expect_values<B, T>(r, "o", o_.values(), want);
  }

 private:
  B& be_;
  gated_case c_;
  random_generator random_;
  normed_trial<B, T> rows_;
  detail::biased_map<B, T> gate_;
  detail::biased_map<B, T> up_;
  guarded<T, 2, B> o_;
};

}  // namespace gistkv::conformance
