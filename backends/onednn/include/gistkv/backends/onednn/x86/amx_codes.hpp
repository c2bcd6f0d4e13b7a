// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/quantized.hpp>
#include <gistkv/backends/onednn/x86/amx.hpp>
#include <gistkv/backends/onednn/x86/avx512_vnni.hpp>

/// Products of many rows with weights in codes, by tiles of BF16: x = xh + xl and w = wh + wl to 16
/// bits, and x w = xh wh + xh wl + xl wh but for 2^-16 of it.

#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((target(                                                                        \
        "avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni,avx512bf16,f16c,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni,avx512bf16,f16c,amx-tile,amx-bf16")
#endif

namespace gistkv::backends::onednn_detail::amx {

/// 16 floats as bf16, and what is left of them.
struct split_lanes {
  __m256i high;
  __m256i low;

  explicit split_lanes(__m512 v) : high(__builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(v))) {
    const __m512i widened = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
    low = __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(v - _mm512_castsi512_ps(widened)));
  }
};

/// Words of two bf16, the first in the lower half.
inline __m512i pairs(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

/// See tile_kernels.
template <class T>
void split(const split_numbers& to, const T* x, index_t d) {
  const __m512i order = avx512_vnni::order_of_neighbours();
  for (index_t j = 0; j < d; j += code_block) {
    const split_lanes left(avx512_vnni::load(x + j));
    const split_lanes right(avx512_vnni::load(x + j + 16));
    const __m512i high = _mm512_inserti64x4(_mm512_castsi256_si512(left.high), right.high, 1);
    const __m512i low = _mm512_inserti64x4(_mm512_castsi256_si512(left.low), right.low, 1);
    _mm512_storeu_si512(to.high + j / 2, _mm512_permutexvar_epi16(order, high));
    _mm512_storeu_si512(to.low + j / 2, _mm512_permutexvar_epi16(order, low));
  }
}

template <int Bits, bool Minimum>
void expand_panels(const split_numbers& to, const std::byte* const (&panels)[4], index_t n_blocks,
                   int offset) {
  using namespace avx512_vnni;
  for (index_t b = 0; b < n_blocks; ++b) {
    for (int p = 0; p < 4; ++p) {
      const std::byte* record =
          panels[p] + static_cast<std::size_t>(b) * record_size<Bits, Minimum>;
      const __m512 scale = load_scale<Bits>(record);
      const __m512 rest = _mm512_fnmadd_ps(scale, _mm512_set1_ps(static_cast<float>(offset)),
                                           load_minimum<Bits, Minimum>(record));
#pragma GCC unroll 8
      for (int w = 0; w < Bits; ++w) {
        const __m512i bytes = load_bytes(record, w);
#pragma GCC unroll 4
        for (int j = 0; j < parts_of_bytes<Bits>; ++j) {
          const __m512i codes = part<Bits>(bytes, j);
          const __m512i first = _mm512_and_si512(codes, _mm512_set1_epi32(0xffff));
          const __m512i second = _mm512_srli_epi32(codes, 16);
          const split_lanes a(_mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(first), rest));
          const split_lanes c(_mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(second), rest));
          const index_t at = (b * 16 + word_of(w, j)) * 64 + 16 * p;
          _mm512_storeu_si512(to.high + at, pairs(a.high, c.high));
          _mm512_storeu_si512(to.low + at, pairs(a.low, c.low));
        }
      }
    }
  }
}

inline void expand(const split_numbers& to, const std::byte* const (&panels)[4], index_t n_blocks,
                   code_format format) {
  with_format(format, [&]<int Bits, bool Minimum>() {
    expand_panels<Bits, Minimum>(to, panels, n_blocks, format.offset);
  });
}

// The next three make tiles 0 to 3 += x[32, 32] w[32, 32]: x in tiles 4 and 5, w in 6 and 7.

inline void load_rows(const std::uint32_t* x, index_t words) {
  const auto row = static_cast<std::size_t>(4 * words);
  _tile_loadd(4, x, row);
  _tile_loadd(5, x + 16 * words, row);
}
inline void load_columns(const std::uint32_t* w) {
  constexpr std::size_t row = 4 * 64;
  _tile_loadd(6, w, row);
  _tile_loadd(7, w + 16, row);
}
/// Sums take turns: one that waited for itself would take three times as long.
inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

/// sums[32, 32] = x[32, d] w[d, 32]
inline void product_of_rows(float* sums, const split_numbers& x, const split_numbers& w,
                            index_t d) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (index_t k = 0; k < d / 2; k += 16) {
    const split_numbers at = w.from(k * 64);
    load_rows(x.high + k, d / 2);
    load_columns(at.low);
    add_products();
    load_columns(at.high);
    add_products();
    load_rows(x.low + k, d / 2);
    add_products();
  }
  constexpr std::size_t row = 4 * 32;
  _tile_stored(0, sums, row);
  _tile_stored(1, sums + 16, row);
  _tile_stored(2, sums + 16 * 32, row);
  _tile_stored(3, sums + 16 * 32 + 16, row);
}

template <class T>
void multiply(T* o, index_t ldo, const split_numbers& x, index_t n, index_t d,
              const split_numbers& w, index_t n_out) {
  const tiles_in_use tiles;
  alignas(64) float sums[32 * 32];
  for (index_t first = 0; first < n_out; first += 32) {
    for (index_t i = 0; i < n; i += 32) {
      product_of_rows(sums, x.from(i * (d / 2)), w.from(first), d);
      for (index_t r = 0; r < 32 && i + r < n; ++r) {
        T* to = o + (i + r) * ldo + first;
        for (index_t j = 0; j < 32 && first + j < n_out; j += 16) {
          const index_t left = n_out - first - j;
          const unsigned lanes = left >= 16 ? 0xffffU : (1U << left) - 1U;
          avx512_vnni::store(to + j, _mm512_load_ps(sums + r * 32 + j),
                             static_cast<__mmask16>(lanes));
        }
      }
    }
  }
}

template <class T>
inline constexpr tile_kernels<T> code_table{
    .split = split<T>, .expand = expand, .multiply = multiply<T>};

}  // namespace gistkv::backends::onednn_detail::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
