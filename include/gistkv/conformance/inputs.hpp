// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <gistkv/conformance/cases.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/mask/visible_spans.hpp>

/// Seeded inputs of the cases.

namespace gistkv::conformance {

inline std::vector<double> normals(random_generator& random, index_t n, double magnitude = 1.0) {
  std::vector<double> values(static_cast<std::size_t>(n));
  for (double& x : values) x = magnitude * random.normal();
  return values;
}

/// Of a rotation: [head_dim / 2], falling from 1.
inline std::vector<float> rotation_frequencies(index_t head_dim) {
  std::vector<float> frequencies;
  for (index_t j = 0; j < head_dim / 2; ++j) {
    frequencies.push_back(static_cast<float>(
        std::pow(1e4, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim))));
  }
  return frequencies;
}

/// A stored matrix of any weight type, and the values that its bytes stand for.
struct random_weight {
  std::vector<std::byte> bytes;
  host_matrix matrix;  ///< Borrows `bytes`.
  std::vector<double> values;

  /// Blocks are random bits but for their 16-bit scales, which are small and positive: every code
  /// of every block type occurs, whether or not an encoder would choose it.
  random_weight(random_generator& random, weight_type type, index_t rows, index_t cols) {
    const std::size_t per_row = row_bytes(type, cols);
    bytes.resize(per_row * static_cast<std::size_t>(rows));
    const block_format format = format_of(type);
    for (std::size_t block = 0; block < bytes.size(); block += format.bytes) {
      fill_block(random, type, format.bytes, bytes.data() + block);
    }
    matrix = {.name = "weight", .type = type, .rows = rows, .cols = cols, .data = bytes};
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (index_t r = 0; r < rows; ++r) {
      dequantize_row(matrix, r, row.data());
      values.insert(values.end(), row.begin(), row.end());
    }
  }
  random_weight(const random_weight&) = delete;
  random_weight& operator=(const random_weight&) = delete;

 private:
  static void put(std::byte* to, const auto& value) { std::memcpy(to, &value, sizeof value); }
  static void fill_block(random_generator& random, weight_type type, std::size_t n_bytes,
                         std::byte* block) {
    const auto value = static_cast<float>(random.normal());
    const auto scale = [&random] { return f16(static_cast<float>(random.uniform(1e-3, 4e-3))); };
    switch (type) {
      case weight_type::f32:
        return put(block, value);
      case weight_type::f16:
        return put(block, f16(value).bits);
      case weight_type::bf16:
        return put(block, bf16(value).bits);
      default:
        break;
    }
    for (std::size_t i = 0; i < n_bytes; ++i) block[i] = static_cast<std::byte>(random.below(256));
    if (type == weight_type::q6_k) return put(block + 208, scale().bits);
    put(block, scale().bits);
    if (type == weight_type::q8_0 || type == weight_type::q4_0) return;
    put(block + 2, scale().bits);  // The minimum of q4_1, q4_k and q5_k.
  }
};

/// Spans of n_q queries over n_anchors anchors and n_local local rows. The first query sees all;
/// some see no local row (as an empty range that does not begin at 0), some see nothing.
inline std::vector<visible_spans> random_spans(random_generator& random, index_t n_q,
                                               index_t n_anchors, index_t n_local) {
  std::vector<visible_spans> spans(static_cast<std::size_t>(n_q));
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const auto anchors = static_cast<std::int32_t>(random.below(n_anchors + 1));
    auto begin = static_cast<std::int32_t>(random.below(n_local + 1));
    auto end = static_cast<std::int32_t>(random.below(n_local + 1));
    if (end < begin) std::swap(begin, end);
    if (i == 0) {
      spans[i] = {static_cast<std::int32_t>(n_anchors), 0, static_cast<std::int32_t>(n_local)};
    } else if (i % 7 == 3) {
      spans[i] = {0, begin, begin};
    } else if (i % 7 == 5) {
      spans[i] = {anchors, end, begin};
    } else {
      spans[i] = {anchors, begin, end};
    }
  }
  return spans;
}

/// The spans of a case that is not dense.
inline std::vector<visible_spans> spans_for(mask_choice mask, random_generator& random, index_t n_q,
                                            index_t n_anchors, index_t n_local) {
  if (mask == mask_choice::nothing) {
    return std::vector<visible_spans>(static_cast<std::size_t>(n_q));
  }
  if (mask == mask_choice::sentences) return sentence_spans(n_q, n_anchors, n_local);
  return random_spans(random, n_q, n_anchors, n_local);
}

/// Row numbers of a gather: any of m, repeated or not, the last one among them.
inline std::vector<std::int32_t> gather_indices(random_generator& random, index_t n, index_t m) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(n));
  for (std::int32_t& row : rows) row = static_cast<std::int32_t>(random.below(m));
  if (!rows.empty()) rows.back() = static_cast<std::int32_t>(m - 1);
  return rows;
}

/// Row numbers of a scatter: n different ones of m in random order, every third negative.
inline std::vector<std::int32_t> scatter_indices(random_generator& random, index_t n, index_t m) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(m));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i] = static_cast<std::int32_t>(i);
    std::swap(rows[i], rows[static_cast<std::size_t>(random.below(static_cast<index_t>(i) + 1))]);
  }
  rows.resize(static_cast<std::size_t>(n));
  for (std::size_t i = 1; i < rows.size(); i += 3) rows[i] = -1 - rows[i];
  return rows;
}

/// Calls f with the mask; `spans` and `n_anchors` count for those that are not dense, and lie
/// where the mask will run.
template <class F>
void with_mask(mask_choice choice, const visible_spans* spans, index_t n_anchors, F&& f) {
  switch (choice) {
    case mask_choice::everything:
      return f(everything_mask{});
    case mask_choice::causal:
      return f(causal_mask{});
    case mask_choice::irregular:
      return f(irregular_mask{});
    case mask_choice::spans:
    case mask_choice::sentences:
    case mask_choice::nothing:
      return f(span_mask{spans, n_anchors, 0});
  }
}

}  // namespace gistkv::conformance
