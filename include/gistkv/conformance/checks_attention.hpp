// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <gistkv/conformance/checks.hpp>
#include <gistkv/conformance/guarded_rows.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/composed/attention.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/rope.hpp>
#include <gistkv/ops/rows.hpp>

/// The trials that positions, rows and masks take part in.

namespace gistkv::conformance {

template <class B, class T>
class trial<B, T, rope_case> {
 public:
  trial(B& be, const rope_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        x_(be, placement<3>({c.n, c.n_heads, c.head_dim}, c.pad),
           normals(random_, c.n * c.n_heads * c.head_dim)) {
    for (index_t i = 0; i < c.n; ++i) {
      positions_.push_back(
          static_cast<std::int32_t>(i == 0 ? c.last_position : random_.below(c.last_position)));
    }
    frequencies_ = rotation_frequencies(c.head_dim);
    device_positions_ = buffer<std::int32_t, B>(be, positions_);
    device_frequencies_ = buffer<float, B>(be, frequencies_);
  }

  void operator()() {
    ops::rope(be_, x_.view(), device_positions_.view({c_.n}),
              device_frequencies_.view({c_.head_dim / 2}), {.magnitude = c_.magnitude});
  }
  void verify(result& r) const {
    detail::expect_guards(r, "x", x_);
    detail::expect_unchanged(r, "positions", device_positions_, positions_);
    detail::expect_unchanged(r, "frequencies", device_frequencies_, frequencies_);
    detail::expect_values<B, T>(r, "x", x_.values(),
                                oracle::rope(c_, x_.original(), positions_, frequencies_));
  }

 private:
  B& be_;
  rope_case c_;
  random_generator random_;
  guarded<T, 3, B> x_;
  std::vector<std::int32_t> positions_;
  std::vector<float> frequencies_;
  buffer<std::int32_t, B> device_positions_;
  buffer<float, B> device_frequencies_;
};

namespace detail {

/// Half a level of a row of q8, in units of what the table allows a float; its own rounding beside.
inline void level_scales(expected& want, std::size_t begin, std::size_t d) {
  double largest = 0.0;
  for (std::size_t j = 0; j < d; ++j) largest = std::max(largest, want.scale[begin + j]);
  const double unit = 2.0 * tolerance<float>("append_rows") * epsilon_of<float>();
  for (std::size_t j = 0; j < d; ++j) want.scale[begin + j] = 1.0001 * largest / 127.0 / unit;
}

}  // namespace detail

/// Rows of T to rows of O: another type where they enter a cache.
template <class B, class T, class O, bool Scatter>
class rows_trial {
 public:
  rows_trial(B& be, const rows_case<Scatter>& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        rows_(Scatter ? scatter_indices(random_, c.n, c.m) : gather_indices(random_, c.n, c.m)),
        device_rows_(be, rows_),
        x_(be, placement<2>({Scatter ? c.n : c.m, c.d}, c.pad), normals(random_, c.m * c.d)),
        o_(be, placement<2>({Scatter ? c.m : c.n, c.d}, c.pad), normals(random_, c.m * c.d)) {}

  void operator()() {
    const auto rows = device_rows_.view({c_.n});
    if constexpr (!std::is_same_v<T, O>) {
      ops::append_rows<B, T, O>(be_, o_.view(), x_.cview(), rows);
    } else if constexpr (Scatter) {
      ops::scatter_rows(be_, o_.view(), x_.cview(), rows);
    } else {
      ops::gather_rows(be_, o_.view(), x_.cview(), rows);
    }
  }
  void verify(result& r) const {
    detail::expect_guards(r, "o", o_);
    detail::expect_unchanged(r, "x", x_);
    detail::expect_unchanged(r, "rows", device_rows_, rows_);
    const std::vector<double> x = x_.original();
    expected want;
    want.value = o_.original();
    want.scale.assign(want.value.size(), 0.0);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i] < 0) continue;
      const auto named = static_cast<std::size_t>(rows_[i]);
      const auto d = static_cast<std::size_t>(c_.d);
      for (std::size_t j = 0; j < d; ++j) {
        const std::size_t at = (Scatter ? named : i) * d + j;
        want.value[at] = x[(Scatter ? i : named) * d + j];
        if constexpr (!std::is_same_v<T, O>) want.scale[at] = std::abs(want.value[at]);
      }
      if constexpr (std::is_same_v<O, q8>) detail::level_scales(want, named * d, d);
    }
    using judged = std::conditional_t<std::is_same_v<O, q8>, float, O>;
    detail::expect_values<B, judged>(r, "o", o_.values(), want);
  }

 private:
  B& be_;
  rows_case<Scatter> c_;
  random_generator random_;
  std::vector<std::int32_t> rows_;
  buffer<std::int32_t, B> device_rows_;
  guarded<T, 2, B> x_;
  guarded_rows<O, 2, B> o_;
};

template <class B, class T, bool Scatter>
class trial<B, T, rows_case<Scatter>> : public rows_trial<B, T, T, Scatter> {
 public:
  using rows_trial<B, T, T, Scatter>::rows_trial;
};
template <class B, class T, class KV>
class trial<B, T, append_case<KV>> : public rows_trial<B, T, KV, true> {
 public:
  using rows_trial<B, T, KV, true>::rows_trial;
};

template <class B, class T>
class trial<B, T, softmax_case> {
 public:
  trial(B& be, const softmax_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        n_anchors_(c.n_k / 3),
        spans_(spans_for(c.mask, random_, c.n_q, n_anchors_, c.n_k - n_anchors_)),
        device_spans_(be, spans_),
        s_(be, placement<3>({c.n_heads, c.n_q, c.n_k}, c.pad), scores()),
        lse_(be, placement<2>({c.n_heads, c.n_q}, c.pad), {}) {}

  void operator()() {
    with_mask(c_.mask, device_spans_.data(), n_anchors_, [&](const auto& mask) {
      const auto lse = c_.lse ? lse_.view() : matrix_view<T, space_of<B>>{};
      ops::masked_softmax(be_, s_.view(), mask, {.scale = c_.scale}, lse);
    });
  }
  void verify(result& r) const {
    detail::expect_guards(r, "s", s_);
    if (c_.lse) {
      detail::expect_guards(r, "lse", lse_);
    } else {
      detail::expect_unchanged(r, "lse, which is not asked for", lse_);
    }
    with_mask(c_.mask, spans_.data(), n_anchors_, [&](const auto& mask) {
      const auto want = oracle::masked_softmax(c_, s_.original(), mask);
      const bool nothing = c_.mask == mask_choice::nothing;
      detail::expect_values<B, T>(r, "s", s_.values(), want.s, nothing);
      if (c_.lse) detail::expect_values<B, T>(r, "lse", lse_.values(), want.lse, c_.n_k == 1);
    });
  }

 private:
  std::vector<double> scores() {
    auto s = normals(random_, c_.n_heads * c_.n_q * c_.n_k, c_.magnitude);
    if (!c_.poison) return s;
    with_mask(c_.mask, spans_.data(), n_anchors_, [&](const auto& mask) {
      for (index_t i = 0; i < static_cast<index_t>(s.size()); ++i) {
        if (mask(i / c_.n_k % c_.n_q, i % c_.n_k)) continue;
        s[static_cast<std::size_t>(i)] = std::numeric_limits<double>::quiet_NaN();
      }
    });
    return s;
  }

  B& be_;
  softmax_case c_;
  random_generator random_;
  index_t n_anchors_;
  std::vector<visible_spans> spans_;
  buffer<visible_spans, B> device_spans_;
  guarded<T, 3, B> s_;
  guarded<T, 2, B> lse_;
};

/// Queries of T, keys and values of KV.
template <class B, class T, class KV>
class attention_trial {
 public:
  attention_trial(B& be, const attention_case& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        scale_(1.0 / std::sqrt(static_cast<double>(c.head_dim))),
        spans_(spans_for(c.mask, random_, c.n_q, c.n_shared + c.n_own, c.n_local)),
        device_spans_(be, spans_),
        q_(be, placement<3>({c.n_q, c.n_heads, c.head_dim}, c.pad),
           normals(random_, c.n_q * c.n_heads * c.head_dim)),
        shared_(be, c, c.n_shared, random_),
        own_(be, c, c.n_own, random_),
        local_(be, c, c.n_local, random_),
        scratch_(be, c.dense() || c.composed
                         ? composed::attention_workspace_size<B, T>(c.n_q, c.n_heads, c.n_kv_heads,
                                                                    c.n_keys())
                         : ops::attention_workspace_size<B, T, KV>(c.n_q, c.n_heads, c.n_kv_heads,
                                                                   c.n_keys(), c.head_dim)),
        o_(be, placement<3>({c.n_q, c.n_heads, c.head_dim}, c.pad), {}),
        lse_(be, placement<2>({c.n_q, c.n_heads}, c.pad), {}) {}

  /// The arguments of ops::attention.
  attention_call<T, space_of<B>, KV> call() {
    return {o_.view(),
            q_.cview(),
            {shared_.view(), own_.view(), local_.view()},
            {spans_, device_spans_.data()},
            c_.lse ? lse_.view() : matrix_view<T, space_of<B>>{}};
  }
  double scale() const { return scale_; }

  void operator()() {
    const auto [o, q, kv, spans, lse] = call();
    if constexpr (std::is_same_v<T, KV>) {
      if (c_.dense()) {
        with_mask(c_.mask, nullptr, 0, [&](const auto& mask) {
          ops::attention<B, T>(be_, o_.view(), q_.cview(), local_.k.cview(), local_.v.cview(),
                               last_rows(mask), scale_, scratch_, call().lse);
        });
        return;
      }
      if (c_.composed) {
        composed::attention<B, T>(be_, o, q, kv, spans, scale_, scratch_, lse);
        return;
      }
    }
    ops::attention<B, T, KV>(be_, o, q, kv, spans, scale_, scratch_, lse);
  }
  void verify(result& r) const {
    detail::expect_guards(r, "o", o_);
    if (c_.lse) {
      detail::expect_guards(r, "lse", lse_);
    } else {
      detail::expect_unchanged(r, "lse, which is not asked for", lse_);
    }
    detail::expect_unchanged(r, "q", q_);
    detail::expect_unchanged(r, "spans", device_spans_, spans_);
    for (const part* p : {&shared_, &own_, &local_}) {
      detail::expect_unchanged(r, "k", p->k);
      detail::expect_unchanged(r, "v", p->v);
    }
    if (c_.dense()) {
      with_mask(c_.mask, nullptr, 0, [&](const auto& mask) { compare(r, last_rows(mask)); });
    } else {
      compare(r, span_mask{spans_.data(), c_.n_shared + c_.n_own, 0});
    }
  }

 private:
  struct part {
    guarded_rows<KV, 3, B> k;
    guarded_rows<KV, 3, B> v;

    part(B& be, const attention_case& c, index_t rows, random_generator& random)
        : k(be, placement<3>({c.n_kv_heads, rows, c.head_dim}, c.pad),
            normals(random, c.n_kv_heads * rows * c.head_dim)),
          v(be, placement<3>({c.n_kv_heads, rows, c.head_dim}, c.pad),
            normals(random, c.n_kv_heads * rows * c.head_dim)) {}
    kv_span<KV, space_of<B>> view() const { return {k.cview(), v.cview()}; }
  };

  /// Queries stand at the end of the keys.
  template <class M>
  right_aligned<M> last_rows(const M& mask) const {
    return {mask, c_.n_local - c_.n_q};
  }

  /// [n_kv_heads, n_keys, head_dim] of all parts.
  std::vector<double> joined(guarded_rows<KV, 3, B> part::*which) const {
    std::vector<double> all;
    for (index_t h = 0; h < c_.n_kv_heads; ++h) {
      for (const part* p : {&shared_, &own_, &local_}) {
        const std::vector<double> values = (p->*which).original();
        const index_t per_head = static_cast<index_t>(values.size()) / c_.n_kv_heads;
        const auto begin = values.begin() + h * per_head;
        all.insert(all.end(), begin, begin + per_head);
      }
    }
    return all;
  }
  template <class M>
  void compare(result& r, const M& mask) const {
    const auto want =
        oracle::attention(c_, scale_, q_.original(), joined(&part::k), joined(&part::v), mask);
    const bool about_zeros = c_.mask == mask_choice::nothing || c_.n_keys() == 0;
    detail::expect_values<B, T>(r, "o", o_.values(), want.o, about_zeros);
    if (c_.lse) detail::expect_values<B, T>(r, "lse", lse_.values(), want.lse, about_zeros);
  }

  B& be_;
  attention_case c_;
  random_generator random_;
  double scale_;
  std::vector<visible_spans> spans_;
  buffer<visible_spans, B> device_spans_;
  guarded<T, 3, B> q_;
  part shared_;
  part own_;
  part local_;
  workspace<B> scratch_;
  guarded<T, 3, B> o_;
  guarded<T, 2, B> lse_;
};

template <class B, class T>
class trial<B, T, attention_case> : public attention_trial<B, T, T> {
 public:
  using attention_trial<B, T, T>::attention_trial;
};
template <class B, class T, class KV>
class trial<B, T, cached_attention_case<KV>> : public attention_trial<B, T, KV> {
 public:
  using attention_trial<B, T, KV>::attention_trial;
};

}  // namespace gistkv::conformance
