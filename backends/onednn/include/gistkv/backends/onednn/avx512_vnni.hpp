// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/quantized.hpp>

/// Products of weights in codes with activations in whole numbers (AVX512-VNNI), and codes as pairs
/// of bf16. The sum over a block of 32 is exact in integers; blocks add up in float.

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

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline __m512 load(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline void store(float* p, __m512 v, __mmask16 lanes) { _mm512_mask_storeu_ps(p, lanes, v); }
inline void store(bf16* p, __m512 v, __mmask16 lanes) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i even = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i chosen = _mm512_mask_or_epi32(even, is_nan, u, _mm512_set1_epi32(0x400000));
  _mm256_mask_storeu_epi16(p, lanes, _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}

/// q = round(127 * 128 x / max |x|) over 32 neighbours, as 128 high + low.
template <class T>
void quantize(const quantized_rows& to, const T* x, code_format format) {
  constexpr float largest = 127.0F * 128.0F;
  for (index_t b = 0; b < to.d / code_block; ++b) {
    const __m512 left = load(x + b * code_block);
    const __m512 right = load(x + b * code_block + 16);
    const float most =
        _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(left), _mm512_abs_ps(right)));
    const __m512 inverse = _mm512_set1_ps(most > 0.0F ? largest / most : 0.0F);
    const __m512i q[2] = {_mm512_cvtps_epi32(_mm512_mul_ps(left, inverse)),
                          _mm512_cvtps_epi32(_mm512_mul_ps(right, inverse))};
    auto* parts = reinterpret_cast<__m128i*>(to.parts + b * 2 * code_block);
    for (int i = 0; i < 2; ++i) {
      const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q[i], _mm512_set1_epi32(64)), 7);
      const __m512i low = _mm512_sub_epi32(q[i], _mm512_slli_epi32(high, 7));
      _mm_storeu_si128(parts + i, _mm512_cvtepi32_epi8(high));
      _mm_storeu_si128(parts + 2 + i, _mm512_cvtepi32_epi8(low));
    }
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
    const float scale = most / largest;
    to.scale[b] = scale;
    to.extra[b] = format.has_minimum
                      ? __builtin_bit_cast(std::uint32_t, scale * static_cast<float>(sum))
                      : static_cast<std::uint32_t>(-format.offset * sum);
  }
}

/// The eight words of one record: codes of four columns for each of 16 rows.
template <int Bits>
inline void load_words(__m512i (&words)[8], const std::byte* record) {
  if constexpr (Bits == 8) {
#pragma GCC unroll 8
    for (int w = 0; w < 8; ++w) words[w] = _mm512_loadu_si512(record + 64 * w);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int w = 0; w < 4; ++w) {
      const __m512i pairs = _mm512_loadu_si512(record + 64 * w);
      words[w] = _mm512_and_si512(pairs, low);
      words[w + 4] = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low);
    }
  }
}
template <int Bits>
inline __m512 load_scale(const std::byte* record) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(record + 64 * Bits)));
}
template <int Bits, bool Minimum>
inline __m512 load_minimum(const std::byte* record) {
  if constexpr (!Minimum) return _mm512_setzero_ps();
  return _mm512_cvtph_ps(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(record + 64 * Bits + 32)));
}
template <int Bits, bool Minimum>
inline constexpr std::size_t record_size = 64 * Bits + (Minimum ? 64 : 32);

/// R rows with one panel. The words of a block of weights stay in registers for all R rows.
template <int Bits, bool Minimum, int R, class T>
void product_rows(T* o, index_t ldo, const quantized_rows& x, const std::byte* panel,
                  __mmask16 lanes) {
  const index_t n_blocks = x.d / code_block;
  __m512 sum[std::size_t{R}];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (index_t b = 0; b < n_blocks; ++b) {
    __m512i words[8];
    load_words<Bits>(words, panel);
    const __m512 scale = load_scale<Bits>(panel);
    const __m512 minimum = load_minimum<Bits, Minimum>(panel);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const std::int8_t* parts = x.parts + 2 * (r * x.d + b * code_block);
      const index_t at = r * n_blocks + b;
      __m512i high = _mm512_setzero_si512();
      __m512i low = Minimum ? _mm512_setzero_si512()
                            : _mm512_set1_epi32(static_cast<std::int32_t>(x.extra[at]));
#pragma GCC unroll 8
      for (int w = 0; w < 8; ++w) {
        std::int32_t four[2];
        __builtin_memcpy(&four[0], parts + 4 * w, 4);
        __builtin_memcpy(&four[1], parts + code_block + 4 * w, 4);
        high = _mm512_dpbusd_epi32(high, words[w], _mm512_set1_epi32(four[0]));
        low = _mm512_dpbusd_epi32(low, words[w], _mm512_set1_epi32(four[1]));
      }
      const __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(high, 7), low);
      const __m512 scaled = _mm512_mul_ps(scale, _mm512_set1_ps(x.scale[at]));
      sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scaled, sum[r]);
      if constexpr (Minimum) {
        const float of_x = __builtin_bit_cast(float, x.extra[at]);
        sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(of_x), sum[r]);
      }
    }
    panel += record_size<Bits, Minimum>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store(o + r * ldo, sum[r], lanes);
}

template <int Bits, bool Minimum, class T>
void product_of(T* o, index_t ldo, const quantized_rows& x, index_t n, const std::byte* panel,
                __mmask16 lanes) {
  // Every number of rows up to 6 in one pass: unpacking a panel costs as much as a row of products.
  index_t i = 0;
  for (; n - i > 6; i += 4) {
    product_rows<Bits, Minimum, 4>(o + i * ldo, ldo, x.from(i), panel, lanes);
  }
  const auto rest = x.from(i);
  T* to = o + i * ldo;
  switch (n - i) {
    case 1:
      return product_rows<Bits, Minimum, 1>(to, ldo, rest, panel, lanes);
    case 2:
      return product_rows<Bits, Minimum, 2>(to, ldo, rest, panel, lanes);
    case 3:
      return product_rows<Bits, Minimum, 3>(to, ldo, rest, panel, lanes);
    case 4:
      return product_rows<Bits, Minimum, 4>(to, ldo, rest, panel, lanes);
    case 5:
      return product_rows<Bits, Minimum, 5>(to, ldo, rest, panel, lanes);
    case 6:
      return product_rows<Bits, Minimum, 6>(to, ldo, rest, panel, lanes);
    default:
      return;
  }
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

/// Four panels as words of two bf16 each, [d / 2][64].
template <int Bits, bool Minimum>
void widen_panels(std::uint32_t* o, const std::byte* const (&panels)[4], index_t n_blocks,
                  int code_offset) {
  const __m512i byte = _mm512_set1_epi32(255);
  const __m512i half = _mm512_set1_epi32(0x8000);
  for (index_t b = 0; b < n_blocks; ++b) {
    for (int p = 0; p < 4; ++p) {
      const std::byte* record =
          panels[p] + static_cast<std::size_t>(b) * record_size<Bits, Minimum>;
      __m512i words[8];
      load_words<Bits>(words, record);
      const __m512 scale = load_scale<Bits>(record);
      const __m512 minimum =
          Minimum ? load_minimum<Bits, Minimum>(record)
                  : _mm512_mul_ps(scale, _mm512_set1_ps(-static_cast<float>(code_offset)));
#pragma GCC unroll 8
      for (int w = 0; w < 8; ++w) {
        __m512i rounded[4];
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; ++i) {
          const __m512i code = _mm512_and_si512(_mm512_srli_epi32(words[w], 8 * i), byte);
          const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), scale, minimum);
          rounded[i] = _mm512_add_epi32(_mm512_castps_si512(value), half);
        }
        std::uint32_t* to = o + ((b * 16 + 2 * w) * 64 + 16 * p);
        const __m512i upper = _mm512_set1_epi32(static_cast<std::int32_t>(0xffff0000U));
        _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(rounded[0], 16),
                                                _mm512_and_si512(rounded[1], upper)));
        _mm512_storeu_si512(to + 64, _mm512_or_si512(_mm512_srli_epi32(rounded[2], 16),
                                                     _mm512_and_si512(rounded[3], upper)));
      }
    }
  }
}

inline void widen(std::uint32_t* o, const std::byte* const (&panels)[4], index_t n_blocks,
                  code_format format) {
  if (format.bits == 8) {
    widen_panels<8, false>(o, panels, n_blocks, format.offset);
  } else if (format.has_minimum) {
    widen_panels<4, true>(o, panels, n_blocks, 0);
  } else {
    widen_panels<4, false>(o, panels, n_blocks, format.offset);
  }
}

template <class T>
inline constexpr code_kernels<T> table{
    .quantize = quantize<T>, .product = product<T>, .widen = widen};

}  // namespace gistkv::backends::onednn_detail::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
