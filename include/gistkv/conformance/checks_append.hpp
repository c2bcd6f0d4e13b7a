// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <type_traits>
#include <vector>

#include <gistkv/conformance/cases_fused.hpp>
#include <gistkv/conformance/checks_attention.hpp>
#include <gistkv/ops/append.hpp>

/// The trial of ops::append, and caches that it fills.

namespace gistkv::conformance {

namespace detail {

/// Keys and values of a sequence's anchors, or of its local rows, and the rows where new ones go.
template <class B, class KV>
struct appended_rows {
  index_t n_kv_heads;
  index_t head_dim;
  std::vector<std::int32_t> rows;
  buffer<std::int32_t, B> device_rows;
  guarded_rows<KV, 3, B> keys;
  guarded_rows<KV, 3, B> values;

  appended_rows(B& be, random_generator& random, index_t count, index_t spare, index_t heads,
                index_t d, index_t pad)
      : n_kv_heads(heads),
        head_dim(d),
        rows(scatter_indices(random, count, count + spare)),
        device_rows(be, rows),
        keys(be, placement<3>({heads, count + spare, d}, pad),
             normals(random, heads * (count + spare) * d)),
        values(be, placement<3>({heads, count + spare, d}, pad),
               normals(random, heads * (count + spare) * d)) {}

  /// @param k, v  [n, n_kv_heads, head_dim], of which rows from `begin` on are this sequence's
  void verify(result& r, const expected& k, const expected& v, index_t begin) const {
    expect_unchanged(r, "rows", device_rows, rows);
    expect_guards(r, "keys", keys);
    expect_guards(r, "values", values);
    verify(r, "keys", keys, k, begin);
    verify(r, "values", values, v, begin);
  }

 private:
  void verify(result& r, const char* what, const guarded_rows<KV, 3, B>& found, const expected& x,
              index_t begin) const {
    expected want;
    want.value = found.original();
    want.scale.assign(want.value.size(), 0.0);
    const auto n_rows = static_cast<index_t>(want.value.size()) / (n_kv_heads * head_dim);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0) continue;
      for (index_t h = 0; h < n_kv_heads; ++h) {
        const auto to = static_cast<std::size_t>((h * n_rows + rows[i]) * head_dim);
        const auto from = static_cast<std::size_t>(
            ((begin + static_cast<index_t>(i)) * n_kv_heads + h) * head_dim);
        for (std::size_t j = 0; j < static_cast<std::size_t>(head_dim); ++j) {
          want.value[to + j] = x.value[from + j];
          want.scale[to + j] = x.scale[from + j];
        }
        if constexpr (std::is_same_v<KV, q8>) {
          level_scales(want, to, static_cast<std::size_t>(head_dim));
        }
      }
    }
    using judged = std::conditional_t<std::is_same_v<KV, q8>, float, KV>;
    expect_values<B, judged>(r, what, found.values(), want, want.value.empty());
  }
};

/// The caches of a sequence of a batch.
template <class B, class KV>
struct appended_sequence {
  index_t begin;
  appended_rows<B, KV> anchors;
  appended_rows<B, KV> locals;

  appended_sequence(B& be, random_generator& random, index_t first, index_t count, index_t spare,
                    index_t heads, index_t d, index_t pad)
      : begin(first),
        anchors(be, random, count, spare, heads, d, pad),
        locals(be, random, count, spare + 1, heads, d, pad) {}

  kv_append<KV, space_of<B>> view() {
    const auto count = static_cast<index_t>(anchors.rows.size());
    return {begin,
            count,
            anchors.keys.view(),
            anchors.values.view(),
            locals.keys.view(),
            locals.values.view(),
            anchors.device_rows.view({count}),
            locals.device_rows.view({count})};
  }
  void verify(result& r, const expected& k, const expected& v) const {
    anchors.verify(r, k, v, begin);
    locals.verify(r, k, v, begin);
  }
};

/// Two sequences of a batch, the second where it has rows.
template <class B, class KV>
class appended_batch {
 public:
  appended_batch(B& be, random_generator& random, const std::array<index_t, 2>& rows, index_t spare,
                 index_t heads, index_t d, index_t pad) {
    index_t begin = 0;
    for (const index_t count : rows) {
      if (count > 0) sequences_.emplace_back(be, random, begin, count, spare, heads, d, pad);
      begin += count;
    }
  }
  std::vector<kv_append<KV, space_of<B>>> views() {
    std::vector<kv_append<KV, space_of<B>>> all;
    for (auto& s : sequences_) all.push_back(s.view());
    return all;
  }
  void verify(result& r, const expected& k, const expected& v) const {
    for (const auto& s : sequences_) s.verify(r, k, v);
  }

 private:
  std::deque<appended_sequence<B, KV>> sequences_;  // Elements stay where they are.
};

}  // namespace detail

template <class B, class T, class KV>
class trial<B, T, kv_append_case<KV>> {
 public:
  trial(B& be, const kv_append_case<KV>& c)
      : be_(be),
        c_(c),
        random_(c.seed),
        k_(be, placement<3>({c.counts[0] + c.counts[1], c.n_kv_heads, c.head_dim}, c.pad),
           normals(random_, (c.counts[0] + c.counts[1]) * c.n_kv_heads * c.head_dim)),
        v_(be, placement<3>({c.counts[0] + c.counts[1], c.n_kv_heads, c.head_dim}, c.pad),
           normals(random_, (c.counts[0] + c.counts[1]) * c.n_kv_heads * c.head_dim)),
        caches_(be, random_, c.counts, c.spare, c.n_kv_heads, c.head_dim, c.pad) {}

  void operator()() {
    const auto sequences = caches_.views();
    ops::append<B, T>(be_, k_.cview(), v_.cview(),
                      std::span<const kv_append<KV, space_of<B>>>(sequences));
  }
  void verify(result& r) const {
    detail::expect_unchanged(r, "k", k_);
    detail::expect_unchanged(r, "v", v_);
    caches_.verify(r, stored(k_.original()), stored(v_.original()));
  }

 private:
  /// To the bit, but for the rounding to another type.
  static expected stored(std::vector<double> x) {
    expected e;
    for (const double value : x) e.push(value, std::is_same_v<T, KV> ? 0.0 : std::abs(value));
    return e;
  }

  B& be_;
  kv_append_case<KV> c_;
  random_generator random_;
  guarded<T, 3, B> k_;
  guarded<T, 3, B> v_;
  detail::appended_batch<B, KV> caches_;
};

}  // namespace gistkv::conformance
