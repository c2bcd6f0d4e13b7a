// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <gistkv/backends/onednn/quantized.hpp>
#include <gistkv/backends/onednn/x86/avx2.hpp>

/// Products of weights in codes with activations in 16 bits (AVX2): pairs of neighbours by
/// `vpmaddwd`, sixteen products an instruction where floats give eight. The sum over a block of 32
/// is exact in integers; blocks add up in float.

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace gistkv::backends::onednn_detail::avx2_codes {

using avx2::load;
using avx2::store;
using avx2::store_part;

inline constexpr int width = avx2::width;
inline constexpr int halves = code_panel / width;  ///< Registers that hold the rows of a panel.

inline __m256i load_integers(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_integers(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

inline std::int32_t sum_of(__m256i v) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
inline std::int32_t largest_of(__m256i v) {
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

/// 2^k as a float, for exponents of normal numbers.
inline float power_of_two(std::int32_t k) { return __builtin_bit_cast(float, (k + 127) << 23); }

/// x 2^k, k = k1 + k2, of 16 neighbours as integers of 16 bits in the order of quantized_rows.
template <class T>
__m256i rounded(const T* x, __m256 first, __m256 second) {
  const auto scaled = [&](const T* from) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_mul_ps(load(from), first), second));
  };
  // 2^15, to which the largest may have been rounded, becomes 2^15 - 1 here.
  const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(scaled(x), scaled(x + 8)), 0xd8);
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  return _mm256_shuffle_epi8(both, order);
}

/// See quantized_rows.
template <class T>
void quantize(const quantized_rows& to, const T* x, code_format format) {
  const index_t n_blocks = to.d / code_block;
  // The exponent of the largest element of each block, and of the row: |x| < 2^(exponent - 126).
  std::int32_t most = 0;
  std::int32_t least = 255;
  for (index_t b = 0; b < n_blocks; ++b) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256();
    // As integers: what is no number is then greater than all that are.
    for (index_t j = 0; j < code_block; j += width) {
      const __m256i bits = _mm256_castps_si256(load(x + b * code_block + j));
      largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    const std::int32_t exponent = largest_of(largest) >> 23;
    to.shift[b] = exponent;
    most = exponent > most ? exponent : most;
    least = exponent < least ? exponent : least;
  }
  const std::int32_t base = base_exponent(least, most);
  // Where an element is not a number or infinite, neither is any result.
  *to.scale = most == 255 ? __builtin_nanf("") : __builtin_ldexpf(1.0F, base - 126 - 15);

  for (index_t b = 0; b < n_blocks; ++b) {
    const std::int32_t exponent = to.shift[b] > base ? to.shift[b] : base;
    // In two steps: 2^140 is no float.
    const std::int32_t power = 126 + 15 - exponent;
    const __m256 first = _mm256_set1_ps(power_of_two(power / 2));
    const __m256 second = _mm256_set1_ps(power_of_two(power - power / 2));
    __m256i sums = _mm256_setzero_si256();
    for (index_t j = 0; j < code_block; j += 2 * width) {
      const index_t at = b * code_block + j;
      const __m256i values = rounded(x + at, first, second);
      store_integers(to.values + at, values);
      sums = _mm256_add_epi32(sums, _mm256_madd_epi16(values, _mm256_set1_epi16(1)));
    }
    const std::int32_t total = sum_of(sums);
    to.shift[b] = (exponent - base) << 23;
    to.extra[b] = format.has_minimum
                      ? __builtin_bit_cast(std::uint32_t, static_cast<float>(total) *
                                                              power_of_two(exponent - base))
                      : static_cast<std::uint32_t>(-format.offset * total);
  }
}

/// Part `j` of bytes: codes of two columns for each of eight rows, see word_of.
template <int Bits>
inline __m256i part(__m256i bytes, int j) {
  const __m256i shifted = j == 0   ? bytes
                          : j == 1 ? _mm256_srli_epi16(bytes, 8)
                          : j == 2 ? _mm256_srli_epi16(bytes, 4)
                                   : _mm256_srli_epi16(bytes, 12);
  if (j == parts_of_bytes<Bits> - 1) return shifted;  // Nothing is left above.
  return _mm256_and_si256(shifted, _mm256_set1_epi16(static_cast<std::int16_t>((1 << Bits) - 1)));
}
constexpr int place_of(int j) { return j == 1 ? 2 : j == 2 ? 1 : 0; }
/// The same for 4 bits, times 16^place_of(j): one instruction and not two.
inline __m256i part_in_place(__m256i bytes, int j) {
  if (j == 3) return _mm256_srli_epi16(bytes, 12);  // Nothing is left above.
  return _mm256_and_si256(bytes,
                          _mm256_set1_epi16(static_cast<std::int16_t>(15 << (4 * place_of(j)))));
}
/// Scales, or minima, of half a record as floats; `at` is where those of its sixteen rows begin.
inline __m256 load_halves(const std::byte* at, int h) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 16 * h)));
}

/// sum += two products of neighbours in 16 bits, in each lane.
inline void add_pairs(__m256i& sum, __m256i word, __m256i pairs) {
  const __m256i products = _mm256_madd_epi16(word, pairs);
  // In this order and in place: g++ would keep all products of a block in memory, and add them
  // last.
  __asm__("vpaddd {%1, %0, %0|%0, %0, %1}" : "+x"(sum) : "x"(products));
}
inline __m256i load_pairs(const std::int16_t* x) {
  std::int32_t pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return _mm256_set1_epi32(pair);
}
/// In a register: the compiler would read it again wherever it is used.
inline __m256i in_register(__m256i x) {
  __asm__("" : "+x"(x));
  return x;
}
/// Half `h` of the 64 bytes number `w` of a record: those of eight rows.
inline __m256i load_bytes(const std::byte* record, int w, int h) {
  return in_register(load_integers(record + 64 * w + 32 * h));
}
/// sum + 2^(shift / 2^23) scale dot, for a scale that is a number; codes under a scale of 0 are
/// such that their dot is 0.
inline __m256 add_block(__m256 sum, __m256i dot, __m256 scale, std::int32_t shift) {
  const __m256i factor = _mm256_add_epi32(_mm256_castps_si256(scale), _mm256_set1_epi32(shift));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(factor), sum);
}
inline __m256 add_minimum(__m256 sum, __m256 minimum, std::uint32_t extra) {
  return _mm256_fmadd_ps(minimum, _mm256_set1_ps(__builtin_bit_cast(float, extra)), sum);
}

/// The first n of a panel's sixteen results.
template <class T>
void store_panel(T* o, const __m256 (&v)[halves], index_t n) {
  for (int h = 0; h < halves; ++h) {
    const index_t left = n - h * width;
    if (left >= width) {
      store(o + h * width, v[h]);
    } else if (left > 0) {
      store_part(o + h * width, v[h], left);
    }
  }
}

/// Asks for a record that is needed some blocks later: the CPU does not look ahead far enough by
/// itself.
template <int Bits, bool Minimum>
inline void prefetch_record(const std::byte* record) {
  constexpr std::size_t ahead = 2048;
#pragma GCC unroll 16
  for (std::size_t i = 0; i < record_size<Bits, Minimum>; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(record + ahead + i), _MM_HINT_T0);
  }
}

/// R rows with one panel: each word of weights is unpacked once for all of them.
template <int Bits, bool Minimum, int R, class T>
void product_rows(T* o, index_t ldo, const quantized_rows& x, const std::byte* panel,
                  index_t n_out) {
  // Few rows leave codes of 4 bits where they are in 16 and move the sums instead: as many sums as
  // there are places.
  constexpr bool in_place = R <= 2 && Bits == 4;
  constexpr int chains = in_place ? 3 : 1;
  const index_t n_blocks = x.d / code_block;
  __m256 sum[std::size_t{R}][std::size_t{halves}];
#pragma GCC unroll 8
  for (auto& of_row : sum) {
    for (__m256& s : of_row) s = _mm256_setzero_ps();
  }
  for (index_t b = 0; b < n_blocks; ++b) {
    prefetch_record<Bits, Minimum>(panel);
    __m256i dot[std::size_t{R}][std::size_t{halves}][std::size_t{chains}];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int h = 0; h < halves; ++h) {
        for (__m256i& d : dot[r][h]) d = _mm256_setzero_si256();
        if constexpr (!Minimum) {
          dot[r][h][0] = _mm256_set1_epi32(static_cast<std::int32_t>(x.extra[r * n_blocks + b]));
        }
      }
    }
#pragma GCC unroll 8
    for (int w = 0; w < Bits; ++w) {
      const __m256i bytes[halves] = {load_bytes(panel, w, 0), load_bytes(panel, w, 1)};
#pragma GCC unroll 4
      for (int j = 0; j < parts_of_bytes<Bits>; ++j) {
        const int chain = in_place ? place_of(j) : 0;
        const index_t column = b * code_block + 2 * word_of(w, j);
        const auto word = [&](int h) {
          return in_place ? part_in_place(bytes[h], j) : part<Bits>(bytes[h], j);
        };
        const __m256i words[halves] = {word(0), word(1)};
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m256i pairs = load_pairs(x.values + r * x.d + column);
          add_pairs(dot[r][0][chain], words[0], pairs);
          add_pairs(dot[r][1][chain], words[1], pairs);
        }
      }
    }
    const std::byte* scales = panel + std::ptrdiff_t{64} * Bits;
#pragma GCC unroll 2
    for (int h = 0; h < halves; ++h) {
      const __m256 scale = load_halves(scales, h);
      const __m256 minimum = Minimum ? load_halves(scales + 32, h) : _mm256_setzero_ps();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        __m256i total = dot[r][h][0];
        if constexpr (in_place) {
          total = _mm256_add_epi32(total, _mm256_srai_epi32(dot[r][h][1], 4));
          total = _mm256_add_epi32(total, _mm256_srai_epi32(dot[r][h][2], 8));
        }
        const index_t at = r * n_blocks + b;
        sum[r][h] = add_block(sum[r][h], total, scale, x.shift[at]);
        if constexpr (Minimum) sum[r][h] = add_minimum(sum[r][h], minimum, x.extra[at]);
      }
    }
    panel += record_size<Bits, Minimum>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m256 scale = _mm256_set1_ps(x.scale[r]);
    store_panel(o + r * ldo, {_mm256_mul_ps(sum[r][0], scale), _mm256_mul_ps(sum[r][1], scale)},
                n_out);
  }
}

template <class T>
using product_function = void (*)(T* o, index_t ldo, const quantized_rows& x,
                                  const std::byte* panel, index_t n_out);

/// Number i: of i + 1 rows.
template <int Bits, bool Minimum, class T, int... I>
constexpr std::array<product_function<T>, sizeof...(I)> products(std::integer_sequence<int, I...>) {
  return {product_rows<Bits, Minimum, I + 1, T>...};
}

template <int Bits, bool Minimum, class T>
void product_of(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel, index_t n_out) {
  static constexpr auto of_rows =
      products<Bits, Minimum, T>(std::make_integer_sequence<int, most_rows_of_pass>());
  for_row_groups(x.n_fine, [&](index_t i, index_t n) {
    of_rows[static_cast<std::size_t>(n - 1)](o + i * ldo, ldo, x.fine.from(i), panel, n_out);
  });
}

template <class T>
void product(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel, index_t n_out,
             code_format format) {
  with_format(format, [&]<int Bits, bool Minimum>() {
    product_of<Bits, Minimum>(o, ldo, x, panel, n_out);
  });
}

/// One of the panels in expanded_panels: [d / 2][16] words and [d / 32][16] scales and minima.
/// Panels lie behind one another, since what is multiplied at a time should fill the first-level
/// cache and not a quarter of its lines.
struct expanded_panel {
  std::uint32_t* words;
  float* scale;
  float* minimum;

  expanded_panel(const expanded_panels& all, index_t p, index_t n_blocks)
      : words(all.words + p * n_blocks * (code_block / 2) * code_panel),
        scale(all.scale + p * n_blocks * code_panel),
        minimum(reinterpret_cast<float*>(all.minimum) + p * n_blocks * code_panel) {}
};

template <int Bits, bool Minimum>
void expand_panel(const expanded_panel& o, const std::byte* record, index_t n_blocks, int offset) {
  const __m256i middle = _mm256_set1_epi16(static_cast<std::int16_t>(offset));
  for (index_t b = 0; b < n_blocks; ++b, record += record_size<Bits, Minimum>) {
    const std::byte* scales = record + std::ptrdiff_t{64} * Bits;
    for (int h = 0; h < halves; ++h) {
      store(o.scale + b * code_panel + h * width, load_halves(scales, h));
      if constexpr (Minimum) {
        store(o.minimum + b * code_panel + h * width, load_halves(scales + 32, h));
      }
#pragma GCC unroll 8
      for (int w = 0; w < Bits; ++w) {
        const __m256i bytes = load_bytes(record, w, h);
#pragma GCC unroll 4
        for (int j = 0; j < parts_of_bytes<Bits>; ++j) {
          store_integers(o.words + (b * 16 + word_of(w, j)) * code_panel + h * width,
                         _mm256_sub_epi16(part<Bits>(bytes, j), middle));
        }
      }
    }
  }
}

inline void expand(const expanded_panels& o, const std::byte* const (&panels)[4], index_t n_blocks,
                   code_format format) {
  for (index_t p = 0; p < 4; ++p) {
    const expanded_panel to(o, p, n_blocks);
    with_format(format, [&]<int Bits, bool Minimum>() {
      expand_panel<Bits, Minimum>(to, panels[p], n_blocks, format.offset);
    });
  }
}

/// R rows with one panel. Sums over a block stay in registers.
template <bool Minimum, int R, class T>
void expanded_rows(T* o, index_t ldo, const quantized_rows& x, const expanded_panel& w,
                   index_t n_out) {
  const index_t n_blocks = x.d / code_block;
  __m256 sum[std::size_t{R}][std::size_t{halves}];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  for (index_t b = 0; b < n_blocks; ++b) {
    __m256i dot[std::size_t{R}][std::size_t{halves}];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int u = 0; u < 16; ++u) {
      const std::uint32_t* at = w.words + (b * 16 + u) * code_panel;
      const __m256i left = in_register(load_integers(at));
      const __m256i right = in_register(load_integers(at + width));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i pairs = load_pairs(x.values + r * x.d + b * code_block + 2 * u);
        add_pairs(dot[r][0], left, pairs);
        add_pairs(dot[r][1], right, pairs);
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < halves; ++h) {
      const __m256 scale = load(w.scale + b * code_panel + h * width);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        sum[r][h] = add_block(sum[r][h], dot[r][h], scale, x.shift[r * n_blocks + b]);
        if constexpr (Minimum) {
          sum[r][h] = add_minimum(sum[r][h], load(w.minimum + b * code_panel + h * width),
                                  x.extra[r * n_blocks + b]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m256 scale = _mm256_set1_ps(x.scale[r]);
    store_panel(o + r * ldo, {_mm256_mul_ps(sum[r][0], scale), _mm256_mul_ps(sum[r][1], scale)},
                n_out);
  }
}

template <bool Minimum, class T>
void expanded_product(T* o, index_t ldo, const quantized_rows& x, index_t n,
                      const expanded_panels& all, index_t n_out) {
  constexpr int tile = 4;
  for (index_t first = 0; first < n_out; first += code_panel) {
    const expanded_panel w(all, first / code_panel, x.d / code_block);
    const index_t of_panel = n_out - first < code_panel ? n_out - first : code_panel;
    index_t i = 0;
    for (; i + tile <= n; i += tile) {
      expanded_rows<Minimum, tile>(o + i * ldo + first, ldo, x.from(i), w, of_panel);
    }
    for (; i < n; ++i) {
      expanded_rows<Minimum, 1>(o + i * ldo + first, ldo, x.from(i), w, of_panel);
    }
  }
}

template <class T>
void multiply_expanded(T* o, index_t ldo, const quantized_rows& x, index_t n,
                       const expanded_panels& w, index_t n_out, code_format format) {
  if (format.has_minimum) {
    expanded_product<true>(o, ldo, x, n, w, n_out);
  } else {
    expanded_product<false>(o, ldo, x, n, w, n_out);
  }
}

template <class T>
inline constexpr code_kernels<T> table{.quantize = quantize<T>,
                                       .quantize_few = quantize<T>,
                                       .quantize_coarse = nullptr,
                                       .product = product<T>,
                                       .expand = expand,
                                       .multiply_expanded = multiply_expanded<T>};

}  // namespace gistkv::backends::onednn_detail::avx2_codes

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
