// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/quantized.hpp>
#include <gistkv/backends/onednn/training_kernels.hpp>

/// The kernels for x86-64 with AVX-512 and its products of bf16 pairs.

#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")
#endif

namespace gistkv::backends::onednn_detail::avx512_bf16 {

inline constexpr int width = 16;

inline __m256i narrowed(__m512 v) { return __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(v)); }

// Each builds on those before it.
// clang-format off
#include <gistkv/backends/onednn/simd/lanes_avx512.inc>
#include <gistkv/backends/onednn/simd/functions.inc>
#include <gistkv/backends/onednn/simd/rows.inc>
#include <gistkv/backends/onednn/simd/transpose_avx512.inc>
#include <gistkv/backends/onednn/simd/dot_bf16.inc>
#include <gistkv/backends/onednn/simd/few_rows_bf16.inc>
#include <gistkv/backends/onednn/simd/attention.inc>
#include <gistkv/backends/onednn/simd/table.inc>
#include <gistkv/backends/onednn/simd/training.inc>
// clang-format on

/// As avx512_vnni::minima_in_floats, rounded to bf16: those of two blocks in a word.
struct minima_in_pairs {
  static void put_sums(const quantized_rows& x) {
    const index_t n_blocks = x.d / code_block;
    for (index_t b = 0; b < n_blocks; ++b) {
      const bf16 sum(__builtin_bit_cast(float, x.extra[b]));
      const std::uint32_t before = b % 2 == 0 ? 0 : x.extra[b / 2];
      x.extra[b / 2] = before | static_cast<std::uint32_t>(sum.bits) << (b % 2 == 0 ? 0 : 16);
    }
  }
  static void put(const expanded_panels& o, index_t b, index_t p, __m512 minima) {
    const __m512i half = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_castps_si512(minima), _mm512_set1_epi32(0x8000)), 16);
    std::uint32_t* to = o.minimum + b / 2 * expanded_panels::rows + 16 * p;
    _mm512_storeu_si512(
        to,
        b % 2 == 0 ? half : _mm512_or_si512(_mm512_loadu_si512(to), _mm512_slli_epi32(half, 16)));
  }
  template <int R>
  static void add(__m512 (&sum)[std::size_t{R}][2], const quantized_rows& x,
                  const std::uint32_t* minimum) {
    const index_t n_blocks = x.d / code_block;
    for (index_t b = 0; b < (n_blocks + 1) / 2; ++b, minimum += expanded_panels::rows) {
      const auto left = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(minimum));
      const auto right = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(minimum + 16));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const auto of_x = __builtin_bit_cast(
            __m512bh, _mm512_set1_epi32(static_cast<std::int32_t>(x.extra[r * n_blocks + b])));
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], left, of_x);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], right, of_x);
      }
    }
  }
};

}  // namespace gistkv::backends::onednn_detail::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
