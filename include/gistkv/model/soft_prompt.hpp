// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::model {

/// Vectors that a decoder reads in place of token embeddings.
struct soft_prompt {
  index_t d_model = 0;
  std::vector<float> rows;  ///< [size(), d_model]

  index_t size() const { return d_model > 0 ? static_cast<index_t>(rows.size()) / d_model : 0; }
  /// Rows [begin, begin + count).
  std::span<const float> part(index_t begin, index_t count) const {
    return std::span<const float>(rows).subspan(static_cast<std::size_t>(begin * d_model),
                                                static_cast<std::size_t>(count * d_model));
  }
};

/// @throws shape_error if the last row is not whole.
inline void validate(const soft_prompt& soft) {
  const auto n = static_cast<index_t>(soft.rows.size());
  if (soft.d_model > 0 ? n % soft.d_model == 0 : n == 0) return;
  throw shape_error("soft tokens: " + std::to_string(n) + " numbers are no rows of " +
                    std::to_string(soft.d_model));
}

}  // namespace gistkv::model
