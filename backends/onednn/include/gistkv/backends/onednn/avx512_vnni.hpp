// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/quantized.hpp>

/// Products of weights in codes: few rows with activations in whole numbers (AVX512-VNNI), where
/// the sum over a block of 32 is exact; many rows with activations in bf16 (AVX512-BF16).

#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni,avx512bf16,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni,avx512bf16,f16c")
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

/// Asks for a record that is needed some blocks later: several rows are so much work a block that
/// the CPU does not look ahead far enough by itself.
template <int Bits, bool Minimum>
inline void prefetch_record(const std::byte* record) {
  constexpr std::size_t ahead = 4096;
#pragma GCC unroll 16
  for (std::size_t i = 0; i < record_size<Bits, Minimum>; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(record + ahead + i), _MM_HINT_T0);
  }
}

/// R rows with one panel. The words of a block of weights stay in registers for all R rows.
template <int Bits, bool Minimum, int R, class T>
void product_rows(T* o, index_t ldo, const quantized_rows& x, const std::byte* panel,
                  __mmask16 lanes) {
  const index_t n_blocks = x.d / code_block;
  __m512 sum[std::size_t{R}];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (index_t b = 0; b < n_blocks; ++b) {
    if constexpr (R > 1) prefetch_record<Bits, Minimum>(panel);
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

/// The upper halves of floats, rounded.
inline __m512i to_bf16(__m512 x) {
  return _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)), 16);
}

/// Four panels as words of two codes each, less the centre, in bf16, which holds them exactly.
template <int Bits, bool Minimum>
void expand_panels(const expanded_panels& o, const std::byte* const (&panels)[4], index_t n_blocks,
                   int centre) {
  const __m512i byte = _mm512_set1_epi32(255);
  const __m512i upper = _mm512_set1_epi32(static_cast<std::int32_t>(0xffff0000U));
  for (index_t b = 0; b < n_blocks; ++b) {
    for (int p = 0; p < 4; ++p) {
      const std::byte* record =
          panels[p] + static_cast<std::size_t>(b) * record_size<Bits, Minimum>;
      __m512i words[8];
      load_words<Bits>(words, record);
      const __m512 scale = load_scale<Bits>(record);
      _mm512_storeu_ps(o.scale + b * 64 + 16 * p, scale);
      if constexpr (Minimum) {
        const __m512i rest =
            to_bf16(_mm512_fmadd_ps(scale, _mm512_set1_ps(static_cast<float>(centre)),
                                    load_minimum<Bits, Minimum>(record)));
        std::uint32_t* to = o.minimum + b / 2 * 64 + 16 * p;
        _mm512_storeu_si512(
            to, b % 2 == 0 ? rest
                           : _mm512_or_si512(_mm512_loadu_si512(to), _mm512_slli_epi32(rest, 16)));
      }
#pragma GCC unroll 8
      for (int w = 0; w < 8; ++w) {
        __m512i code[4];
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; ++i) {
          const __m512i plain = _mm512_and_si512(_mm512_srli_epi32(words[w], 8 * i), byte);
          code[i] = _mm512_castps_si512(
              _mm512_cvtepi32_ps(_mm512_sub_epi32(plain, _mm512_set1_epi32(centre))));
        }
        std::uint32_t* to = o.words + ((b * 16 + 2 * w) * 64 + 16 * p);
        for (int i = 0; i < 2; ++i) {
          _mm512_storeu_si512(to + 64 * i,
                              _mm512_or_si512(_mm512_srli_epi32(code[2 * i], 16),
                                              _mm512_and_si512(code[2 * i + 1], upper)));
        }
      }
    }
  }
}

inline void expand(const expanded_panels& o, const std::byte* const (&panels)[4], index_t n_blocks,
                   code_format format) {
  if (format.bits == 8) {
    expand_panels<8, false>(o, panels, n_blocks, format.offset);
  } else if (format.has_minimum) {
    // The middle of 4 bits: what then remains of the minimum is small, and bf16 enough for it.
    expand_panels<4, true>(o, panels, n_blocks, 8);
  } else {
    expand_panels<4, false>(o, panels, n_blocks, format.offset);
  }
}

/// o[b / 2] = the sums of two blocks of 32 neighbours, as a pair of bf16.
inline void sum_blocks(std::uint32_t* o, const bf16* x, index_t n_blocks) {
  for (index_t b = 0; b < n_blocks; ++b) {
    const bf16 sum(_mm512_reduce_add_ps(
        _mm512_add_ps(load(x + b * code_block), load(x + b * code_block + 16))));
    if (b % 2 == 0) o[b / 2] = 0;
    o[b / 2] |= static_cast<std::uint32_t>(sum.bits) << (b % 2 == 0 ? 0 : 16);
  }
}

/// R rows with two panels, 32 outputs of the 64: codes with bf16 add up over a block, blocks with
/// their scales. Sums of both kinds stay in registers.
template <bool Minimum, int R, class T>
void expanded_rows(T* o, index_t ldo, const bf16* x, const std::uint32_t* sums, index_t n_blocks,
                   const expanded_panels& w, const __mmask16 (&lanes)[2]) {
  __m512 sum[std::size_t{R}][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  const index_t n_pairs = (n_blocks + 1) / 2;
  for (index_t b = 0; Minimum && b < n_pairs; ++b) {
    const auto left = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(w.minimum + b * 64));
    const auto right = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(w.minimum + b * 64 + 16));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto of_x = __builtin_bit_cast(
          __m512bh, _mm512_set1_epi32(static_cast<std::int32_t>(sums[r * n_pairs + b])));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], left, of_x);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], right, of_x);
    }
  }
  const index_t d = n_blocks * code_block;
  for (index_t b = 0; b < n_blocks; ++b) {
    __m512 dot[std::size_t{R}][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int k = 0; k < code_block / 2; ++k) {
      const std::uint32_t* at = w.words + (b * (code_block / 2) + k) * 64;
      const auto left = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(at));
      const auto right = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(at + 16));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        std::int32_t pair;
        __builtin_memcpy(&pair, x + r * d + b * code_block + 2 * k, 4);
        const auto factor = __builtin_bit_cast(__m512bh, _mm512_set1_epi32(pair));
        dot[r][0] = _mm512_dpbf16_ps(dot[r][0], left, factor);
        dot[r][1] = _mm512_dpbf16_ps(dot[r][1], right, factor);
      }
    }
    const __m512 scale[2] = {_mm512_loadu_ps(w.scale + b * 64),
                             _mm512_loadu_ps(w.scale + b * 64 + 16)};
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sum[r][0] = _mm512_fmadd_ps(dot[r][0], scale[0], sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(dot[r][1], scale[1], sum[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    store(o + r * ldo, sum[r][0], lanes[0]);
    store(o + r * ldo + 16, sum[r][1], lanes[1]);
  }
}

/// Rows from i on, R at a time; returns the first that is left.
template <bool Minimum, int R, class T>
index_t expanded_tile(T* o, index_t ldo, const bf16* x, const std::uint32_t* sums, index_t i,
                      index_t n, index_t n_blocks, const expanded_panels& w,
                      const __mmask16 (&lanes)[2]) {
  for (; i + R <= n; i += R) {
    expanded_rows<Minimum, R>(o + i * ldo, ldo, x + i * n_blocks * code_block,
                              sums + i * ((n_blocks + 1) / 2), n_blocks, w, lanes);
  }
  return i;
}

template <bool Minimum, class T>
void expanded_product(T* o, index_t ldo, const bf16* x, const std::uint32_t* sums, index_t n,
                      index_t n_blocks, const expanded_panels& w, index_t n_out) {
  for (index_t first = 0; first < n_out; first += 32) {
    const expanded_panels part{w.words + first, w.scale + first, w.minimum + first};
    __mmask16 lanes[2];
    for (index_t i = 0; i < 2; ++i) {
      const index_t left = n_out - first - 16 * i;
      lanes[i] = static_cast<__mmask16>(left >= 16 ? 0xffff : left > 0 ? (1U << left) - 1U : 0);
    }
    T* to = o + first;
    index_t i = 0;
    i = expanded_tile<Minimum, 6>(to, ldo, x, sums, i, n, n_blocks, part, lanes);
    i = expanded_tile<Minimum, 3>(to, ldo, x, sums, i, n, n_blocks, part, lanes);
    expanded_tile<Minimum, 1>(to, ldo, x, sums, i, n, n_blocks, part, lanes);
  }
}

template <class T>
void multiply_expanded(T* o, index_t ldo, const bf16* x, const std::uint32_t* sums, index_t n,
                       index_t n_blocks, const expanded_panels& w, index_t n_out,
                       code_format format) {
  if (format.has_minimum) {
    expanded_product<true>(o, ldo, x, sums, n, n_blocks, w, n_out);
  } else {
    expanded_product<false>(o, ldo, x, sums, n, n_blocks, w, n_out);
  }
}

template <class T>
inline constexpr code_kernels<T> table{.quantize = quantize<T>,
                                       .product = product<T>,
                                       .expand = expand,
                                       .sum_blocks = sum_blocks,
                                       .multiply_expanded = multiply_expanded<T>};

}  // namespace gistkv::backends::onednn_detail::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
