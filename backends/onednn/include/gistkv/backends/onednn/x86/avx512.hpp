// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/training_kernels.hpp>

/// The kernels for x86-64 with AVX-512.

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif

namespace gistkv::backends::onednn_detail::avx512 {

inline constexpr int width = 16;

inline __m256i narrowed(__m512 v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i even = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i chosen = _mm512_mask_or_epi32(even, is_nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16));
}

// Each builds on those before it.
// clang-format off
#include <gistkv/backends/onednn/simd/lanes_avx512.inc>
#include <gistkv/backends/onednn/simd/functions.inc>
#include <gistkv/backends/onednn/simd/rows.inc>
#include <gistkv/backends/onednn/simd/transpose_avx512.inc>
#include <gistkv/backends/onednn/simd/dot_f32.inc>
#include <gistkv/backends/onednn/simd/attention.inc>
#include <gistkv/backends/onednn/simd/table.inc>
#include <gistkv/backends/onednn/simd/training.inc>
#include <gistkv/backends/onednn/simd/weight_panels.inc>
#include <gistkv/backends/onednn/simd/wide_panels.inc>
// clang-format on

}  // namespace gistkv::backends::onednn_detail::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
