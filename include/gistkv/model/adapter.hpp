// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::model {

/// The change of one weight: W becomes W + (alpha / rank) B A.
struct low_rank {
  index_t layer = 0;
  std::string target;  ///< query, key, value, output, gate, up or down
  index_t rank = 0;
  index_t rows = 0;      ///< Outputs of W.
  index_t cols = 0;      ///< Inputs of W.
  std::vector<float> a;  ///< [rank, cols]
  std::vector<float> b;  ///< [rows, rank]
};

/// What training adds to a model: rows of the gist tokens and, if it went deeper, low-rank changes
/// of weights, for all rows of a sequence or for those of gist tokens only.
struct adapter {
  gist_rows gists;
  double alpha = 0.0;
  bool gist_rows_only = false;
  std::vector<low_rank> factors;

  /// Whether a text without gists is read by another model than the base.
  bool changes_all_rows() const { return !factors.empty() && !gist_rows_only; }
};

/// The model with W + (alpha / rank) B A in place of W, as floats: for LoRA on all rows, where it
/// shall not stand beside the weights (transformer::adapt).
/// @throws argument_error for an adapter whose LoRA is for gist rows only; std::out_of_range for a
/// layer that the model does not have.
inline host_model merged(const host_model& base, const adapter& a) {
  if (a.gist_rows_only && !a.factors.empty()) {
    throw argument_error("merge: the adapter's LoRA is for gist rows only");
  }
  host_model m = base;
  for (const low_rank& f : a.factors) {
    host_block& b = m.blocks.at(static_cast<std::size_t>(f.layer));
    const std::array<std::pair<std::string_view, host_linear*>, 7> maps = {{{"query", &b.query},
                                                                            {"key", &b.key},
                                                                            {"value", &b.value},
                                                                            {"output", &b.output},
                                                                            {"gate", &b.gate},
                                                                            {"up", &b.up},
                                                                            {"down", &b.down}}};
    for (const auto& [name, map] : maps) {
      if (name != f.target) continue;
      host_matrix& w = map->weight;
      auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(f.rows * f.cols));
      const std::size_t stride = row_bytes(w.type, w.cols);
      const double scale = a.alpha / static_cast<double>(f.rank);
      for (index_t r = 0; r < f.rows; ++r) {
        float* row = values->data() + r * f.cols;
        dequantize(w.type, w.data.data() + static_cast<std::size_t>(r) * stride, f.cols, row);
        for (index_t i = 0; i < f.rank; ++i) {
          const auto factor = static_cast<float>(
              scale * static_cast<double>(f.b[static_cast<std::size_t>(r * f.rank + i)]));
          const float* down = f.a.data() + i * f.cols;
          for (index_t c = 0; c < f.cols; ++c) row[c] += factor * down[c];
        }
      }
      w.type = weight_type::f32;
      w.data = std::as_bytes(std::span<const float>(*values));
      m.storage.push_back(std::move(values));
    }
  }
  return m;
}

}  // namespace gistkv::model
