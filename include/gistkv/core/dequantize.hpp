// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv {

/// Storage of one block of consecutive elements of a row.
struct block_format {
  std::string_view name;
  index_t length = 1;     ///< Elements a block.
  std::size_t bytes = 0;  ///< Bytes a block.
};

/// @throws argument_error for a value outside the enumeration.
constexpr block_format format_of(weight_type type) {
  switch (type) {
    case weight_type::f32:
      return {"f32", 1, 4};
    case weight_type::f16:
      return {"f16", 1, 2};
    case weight_type::bf16:
      return {"bf16", 1, 2};
    case weight_type::q8_0:
      return {"q8_0", 32, 34};
    case weight_type::q4_0:
      return {"q4_0", 32, 18};
    case weight_type::q4_1:
      return {"q4_1", 32, 20};
    case weight_type::q4_k:
      return {"q4_k", 256, 144};
    case weight_type::q5_k:
      return {"q5_k", 256, 176};
    case weight_type::q6_k:
      return {"q6_k", 256, 210};
  }
  throw argument_error("weight_type " + std::to_string(static_cast<int>(type)) +
                       " is none of the enumeration");
}

constexpr std::string_view to_string(weight_type type) { return format_of(type).name; }

/// Elements that share a scale in storage; 1 for the floating-point types.
constexpr index_t block_length(weight_type type) { return format_of(type).length; }

/// Bytes of a row of `cols` elements.
/// @throws shape_error if cols is negative, no multiple of the block length, or too large to count.
constexpr std::size_t row_bytes(weight_type type, index_t cols) {
  const block_format format = format_of(type);
  if (cols < 0 || cols % format.length != 0) {
    throw shape_error("row_bytes: a row of " + std::to_string(cols) + " elements of type " +
                      std::string(format.name) + ", expected a multiple of " +
                      std::to_string(format.length));
  }
  const auto n_blocks = static_cast<std::uint64_t>(cols / format.length);
  if (n_blocks > std::numeric_limits<std::size_t>::max() / format.bytes) {
    throw shape_error("row_bytes: a row of " + std::to_string(cols) + " elements of type " +
                      std::string(format.name) + " exceeds the address space");
  }
  return static_cast<std::size_t>(n_blocks) * format.bytes;
}

namespace detail {

/// Block fields lie at odd addresses and in little-endian order; hosts of other order are refused
/// where files are read (io/byte_reader.hpp).
inline float load_f16(const std::byte* at) {
  f16 value;
  std::memcpy(&value.bits, at, sizeof value.bits);
  return static_cast<float>(value);
}

inline unsigned load_u8(const std::byte* at) { return std::to_integer<unsigned>(*at); }

inline int load_i8(const std::byte* at) {
  return static_cast<int>(std::bit_cast<std::int8_t>(*at));
}

/// x_i = d q_i, i < 32. Layout: f16 d, i8 q[32].
inline void dequantize_q8_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(load_i8(block + 2 + i));
}

/// x_i = d (q_i - 8). Layout: f16 d, u8 nibbles[16]; the low nibble of byte i is element i, the
/// high one element i + 16.
inline void dequantize_q4_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 16; ++i) {
    const unsigned pair = load_u8(block + 2 + i);
    out[i] = d * static_cast<float>(static_cast<int>(pair & 15U) - 8);
    out[i + 16] = d * static_cast<float>(static_cast<int>(pair >> 4) - 8);
  }
}

/// x_i = d q_i + m. Layout: f16 d, f16 m, nibbles as in q4_0.
inline void dequantize_q4_1(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (int i = 0; i < 16; ++i) {
    const unsigned pair = load_u8(block + 4 + i);
    out[i] = d * static_cast<float>(pair & 15U) + m;
    out[i + 16] = d * static_cast<float>(pair >> 4) + m;
  }
}

struct scale_and_minimum {
  float scale;
  float minimum;
};

/// 6-bit scale and minimum of sub-block j < 8 of q4_k and q5_k, which share 12 bytes: bytes 0..3
/// hold the scales of sub-blocks 0..3 in their low 6 bits, bytes 4..7 the minima; bytes 8..11 hold
/// the low 4 bits of scale and minimum of sub-blocks 4..7, whose high 2 bits top bytes 0..3
/// and 4..7.
inline scale_and_minimum unpack_k_scale(const std::byte* packed, int j) {
  if (j < 4) {
    return {static_cast<float>(load_u8(packed + j) & 63U),
            static_cast<float>(load_u8(packed + 4 + j) & 63U)};
  }
  const unsigned low = load_u8(packed + 4 + j);
  const unsigned scale_top = load_u8(packed + j - 4) >> 6;
  const unsigned minimum_top = load_u8(packed + j) >> 6;
  return {static_cast<float>((low & 15U) | (scale_top << 4)),
          static_cast<float>((low >> 4) | (minimum_top << 4))};
}

/// Element i of sub-block j (32 elements): x = d scale_j q - dmin minimum_j. Layout: f16 d, f16
/// dmin, u8 scales[12], u8 nibbles[128]; sub-blocks 2c and 2c + 1 are the low and the high nibbles
/// of bytes 32c .. 32c + 31.
inline void dequantize_q4_k(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  for (int j = 0; j < 8; ++j) {
    const scale_and_minimum s = unpack_k_scale(block + 4, j);
    const float scale = d * s.scale;
    const float minimum = dmin * s.minimum;
    const std::byte* nibbles = block + 16 + 32 * (j / 2);
    const unsigned shift = j % 2 == 0 ? 0U : 4U;
    for (int i = 0; i < 32; ++i) {
      const unsigned q = (load_u8(nibbles + i) >> shift) & 15U;
      out[32 * j + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

/// As q4_k with a fifth bit: u8 high[32] stands before the nibbles, its byte i holds in bit j the
/// top bit of element i of sub-block j.
inline void dequantize_q5_k(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  const std::byte* high = block + 16;
  for (int j = 0; j < 8; ++j) {
    const scale_and_minimum s = unpack_k_scale(block + 4, j);
    const float scale = d * s.scale;
    const float minimum = dmin * s.minimum;
    const std::byte* nibbles = block + 48 + 32 * (j / 2);
    const unsigned shift = j % 2 == 0 ? 0U : 4U;
    for (int i = 0; i < 32; ++i) {
      const unsigned top = (load_u8(high + i) >> j) & 1U;
      const unsigned q = ((load_u8(nibbles + i) >> shift) & 15U) | (top << 4);
      out[32 * j + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

/// x = d scale (q - 32) with one i8 scale for 16 elements. Layout: u8 low[128], u8 high[64],
/// i8 scales[16], f16 d. Each half of 128 elements has 64 bytes of `low` and 32 of `high`: its
/// quarter k < 4 takes the nibble k / 2 of low[32 (k % 2) + i] and the bits 2k, 2k + 1 of high[i].
inline void dequantize_q6_k(const std::byte* block, float* out) {
  const float d = load_f16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* high = block + 128 + 32 * half;
    for (int k = 0; k < 4; ++k) {
      const std::byte* low = block + 64 * half + 32 * (k % 2);
      const unsigned shift = k < 2 ? 0U : 4U;
      const std::byte* scales = block + 192 + 8 * half + 2 * k;
      float* to = out + 128 * half + 32 * k;
      for (int i = 0; i < 32; ++i) {
        const unsigned top = (load_u8(high + i) >> (2 * k)) & 3U;
        const unsigned q = ((load_u8(low + i) >> shift) & 15U) | (top << 4);
        const float scale = d * static_cast<float>(load_i8(scales + i / 16));
        to[i] = scale * static_cast<float>(static_cast<int>(q) - 32);
      }
    }
  }
}

template <class Element>
void widen(const std::byte* row, index_t n, float* out) {
  for (index_t i = 0; i < n; ++i) {
    Element value;
    std::memcpy(&value.bits, row + 2 * i, sizeof value.bits);
    out[i] = static_cast<float>(value);
  }
}

template <class Block>
void dequantize_blocks(block_format format, const std::byte* row, index_t n, float* out,
                       Block block) {
  for (index_t i = 0; i < n; i += format.length) {
    block(row, out + i);
    row += format.bytes;
  }
}

}  // namespace detail

/// Decodes `n` elements from the start of a stored row into `out`. `row` needs no alignment and
/// must hold row_bytes(type, n) bytes. Exact for the floating-point types; the block types round as
/// their formulas read, in float.
///
/// The block layouts are those of GGUF (ggml-common.h and ggml-quants.c of the ggml project).
/// @throws shape_error if n is no multiple of the block length.
inline void dequantize(weight_type type, const std::byte* row, index_t n, float* out) {
  const std::size_t bytes = row_bytes(type, n);
  if (n == 0) return;
  const block_format format = format_of(type);
  switch (type) {
    case weight_type::f32:
      std::memcpy(out, row, bytes);
      return;
    case weight_type::f16:
      detail::widen<f16>(row, n, out);
      return;
    case weight_type::bf16:
      detail::widen<bf16>(row, n, out);
      return;
    case weight_type::q8_0:
      return detail::dequantize_blocks(format, row, n, out, detail::dequantize_q8_0);
    case weight_type::q4_0:
      return detail::dequantize_blocks(format, row, n, out, detail::dequantize_q4_0);
    case weight_type::q4_1:
      return detail::dequantize_blocks(format, row, n, out, detail::dequantize_q4_1);
    case weight_type::q4_k:
      return detail::dequantize_blocks(format, row, n, out, detail::dequantize_q4_k);
    case weight_type::q5_k:
      return detail::dequantize_blocks(format, row, n, out, detail::dequantize_q5_k);
    case weight_type::q6_k:
      return detail::dequantize_blocks(format, row, n, out, detail::dequantize_q6_k);
  }
}

/// Row `r` of a stored matrix as `m.cols` floats.
/// @throws shape_error if r is no row of m or the matrix holds fewer bytes than its extents need.
inline void dequantize_row(const host_matrix& m, index_t r, float* out) {
  const std::size_t bytes = row_bytes(m.type, m.cols);
  if (r < 0 || r >= m.rows) {
    throw shape_error("dequantize_row: row " + std::to_string(r) + " of '" + m.name +
                      "', which has " + std::to_string(m.rows) + " rows");
  }
  const auto index = static_cast<std::size_t>(r);
  if (bytes != 0 && m.data.size() / bytes <= index) {
    throw shape_error("dequantize_row: row " + std::to_string(r) + " of '" + m.name + "' needs " +
                      std::to_string(bytes) + " bytes a row, found " +
                      std::to_string(m.data.size()) + " bytes in all");
  }
  dequantize(m.type, m.data.data() + index * bytes, m.cols, out);
}

}  // namespace gistkv
