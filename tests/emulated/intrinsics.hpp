// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

/// What the kernels of backends/onednn use of AVX-512, its VNNI and BF16, and AMX, lane by lane,
/// for CPUs that have AVX2. headers.sh puts them in the place of the intrinsics.

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#pragma GCC optimize("O3")
#pragma GCC diagnostic push
// How a vector of 64 bytes is passed matters between libraries only.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

/// Calls are cheaper to compile than what is in them.
#define EMULATED [[gnu::noinline]] inline

namespace emulated {

/// Whether this CPU has what the functions are compiled for.
inline bool possible() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

/// 64 bytes as N lanes, and any register as these.
template <class E, std::size_t N>
struct lanes {
  using element = E;
  E at[N];

  lanes() : at{} {}
  template <class Register>
  explicit lanes(const Register& r) {
    static_assert(sizeof r == sizeof at);
    std::memcpy(at, &r, sizeof at);
  }
  template <class Register>
  Register as() const {
    static_assert(sizeof(Register) == sizeof at);
    Register r;
    std::memcpy(&r, at, sizeof at);
    return r;
  }
};
using floats = lanes<float, 16>;
using words = lanes<std::int32_t, 16>;
using unsigned_words = lanes<std::uint32_t, 16>;
using halves = lanes<std::int16_t, 32>;
using unsigned_halves = lanes<std::uint16_t, 32>;
using bytes = lanes<std::int8_t, 64>;
using unsigned_bytes = lanes<std::uint8_t, 64>;

/// A register of lanes f(i).
template <class Register, class Lanes, class F>
Register made(const F& f) {
  Lanes o;
  for (std::size_t i = 0; i < sizeof o.at / sizeof o.at[0]; ++i) {
    o.at[i] = static_cast<typename Lanes::element>(f(i));
  }
  return o.template as<Register>();
}
inline bool has(std::uint64_t mask, std::size_t i) { return (mask >> i & 1U) != 0; }

/// Lanes of E at p that the mask names; what it does not name is not touched.
template <class Register, class Lanes>
Register masked_load(const void* p, std::uint64_t mask, Lanes rest = {}) {
  constexpr std::size_t size = sizeof rest.at[0];
  for (std::size_t i = 0; i < sizeof rest.at / size; ++i) {
    if (has(mask, i)) std::memcpy(&rest.at[i], static_cast<const std::byte*>(p) + i * size, size);
  }
  return rest.template as<Register>();
}
template <class Lanes, class Register>
void masked_store(void* p, std::uint64_t mask, const Register& v) {
  const Lanes x(v);
  constexpr std::size_t size = sizeof x.at[0];
  for (std::size_t i = 0; i < sizeof x.at / size; ++i) {
    if (has(mask, i)) std::memcpy(static_cast<std::byte*>(p) + i * size, &x.at[i], size);
  }
}

// Memory.

EMULATED __m512 mm512_loadu_ps(const void* p) {
  __m512 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
EMULATED __m512 mm512_load_ps(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 64 != 0) throw std::logic_error("load is not aligned");
  return mm512_loadu_ps(p);
}
EMULATED __m512i mm512_loadu_si512(const void* p) {
  __m512i v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
EMULATED void mm512_storeu_ps(void* p, __m512 v) { std::memcpy(p, &v, sizeof v); }
EMULATED void mm512_storeu_si512(void* p, __m512i v) { std::memcpy(p, &v, sizeof v); }
EMULATED __m512 mm512_mask_loadu_ps(__m512 rest, __mmask16 m, const void* p) {
  return masked_load<__m512>(p, m, floats(rest));
}
EMULATED __m512 mm512_maskz_loadu_ps(__mmask16 m, const void* p) {
  return masked_load<__m512, floats>(p, m);
}
EMULATED __m512i mm512_maskz_loadu_epi16(__mmask32 m, const void* p) {
  return masked_load<__m512i, halves>(p, m);
}
EMULATED __m256i mm256_maskz_loadu_epi16(__mmask16 m, const void* p) {
  return masked_load<__m256i, lanes<std::int16_t, 16>>(p, m);
}
EMULATED __m128i mm_maskz_loadu_epi32(__mmask8 m, const void* p) {
  return masked_load<__m128i, lanes<std::int32_t, 4>>(p, m);
}
EMULATED __m128i mm_maskz_loadu_epi8(__mmask16 m, const void* p) {
  return masked_load<__m128i, lanes<std::int8_t, 16>>(p, m);
}
EMULATED void mm512_mask_storeu_ps(void* p, __mmask16 m, __m512 v) {
  masked_store<floats>(p, m, v);
}
EMULATED void mm512_mask_storeu_epi32(void* p, __mmask16 m, __m512i v) {
  masked_store<words>(p, m, v);
}
EMULATED void mm256_mask_storeu_epi16(void* p, __mmask16 m, __m256i v) {
  masked_store<lanes<std::int16_t, 16>>(p, m, v);
}
EMULATED void mm_mask_storeu_epi32(void* p, __mmask8 m, __m128i v) {
  masked_store<lanes<std::int32_t, 4>>(p, m, v);
}
EMULATED void mm_mask_storeu_ps(void* p, __mmask8 m, __m128 v) {
  masked_store<lanes<float, 4>>(p, m, v);
}

// Constants.

EMULATED __m512 mm512_setzero_ps() { return __m512{}; }
EMULATED __m512i mm512_setzero_si512() { return __m512i{}; }
EMULATED __m512 mm512_set1_ps(float x) {
  return made<__m512, floats>([&](std::size_t) { return x; });
}
EMULATED __m512i mm512_set1_epi32(int x) {
  return made<__m512i, words>([&](std::size_t) { return x; });
}
EMULATED __m512i mm512_set1_epi16(short x) {
  return made<__m512i, halves>([&](std::size_t) { return x; });
}
EMULATED __m512i mm512_set1_epi8(char x) {
  return made<__m512i, bytes>([&](std::size_t) { return static_cast<std::int8_t>(x); });
}
/// Greatest lane first.
template <class... Int>
__m512i mm512_set_epi16(Int... x) {
  static_assert(sizeof...(x) == 32);
  const int all[] = {x...};
  return made<__m512i, halves>([&](std::size_t i) { return all[31 - i]; });
}

// Registers seen otherwise. What a cast leaves undefined is no number here.

EMULATED __m512i mm512_castps_si512(__m512 v) { return __builtin_bit_cast(__m512i, v); }
EMULATED __m512 mm512_castsi512_ps(__m512i v) { return __builtin_bit_cast(__m512, v); }
template <class Wide, class Narrow>
Wide widened(Narrow v, int rest) {
  Wide w;
  std::memset(&w, rest, sizeof w);
  std::memcpy(&w, &v, sizeof v);
  return w;
}
EMULATED __m512 mm512_castps128_ps512(__m128 v) { return widened<__m512>(v, -1); }
EMULATED __m512i mm512_castsi128_si512(__m128i v) { return widened<__m512i>(v, -1); }
EMULATED __m512i mm512_castsi256_si512(__m256i v) { return widened<__m512i>(v, -1); }
EMULATED __m512i mm512_zextsi128_si512(__m128i v) { return widened<__m512i>(v, 0); }
EMULATED __m128i mm512_castsi512_si128(__m512i v) {
  __m128i o;
  std::memcpy(&o, &v, sizeof o);
  return o;
}
EMULATED __m512i mm512_inserti64x4(__m512i v, __m256i x, int half) {
  std::memcpy(reinterpret_cast<std::byte*>(&v) + 32 * half, &x, sizeof x);
  return v;
}

// Whole numbers.

template <class Lanes, class F>
__m512i of_two(__m512i a, __m512i b, const F& f) {
  const Lanes x(a), y(b);
  return made<__m512i, Lanes>([&](std::size_t i) { return f(x.at[i], y.at[i]); });
}
EMULATED __m512i mm512_add_epi32(__m512i a, __m512i b) {
  return of_two<unsigned_words>(a, b, [](auto x, auto y) { return x + y; });
}
EMULATED __m512i mm512_sub_epi16(__m512i a, __m512i b) {
  return of_two<unsigned_halves>(a, b, [](auto x, auto y) { return x - y; });
}
EMULATED __m512i mm512_and_si512(__m512i a, __m512i b) { return a & b; }
EMULATED __m512i mm512_or_si512(__m512i a, __m512i b) { return a | b; }
EMULATED __m512i mm512_max_epi32(__m512i a, __m512i b) {
  return of_two<words>(a, b, [](auto x, auto y) { return x > y ? x : y; });
}
EMULATED __m512i mm512_mask_or_epi32(__m512i rest, __mmask16 m, __m512i a, __m512i b) {
  const words x(a), y(b), z(rest);
  return made<__m512i, words>(
      [&](std::size_t i) { return has(m, i) ? x.at[i] | y.at[i] : z.at[i]; });
}
EMULATED __m512i mm512_slli_epi32(__m512i v, unsigned n) {
  const unsigned_words x(v);
  return made<__m512i, unsigned_words>([&](std::size_t i) { return x.at[i] << n; });
}
EMULATED __m512i mm512_srli_epi32(__m512i v, unsigned n) {
  const unsigned_words x(v);
  return made<__m512i, unsigned_words>([&](std::size_t i) { return x.at[i] >> n; });
}
EMULATED __m512i mm512_srai_epi32(__m512i v, unsigned n) {
  const words x(v);
  return made<__m512i, words>([&](std::size_t i) { return x.at[i] >> n; });
}
EMULATED __m512i mm512_srli_epi16(__m512i v, unsigned n) {
  const unsigned_halves x(v);
  return made<__m512i, unsigned_halves>([&](std::size_t i) { return x.at[i] >> n; });
}
EMULATED __m512i mm512_madd_epi16(__m512i a, __m512i b) {
  const halves x(a), y(b);
  return made<__m512i, words>(
      [&](std::size_t i) { return x.at[2 * i] * y.at[2 * i] + x.at[2 * i + 1] * y.at[2 * i + 1]; });
}
EMULATED __m512i mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  return mm512_add_epi32(sum, mm512_madd_epi16(a, b));
}
/// Bytes of a without a sign, those of b with one.
EMULATED __m512i mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const unsigned_bytes x(a);
  const bytes y(b);
  const words z(sum);
  return made<__m512i, words>([&](std::size_t i) {
    std::int32_t s = z.at[i];
    for (std::size_t j = 4 * i; j < 4 * i + 4; ++j) s += x.at[j] * y.at[j];
    return s;
  });
}
EMULATED std::int32_t mm512_reduce_max_epi32(__m512i v) {
  const words x(v);
  std::int32_t most = x.at[0];
  for (const std::int32_t e : x.at) most = e > most ? e : most;
  return most;
}
EMULATED std::int32_t mm512_mask_reduce_min_epi32(__mmask16 m, __m512i v) {
  const words x(v);
  std::int32_t least = INT32_MAX;
  for (std::size_t i = 0; i < 16; ++i) least = has(m, i) && x.at[i] < least ? x.at[i] : least;
  return least;
}
EMULATED __mmask8 mm_cmpge_epi32_mask(__m128i a, __m128i b) {
  const lanes<std::int32_t, 4> x(a), y(b);
  unsigned m = 0;
  for (unsigned i = 0; i < 4; ++i) m |= (x.at[i] >= y.at[i] ? 1U : 0U) << i;
  return static_cast<__mmask8>(m);
}
EMULATED __mmask8 mm_cmplt_epi32_mask(__m128i a, __m128i b) {
  return static_cast<__mmask8>(~mm_cmpge_epi32_mask(a, b) & 15U);
}

// Lanes in another order.

EMULATED __m512i mm512_permutexvar_epi16(__m512i order, __m512i v) {
  const unsigned_halves k(order);
  const halves x(v);
  return made<__m512i, halves>([&](std::size_t i) { return x.at[k.at[i] % 32]; });
}
EMULATED __m512 mm512_permutexvar_ps(__m512i order, __m512 v) {
  const unsigned_words k(order);
  const floats x(v);
  return made<__m512, floats>([&](std::size_t i) { return x.at[k.at[i] % 16]; });
}
/// Quarters of a, a, b and b, two bits of `which` each.
EMULATED __m512i mm512_shuffle_i32x4(__m512i a, __m512i b, unsigned which) {
  const words x(a), y(b);
  return made<__m512i, words>([&](std::size_t i) {
    const std::size_t quarter = which >> (2 * (i / 4)) & 3U;
    return (i < 8 ? x : y).at[4 * quarter + i % 4];
  });
}
EMULATED __m512i mm512_shuffle_i64x2(__m512i a, __m512i b, unsigned which) {
  return mm512_shuffle_i32x4(a, b, which);
}
/// Within each quarter the lanes from `first` on of a and b in turn, n of each.
template <class Lanes>
__m512i unpacked(__m512i a, __m512i b, std::size_t first, std::size_t n) {
  const Lanes x(a), y(b);
  return made<__m512i, Lanes>([&](std::size_t i) {
    const std::size_t quarter = i / (2 * n) * (2 * n);
    return (i % 2 == 0 ? x : y).at[quarter + first + i % (2 * n) / 2];
  });
}
EMULATED __m512i mm512_unpacklo_epi32(__m512i a, __m512i b) { return unpacked<words>(a, b, 0, 2); }
EMULATED __m512i mm512_unpackhi_epi32(__m512i a, __m512i b) { return unpacked<words>(a, b, 2, 2); }
EMULATED __m512i mm512_unpacklo_epi64(__m512i a, __m512i b) {
  return unpacked<lanes<std::int64_t, 8>>(a, b, 0, 1);
}
EMULATED __m512i mm512_unpackhi_epi64(__m512i a, __m512i b) {
  return unpacked<lanes<std::int64_t, 8>>(a, b, 1, 1);
}

// Conversions.

EMULATED __m512 mm512_cvtepi32_ps(__m512i v) {
  const words x(v);
  return made<__m512, floats>([&](std::size_t i) { return static_cast<float>(x.at[i]); });
}
/// To the nearest, ties to even; what is no number or too large becomes the least.
EMULATED __m512i mm512_cvtps_epi32(__m512 v) {
  const floats x(v);
  return made<__m512i, words>([&](std::size_t i) {
    const float r = std::nearbyintf(x.at[i]);
    return r >= -0x1p31F && r < 0x1p31F ? static_cast<std::int32_t>(r) : INT32_MIN;
  });
}
EMULATED __m512i mm512_cvtepi8_epi32(__m128i v) {
  const lanes<std::int8_t, 16> x(v);
  return made<__m512i, words>([&](std::size_t i) { return x.at[i]; });
}
EMULATED __m512i mm512_cvtepu16_epi32(__m256i v) {
  const lanes<std::uint16_t, 16> x(v);
  return made<__m512i, words>([&](std::size_t i) { return x.at[i]; });
}
EMULATED __m256i mm512_cvtepi32_epi16(__m512i v) {
  const words x(v);
  return made<__m256i, lanes<std::int16_t, 16>>([&](std::size_t i) { return x.at[i]; });
}
EMULATED __m128i mm512_cvtepi32_epi8(__m512i v) {
  const words x(v);
  return made<__m128i, lanes<std::int8_t, 16>>([&](std::size_t i) { return x.at[i]; });
}
template <class E>
std::int32_t saturated(std::int32_t x) {
  constexpr std::int32_t most = (1 << (8 * sizeof(E) - 1)) - 1;
  return x > most ? most : x < -most - 1 ? -most - 1 : x;
}
EMULATED __m256i mm512_cvtsepi32_epi16(__m512i v) {
  const words x(v);
  return made<__m256i, lanes<std::int16_t, 16>>(
      [&](std::size_t i) { return saturated<std::int16_t>(x.at[i]); });
}
EMULATED __m128i mm512_cvtsepi32_epi8(__m512i v) {
  const words x(v);
  return made<__m128i, lanes<std::int8_t, 16>>(
      [&](std::size_t i) { return saturated<std::int8_t>(x.at[i]); });
}
EMULATED __m512 mm512_cvtph_ps(__m256i v) {
  const lanes<std::uint16_t, 16> x(v);
  return made<__m512, floats>([&](std::size_t i) { return _cvtsh_ss(x.at[i]); });
}
inline std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
/// What BF16's instructions make of a number too small to be normal.
inline float flushed(float x) {
  const std::uint32_t b = bits_of(x);
  return __builtin_bit_cast(float, (b & 0x7f800000U) == 0 ? b & 0x80000000U : b);
}
EMULATED __m256bh mm512_cvtneps_pbh(__m512 v) {
  const floats x(v);
  return made<__m256bh, lanes<std::uint16_t, 16>>([&](std::size_t i) {
    const std::uint32_t b = bits_of(flushed(x.at[i]));
    return std::isnan(x.at[i]) ? b >> 16 | 0x40U : (b + 0x7fffU + (b >> 16 & 1U)) >> 16;
  });
}

// Floats.

EMULATED __m512 mm512_abs_ps(__m512 v) {
  const floats x(v);
  return made<__m512, floats>([&](std::size_t i) { return std::fabs(x.at[i]); });
}
EMULATED __m512 mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
/// The second where one of both is no number.
EMULATED __m512 mm512_max_ps(__m512 a, __m512 b) {
  const floats x(a), y(b);
  return made<__m512, floats>([&](std::size_t i) { return x.at[i] > y.at[i] ? x.at[i] : y.at[i]; });
}
EMULATED __m512 mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const floats x(a), y(b), z(c);
  return made<__m512, floats>(
      [&](std::size_t i) { return __builtin_fmaf(x.at[i], y.at[i], z.at[i]); });
}
EMULATED __m512 mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return mm512_fmadd_ps(-a, b, c); }
/// x 2^floor(y)
EMULATED __m512 mm512_scalef_ps(__m512 a, __m512 b) {
  const floats x(a), y(b);
  return made<__m512, floats>([&](std::size_t i) {
    return std::ldexp(static_cast<double>(x.at[i]), static_cast<int>(std::floor(y.at[i])));
  });
}
EMULATED __m512 mm512_mask_mov_ps(__m512 rest, __mmask16 m, __m512 v) {
  const floats x(rest), y(v);
  return made<__m512, floats>([&](std::size_t i) { return has(m, i) ? y.at[i] : x.at[i]; });
}
EMULATED __mmask16 mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  if (predicate != _CMP_UNORD_Q) throw std::logic_error("only one comparison is emulated");
  const floats x(a), y(b);
  unsigned m = 0;
  for (unsigned i = 0; i < 16; ++i) {
    m |= (std::isnan(x.at[i]) || std::isnan(y.at[i]) ? 1U : 0U) << i;
  }
  return static_cast<__mmask16>(m);
}
EMULATED float mm512_reduce_add_ps(__m512 v) {
  floats x(v);
  for (std::size_t n = 8; n > 0; n /= 2) {
    for (std::size_t i = 0; i < n; ++i) x.at[i] += x.at[i + n];
  }
  return x.at[0];
}
EMULATED float mm512_reduce_max_ps(__m512 v) {
  floats x(v);
  for (std::size_t n = 8; n > 0; n /= 2) {
    for (std::size_t i = 0; i < n; ++i) x.at[i] = x.at[i] > x.at[i + n] ? x.at[i] : x.at[i + n];
  }
  return x.at[0];
}
using four_floats = lanes<float, 4>;
EMULATED __m128 mm_maskz_mov_ps(__mmask8 m, __m128 v) {
  const four_floats x(v);
  return made<__m128, four_floats>([&](std::size_t i) { return has(m, i) ? x.at[i] : 0.0F; });
}
EMULATED __m128 mm_mask_mul_ps(__m128 rest, __mmask8 m, __m128 a, __m128 b) {
  const four_floats x(a), y(b), z(rest);
  return made<__m128, four_floats>(
      [&](std::size_t i) { return has(m, i) ? x.at[i] * y.at[i] : z.at[i]; });
}
EMULATED __m128 mm_maskz_div_ps(__mmask8 m, __m128 a, __m128 b) {
  const four_floats x(a), y(b);
  return made<__m128, four_floats>(
      [&](std::size_t i) { return has(m, i) ? x.at[i] / y.at[i] : 0.0F; });
}
/// sum + a b + a' b' of words of two bf16: the upper ones first, both fused, small numbers flushed.
EMULATED void add_pairs(floats& sum, const unsigned_words& a, const unsigned_words& b) {
  const auto add = [](float to, std::uint32_t x, std::uint32_t y) {
    return flushed(__builtin_fmaf(flushed(__builtin_bit_cast(float, x)),
                                  flushed(__builtin_bit_cast(float, y)), flushed(to)));
  };
  for (std::size_t i = 0; i < 16; ++i) {
    const std::uint32_t x = a.at[i];
    const std::uint32_t y = b.at[i];
    const float upper = add(sum.at[i], x & 0xffff0000U, y & 0xffff0000U);
    sum.at[i] = add(upper, x << 16, y << 16);
  }
}
EMULATED __m512 mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  floats o(sum);
  add_pairs(o, unsigned_words(a), unsigned_words(b));
  return o.as<__m512>();
}

// Tiles.

struct tile_registers {
  bool configured = false;
  std::uint8_t rows[8];
  std::uint16_t row_bytes[8];
  std::byte data[8][16][64];

  static tile_registers& of_thread() {
    static thread_local tile_registers t;
    return t;
  }
  static tile_registers& in_use() {
    if (!of_thread().configured) throw std::logic_error("tiles are not configured");
    return of_thread();
  }
};
EMULATED void tile_loadconfig(const void* p) {
  const auto* c = static_cast<const std::byte*>(p);
  tile_registers& t = tile_registers::of_thread();
  t = {};
  t.configured = c[0] == std::byte{1};
  std::memcpy(t.row_bytes, c + 16, sizeof t.row_bytes);
  std::memcpy(t.rows, c + 48, sizeof t.rows);
}
EMULATED void tile_release() { tile_registers::of_thread().configured = false; }
EMULATED void tile_zero(int i) { std::memset(tile_registers::in_use().data[i], 0, 16 * 64); }
EMULATED void tile_loadd(int i, const void* p, std::size_t stride) {
  tile_registers& t = tile_registers::in_use();
  tile_zero(i);
  for (std::size_t r = 0; r < t.rows[i]; ++r) {
    std::memcpy(t.data[i][r], static_cast<const std::byte*>(p) + r * stride, t.row_bytes[i]);
  }
}
EMULATED void tile_stored(int i, void* p, std::size_t stride) {
  const tile_registers& t = tile_registers::in_use();
  for (std::size_t r = 0; r < t.rows[i]; ++r) {
    std::memcpy(static_cast<std::byte*>(p) + r * stride, t.data[i][r], t.row_bytes[i]);
  }
}
/// Tile c += a b, with a in pairs along a row and b in pairs along a column. A CPU adds up in
/// another order.
EMULATED void tile_dpbf16ps(int c, int a, int b) {
  tile_registers& t = tile_registers::in_use();
  for (std::size_t m = 0; m < t.rows[c]; ++m) {
    floats sum(t.data[c][m]);
    for (std::size_t k = 0; k < t.row_bytes[a] / 4U; ++k) {
      unsigned_words left;
      for (std::uint32_t& x : left.at) std::memcpy(&x, t.data[a][m] + 4 * k, 4);
      add_pairs(sum, left, unsigned_words(t.data[b][k]));
    }
    std::memcpy(t.data[c][m], sum.at, t.row_bytes[c]);
  }
}

}  // namespace emulated

#undef EMULATED

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
