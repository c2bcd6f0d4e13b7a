// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <gistkv/conformance/cases.hpp>

/// The lists of cases. Seeds are fixed: an operation's base plus the place in the list.

namespace gistkv::conformance {

namespace detail {

template <class Case>
std::vector<Case> seeded(std::vector<Case> cases, std::uint64_t base) {
  for (std::size_t i = 0; i < cases.size(); ++i) cases[i].seed = base + i;
  return cases;
}

/// 1, primes, and the widths of vector registers with their neighbours.
inline const std::vector<index_t>& lengths() {
  static const std::vector<index_t> list{1,  2,  3,  4,  7,  8,   9,   15,  16,  17, 31,
                                         32, 33, 63, 64, 65, 127, 128, 129, 255, 257};
  return list;
}

/// Element i of a list without end.
template <std::size_t N>
index_t cycle(const index_t (&list)[N], std::size_t i) {
  return list[i % N];
}

inline constexpr index_t counts[] = {1, 5, 2, 8, 3, 17, 4, 7, 33, 13, 16};
inline constexpr index_t widths[] = {1, 17, 3, 64, 9, 31, 8, 5, 67, 16};
inline constexpr index_t pads[] = {0, 3, 1, 0, 5};

}  // namespace detail

inline std::vector<linear_case> linear_cases() {
  using namespace detail;
  std::vector<linear_case> cases;
  for (std::size_t i = 0; i < lengths().size(); ++i) {
    cases.push_back({.n = cycle(counts, i),
                     .d_in = lengths()[i],
                     .d_out = cycle(widths, i),
                     .bias = i % 3 == 1,
                     .pad = cycle(pads, i)});
  }
  for (index_t n = 1; n <= 9; ++n) {  // Every remainder of a block of rows.
    cases.push_back({.n = n, .d_in = 48, .d_out = 9 + n, .pad = n % 2});
  }
  using enum weight_type;
  for (const weight_type w : {f16, bf16, q8_0, q4_0, q4_1, q4_k, q5_k, q6_k}) {
    const index_t block = block_length(w);
    cases.push_back({.n = 1, .d_in = block == 1 ? 33 : 3 * block, .d_out = 7, .weight = w});
    cases.push_back({.n = 5,
                     .d_in = block == 1 ? 64 : 2 * block,
                     .d_out = 35,
                     .weight = w,
                     .bias = true,
                     .pad = 3});
    cases.push_back({.n = 18, .d_in = block == 1 ? 96 : block, .d_out = 64, .weight = w});
  }
  cases.push_back({.n = 0, .d_in = 16, .d_out = 16, .pad = 1});
  return seeded(std::move(cases), 1000);
}

/// Linears of SmolLM2-135M: slow on plain loops, and what performance is about.
inline std::vector<linear_case> model_linear_cases() {
  std::vector<linear_case> cases;
  for (const index_t n : {1, 32}) {
    cases.push_back({.n = n, .d_in = 576, .d_out = 576});
    cases.push_back({.n = n, .d_in = 576, .d_out = 1536, .weight = weight_type::q4_1});
    cases.push_back({.n = n, .d_in = 1536, .d_out = 576, .weight = weight_type::q8_0});
  }
  return detail::seeded(std::move(cases), 1500);
}

inline std::vector<matmul_case> matmul_cases() {
  using namespace detail;
  std::vector<matmul_case> cases;
  for (const bool transpose : {false, true}) {
    for (std::size_t i = 0; i < lengths().size(); ++i) {
      cases.push_back({.batch = 1 + static_cast<index_t>(i % 3),
                       .m = cycle(counts, i),
                       .n = cycle(widths, i + 3),
                       .k = lengths()[i],
                       .options = {.transpose_b = transpose,
                                   .accumulate = i % 2 == 1,
                                   .alpha = i % 3 == 2 ? -0.75 : 1.0},
                       .share_b = i % 4 == 3,
                       .pad = cycle(pads, i)});
      cases.push_back({.batch = 2,
                       .m = cycle(counts, i + 4),
                       .n = lengths()[i],
                       .k = cycle(widths, i),
                       .options = {.transpose_b = transpose},
                       .pad = cycle(pads, i + 1)});
    }
    // Square: a transposition overlooked keeps every extent.
    cases.push_back({.batch = 2, .m = 16, .n = 16, .k = 16, .options = {.transpose_b = transpose}});
    for (const bool accumulate : {false, true}) {
      cases.push_back({.batch = 2,
                       .m = 3,
                       .n = 5,
                       .k = 0,
                       .options = {.transpose_b = transpose, .accumulate = accumulate},
                       .pad = 1});
    }
    cases.push_back({.batch = 2, .m = 0, .n = 5, .k = 3, .options = {.transpose_b = transpose}});
  }
  return seeded(std::move(cases), 2000);
}

inline std::vector<norm_case> norm_cases() {
  using namespace detail;
  std::vector<norm_case> cases;
  for (const norm_kind kind : {norm_kind::rms, norm_kind::layer}) {
    for (std::size_t i = 0; i < lengths().size(); ++i) {
      cases.push_back({.n = cycle(counts, i),
                       .d = lengths()[i],
                       .kind = kind,
                       .bias = i % 2 == 1,
                       .in_place = i % 3 == 2,
                       .pad = cycle(pads, i)});
    }
    cases.push_back({.n = 3, .d = 576, .kind = kind, .rows = norm_rows::offset});
    cases.push_back({.n = 3, .d = 100, .kind = kind, .rows = norm_rows::tiny});
    cases.push_back({.n = 3, .d = 40, .kind = kind, .rows = norm_rows::zero, .pad = 1});
    cases.push_back({.n = 2, .d = 40, .kind = kind, .bias = true, .rows = norm_rows::zero});
    cases.push_back({.n = 2, .d = 1031, .kind = kind});
    cases.push_back({.n = 0, .d = 8, .kind = kind});
  }
  return seeded(std::move(cases), 3000);
}

inline std::vector<rope_case> rope_cases() {
  using namespace detail;
  std::vector<rope_case> cases;
  const index_t dims[] = {2, 8, 16, 30, 64, 80, 128, 256};
  for (std::size_t i = 0; i < 16; ++i) {
    cases.push_back({.n = cycle(counts, i),
                     .n_heads = 1 + static_cast<index_t>(i % 5),
                     .head_dim = cycle(dims, i),
                     .last_position = i % 3 == 0 ? 1000000 : 64,
                     .magnitude = i % 4 == 3 ? 1.1 : 1.0,
                     .pad = cycle(pads, i)});
  }
  cases.push_back({.n = 4, .n_heads = 2, .head_dim = 64, .last_position = 1 << 20});
  cases.push_back({.n = 0, .n_heads = 2, .head_dim = 8});
  return seeded(std::move(cases), 4000);
}

inline std::vector<activation_case> activation_cases() {
  using namespace detail;
  std::vector<activation_case> cases;
  for (const activation_kind kind :
       {activation_kind::silu, activation_kind::gelu, activation_kind::gelu_tanh}) {
    for (std::size_t i = 0; i < lengths().size(); i += 2) {
      const bool gated = i % 4 == 0;
      cases.push_back({.n = cycle(counts, i),
                       .d = lengths()[i],
                       .kind = kind,
                       .gated = gated,
                       .pad = cycle(pads, i)});
    }
    cases.push_back({.n = 4, .d = 300, .kind = kind, .extreme = true});
    cases.push_back({.n = 3, .d = 37, .kind = kind, .gated = false, .extreme = true, .pad = 1});
    cases.push_back({.n = 3, .d = 65, .kind = kind, .output = aliasing::first, .pad = 1});
    cases.push_back({.n = 3, .d = 65, .kind = kind, .output = aliasing::second});
    cases.push_back({.n = 0, .d = 5, .kind = kind});
  }
  return seeded(std::move(cases), 5000);
}

inline std::vector<add_case> add_cases() {
  using namespace detail;
  std::vector<add_case> cases;
  for (std::size_t i = 0; i < lengths().size(); ++i) {
    cases.push_back({.n = cycle(counts, i),
                     .d = lengths()[i],
                     .repeat_b = i % 3 == 1,
                     .output = i % 4 == 2 ? aliasing::first : aliasing::none,
                     .pad = cycle(pads, i)});
  }
  cases.push_back({.n = 6, .d = 33, .output = aliasing::second, .pad = 1});
  cases.push_back({.n = 0, .d = 4});
  return seeded(std::move(cases), 6000);
}

inline std::vector<softmax_case> softmax_cases() {
  using namespace detail;
  using enum mask_choice;
  std::vector<softmax_case> cases;
  const mask_choice masks[] = {causal, irregular, everything, spans};
  for (std::size_t i = 0; i < lengths().size(); ++i) {
    cases.push_back({.n_heads = 1 + static_cast<index_t>(i % 3),
                     .n_q = cycle(counts, i),
                     .n_k = lengths()[i],
                     .mask = masks[i % 4],
                     .scale = i % 2 == 0 ? 0.125 : 1.0,
                     .poison = i % 3 != 0,
                     .lse = i % 5 != 4,
                     .pad = cycle(pads, i)});
  }
  for (const mask_choice m : masks) {
    cases.push_back({.n_heads = 2, .n_q = 19, .n_k = 70, .mask = m, .poison = true, .pad = 3});
    cases.push_back({.n_heads = 1, .n_q = 6, .n_k = 1031, .mask = m, .poison = true});
  }
  // Scores whose exponentials overflow unless the maximum goes first.
  cases.push_back({.n_q = 5, .n_k = 40, .mask = everything, .scale = 1.0, .magnitude = 2000.0});
  cases.push_back({.n_heads = 2, .n_q = 3, .n_k = 20, .mask = nothing, .poison = true, .pad = 1});
  cases.push_back({.n_heads = 2, .n_q = 3, .n_k = 0, .mask = causal});
  cases.push_back({.n_heads = 2, .n_q = 0, .n_k = 7, .mask = causal});
  return seeded(std::move(cases), 7000);
}

template <class Case>
std::vector<Case> rows_cases(std::uint64_t base) {
  using namespace detail;
  std::vector<Case> cases;
  for (std::size_t i = 0; i < lengths().size(); ++i) {
    const index_t n = cycle(counts, i);
    cases.push_back(
        {.n = n, .m = n + static_cast<index_t>(i), .d = lengths()[i], .pad = cycle(pads, i)});
  }
  cases.push_back({.n = 300, .m = 1000, .d = 64});
  cases.push_back({.n = 0, .m = 5, .d = 3});
  return seeded(std::move(cases), base);
}
inline std::vector<gather_case> gather_cases() { return rows_cases<gather_case>(8000); }
inline std::vector<scatter_case> scatter_cases() { return rows_cases<scatter_case>(9000); }

inline std::vector<attention_case> attention_cases() {
  using namespace detail;
  std::vector<attention_case> cases;
  const index_t queries[] = {1, 2, 17, 64, 65, 5, 130};
  const index_t head_dims[] = {64, 8, 16, 80, 128};
  const index_t groups[] = {1, 3, 2, 16, 4, 8};
  const index_t anchors[] = {0, 5, 33, 1, 0, 64};
  const index_t locals[] = {1, 40, 17, 130, 0, 63, 7};
  for (std::size_t i = 0; i < 30; ++i) {
    const index_t n_kv_heads = 1 + static_cast<index_t>(i % 3);
    attention_case c{.n_q = cycle(queries, i),
                     .n_heads = n_kv_heads * cycle(groups, i),
                     .n_kv_heads = n_kv_heads,
                     .head_dim = cycle(head_dims, i),
                     .n_shared = cycle(anchors, i),
                     .n_own = cycle(anchors, i / 2 + 1),
                     .n_local = cycle(locals, i),
                     .lse = i % 4 != 3,
                     .pad = cycle(pads, i)};
    cases.push_back(c);
  }
  cases.push_back({.n_q = 4,
                   .n_heads = 6,
                   .n_kv_heads = 2,
                   .n_shared = 9,
                   .n_own = 3,
                   .n_local = 20,
                   .mask = mask_choice::nothing});
  cases.push_back({.n_q = 3, .n_heads = 2, .n_kv_heads = 2, .head_dim = 16, .n_local = 0});
  cases.push_back({.n_q = 0, .n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .n_local = 5});
  cases.push_back({.n_q = 1, .n_heads = 9, .n_kv_heads = 3, .n_own = 301, .n_local = 700});
  cases.push_back({.n_q = 100,
                   .n_heads = 9,
                   .n_kv_heads = 3,
                   .n_own = 211,
                   .n_local = 130,
                   .mask = mask_choice::sentences});
  for (const mask_choice m :
       {mask_choice::causal, mask_choice::everything, mask_choice::irregular}) {
    cases.push_back({.n_q = 67, .n_heads = 9, .n_kv_heads = 3, .n_local = 67, .mask = m});
    cases.push_back({.n_q = 5,
                     .n_heads = 4,
                     .n_kv_heads = 1,
                     .head_dim = 80,
                     .n_local = 31,
                     .mask = m,
                     .pad = 3});
  }
  return seeded(std::move(cases), 10000);
}

}  // namespace gistkv::conformance
