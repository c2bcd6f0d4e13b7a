// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
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

/// A low-rank addition to a linear map (Hu et al. 2021, arXiv 2106.09685): W + scale B A, with
/// scale = alpha / rank. Nothing is added where `a` is empty.
struct host_lora {
  host_matrix a;  ///< [rank, in]
  host_matrix b;  ///< [out, rank]
  double scale = 1.0;
};

struct block_lora {
  host_lora query;
  host_lora key;
  host_lora value;
  host_lora output;
  host_lora gate;
  host_lora up;
  host_lora down;
};

/// The linear maps of a block and what is added to them, with the names of Hugging Face. Lora is
/// block_lora or whatever else has its seven members; either may be const.
template <class Block, class Lora>
auto paired_maps(Block& block, Lora& lora) {
  using linear = std::remove_reference_t<decltype((block.query))>;
  using added = std::remove_reference_t<decltype((lora.query))>;
  struct pair {
    std::string_view name;
    linear* map;
    added* lora;
  };
  return std::array<pair, 7>{{{"self_attn.q_proj", &block.query, &lora.query},
                              {"self_attn.k_proj", &block.key, &lora.key},
                              {"self_attn.v_proj", &block.value, &lora.value},
                              {"self_attn.o_proj", &block.output, &lora.output},
                              {"mlp.gate_proj", &block.gate, &lora.gate},
                              {"mlp.up_proj", &block.up, &lora.up},
                              {"mlp.down_proj", &block.down, &lora.down}}};
}

/// W + scale B A in float32, row by row.
/// @throws shape_error naming the matrix whose extents do not fit.
inline std::vector<float> merged(const host_matrix& w, const host_lora& lora) {
  const index_t rank = lora.a.rows;
  if (lora.a.cols != w.cols || lora.b.rows != w.rows || lora.b.cols != rank) {
    throw shape_error("lora: A is [" + std::to_string(rank) + ", " + std::to_string(lora.a.cols) +
                      "] and B is [" + std::to_string(lora.b.rows) + ", " +
                      std::to_string(lora.b.cols) + "], expected [r, " + std::to_string(w.cols) +
                      "] and [" + std::to_string(w.rows) + ", r] for '" + w.name + "'");
  }
  const auto width = static_cast<std::size_t>(w.cols);
  std::vector<float> a(static_cast<std::size_t>(rank) * width);
  for (index_t k = 0; k < rank; ++k) dequantize_row(lora.a, k, a.data() + k * w.cols);
  std::vector<float> b(static_cast<std::size_t>(rank));
  std::vector<float> added(width);
  std::vector<float> sum(static_cast<std::size_t>(w.rows) * width);
  for (index_t i = 0; i < w.rows; ++i) {
    dequantize_row(lora.b, i, b.data());
    added.assign(width, 0.0F);
    for (std::size_t k = 0; k < b.size(); ++k) {
      const float* row = a.data() + k * width;
      for (std::size_t j = 0; j < width; ++j) added[j] += b[k] * row[j];
    }
    float* out = sum.data() + i * w.cols;
    dequantize_row(w, i, out);
    for (std::size_t j = 0; j < width; ++j) out[j] += static_cast<float>(lora.scale) * added[j];
  }
  return sum;
}

/// Adds LoRA to the first blocks of a model; the sums lie in memory that the model keeps.
/// @throws shape_error as above, and for more additions than blocks.
inline void merge_lora(host_model& m, std::span<const block_lora> loras) {
  if (loras.size() > m.blocks.size()) {
    throw shape_error("lora: for " + std::to_string(loras.size()) + " blocks, the model has " +
                      std::to_string(m.blocks.size()));
  }
  auto memory = std::make_shared<std::vector<std::vector<float>>>();
  for (std::size_t i = 0; i < loras.size(); ++i) {
    for (const auto& [name, map, lora] : paired_maps(m.blocks[i], loras[i])) {
      if (lora->a.empty()) continue;
      memory->push_back(merged(map->weight, *lora));
      map->weight.type = weight_type::f32;
      map->weight.data = std::as_bytes(std::span<const float>(memory->back()));
    }
  }
  m.storage.push_back(std::move(memory));
}

}  // namespace gistkv::model
