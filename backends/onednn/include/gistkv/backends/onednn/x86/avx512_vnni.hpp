// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <gistkv/backends/onednn/quantized.hpp>

/// Products of weights in codes with activations in 16 bits (AVX512-VNNI). The sum over a block of
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

using combination = __m512i (*)(__m512i a, __m512i b);
inline __m512i larger_lanes(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }
inline __m512i added_lanes(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }

/// Lane i: what Combine makes of all lanes of x[i]. Four at once take half the steps.
template <combination Combine>
inline __m128i reduce_four(const __m512i (&x)[4]) {
  const __m512i first =
      Combine(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
  const __m512i second =
      Combine(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
  __m512i quarters =
      Combine(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
  quarters = Combine(quarters, _mm512_shuffle_i64x2(quarters, quarters, 0x4e));
  return _mm512_castsi512_si128(Combine(quarters, _mm512_shuffle_i64x2(quarters, quarters, 0xb1)));
}

/// For each four neighbours of 16 bits the order 0 2 1 3.
inline __m512i order_of_neighbours() {
  return _mm512_set_epi16(31, 29, 30, 28, 27, 25, 26, 24, 23, 21, 22, 20, 19, 17, 18, 16, 15, 13,
                          14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
}

/// Blocks of a row, four at a time; behind the last one it is worked on again, and not stored.
struct block_quads {
  index_t n_blocks;

  index_t block(index_t b, int i) const { return b + i < n_blocks ? b + i : n_blocks - 1; }
  __mmask8 stored(index_t b) const {
    return static_cast<__mmask8>(n_blocks - b < 4 ? (1U << (n_blocks - b)) - 1U : 15U);
  }
  /// The largest magnitudes of blocks b to b + 3 of x, as integers: what is no number is then
  /// greater than all that are.
  template <class T>
  __m128i largest(const T* x, index_t b) const {
    __m512i most[4];
    for (int i = 0; i < 4; ++i) {
      const T* from = x + block(b, i) * code_block;
      most[i] = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(load(from))),
                                 _mm512_castps_si512(_mm512_abs_ps(load(from + 16))));
    }
    return reduce_four<larger_lanes>(most);
  }
};

/// (v - lower) / 256, where lower is the last eight bits of v and their sign.
inline __m128i upper_half(__m512i v) {
  return _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(128)), 8));
}

/// See quantized_rows. As halves, values end at 127 / 128 of what they otherwise may be: the upper
/// half of a greater one would need a ninth bit.
template <class T, bool Halves>
void quantize(const quantized_rows& to, const T* x, code_format format) {
  constexpr float most_of_range = Halves ? 127.0F / 128.0F : 1.0F;
  const index_t n_blocks = to.d / code_block;
  const block_quads quads{n_blocks};
  // The exponent of the largest element of each block, and of the row: |x| < 2^(exponent - 126).
  __m128i most_of_row = _mm_setzero_si128();
  __m128i least_of_row = _mm_set1_epi32(255);
  for (index_t b = 0; b < n_blocks; b += 4) {
    const __m128i exponents = _mm_srli_epi32(quads.largest(x, b), 23);
    _mm_mask_storeu_epi32(to.shift + b, quads.stored(b), exponents);
    most_of_row = _mm_max_epi32(most_of_row, exponents);
    least_of_row = _mm_min_epi32(least_of_row, exponents);
  }
  const std::int32_t most = _mm512_reduce_max_epi32(_mm512_zextsi128_si512(most_of_row));
  const std::int32_t least = _mm512_mask_reduce_min_epi32(15, _mm512_castsi128_si512(least_of_row));
  const std::int32_t base = base_exponent(least, most);
  // Where an element is not a number or infinite, neither is any result.
  *to.scale =
      most == 255 ? __builtin_nanf("") : __builtin_ldexpf(1.0F / most_of_range, base - 126 - 15);

  const __m512i order = order_of_neighbours();
  for (index_t b = 0; b < n_blocks; b += 4) {
    const __m128i exponents =
        _mm_max_epi32(_mm_maskz_loadu_epi32(quads.stored(b), to.shift + b), _mm_set1_epi32(base));
    const __m512 powers =
        _mm512_castps128_ps512(_mm_cvtepi32_ps(_mm_sub_epi32(_mm_set1_epi32(126 + 15), exponents)));
    __m512i sums[4];
    for (int i = 0; i < 4; ++i) {
      const index_t at = quads.block(b, i) * code_block;
      const __m512 power =
          _mm512_permutexvar_ps(_mm512_set1_epi32(static_cast<int>(quads.block(b, i) - b)), powers);
      const auto whole = [&](const T* from) {
        __m512 scaled = _mm512_scalef_ps(load(from), power);
        if constexpr (Halves) scaled = _mm512_mul_ps(scaled, _mm512_set1_ps(most_of_range));
        return _mm512_cvtps_epi32(scaled);
      };
      const __m512i left = whole(x + at);
      const __m512i right = whole(x + at + 16);
      if constexpr (Halves) {
        auto* lower = reinterpret_cast<__m128i*>(to.lower_half(0) + at);
        auto* upper = reinterpret_cast<__m128i*>(to.upper_half(0) + at);
        _mm_storeu_si128(lower, _mm512_cvtepi32_epi8(left));
        _mm_storeu_si128(lower + 1, _mm512_cvtepi32_epi8(right));
        _mm_storeu_si128(upper, upper_half(left));
        _mm_storeu_si128(upper + 1, upper_half(right));
        sums[i] = _mm512_add_epi32(left, right);
      } else {
        const __m512i both = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm512_cvtsepi32_epi16(left)), _mm512_cvtsepi32_epi16(right), 1);
        _mm512_storeu_si512(to.values + at, _mm512_permutexvar_epi16(order, both));
        // The sum of what is stored, which may be one less than what was rounded.
        sums[i] = _mm512_madd_epi16(both, _mm512_set1_epi16(1));
      }
    }
    const __m128i total = reduce_four<added_lanes>(sums);
    const __m128i shift = _mm_slli_epi32(_mm_sub_epi32(exponents, _mm_set1_epi32(base)), 23);
    // 2^s of the place of an exponent: s is 24 at most.
    const __m128 factor =
        _mm_castsi128_ps(_mm_add_epi32(shift, _mm_castps_si128(_mm_set1_ps(1.0F))));
    const __m128i extra = format.has_minimum
                              ? _mm_castps_si128(_mm_mul_ps(_mm_cvtepi32_ps(total), factor))
                              : _mm_mullo_epi32(total, _mm_set1_epi32(-format.offset));
    _mm_mask_storeu_epi32(to.shift + b, quads.stored(b), shift);
    _mm_mask_storeu_epi32(to.extra + b, quads.stored(b), extra);
  }
}

/// See coarse_rows.
template <class T>
void quantize_coarse(const coarse_rows& to, const T* x, code_format format) {
  const index_t n_blocks = to.d / code_block;
  const block_quads quads{n_blocks};
  for (index_t b = 0; b < n_blocks; b += 4) {
    const __mmask8 stored = quads.stored(b);
    const __m128i most = quads.largest(x, b);
    // What is smaller is zero: its reciprocal might be none.
    const __mmask8 counts = _mm_cmpge_epi32_mask(most, _mm_set1_epi32((127 - 100) << 23));
    const __mmask8 is_finite = _mm_cmplt_epi32_mask(most, _mm_set1_epi32(255 << 23));
    const __m128 size = _mm_maskz_mov_ps(counts, _mm_castsi128_ps(most));
    const __m512 inverse =
        _mm512_castps128_ps512(_mm_maskz_div_ps(counts, _mm_set1_ps(127.0F), size));
    // Where an element is not a number or infinite, neither is any result.
    const __m128 scale = _mm_mask_mul_ps(_mm_set1_ps(__builtin_nanf("")), is_finite, size,
                                         _mm_set1_ps(1.0F / 127.0F));
    __m512i sums[4];
    for (int i = 0; i < 4; ++i) {
      const index_t at = quads.block(b, i) * code_block;
      const __m512 factor = _mm512_permutexvar_ps(
          _mm512_set1_epi32(static_cast<int>(quads.block(b, i) - b)), inverse);
      const __m512i left = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + at), factor));
      const __m512i right = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + at + 16), factor));
      auto* values = reinterpret_cast<__m128i*>(to.values + at);
      _mm_storeu_si128(values, _mm512_cvtsepi32_epi8(left));
      _mm_storeu_si128(values + 1, _mm512_cvtsepi32_epi8(right));
      sums[i] = _mm512_add_epi32(left, right);
    }
    const __m128i total = reduce_four<added_lanes>(sums);
    const __m128i extra = format.has_minimum
                              ? _mm_castps_si128(_mm_mul_ps(_mm_cvtepi32_ps(total), scale))
                              : _mm_mullo_epi32(total, _mm_set1_epi32(-format.offset));
    _mm_mask_storeu_ps(to.scale + b, stored, scale);
    _mm_mask_storeu_epi32(to.extra + b, stored, extra);
  }
}

/// The 64 bytes number `w` of a record, in a register: the compiler would read them again for each
/// of the words in them, and reading is what a product of one row waits for.
inline __m512i load_bytes(const std::byte* record, int w) {
  __m512i bytes = _mm512_loadu_si512(record + 64 * w);
  __asm__("" : "+v"(bytes));
  return bytes;
}
/// Part `j` of bytes, see word_of.
template <int Bits>
inline __m512i part(__m512i bytes, int j) {
  const __m512i shifted = j == 0   ? bytes
                          : j == 1 ? _mm512_srli_epi16(bytes, 8)
                          : j == 2 ? _mm512_srli_epi16(bytes, 4)
                                   : _mm512_srli_epi16(bytes, 12);
  if (j == parts_of_bytes<Bits> - 1) return shifted;  // Nothing is left above.
  return _mm512_and_si512(shifted, _mm512_set1_epi16(static_cast<std::int16_t>((1 << Bits) - 1)));
}

/// Codes as they lie in `Bits` bytes: number `j` of what multiplies four neighbours, columns
/// 4 (w + 4 j) and following of 16 rows.
template <int Bits>
inline __m512i bytes_part(__m512i bytes, int j) {
  if (Bits == 8) return bytes;
  const __m512i shifted = j == 0 ? bytes : _mm512_srli_epi16(bytes, 4);
  return _mm512_and_si512(shifted, _mm512_set1_epi8(15));
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
/// Two neighbours of a row in 16 bits, or four in 8, for all lanes.
template <class Value>
inline __m512i load_word(const Value* x) {
  std::int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm512_set1_epi32(word);
}

/// sum + 2^(shift / 2^23) scale dot. The shift goes to the exponent of the scale, which is no
/// multiplication: those are what the processor has too few of.
inline __m512 add_block(__m512 sum, __m512i dot, __m512 scale, std::int32_t shift) {
  const __m512i factor = _mm512_add_epi32(_mm512_castps_si512(scale), _mm512_set1_epi32(shift));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_castsi512_ps(factor), sum);
}

/// Asks the second-level cache for a record that is needed some blocks later, further ahead than
/// the CPU looks by itself. Asking the first level made five rows a tenth slower on a Zen 4.
template <int Bits, bool Minimum>
inline void prefetch_record(const std::byte* record) {
  constexpr std::size_t ahead = 4096;
#pragma GCC unroll 16
  for (std::size_t i = 0; i < record_size<Bits, Minimum>; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(record + ahead + i), _MM_HINT_T1);
  }
}

/// F rows and C coarse ones with one panel: each word of weights is unpacked once for all of them.
/// The coarse ones stand behind the first `x.n_before` of the others, of which both halves are
/// multiplied by themselves: codes need not become 16 bits for them.
template <int Bits, bool Minimum, int F, int C, class T>
void product_rows(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel, __mmask16 lanes) {
  const quantized_rows& fine = x.fine;
  const coarse_rows& coarse = x.coarse;
  const index_t n_blocks = fine.d / code_block;
  __m512 sum[std::size_t{F + C}];
#pragma GCC unroll 16
  for (int r = 0; r < F + C; ++r) sum[r] = _mm512_setzero_ps();
  for (index_t b = 0; b < n_blocks; ++b) {
    prefetch_record<Bits, Minimum>(panel);
    __m512i upper[std::size_t{F}];
    __m512i lower[std::size_t{F}];
    __m512i coarse_dot[std::size_t{C + 1}];  // No array has no element.
    const auto first_of = [&](std::uint32_t extra) {
      return Minimum ? _mm512_setzero_si512() : _mm512_set1_epi32(static_cast<std::int32_t>(extra));
    };
#pragma GCC unroll 8
    for (int r = 0; r < F; ++r) {
      upper[r] = _mm512_setzero_si512();
      lower[r] = first_of(fine.extra[r * n_blocks + b]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < C; ++r) coarse_dot[r] = first_of(coarse.extra[r * n_blocks + b]);
#pragma GCC unroll 8
    for (int w = 0; w < Bits; ++w) {
      const __m512i bytes = load_bytes(panel, w);
#pragma GCC unroll 2
      for (int j = 0; j < 8 / Bits; ++j) {
        const __m512i codes = bytes_part<Bits>(bytes, j);
        const index_t column = b * code_block + 4 * (w + 4 * j);
#pragma GCC unroll 8
        for (int r = 0; r < F; ++r) {
          upper[r] = _mm512_dpbusd_epi32(upper[r], codes, load_word(fine.upper_half(r) + column));
          lower[r] = _mm512_dpbusd_epi32(lower[r], codes, load_word(fine.lower_half(r) + column));
        }
#pragma GCC unroll 8
        for (int r = 0; r < C; ++r) {
          coarse_dot[r] = _mm512_dpbusd_epi32(coarse_dot[r], codes,
                                              load_word(coarse.values + r * fine.d + column));
        }
      }
    }
    const __m512 scale = load_scale<Bits>(panel);
    const __m512 minimum = load_minimum<Bits, Minimum>(panel);
    const auto add_minimum = [&](__m512& to, std::uint32_t extra) {
      if constexpr (!Minimum) return;
      to = _mm512_fmadd_ps(minimum, _mm512_set1_ps(__builtin_bit_cast(float, extra)), to);
    };
#pragma GCC unroll 8
    for (int r = 0; r < F; ++r) {
      const __m512i dot = _mm512_add_epi32(lower[r], _mm512_slli_epi32(upper[r], 8));
      const index_t at = r * n_blocks + b;
      sum[r] = add_block(sum[r], dot, scale, fine.shift[at]);
      add_minimum(sum[r], fine.extra[at]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < C; ++r) {
      const index_t at = r * n_blocks + b;
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(coarse.scale[at]));
      sum[F + r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(coarse_dot[r]), factor, sum[F + r]);
      add_minimum(sum[F + r], coarse.extra[at]);
    }
    panel += record_size<Bits, Minimum>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < F; ++r) {
    const index_t row = r < x.n_before ? r : r + C;
    store(o + row * ldo, _mm512_mul_ps(sum[r], _mm512_set1_ps(fine.scale[r])), lanes);
  }
#pragma GCC unroll 8
  for (int r = 0; r < C; ++r) store(o + (x.n_before + r) * ldo, sum[F + r], lanes);
}

template <class T>
using product_function = void (*)(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel,
                                  __mmask16 lanes);

/// Number i: of i + 1 rows, none of them coarse.
template <int Bits, bool Minimum, class T, int... I>
constexpr std::array<product_function<T>, sizeof...(I)> fine_products(
    std::integer_sequence<int, I...>) {
  return {product_rows<Bits, Minimum, I + 1, 0, T>...};
}
/// Number i: of F rows and i + 1 coarse ones.
template <int Bits, bool Minimum, int F, class T, int... I>
constexpr std::array<product_function<T>, sizeof...(I)> coarse_products(
    std::integer_sequence<int, I...>) {
  return {product_rows<Bits, Minimum, F, I + 1, T>...};
}

template <int Bits, bool Minimum, class T>
void product_of(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel, __mmask16 lanes) {
  static constexpr auto fine =
      fine_products<Bits, Minimum, T>(std::make_integer_sequence<int, most_rows_of_pass>());
  using counts = std::make_integer_sequence<int, most_coarse_rows>;
  static constexpr std::array with_coarse = {coarse_products<Bits, Minimum, 1, T>(counts()),
                                             coarse_products<Bits, Minimum, 2, T>(counts())};
  static_assert(with_coarse.size() == most_beside_coarse_rows);
  if (x.n_coarse > 0) {
    const auto& products = with_coarse[static_cast<std::size_t>(x.n_fine - 1)];
    return products[static_cast<std::size_t>(x.n_coarse - 1)](o, ldo, x, panel, lanes);
  }
  for_row_groups(x.n_fine, [&](index_t i, index_t n) {
    fine[static_cast<std::size_t>(n - 1)](o + i * ldo, ldo, mixed_rows(x.fine.from(i), n), panel,
                                          lanes);
  });
}

template <class T>
void product(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel, index_t n_out,
             code_format format) {
  const auto lanes = static_cast<__mmask16>((1U << n_out) - 1U);
  with_format(format, [&]<int Bits, bool Minimum>() {
    product_of<Bits, Minimum>(o, ldo, x, panel, lanes);
  });
}

/// Minima of weights and sums of activations, whose products make up for the offset of codes, as
/// floats. A CPU that multiplies pairs of bf16 needs half the products:
/// avx512_bf16::minima_in_pairs.
struct minima_in_floats {
  /// Makes of the sums of a row's blocks what `add` reads, in their own place.
  static void put_sums(const quantized_rows&) {}
  /// The minima of block b for the 16 rows of panel p of four.
  static void put(const expanded_panels& o, index_t b, index_t p, __m512 minima) {
    _mm512_storeu_si512(o.minimum + b * expanded_panels::rows + 16 * p,
                        _mm512_castps_si512(minima));
  }
  /// Adds their part of all blocks to the sums of R rows with two panels.
  template <int R>
  static void add(__m512 (&sum)[std::size_t{R}][2], const quantized_rows& x,
                  const std::uint32_t* minimum) {
    const index_t n_blocks = x.d / code_block;
    for (index_t b = 0; b < n_blocks; ++b, minimum += expanded_panels::rows) {
      const __m512 left = _mm512_loadu_ps(minimum);
      const __m512 right = _mm512_loadu_ps(minimum + 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512 of_x = _mm512_set1_ps(__builtin_bit_cast(float, x.extra[r * n_blocks + b]));
        sum[r][0] = _mm512_fmadd_ps(left, of_x, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(right, of_x, sum[r][1]);
      }
    }
  }
};

template <int Bits, bool Minimum, class Minima>
void expand_panels(const expanded_panels& o, const std::byte* const (&panels)[4], index_t n_blocks,
                   int centre) {
  const __m512i middle = _mm512_set1_epi16(static_cast<std::int16_t>(centre));
  for (index_t b = 0; b < n_blocks; ++b) {
    for (int p = 0; p < 4; ++p) {
      const std::byte* record =
          panels[p] + static_cast<std::size_t>(b) * record_size<Bits, Minimum>;
      const __m512 scale = load_scale<Bits>(record);
      _mm512_storeu_ps(o.scale + b * 64 + 16 * p, scale);
      if constexpr (Minimum) {
        Minima::put(o, b, p,
                    _mm512_fmadd_ps(scale, _mm512_set1_ps(static_cast<float>(centre)),
                                    load_minimum<Bits, Minimum>(record)));
      }
#pragma GCC unroll 8
      for (int w = 0; w < Bits; ++w) {
        const __m512i bytes = load_bytes(record, w);
#pragma GCC unroll 4
        for (int j = 0; j < parts_of_bytes<Bits>; ++j) {
          _mm512_storeu_si512(o.words + ((b * 16 + word_of(w, j)) * 64 + 16 * p),
                              _mm512_sub_epi16(part<Bits>(bytes, j), middle));
        }
      }
    }
  }
}

template <class Minima>
void expand(const expanded_panels& o, const std::byte* const (&panels)[4], index_t n_blocks,
            code_format format) {
  with_format(format, [&]<int Bits, bool Minimum>() {
    // With a minimum, the middle of 4 bits: what then remains of it is small, and bf16 enough.
    expand_panels<Bits, Minimum, Minima>(o, panels, n_blocks, Minimum ? 8 : format.offset);
  });
}

/// R rows with two panels, 32 outputs of the 64. Sums over a block and over the row stay in
/// registers.
template <class Minima, bool Minimum, int R, class T>
void expanded_rows(T* o, index_t ldo, const quantized_rows& x, const expanded_panels& w,
                   const __mmask16 (&lanes)[2]) {
  const index_t n_blocks = x.d / code_block;
  __m512 sum[std::size_t{R}][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  // By themselves: in the loop below there is no register for them.
  if constexpr (Minimum) Minima::template add<R>(sum, x, w.minimum);
  for (index_t b = 0; b < n_blocks; ++b) {
    __m512i dot[std::size_t{R}][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int u = 0; u < 16; ++u) {
      const std::uint32_t* at = w.words + (b * 16 + u) * 64;
      const __m512i left = _mm512_loadu_si512(at);
      const __m512i right = _mm512_loadu_si512(at + 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i pair = load_word(x.values + r * x.d + b * code_block + 2 * u);
        dot[r][0] = _mm512_dpwssd_epi32(dot[r][0], left, pair);
        dot[r][1] = _mm512_dpwssd_epi32(dot[r][1], right, pair);
      }
    }
    const __m512 left = _mm512_loadu_ps(w.scale + b * 64);
    const __m512 right = _mm512_loadu_ps(w.scale + b * 64 + 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const std::int32_t shift = x.shift[r * n_blocks + b];
      sum[r][0] = add_block(sum[r][0], dot[r][0], left, shift);
      sum[r][1] = add_block(sum[r][1], dot[r][1], right, shift);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 scale = _mm512_set1_ps(x.scale[r]);
    store(o + r * ldo, _mm512_mul_ps(sum[r][0], scale), lanes[0]);
    store(o + r * ldo + 16, _mm512_mul_ps(sum[r][1], scale), lanes[1]);
  }
}

/// Rows from i on, R at a time; returns the first that is left.
template <class Minima, bool Minimum, int R, class T>
index_t expanded_tiles(T* o, index_t ldo, const quantized_rows& x, index_t i, index_t n,
                       const expanded_panels& w, const __mmask16 (&lanes)[2]) {
  for (; i + R <= n; i += R) {
    expanded_rows<Minima, Minimum, R>(o + i * ldo, ldo, x.from(i), w, lanes);
  }
  return i;
}

template <class Minima, bool Minimum, class T>
void expanded_product(T* o, index_t ldo, const quantized_rows& x, index_t n,
                      const expanded_panels& w, index_t n_out) {
  for (index_t first = 0; first < n_out; first += 32) {
    const expanded_panels part{w.words + first, w.scale + first, w.minimum + first};
    __mmask16 lanes[2];
    for (index_t i = 0; i < 2; ++i) {
      const index_t left = n_out - first - 16 * i;
      lanes[i] = static_cast<__mmask16>(left >= 16 ? 0xffff : left > 0 ? (1U << left) - 1U : 0);
    }
    T* to = o + first;
    index_t i = expanded_tiles<Minima, Minimum, 6>(to, ldo, x, 0, n, part, lanes);
    i = expanded_tiles<Minima, Minimum, 3>(to, ldo, x, i, n, part, lanes);
    expanded_tiles<Minima, Minimum, 1>(to, ldo, x, i, n, part, lanes);
  }
}

template <class Minima, class T>
void multiply_expanded(T* o, index_t ldo, const quantized_rows& x, index_t n,
                       const expanded_panels& w, index_t n_out, code_format format) {
  if (format.has_minimum) {
    expanded_product<Minima, true>(o, ldo, x, n, w, n_out);
  } else {
    expanded_product<Minima, false>(o, ldo, x, n, w, n_out);
  }
}

template <class T, class Minima>
void quantize_many(const quantized_rows& to, const T* x, code_format format) {
  quantize<T, false>(to, x, format);
  if (format.has_minimum) Minima::put_sums(to);
}

template <class T, class Minima = minima_in_floats>
inline constexpr code_kernels<T> table{.quantize = quantize_many<T, Minima>,
                                       .quantize_few = quantize<T, true>,
                                       .quantize_coarse = quantize_coarse<T>,
                                       .product = product<T>,
                                       .expand = expand<Minima>,
                                       .multiply_expanded = multiply_expanded<Minima, T>};

}  // namespace gistkv::backends::onednn_detail::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
