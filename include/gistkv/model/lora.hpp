// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::model {

/// A low-rank change of a linear map (Hu et al. 2021, arXiv 2106.09685): W becomes
/// W + (alpha / rank) B A.
struct low_rank {
  index_t layer = 0;
  std::string target;  ///< query, key, value, output, gate, up or down
  index_t rank = 0;
  index_t rows = 0;      ///< Outputs of W.
  index_t cols = 0;      ///< Inputs of W.
  std::vector<float> a;  ///< [rank, cols]
  std::vector<float> b;  ///< [rows, rank]

  /// The factors as matrices that lie here.
  host_matrix a_matrix() const {
    return {target + " A", weight_type::f32, rank, cols, std::as_bytes(std::span<const float>(a))};
  }
  host_matrix b_matrix() const {
    return {target + " B", weight_type::f32, rows, rank, std::as_bytes(std::span<const float>(b))};
  }
};

/// Changes of maps of a model, one at most of each, with the alpha that they share.
struct lora {
  double alpha = 0.0;
  std::vector<low_rank> factors;

  bool empty() const { return factors.empty(); }
};

/// @throws argument_error for two changes of one map: which of them counts, nothing says.
inline void expect_one_of_each(std::span<const low_rank> factors) {
  for (auto f = factors.begin(); f != factors.end(); ++f) {
    const bool again = std::any_of(factors.begin(), f, [&](const low_rank& earlier) {
      return earlier.layer == f->layer && earlier.target == f->target;
    });
    if (!again) continue;
    throw argument_error("LoRA: layer " + std::to_string(f->layer) + " " + f->target +
                         " has two changes, expected one at most");
  }
}

/// @throws argument_error as expect_one_of_each, and for an alpha that is not a positive number.
inline void validate(const lora& l) {
  if (l.empty()) return;
  expect_one_of_each(l.factors);
  if (l.alpha > 0.0 && std::isfinite(l.alpha)) return;
  throw argument_error("LoRA: alpha is " + std::to_string(l.alpha) +
                       ", expected a positive number");
}

/// The linear maps of a block, which may be const, with the names that low_rank and Hugging Face
/// have for them.
template <class Block>
auto linear_maps(Block& block) {
  using linear = std::remove_reference_t<decltype((block.query))>;
  struct named_map {
    std::string_view target;
    std::string_view hugging_face;
    linear* map;
  };
  return std::array<named_map, 7>{{{"query", "self_attn.q_proj", &block.query},
                                   {"key", "self_attn.k_proj", &block.key},
                                   {"value", "self_attn.v_proj", &block.value},
                                   {"output", "self_attn.o_proj", &block.output},
                                   {"gate", "mlp.gate_proj", &block.gate},
                                   {"up", "mlp.up_proj", &block.up},
                                   {"down", "mlp.down_proj", &block.down}}};
}

/// @throws shape_error unless a change is one of a map [rows, cols].
inline void expect_fits(const low_rank& f, index_t rows, index_t cols) {
  if (f.rows == rows && f.cols == cols && f.rank > 0 &&
      f.a.size() == static_cast<std::size_t>(f.rank * f.cols) &&
      f.b.size() == static_cast<std::size_t>(f.rows * f.rank)) {
    return;
  }
  throw shape_error("LoRA of layer " + std::to_string(f.layer) + " " + f.target + " is [" +
                    std::to_string(f.rows) + ", " + std::to_string(f.cols) + "] of rank " +
                    std::to_string(f.rank) + " with " + std::to_string(f.a.size()) + " and " +
                    std::to_string(f.b.size()) + " numbers, expected [" + std::to_string(rows) +
                    ", " + std::to_string(cols) + "]");
}

/// The map of a model that a change is of. @throws argument_error for a layer or a target that the
/// model does not have; shape_error unless the change fits the map.
template <class Model>
auto& changed_map(Model& m, const low_rank& f) {
  if (f.layer < 0 || f.layer >= static_cast<index_t>(m.blocks.size())) {
    throw argument_error("LoRA: for layer " + std::to_string(f.layer) + " of " +
                         std::to_string(m.blocks.size()));
  }
  for (const auto& [target, name, map] : linear_maps(m.blocks[static_cast<std::size_t>(f.layer)])) {
    if (target != f.target) continue;
    expect_fits(f, map->weight.rows, map->weight.cols);
    return *map;
  }
  throw argument_error("LoRA: target '" + f.target + "' is none of a block");
}

namespace detail {

/// sum[r, c] += scale * sum_k B[r, k] A[k, c] for columns [begin, begin + Width).
/// Loops of constant length, for compilers to keep the sums of a row in registers.
template <index_t Width>
void add_products(const low_rank& f, index_t begin, float scale, float* sum) {
  for (index_t r = 0; r < f.rows; ++r) {
    std::array<float, static_cast<std::size_t>(Width)> added{};
    const float* b = f.b.data() + r * f.rank;
    for (index_t k = 0; k < f.rank; ++k) {
      const float* a = f.a.data() + k * f.cols + begin;
      for (std::size_t c = 0; c < added.size(); ++c) added[c] += b[k] * a[c];
    }
    float* out = sum + r * f.cols + begin;
    for (std::size_t c = 0; c < added.size(); ++c) out[c] += scale * added[c];
  }
}

}  // namespace detail

/// Adds low-rank changes to the weights of a model, in float32; the sums lie in memory that the
/// model keeps. @throws as changed_map and expect_one_of_each.
inline void merge_lora(host_model& m, std::span<const low_rank> factors, double alpha) {
  for (const low_rank& f : factors) changed_map(m, f);  // Before anything is changed.
  expect_one_of_each(factors);
  for (const low_rank& f : factors) {
    host_matrix& w = changed_map(m, f).weight;
    const auto scale = static_cast<float>(alpha / static_cast<double>(f.rank));
    auto sum = std::make_shared<std::vector<float>>(static_cast<std::size_t>(f.rows * f.cols));
    for (index_t r = 0; r < f.rows; ++r) dequantize_row(w, r, sum->data() + r * f.cols);
    constexpr index_t width = 32;
    const index_t whole = f.cols - f.cols % width;
    for (index_t c = 0; c < whole; c += width) {
      detail::add_products<width>(f, c, scale, sum->data());
    }
    for (index_t c = whole; c < f.cols; ++c) detail::add_products<1>(f, c, scale, sum->data());
    w.type = weight_type::f32;
    w.data = std::as_bytes(std::span<const float>(*sum));
    m.storage.push_back(std::move(sum));
  }
}

}  // namespace gistkv::model
