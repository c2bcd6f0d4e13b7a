// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <gistkv/core/random.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv {
namespace {

/// Value of a 16-bit float from its fields, by the definition of IEEE 754.
template <int ExponentBits>
double decoded(std::uint16_t bits) {
  constexpr int mantissa_bits = 15 - ExponentBits;
  constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << ExponentBits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  if (exponent == (1 << ExponentBits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, exponent - bias);
}

template <class T>
T from_bits(unsigned bits) {
  T x;
  x.bits = static_cast<std::uint16_t>(bits);
  return x;
}

template <class T, int ExponentBits>
void check_all_values() {
  int wrong_value = 0;
  int wrong_round_trip = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const T x = from_bits<T>(bits);
    const float value = static_cast<float>(x);
    const double want = decoded<ExponentBits>(x.bits);
    if (std::isnan(want)) {
      wrong_value += std::isnan(value) ? 0 : 1;
      wrong_round_trip += std::isnan(static_cast<float>(T(value))) ? 0 : 1;
    } else {
      wrong_value +=
          static_cast<double>(value) == want && std::signbit(value) == ((bits & 0x8000U) != 0) ? 0
                                                                                               : 1;
      wrong_round_trip += T(value) == x ? 0 : 1;
    }
  }
  CHECK(wrong_value == 0);
  CHECK(wrong_round_trip == 0);
}

/// Between every two neighbours: below the middle rounds down, above rounds up, the middle to even.
template <class T, int ExponentBits>
void check_all_roundings() {
  constexpr unsigned infinity = ((1U << ExponentBits) - 1U) << (15 - ExponentBits);
  int wrong = 0;
  for (unsigned sign = 0; sign <= 0x8000U; sign += 0x8000U) {
    for (unsigned bits = 0; bits < infinity; ++bits) {
      const double low = decoded<ExponentBits>(static_cast<std::uint16_t>(bits));
      // The step above the largest finite value leads to where the next one would be.
      const double step = bits + 1 == infinity
                              ? low - decoded<ExponentBits>(static_cast<std::uint16_t>(bits - 1))
                              : decoded<ExponentBits>(static_cast<std::uint16_t>(bits + 1)) - low;
      const auto middle = static_cast<float>(low + step / 2);
      if (static_cast<double>(middle) != low + step / 2) continue;  // Below float's own resolution.
      const float s = sign != 0 ? -1.0F : 1.0F;
      const auto rounds_to = [&](float x, unsigned want) {
        return T(s * x).bits == (sign | want) ? 0 : 1;
      };
      wrong += rounds_to(middle, bits % 2 == 0 ? bits : bits + 1);
      wrong += rounds_to(std::nextafter(middle, 0.0F), bits);
      wrong += rounds_to(std::nextafter(middle, std::numeric_limits<float>::infinity()), bits + 1);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("bf16: all 65536 values and all roundings between them") {
  check_all_values<bf16, 8>();
  check_all_roundings<bf16, 8>();
}

TEST_CASE("f16: all 65536 values and all roundings between them") {
  check_all_values<f16, 5>();
  check_all_roundings<f16, 5>();
}

TEST_CASE("16-bit floats: overflow, infinity, NaN and zeros") {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(f16(65504.0F).bits == 0x7bffU);
  CHECK(f16(65519.0F).bits == 0x7bffU);
  CHECK(f16(65520.0F).bits == 0x7c00U);
  CHECK(f16(-1e30F).bits == 0xfc00U);
  CHECK(f16(inf).bits == 0x7c00U);
  CHECK(f16(0x1p-25F).bits == 0);  // Half of the smallest subnormal: a tie, to even.
  CHECK(f16(0x1.8p-25F).bits == 1);
  CHECK(f16(-0.0F).bits == 0x8000U);
  CHECK(bf16(std::numeric_limits<float>::max()).bits == 0x7f80U);
  CHECK(bf16(-inf).bits == 0xff80U);
  CHECK(bf16(-0.0F).bits == 0x8000U);
  // A NaN whose payload lies in the lower half must not become an infinity.
  const float quiet = std::bit_cast<float>(0x7f800001U);
  CHECK(std::isnan(static_cast<float>(bf16(quiet))));
  CHECK(std::isnan(static_cast<float>(f16(quiet))));
}

TEST_CASE("16-bit floats: random floats round to the nearer neighbour") {
  random_generator random(1);
  int wrong = 0;
  for (int i = 0; i < 100000; ++i) {
    const auto x =
        static_cast<float>(std::ldexp(random.normal(), static_cast<int>(random.below(24)) - 12));
    const double e16 =
        std::abs(static_cast<double>(static_cast<float>(f16(x))) - static_cast<double>(x));
    const double eb =
        std::abs(static_cast<double>(static_cast<float>(bf16(x))) - static_cast<double>(x));
    wrong += e16 <= std::abs(static_cast<double>(x)) * 0x1p-11 + 0x1p-25 ? 0 : 1;
    wrong += eb <= std::abs(static_cast<double>(x)) * 0x1p-8 ? 0 : 1;
  }
  CHECK(wrong == 0);
}

static_assert(std::is_trivially_copyable_v<bf16> && sizeof(bf16) == 2);
static_assert(std::is_trivially_copyable_v<f16> && sizeof(f16) == 2);
static_assert(std::is_same_v<accumulate_t<bf16>, float>);
static_assert(std::is_same_v<accumulate_t<f16>, float>);
static_assert(std::is_same_v<accumulate_t<double>, double>);
static_assert(!std::is_convertible_v<float, bf16> && !std::is_convertible_v<f16, float>);

TEST_CASE("epsilon_of is the distance from 1 to the next value") {
  CHECK(epsilon_of<bf16>() ==
        static_cast<double>(static_cast<float>(from_bits<bf16>(0x3f81U))) - 1.0);
  CHECK(epsilon_of<f16>() ==
        static_cast<double>(static_cast<float>(from_bits<f16>(0x3c01U))) - 1.0);
  CHECK(epsilon_of<float>() == 0x1p-23);
  CHECK(epsilon_of<double>() == 0x1p-52);
}

}  // namespace
}  // namespace gistkv
