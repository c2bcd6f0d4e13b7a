// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// Element of a row of keys or values in 8 bits: value = level * scale, with one scale a row and
/// head, so that a row is read on its own.
///
/// A row of d elements is d levels in [-127, 127], zeros up to a multiple of four bytes, and the
/// scale, a float: row_width<q8>(d) bytes in all. A view of such rows has extent d and the width as
/// its row stride; it is the only element type whose rows are wider than their elements.
struct q8 {
  std::int8_t level = 0;
  friend bool operator==(q8, q8) = default;
};
static_assert(sizeof(q8) == 1);

/// Bytes of a row of q8 before its scale.
GISTKV_HD constexpr index_t q8_scale_offset(index_t d) { return (d + 3) / 4 * 4; }

/// Elements of KV from one row of d elements to the next where rows lie end to end.
template <class KV>
GISTKV_HD constexpr index_t row_width(index_t d) {
  if constexpr (std::is_same_v<KV, q8>) {
    return q8_scale_offset(d) + static_cast<index_t>(sizeof(float));
  } else {
    return d;
  }
}

/// Scale of a row, and what its values are multiplied with to give levels.
struct q8_grid {
  float scale = 0.0F;
  float inverse = 0.0F;

  /// @param largest  greatest |value| of the row, NaN if one of them is. If it is not finite, so is
  ///                 none of the row once stored; rows below 2^-100 become 0.
  GISTKV_HD static constexpr q8_grid of(float largest) {
    if (!(largest <= std::numeric_limits<float>::max())) {
      return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
    }
    if (largest < 0x1p-100F) return {};
    return {largest / 127.0F, 127.0F / largest};
  }
  /// The nearest level of a value of this row: |level * scale - x| <= scale / 2 but for rounding.
  GISTKV_HD constexpr q8 level(float x) const {
    if (inverse == 0.0F) return {};
    const float shift = x < 0.0F ? -0.5F : 0.5F;
    return {static_cast<std::int8_t>(x * inverse + shift)};
  }
};

GISTKV_HD inline float q8_scale(const q8* row, index_t d) {
  float scale = 0.0F;
  std::memcpy(&scale, row + q8_scale_offset(d), sizeof scale);
  return scale;
}
GISTKV_HD inline void set_q8_scale(q8* row, index_t d, float scale) {
  std::memcpy(static_cast<void*>(row + q8_scale_offset(d)), &scale, sizeof scale);
}

namespace detail {
/// Through float, in which the narrow types compute.
template <class To, class From>
To element_as(From x) {
  if constexpr (std::floating_point<To> && std::floating_point<From>) {
    return static_cast<To>(x);
  } else {
    return static_cast<To>(static_cast<float>(x));
  }
}
}  // namespace detail

/// Stores d values as a row of a cache of KV.
template <class KV, class T>
void encode_row(const T* x, index_t d, KV* row) {
  if constexpr (std::is_same_v<KV, q8>) {
    float largest = 0.0F;
    for (index_t i = 0; i < d; ++i) {
      const auto value = static_cast<float>(x[i]);
      const float size = value < 0.0F ? -value : value;
      if (!(size <= largest)) largest = size;
      if (largest != largest) break;  // NaN stays.
    }
    const q8_grid grid = q8_grid::of(largest);
    for (index_t i = 0; i < q8_scale_offset(d); ++i) {
      row[i] = i < d ? grid.level(static_cast<float>(x[i])) : q8{};
    }
    set_q8_scale(row, d, grid.scale);
  } else {
    for (index_t i = 0; i < d; ++i) row[i] = detail::element_as<KV>(x[i]);
  }
}

/// The values of a row of a cache of KV.
template <class T, class KV>
void decode_row(const KV* row, index_t d, T* x) {
  if constexpr (std::is_same_v<KV, q8>) {
    const float scale = q8_scale(row, d);
    for (index_t i = 0; i < d; ++i) x[i] = T(static_cast<float>(row[i].level) * scale);
  } else {
    for (index_t i = 0; i < d; ++i) x[i] = detail::element_as<T>(row[i]);
  }
}

}  // namespace gistkv
