// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <gistkv/backends/onednn/scratch.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>

/// Weights that stay in 4 or 8 bits, laid out for instructions that multiply four neighbours along
/// a row at once and add the products to one of 16 sums.

namespace gistkv::backends::onednn_detail {

/// A weight is scale (code - offset) + minimum, with scale and minimum for 32 weights.
struct code_format {
  int bits = 8;
  int offset = 0;
  bool has_minimum = false;

  friend bool operator==(const code_format&, const code_format&) = default;
};

/// Calls f.template operator()<bits, has_minimum>() for the format, one of three.
template <class Function>
void with_format(code_format format, const Function& f) {
  if (format.bits == 8) {
    f.template operator()<8, false>();
  } else if (format.has_minimum) {
    f.template operator()<4, true>();
  } else {
    f.template operator()<4, false>();
  }
}

inline constexpr index_t code_block = 32;  ///< Weights of a row that share a scale.
inline constexpr index_t code_panel = 16;  ///< Rows that are worked on side by side.

/// Whether a stored type can be kept in codes; `format` says how.
constexpr bool keeps_codes(weight_type type, code_format& format) {
  switch (type) {
    case weight_type::q8_0:
      format = {8, 128, false};
      return true;
    case weight_type::q4_0:
      format = {4, 8, false};
      return true;
    case weight_type::q4_1:
    case weight_type::q4_k:
      format = {4, 0, true};
      return true;
    default:
      return false;
  }
}

/// 32 weights in codes.
struct decoded_block {
  std::array<std::uint8_t, 32> codes;
  f16 scale;
  f16 minimum;
};

/// Block `b` of 32 weights of a stored row. The layouts stand in core/dequantize.hpp.
inline decoded_block decode_block(weight_type type, const std::byte* row, index_t b) {
  using namespace gistkv::detail;
  decoded_block out{};
  const auto read = [](const std::byte* at) {
    f16 value;
    std::memcpy(&value.bits, at, sizeof value.bits);
    return value;
  };
  const auto nibbles = [&](const std::byte* at) {
    for (std::size_t i = 0; i < 16; ++i) {
      const unsigned pair = load_u8(at + i);
      out.codes[i] = static_cast<std::uint8_t>(pair & 15U);
      out.codes[i + 16] = static_cast<std::uint8_t>(pair >> 4);
    }
  };
  if (type == weight_type::q4_k) {
    const std::byte* block = row + static_cast<std::size_t>(b / 8) * format_of(type).bytes;
    const int j = static_cast<int>(b % 8);
    const scale_and_minimum s = unpack_k_scale(block + 4, j);
    out.scale = f16(load_f16(block) * s.scale);
    out.minimum = f16(-load_f16(block + 2) * s.minimum);
    const std::byte* at = block + 16 + 32 * (j / 2);
    for (std::size_t i = 0; i < 32; ++i) {
      out.codes[i] = static_cast<std::uint8_t>((load_u8(at + i) >> (j % 2 == 0 ? 0 : 4)) & 15U);
    }
    return out;
  }
  const std::byte* block = row + static_cast<std::size_t>(b) * format_of(type).bytes;
  out.scale = read(block);
  if (type == weight_type::q8_0) {
    for (std::size_t i = 0; i < 32; ++i) {
      out.codes[i] = static_cast<std::uint8_t>(load_i8(block + 2 + i) + 128);
    }
  } else if (type == weight_type::q4_0) {
    nibbles(block + 2);
  } else {
    out.minimum = read(block + 2);
    nibbles(block + 4);
  }
  return out;
}

/// Codes of a matrix: for each panel of 16 rows and block of 32 columns one record of
///   8 bits: 8 x 64 bytes, of which number w holds the codes of columns 4w .. 4w + 3 of 16 rows;
///   4 bits: 4 x 64 bytes, of which number w holds those of w in its low, of w + 4 in its high
///   nibbles;
/// then 16 scales and, if the format has them, 16 minima, as f16. Rows past the end are zero. A row
/// of the matrix times a vector reads all of it once, from front to back.
class code_matrix {
 public:
  code_matrix() = default;
  code_matrix(code_format format, index_t rows, index_t cols)
      : format_(format),
        n_panels_((rows + code_panel - 1) / code_panel),
        n_blocks_(cols / code_block) {
    const std::size_t n = static_cast<std::size_t>(n_panels_ * n_blocks_) * record_bytes();
    std::memset(memory_.get<std::byte>(n), 0, n);
  }

  const code_format& format() const { return format_; }
  index_t n_panels() const { return n_panels_; }
  index_t n_blocks() const { return n_blocks_; }
  std::size_t record_bytes() const {
    return 64 * static_cast<std::size_t>(format_.bits) + (format_.has_minimum ? 64U : 32U);
  }
  const std::byte* panel(index_t p) const {
    return memory_.data<std::byte>() + static_cast<std::size_t>(p * n_blocks_) * record_bytes();
  }

  /// Lays out row r of `host`. False if a scale or minimum is no number or infinite: kernels shift
  /// exponents, which would make a number of it.
  bool put_row(const host_matrix& host, index_t r) {
    const std::byte* row =
        host.data.data() + static_cast<std::size_t>(r) * row_bytes(host.type, host.cols);
    const auto lane = static_cast<std::size_t>(r % code_panel);
    auto* record = const_cast<std::byte*>(panel(r / code_panel));
    bool finite = true;
    for (index_t b = 0; b < n_blocks_; ++b, record += record_bytes()) {
      decoded_block block = decode_block(host.type, row, b);
      finite = finite && is_finite(block.scale) && is_finite(block.minimum);
      // For the same reason a scale of 0 might not be 0; codes that stand for 0 are.
      if (static_cast<float>(block.scale) == 0.0F) {
        block.codes.fill(static_cast<std::uint8_t>(format_.offset));
      }
      for (std::size_t i = 0; i < 32; ++i) {
        const std::size_t word = i / 4;
        const auto code = static_cast<std::byte>(block.codes[i]);
        if (format_.bits == 8) {
          record[64 * word + 4 * lane + i % 4] = code;
        } else {
          record[64 * (word % 4) + 4 * lane + i % 4] |= word < 4 ? code : code << 4;
        }
      }
      std::byte* scales = record + std::ptrdiff_t{64} * format_.bits;
      std::memcpy(scales + 2 * lane, &block.scale.bits, 2);
      if (format_.has_minimum) std::memcpy(scales + 32 + 2 * lane, &block.minimum.bits, 2);
    }
    return finite;
  }

 private:
  static bool is_finite(f16 x) { return (x.bits & 0x7c00U) != 0x7c00U; }

  code_format format_;
  index_t n_panels_ = 0;
  index_t n_blocks_ = 0;
  scratch memory_;
};

/// Bytes of a record of code_matrix.
template <int Bits, bool Minimum>
inline constexpr std::size_t record_size = 64 * Bits + (Minimum ? 64 : 32);
/// Words of two codes in 16 bits that 64 bytes hold of each of 16 rows, as kernels unpack them.
template <int Bits>
inline constexpr int parts_of_bytes = 16 / Bits;
/// Part `j` of bytes number w is word number word_of(w, j) of 16 of the record: codes of two
/// columns for each of 16 rows. Number 2 i has columns 4 i, 4 i + 2; the next 4 i + 1, 4 i + 3.
constexpr int word_of(int w, int j) { return 2 * w + j / 2 * 8 + j % 2; }

/// Rows of activations in 15 bits and a sign, x = scale 2^s values, with a scale for the row and a
/// power of two for 32 neighbours. Eight bits, which other engines use, moved the logits of one
/// position in six of a small model by more than the rounding to bf16 moves any (docs/onednn.md).
/// `extra` is what codes need of the sum of a block: -offset sum(values) as an integer, or, for a
/// minimum, 2^s sum(values) as a float.
struct quantized_rows {
  /// [n, d]; each four neighbours in the order 0 2 1 3. Or, for each row, [2, d] bytes with a sign:
  /// the upper halves, then the lower ones, in their own order.
  std::int16_t* values = nullptr;
  std::int32_t* shift = nullptr;   ///< [n, d / 32]: s >= 0, at the place of a float's exponent.
  std::uint32_t* extra = nullptr;  ///< [n, d / 32]
  float* scale = nullptr;          ///< [n]
  index_t d = 0;

  static constexpr std::size_t words_for(index_t n, index_t d) {
    return static_cast<std::size_t>(n * (d / 2 + d / code_block * 2 + 1));
  }
  /// In the memory of words_for(n, d) words.
  static quantized_rows in(std::uint32_t* memory, index_t n, index_t d) {
    const index_t blocks = n * (d / code_block);
    std::uint32_t* rest = memory + n * d / 2;
    return {reinterpret_cast<std::int16_t*>(memory), reinterpret_cast<std::int32_t*>(rest),
            rest + blocks, reinterpret_cast<float*>(rest + 2 * blocks), d};
  }
  std::int8_t* upper_half(index_t row) const {
    return reinterpret_cast<std::int8_t*>(values + row * d);
  }
  std::int8_t* lower_half(index_t row) const { return upper_half(row) + d; }
  quantized_rows from(index_t row) const {
    const index_t blocks = row * (d / code_block);
    return {values + row * d, shift + blocks, extra + blocks, scale + row, d};
  }
};

/// The exponent at which the shifts of a row's blocks begin, from the least and the greatest of
/// their exponents: a block smaller than 2^-24 of the largest is rounded as if it were as large as
/// that.
constexpr std::int32_t base_exponent(std::int32_t least, std::int32_t most) {
  constexpr std::int32_t widest = 24;
  const std::int32_t base = least > most - widest ? least : most - widest;
  return base > 1 ? base : 1;
}

/// Rows of activations in 7 bits and a sign, with a scale for 32 neighbours: half the products of
/// quantized_rows, for rows that only leave keys and values behind. `extra` is as there, with
/// scale sum(values) for a minimum.
struct coarse_rows {
  std::int8_t* values = nullptr;   ///< [n, d]
  float* scale = nullptr;          ///< [n, d / 32]
  std::uint32_t* extra = nullptr;  ///< [n, d / 32]
  index_t d = 0;

  static constexpr std::size_t words_for(index_t n, index_t d) {
    return static_cast<std::size_t>(n * (d / 4 + d / code_block * 2));
  }
  /// In the memory of words_for(n, d) words.
  static coarse_rows in(std::uint32_t* memory, index_t n, index_t d) {
    std::uint32_t* rest = memory + n * d / 4;
    return {reinterpret_cast<std::int8_t*>(memory), reinterpret_cast<float*>(rest),
            rest + n * (d / code_block), d};
  }
  coarse_rows from(index_t row) const {
    const index_t blocks = row * (d / code_block);
    return {values + row * d, scale + blocks, extra + blocks, d};
  }
};

inline constexpr index_t most_coarse_rows = 7;         ///< Of a product that has some: 8 gists.
inline constexpr index_t most_beside_coarse_rows = 2;  ///< The end of a sentence and its last gist.

/// Rows of a product, of which n_coarse follow behind the first n_before of the others.
struct mixed_rows {
  quantized_rows fine;
  index_t n_fine = 0;
  coarse_rows coarse = {};
  index_t n_coarse = 0;
  index_t n_before = 0;

  mixed_rows(const quantized_rows& rows, index_t n) : fine(rows), n_fine(n) {}
};

/// Every number of rows up to this goes through a panel in one pass: unpacking it costs as much as
/// a row of products.
inline constexpr index_t most_rows_of_pass = 6;
/// Calls f(i, count) for the passes of n rows.
template <class Function>
void for_row_groups(index_t n, const Function& f) {
  for (index_t i = 0; i < n;) {
    const index_t left = n - i;
    const index_t count = left > most_rows_of_pass ? 4 : left;
    f(i, count);
    i += count;
  }
}

/// Four panels with their codes, less their middle or none, in 16 bits: a weight is scale code +
/// minimum. Each pair of `expand` and `multiply_expanded` chooses its own order and element types.
struct expanded_panels {
  std::uint32_t* words = nullptr;    ///< 64 d / 2: pairs in the order of quantized_rows
  float* scale = nullptr;            ///< 64 d / 32
  std::uint32_t* minimum = nullptr;  ///< 64 d / 32, if the format has them

  static constexpr index_t rows = 4 * code_panel;
  static constexpr std::size_t words_for(index_t n_blocks) {
    return static_cast<std::size_t>(rows * n_blocks * (code_block / 2 + 2));
  }
  /// In the memory of words_for(n_blocks) words.
  static expanded_panels in(std::uint32_t* memory, index_t n_blocks) {
    std::uint32_t* scale = memory + n_blocks * rows * (code_block / 2);
    return {memory, reinterpret_cast<float*>(scale), scale + n_blocks * rows};
  }
};

/// Numbers as sums of two bf16, which are 16 bits of them: where a CPU multiplies tiles of bf16,
/// three products of these are faster than one of whole numbers, and as exact.
struct split_numbers {
  std::uint32_t* high = nullptr;
  std::uint32_t* low = nullptr;

  /// Rows are read 32 at a time from whichever a task begins with, so there is memory for as many.
  static constexpr index_t padded_rows(index_t n) { return n + 31; }
  /// Of rows of activations, [n, d / 2] words each: pairs of columns in the order of
  /// quantized_rows.
  static constexpr std::size_t words_for_rows(index_t n, index_t d) {
    return static_cast<std::size_t>(padded_rows(n) * d);
  }
  static split_numbers rows_in(std::uint32_t* memory, index_t n, index_t d) {
    return {memory, memory + padded_rows(n) * (d / 2)};
  }
  /// Of the weights of four panels, [d / 2][64] words each, in the same order.
  static constexpr std::size_t words_for_panels(index_t n_blocks) {
    return static_cast<std::size_t>(4 * code_panel * n_blocks * code_block);
  }
  static split_numbers panels_in(std::uint32_t* memory, index_t n_blocks) {
    return {memory, memory + 4 * code_panel * n_blocks * (code_block / 2)};
  }
  split_numbers from(index_t words) const { return {high + words, low + words}; }
};

/// Products of many rows with weights in codes by tiles.
template <class T>
struct tile_kernels {
  /// Of one row of d elements.
  void (*split)(const split_numbers& to, const T* x, index_t d);
  void (*expand)(const split_numbers& to, const std::byte* const (&panels)[4], index_t n_blocks,
                 code_format format);
  /// o[i, :n_out] of n rows i of d elements; n_out <= 64 of the outputs exist.
  void (*multiply)(T* o, index_t ldo, const split_numbers& x, index_t n, index_t d,
                   const split_numbers& w, index_t n_out);
};

template <class T>
struct code_kernels {
  /// Quantises one row for multiply_expanded.
  void (*quantize)(const quantized_rows& to, const T* x, code_format format);
  /// The same for product.
  void (*quantize_few)(const quantized_rows& to, const T* x, code_format format);
  /// Null where coarse rows save nothing.
  void (*quantize_coarse)(const coarse_rows& to, const T* x, code_format format);
  /// o[i, :n_out] of all rows i for one panel; n_out <= 16 of its outputs exist. With coarse rows
  /// there are 1 to most_beside_coarse_rows others, and most_coarse_rows of them at most.
  void (*product)(T* o, index_t ldo, const mixed_rows& x, const std::byte* panel, index_t n_out,
                  code_format format);
  void (*expand)(const expanded_panels& o, const std::byte* const (&panels)[4], index_t n_blocks,
                 code_format format);
  /// o[i, :n_out] of n rows i; n_out <= 64 of the outputs exist.
  void (*multiply_expanded)(T* o, index_t ldo, const quantized_rows& x, index_t n,
                            const expanded_panels& w, index_t n_out, code_format format);
};

}  // namespace gistkv::backends::onednn_detail
