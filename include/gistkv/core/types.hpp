// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>

#include <gistkv/core/config.hpp>

namespace gistkv {

/// Extents, strides, rows and positions. Signed, so that differences are values too.
using index_t = std::int64_t;

/// Token of a vocabulary.
using token_t = std::int32_t;

/// Brain floating point: the upper half of an IEEE binary32. Storage only; arithmetic is in float.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  GISTKV_HD explicit constexpr bf16(float value) : bits(round(value)) {}
  GISTKV_HD explicit constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  friend constexpr bool operator==(bf16, bf16) = default;

 private:
  GISTKV_HD static constexpr std::uint16_t round(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffU) > 0x7f800000U) {  // A NaN's payload may lie in the bits dropped.
      return static_cast<std::uint16_t>((u >> 16) | 0x0040U);
    }
    return static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
  }
};

/// IEEE binary16. Storage only; arithmetic is in float.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  /// Rounds to nearest, ties to even; overflow gives infinity; NaN stays NaN.
  GISTKV_HD explicit constexpr f16(float value) : bits(round(value)) {}
  GISTKV_HD explicit constexpr operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1fU;
    const std::uint32_t mantissa = bits & 0x3ffU;
    if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
    if (exponent != 0) {
      return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
    }
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // Subnormal: exact in float.
    return sign != 0 ? -magnitude : magnitude;
  }
  friend constexpr bool operator==(f16, f16) = default;

 private:
  GISTKV_HD static constexpr std::uint16_t round(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000U);
    const std::uint32_t magnitude = u & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
    if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);
    if (magnitude < 0x38800000U) {
      // Adding 0.5 lines the subnormal's unit, 2^-24, up with the last bit of the sum.
      const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
      return static_cast<std::uint16_t>(sign |
                                        (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1U;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
  }
};

/// Type in which sums over elements of T are carried.
template <class T>
struct accumulate {
  using type = T;
};
template <>
struct accumulate<bf16> {
  using type = float;
};
template <>
struct accumulate<f16> {
  using type = float;
};
template <class T>
using accumulate_t = typename accumulate<T>::type;

/// Unit roundoff spacing of T at 1, as a double; the scale of every tolerance.
template <class T>
constexpr double epsilon_of() {
  if constexpr (std::same_as<T, bf16>) {
    return 0x1p-7;
  } else if constexpr (std::same_as<T, f16>) {
    return 0x1p-10;
  } else {
    return static_cast<double>(std::numeric_limits<T>::epsilon());
  }
}

}  // namespace gistkv
