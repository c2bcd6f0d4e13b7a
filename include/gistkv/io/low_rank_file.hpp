// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/stored_tensor.hpp>
#include <gistkv/io/tensor_list.hpp>
#include <gistkv/model/lora.hpp>

/// Low-rank changes as two tensors of a file each, whatever the file calls them.

namespace gistkv::io {

namespace detail {

/// The alpha of LoRA as it is read back to the bit, whatever the locale.
/// @throws argument_error unless it is a positive number: readers refuse others.
inline std::string alpha_text(double alpha) {
  if (!(alpha > 0) || !std::isfinite(alpha)) {
    throw argument_error("adapter: alpha of LoRA is " + std::to_string(alpha) +
                         ", expected a positive number");
  }
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), alpha);
  return {text.data(), end.ptr};
}

}  // namespace detail

/// The numbers of a matrix. @throws format_error for other extents.
inline std::vector<float> stored_values(const stored_tensor& t, index_t rows, index_t cols,
                                        std::string_view file) {
  if (t.extents != std::vector<index_t>{rows, cols}) {
    throw format_error(std::string(file) + ": tensor " + quote(t.name) + " has shape " +
                       extents_text(t.extents) + ", expected [" + std::to_string(rows) + ", " +
                       std::to_string(cols) + "]");
  }
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  dequantize(t.type, t.data.data(), rows * cols, values.data());
  return values;
}

/// The change of a weight [rows, cols] by A [rank, cols] and B [rows, rank].
/// @throws format_error for other extents.
inline model::low_rank read_low_rank(const stored_tensor& a, const stored_tensor& b, index_t layer,
                                     std::string_view target, index_t rows, index_t cols,
                                     std::string_view file) {
  if (a.extents.size() != 2 || a.extents[0] < 1) {
    throw format_error(std::string(file) + ": tensor " + quote(a.name) + " has shape " +
                       extents_text(a.extents) + ", expected [rank, " + std::to_string(cols) + "]");
  }
  const index_t rank = a.extents[0];
  return {layer,
          std::string(target),
          rank,
          rows,
          cols,
          stored_values(a, rank, cols, file),
          stored_values(b, rows, rank, file)};
}

/// Lists both factors, which must stay where they are until the list is written.
inline void add_low_rank(tensor_list& list, const model::low_rank& f, std::string a_name,
                         std::string b_name) {
  list.add(std::move(a_name), f.a_matrix());
  list.add(std::move(b_name), f.b_matrix());
}

/// How a file calls the factors of all maps of a model: BLOCKS I . MAP A, with the names of Hugging
/// Face for maps.
struct lora_names {
  std::string blocks;
  std::string_view a;
  std::string_view b;

  std::string of(std::size_t layer, std::string_view map, std::string_view factor) const {
    return blocks + std::to_string(layer) + "." + std::string(map) + std::string(factor);
  }
};

namespace detail {

inline const stored_tensor* find(std::span<const stored_tensor> tensors, std::string_view name) {
  for (const stored_tensor& t : tensors) {
    if (t.name == name) return &t;
  }
  return nullptr;
}

}  // namespace detail

/// Changes of those maps of a model that the file has them of; both factors of each are known to be
/// there. @throws format_error.
inline std::vector<model::low_rank> read_lora(std::span<const stored_tensor> tensors,
                                              const model::host_model& m, const lora_names& names,
                                              std::string_view file) {
  std::vector<model::low_rank> factors;
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    for (const auto& [target, name, map] : model::linear_maps(m.blocks[i])) {
      const stored_tensor* a = detail::find(tensors, names.of(i, name, names.a));
      if (a == nullptr) continue;
      factors.push_back(read_low_rank(*a, *detail::find(tensors, names.of(i, name, names.b)),
                                      static_cast<index_t>(i), target, map->weight.rows,
                                      map->weight.cols, file));
    }
  }
  return factors;
}

/// Of which maps a file must hold changes.
enum class maps_with_lora { all, some };

/// Lists changes of the maps of a model. @throws argument_error naming a map that has none where
/// all must, and for changes of anything else.
inline void add_lora(tensor_list& list, std::span<const model::low_rank> factors,
                     const model::host_model& m, const lora_names& names, maps_with_lora which) {
  for (const model::low_rank& f : factors) model::changed_map(m, f);
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    for (const auto& [target, name, map] : model::linear_maps(m.blocks[i])) {
      const std::string_view of = target;  // clang 14 captures no structured bindings.
      const auto at = std::ranges::find_if(factors, [&](const model::low_rank& f) {
        return f.layer == static_cast<index_t>(i) && f.target == of;
      });
      if (at == factors.end()) {
        if (which == maps_with_lora::some) continue;
        throw argument_error("LoRA: there is none of layer " + std::to_string(i) + " " +
                             std::string(target) + ", expected that of all maps");
      }
      add_low_rank(list, *at, names.of(i, name, names.a), names.of(i, name, names.b));
    }
  }
}

}  // namespace gistkv::io
