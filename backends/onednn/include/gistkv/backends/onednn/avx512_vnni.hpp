// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/quantized.hpp>

/// Products of weights in codes with activations in 8 bits (AVX512-VNNI). The sum over a block of
/// 32 is exact in integers; blocks add up in float.

#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni,f16c")
#endif

namespace gistkv::backends::onednn_detail::avx512_vnni {

inline __m512 load(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, __m512 v, __mmask16 lanes) { _mm512_mask_storeu_ps(p, lanes, v); }
inline void store(bf16* p, __m512 v, __mmask16 lanes) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i even = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i chosen = _mm512_mask_or_epi32(even, is_nan, u, _mm512_set1_epi32(0x400000));
  _mm256_mask_storeu_epi16(p, lanes, _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}

/// q = round(127 x / max |x|) over 32 neighbours.
template <class T>
void quantize(const quantized_rows& to, const T* x, code_format format) {
  for (index_t b = 0; b < to.d / code_block; ++b) {
    const __m512 low = load(x + b * code_block);
    const __m512 high = load(x + b * code_block + 16);
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    const float inverse = most > 0.0F ? 127.0F / most : 0.0F;
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, _mm512_set1_ps(inverse)));
    const __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(high, _mm512_set1_ps(inverse)));
    auto* q = reinterpret_cast<__m128i*>(to.q + b * code_block);
    _mm_storeu_si128(q, _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128(q + 1, _mm512_cvtepi32_epi8(c));
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(a, c));
    const float scale = most / 127.0F;
    to.scale[b] = scale;
    to.extra[b] = format.has_minimum
                      ? __builtin_bit_cast(std::uint32_t, scale * static_cast<float>(sum))
                      : static_cast<std::uint32_t>(-format.offset * sum);
  }
}

/// R rows with one panel. The eight words of a block of weights stay in registers for all R rows.
template <int Bits, bool Minimum, int R, class T>
void product_rows(T* o, index_t ldo, const quantized_rows& x, const std::byte* panel,
                  __mmask16 lanes) {
  const index_t n_blocks = x.d / code_block;
  __m512 sum[std::size_t{R}];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (index_t b = 0; b < n_blocks; ++b) {
    __m512i words[8];
    if constexpr (Bits == 8) {
#pragma GCC unroll 8
      for (int w = 0; w < 8; ++w) words[w] = _mm512_loadu_si512(panel + 64 * w);
    } else {
      const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
      for (int w = 0; w < 4; ++w) {
        const __m512i pairs = _mm512_loadu_si512(panel + 64 * w);
        words[w] = _mm512_and_si512(pairs, low);
        words[w + 4] = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low);
      }
    }
    const auto* halves = reinterpret_cast<const __m256i*>(panel + 64 * Bits);
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(halves));
    const __m512 minimum =
        Minimum ? _mm512_cvtph_ps(_mm256_loadu_si256(halves + 1)) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const std::int8_t* q = x.q + r * x.d + b * code_block;
      const index_t at = r * n_blocks + b;
      __m512i dot = _mm512_setzero_si512();
      if constexpr (!Minimum) {
        dot = _mm512_set1_epi32(static_cast<std::int32_t>(x.extra[at]));
      }
#pragma GCC unroll 8
      for (int w = 0; w < 8; ++w) {
        std::int32_t four;
        __builtin_memcpy(&four, q + 4 * w, 4);
        dot = _mm512_dpbusd_epi32(dot, words[w], _mm512_set1_epi32(four));
      }
      const __m512 scaled = _mm512_mul_ps(scale, _mm512_set1_ps(x.scale[at]));
      sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scaled, sum[r]);
      if constexpr (Minimum) {
        const float of_x = __builtin_bit_cast(float, x.extra[at]);
        sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(of_x), sum[r]);
      }
    }
    panel += 64 * Bits + (Minimum ? 64 : 32);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store(o + r * ldo, sum[r], lanes);
}

template <int Bits, bool Minimum, class T>
void product_of(T* o, index_t ldo, const quantized_rows& x, index_t n, const std::byte* panel,
                __mmask16 lanes) {
  index_t i = 0;
  for (; i + 8 <= n; i += 8) {
    product_rows<Bits, Minimum, 8>(o + i * ldo, ldo, x.from(i), panel, lanes);
  }
  for (; i + 4 <= n; i += 4) {
    product_rows<Bits, Minimum, 4>(o + i * ldo, ldo, x.from(i), panel, lanes);
  }
  for (; i < n; ++i) product_rows<Bits, Minimum, 1>(o + i * ldo, ldo, x.from(i), panel, lanes);
}

template <class T>
void product(T* o, index_t ldo, const quantized_rows& x, index_t n, const std::byte* panel,
             index_t n_out, code_format format) {
  const auto lanes = static_cast<__mmask16>((1U << n_out) - 1U);
  if (format.bits == 8) {
    product_of<8, false>(o, ldo, x, n, panel, lanes);
  } else if (format.has_minimum) {
    product_of<4, true>(o, ldo, x, n, panel, lanes);
  } else {
    product_of<4, false>(o, ldo, x, n, panel, lanes);
  }
}

template <class T>
inline constexpr code_kernels<T> table{.quantize = quantize<T>, .product = product<T>};

}  // namespace gistkv::backends::onednn_detail::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
