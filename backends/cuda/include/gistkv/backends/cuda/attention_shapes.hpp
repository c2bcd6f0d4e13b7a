// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <gistkv/backends/cuda/attention_levels.hpp>
#include <gistkv/backends/cuda/attention_split.hpp>
#include <gistkv/backends/cuda/attention_tile.hpp>
#include <gistkv/backends/cuda/attention_wgmma.hpp>

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
  using levels = level_shape<64, 4, 32, 3>;
  using wgmma = wgmma_shape<64, 3, 96, 3, 32, 160>;
};
template <>
struct of<128> {
  /// The result of two fragments would not fit into registers.
  using tile = tile_shape<128, 8, 1, 64, 3>;
  using split = tile_shape<128, 4, 1, 16, 3>;
  using levels = level_shape<128, 4, 32, 3>;
  using wgmma = wgmma_shape<128, 2, 128, 2, 24, 240>;
};
}  // namespace shapes

template <int HeadDim>
using tile_shape_for = typename shapes::of<HeadDim>::tile;
template <int HeadDim, class KV>
using split_shape_for =
    std::conditional_t<std::is_same_v<KV, q8>, typename shapes::of<HeadDim>::levels,
                       typename shapes::of<HeadDim>::split>;
/// Does the split kernel fit into the `available` bytes of shared memory that a block of threads
/// can have? For rows of q8 and head dimension 128 three stages do from 100 KB on: on sm_80 and
/// sm_90, not on sm_86, sm_89 and sm_120, which have 99.
template <int HeadDim, class KV>
constexpr bool split_fits(std::uint32_t available) {
  return split_shared_bytes<split_shape_for<HeadDim, KV>> <= available;
}
template <int HeadDim>
using wgmma_shape_for = typename shapes::of<HeadDim>::wgmma;

}  // namespace gistkv::backends::cuda_detail
