// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/conformance/cases.hpp>
#include <gistkv/conformance/sweep.hpp>

/// The calls that a backend may make one of several, as data: what they must give is what their
/// compositions give, whether or not the backend declares a path of its own.

namespace gistkv::conformance {

/// Three maps of the same rows, into outputs that lie side by side.
struct linears_case {
  static constexpr const char* op = "linears";
  index_t n = 1;
  index_t d_in = 1;
  std::array<index_t, 3> d_out = {1, 1, 1};
  weight_type weight = weight_type::f32;
  row_range coarse = {};
  index_t pad = 0;
  std::uint64_t seed = 0;

  index_t width() const { return d_out[0] + d_out[1] + d_out[2]; }
  linear_case map(std::size_t i) const {
    return {.n = n, .d_in = d_in, .d_out = d_out[i], .weight = weight};
  }
  std::string text() const {
    std::string text = detail::field("n", n) + detail::field("d_in", d_in);
    for (const index_t d : d_out) text += detail::field("d_out", d);
    return detail::trimmed(text + std::string(gistkv::to_string(weight)) + " " +
                           (coarse.size() > 0 ? detail::field("coarse from", coarse.begin) +
                                                    detail::field("to", coarse.end)
                                              : "") +
                           detail::field("pad", pad));
  }
};

/// Keys and values of two sequences into caches of KV.
template <class KV>
struct kv_append_case {
  static constexpr const char* op = "append";
  std::array<index_t, 2> counts = {1, 1};  ///< Rows of each sequence.
  index_t n_kv_heads = 1;
  index_t head_dim = 1;
  index_t spare = 0;  ///< Rows that a cache has more than there are new ones.
  index_t pad = 0;
  std::uint64_t seed = 0;

  std::string text() const {
    return detail::trimmed(detail::field("rows", counts[0]) + detail::field("and", counts[1]) +
                           detail::field("n_kv_heads", n_kv_heads) +
                           detail::field("head_dim", head_dim) + detail::field("spare", spare) +
                           detail::field("pad", pad));
  }
};

/// Several sequences with the same heads.
struct attention_batch_case {
  static constexpr const char* op = "attention_batch";
  std::vector<attention_case> calls;
  std::uint64_t seed = 0;

  std::string text() const {
    std::string text;
    for (const attention_case& c : calls) text += (text.empty() ? "" : "; ") + c.text();
    return text;
  }
};

/// norm, three linears, rope, append.
struct projection_case {
  static constexpr const char* op = "project";
  std::array<index_t, 2> counts = {1, 0};  ///< Rows of each sequence.
  index_t d_model = 1;
  index_t n_heads = 1;
  index_t n_kv_heads = 1;
  index_t head_dim = 2;
  norm_kind kind = norm_kind::rms;
  bool biases = false;
  double magnitude = 1.0;
  index_t pad = 0;
  std::uint64_t seed = 0;

  index_t n() const { return counts[0] + counts[1]; }
  std::string text() const {
    return detail::trimmed(
        detail::field("rows", counts[0]) + detail::field("and", counts[1]) +
        detail::field("d_model", d_model) + detail::field("n_heads", n_heads) +
        detail::field("n_kv_heads", n_kv_heads) + detail::field("head_dim", head_dim) +
        detail::word(kind) + detail::flag("biases", biases) +
        detail::flag("magnitude=1.1", magnitude != 1.0) + detail::field("pad", pad));
  }
};

/// norm, two linears, activation.
struct gated_case {
  static constexpr const char* op = "gated";
  index_t n = 1;
  index_t d_model = 1;
  index_t d_ff = 1;
  norm_kind kind = norm_kind::rms;
  activation_kind activation = activation_kind::silu;
  bool biases = false;
  index_t pad = 0;
  std::uint64_t seed = 0;

  std::string text() const {
    return detail::trimmed(detail::field("n", n) + detail::field("d_model", d_model) +
                           detail::field("d_ff", d_ff) + detail::word(kind) +
                           detail::word(activation) + detail::flag("biases", biases) +
                           detail::field("pad", pad));
  }
};

inline std::vector<linears_case> linears_cases() {
  using enum weight_type;
  std::vector<linears_case> cases;
  for (const index_t n : {1, 2, 5, 6, 7, 33}) {
    cases.push_back({.n = n, .d_in = 33, .d_out = {17, 1, 5}, .pad = n % 2});
    cases.push_back({.n = n, .d_in = 64, .d_out = {48, 16, 16}, .weight = bf16, .pad = 3});
  }
  for (const weight_type w : {f16, q8_0, q4_0, q4_1, q4_k, q5_k, q6_k}) {
    const index_t d_in = 2 * block_length(w) * (block_length(w) == 1 ? 48 : 1);
    cases.push_back({.n = 1, .d_in = d_in, .d_out = {9, 35, 16}, .weight = w});
    cases.push_back({.n = 18, .d_in = d_in, .d_out = {64, 3, 8}, .weight = w, .pad = 1});
    // A step that closes a sentence: the gists between its token and the last one.
    cases.push_back(
        {.n = 5, .d_in = d_in, .d_out = {48, 17, 16}, .weight = w, .coarse = {1, 4}, .pad = 2});
  }
  cases.push_back({.n = 0, .d_in = 16, .d_out = {3, 4, 5}});
  return detail::seeded(std::move(cases), 11000);
}

template <class KV>
std::vector<kv_append_case<KV>> kv_append_cases() {
  using namespace detail;
  std::vector<kv_append_case<KV>> cases;
  const index_t heads[] = {1, 3, 2, 4};
  for (std::size_t i = 0; i < lengths().size(); i += 2) {
    cases.push_back({.counts = {cycle(counts, i), i % 3 == 2 ? 0 : cycle(counts, i + 3)},
                     .n_kv_heads = cycle(heads, i / 2),
                     .head_dim = lengths()[i],
                     .spare = static_cast<index_t>(i),
                     .pad = cycle(pads, i)});
  }
  return seeded(std::move(cases), 12000);
}

inline std::vector<attention_batch_case> attention_batch_cases() {
  using namespace detail;
  std::vector<attention_batch_case> cases;
  const index_t queries[] = {1, 5, 1, 17, 2};
  const index_t anchors[] = {0, 33, 5, 301, 64};
  const index_t locals[] = {7, 40, 1, 130, 63};
  const index_t head_dims[] = {64, 128, 16, 80};
  for (std::size_t i = 0; i < 8; ++i) {
    attention_batch_case batch;
    for (std::size_t s = 0; s <= i % 4; ++s) {
      batch.calls.push_back({.n_q = i < 4 ? 1 : cycle(queries, i + s),
                             .n_heads = i % 2 == 0 ? 9 : 8,
                             .n_kv_heads = i % 2 == 0 ? 3 : 2,
                             .head_dim = cycle(head_dims, i / 2),
                             .n_shared = cycle(anchors, s),
                             .n_own = cycle(anchors, i + s),
                             .n_local = cycle(locals, i + 2 * s),
                             .lse = s % 2 == 0,
                             .pad = cycle(pads, i + s),
                             .seed = 13100 + 10 * i + s});
    }
    cases.push_back(std::move(batch));
  }
  return seeded(std::move(cases), 13000);
}

inline std::vector<projection_case> projection_cases() {
  std::vector<projection_case> cases;
  const norm_kind kinds[] = {norm_kind::rms, norm_kind::layer};
  for (const index_t n : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const bool odd = n % 2 == 1;
    cases.push_back({.counts = {n - n / 3, n / 3},
                     .d_model = odd ? 64 : 192,
                     .n_heads = odd ? 4 : 6,
                     .n_kv_heads = 2,
                     .head_dim = n % 4 == 0 ? 128 : 64,
                     .kind = kinds[n % 3 == 0 ? 1 : 0],
                     .biases = n % 3 != 1,
                     .magnitude = n == 5 ? 1.1 : 1.0,
                     .pad = odd ? 8 : 0});
  }
  return detail::seeded(std::move(cases), 14000);
}

inline std::vector<gated_case> gated_cases() {
  std::vector<gated_case> cases;
  const activation_kind activations[] = {activation_kind::silu, activation_kind::gelu,
                                         activation_kind::gelu_tanh};
  for (const index_t n : {1, 2, 3, 4, 5, 6, 7, 8}) {
    cases.push_back({.n = n,
                     .d_model = n % 2 == 1 ? 64 : 192,
                     .d_ff = n % 4 == 0 ? 512 : 160,
                     .kind = n % 3 == 0 ? norm_kind::layer : norm_kind::rms,
                     .activation = activations[n % 3],
                     .biases = n % 3 != 1,
                     .pad = n % 2 == 1 ? 8 : 0});
  }
  return detail::seeded(std::move(cases), 15000);
}

}  // namespace gistkv::conformance
