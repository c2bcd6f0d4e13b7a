// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::io {

/// A weight tensor of a model file. Borrows its bytes from the file's mapping; they need not be
/// aligned for any type.
struct stored_tensor {
  std::string name;
  weight_type type = weight_type::f32;
  std::vector<index_t>
      extents;  ///< Outermost first whatever the file's own order: [rows, columns].
  std::span<const std::byte> data = {};
};

/// Elements of a tensor whose extents a reader has checked.
inline index_t element_count(const stored_tensor& tensor) {
  index_t n = 1;
  for (const index_t extent : tensor.extents) n *= extent;
  return n;
}

}  // namespace gistkv::io
