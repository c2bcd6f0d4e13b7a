// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/backends/cuda/attention_split.hpp>
#include <gistkv/backends/cuda/attention_tile.hpp>

/// The shapes in which the kernels are built, by head dimension.

namespace gistkv::backends::cuda_detail {

namespace shapes {
template <int HeadDim>
struct of;
template <>
struct of<64> {
  /// Two fragments a warp read each key operand half as often from shared memory, whose 128 bytes
  /// a clock would else be the limit.
  using tile = tile_shape<64, 4, 2, 64, 3>;
  using split = tile_shape<64, 4, 1, 32, 3>;
};
template <>
struct of<128> {
  /// The result of two fragments would not fit into registers.
  using tile = tile_shape<128, 8, 1, 64, 3>;
  using split = tile_shape<128, 4, 1, 16, 3>;
};
}  // namespace shapes

template <int HeadDim>
using tile_shape_for = typename shapes::of<HeadDim>::tile;
template <int HeadDim>
using split_shape_for = typename shapes::of<HeadDim>::split;

}  // namespace gistkv::backends::cuda_detail
