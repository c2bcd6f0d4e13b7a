// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv {

namespace detail {

inline float store_f16(std::byte* at, float value) {
  const f16 rounded(value);
  std::memcpy(at, &rounded.bits, sizeof rounded.bits);
  return static_cast<float>(rounded);
}

/// Level nearest to x * inverse, inside [low, high]; the comparison form keeps NaN out of the cast.
inline int nearest_level(float x, float inverse, int low, int high) {
  const float level = std::round(x * inverse);
  if (!(level > static_cast<float>(low))) return low;
  if (!(level < static_cast<float>(high))) return high;
  return static_cast<int>(level);
}

inline float inverse_or_zero(float d) { return d != 0.0F ? 1.0F / d : 0.0F; }

inline void quantize_q8_0(const float* x, std::byte* block) {
  float largest = 0.0F;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
  const float inverse = inverse_or_zero(store_f16(block, largest / 127.0F));
  for (int i = 0; i < 32; ++i) {
    block[2 + i] =
        static_cast<std::byte>(static_cast<std::uint8_t>(nearest_level(x[i], inverse, -127, 127)));
  }
}

inline void quantize_q4_0(const float* x, std::byte* block) {
  // The signed extreme maps to level -8, the end of the range that has one level more.
  float extreme = 0.0F;
  for (int i = 0; i < 32; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  const float inverse = inverse_or_zero(store_f16(block, extreme / -8.0F));
  for (int i = 0; i < 16; ++i) {
    const int low = nearest_level(x[i], inverse, -8, 7) + 8;
    const int high = nearest_level(x[i + 16], inverse, -8, 7) + 8;
    block[2 + i] = static_cast<std::byte>(low | (high << 4));
  }
}

inline void quantize_q4_1(const float* x, std::byte* block) {
  const auto [smallest, largest] = std::minmax_element(x, x + 32);
  const float minimum = store_f16(block + 2, *smallest);
  const float inverse = inverse_or_zero(store_f16(block, (*largest - minimum) / 15.0F));
  for (int i = 0; i < 16; ++i) {
    const int low = nearest_level(x[i] - minimum, inverse, 0, 15);
    const int high = nearest_level(x[i + 16] - minimum, inverse, 0, 15);
    block[4 + i] = static_cast<std::byte>(low | (high << 4));
  }
}

template <class Element>
void narrow(const float* row, index_t n, std::byte* out) {
  for (index_t i = 0; i < n; ++i) {
    const Element value(row[i]);
    std::memcpy(out + 2 * i, &value.bits, sizeof value.bits);
  }
}

}  // namespace detail

/// Encodes `n` finite floats as a stored row of row_bytes(type, n) bytes, each element at the
/// nearest level of its block. The block scale is the plain one from the extremes; no search for a
/// better.
/// @throws shape_error if n is no multiple of the block length; argument_error for the k types,
/// which this library only reads.
inline void quantize(weight_type type, const float* row, index_t n, std::byte* out) {
  const std::size_t bytes = row_bytes(type, n);
  if (n == 0) return;
  const block_format format = format_of(type);
  auto blocks = [&](auto encode) {
    for (index_t i = 0; i < n; i += format.length) {
      encode(row + i, out);
      out += format.bytes;
    }
  };
  switch (type) {
    case weight_type::f32:
      std::memcpy(out, row, bytes);
      return;
    case weight_type::f16:
      return detail::narrow<f16>(row, n, out);
    case weight_type::bf16:
      return detail::narrow<bf16>(row, n, out);
    case weight_type::q8_0:
      return blocks(detail::quantize_q8_0);
    case weight_type::q4_0:
      return blocks(detail::quantize_q4_0);
    case weight_type::q4_1:
      return blocks(detail::quantize_q4_1);
    case weight_type::q4_k:
    case weight_type::q5_k:
    case weight_type::q6_k:
      break;
  }
  throw argument_error("quantize: type " + std::string(format.name) +
                       " can only be read; f32, f16, bf16, q8_0, q4_0 and q4_1 can be written");
}

}  // namespace gistkv
