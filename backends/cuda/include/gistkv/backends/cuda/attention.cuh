// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/attention_hopper.cuh>
#include <gistkv/backends/cuda/attention_rows.hpp>
#include <gistkv/backends/cuda/attention_shapes.hpp>
#include <gistkv/backends/cuda/device_group.cuh>
#include <gistkv/backends/cuda/runtime.cuh>

/// The launches of the attention kernels.

namespace gistkv::backends::cuda_detail {

extern __shared__ __align__(1024) unsigned char attention_shared[];

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::warps * 32)
    attend_tile_kernel(const __grid_constant__ attention_batch<T> batch) {
  device_group<32> w(attention_shared);
  attend_tile<T, Shape>(w, batch, static_cast<int>(blockIdx.x));
}

template <class T, class KV, class Shape>
__global__ void __launch_bounds__(Shape::warps * 32)
    attend_split_kernel(const __grid_constant__ attention_batch<T, KV> batch,
                        split_scratch scratch) {
  device_group<32> w(attention_shared);
  attend_split<T, Shape>(w, batch, scratch, static_cast<int>(blockIdx.x),
                         static_cast<int>(blockIdx.y));
}

template <class T, class KV>
__global__ void __launch_bounds__(row_warps * 32)
    attend_rows_kernel(const __grid_constant__ attention_batch<T, KV> batch, int head_dim) {
  device_group<32> w(attention_shared);
  attend_rows(w, batch, head_dim, static_cast<int>(blockIdx.x));
}

/// What the launches need to know of the device, and the memory of split launches.
struct attention_device {
  int n_processors = 1;
  std::uint32_t most_shared = 0;  ///< Bytes that a block of threads can have.
  split_scratch scratch;
  std::size_t most_partials = 0;     ///< Floats.
  int most_items = 0;                ///< Counters.
  encode_function encode = nullptr;  ///< Where the kernel of sm_90a can run.
};

template <class Kernel>
void allow_shared(Kernel* kernel, std::uint32_t n_bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(n_bytes)),
        "cudaFuncSetAttribute");
}

/// Once a device and type.
template <class T, int HeadDim>
void prepare_attention(const attention_device& device) {
  using tile = tile_shape_for<HeadDim>;
  using split = split_shape_for<HeadDim, T>;
  using levels = split_shape_for<HeadDim, q8>;
  using wgmma = wgmma_shape_for<HeadDim>;
  if (device.encode != nullptr)
    allow_shared(attend_wgmma_kernel<T, wgmma>, wgmma_shared_bytes<wgmma>);
  allow_shared(attend_tile_kernel<T, tile>, tile::shared_bytes);
  allow_shared(attend_split_kernel<T, T, split>, split_shared_bytes<split>);
  if (split_fits<HeadDim, q8>(device.most_shared)) {
    allow_shared(attend_split_kernel<T, q8, levels>, split_shared_bytes<levels>);
  }
}

/// Cuts the sequences of the batch into tiles of so many tokens.
template <class T, class KV>
void set_tiles(attention_batch<T, KV>& batch, int tile_tokens) {
  batch.tile_tokens = tile_tokens;
  batch.n_tiles = 0;
  for (int i = 0; i < batch.n_sequences; ++i) {
    batch.sequences[i].first_tile = batch.n_tiles;
    batch.n_tiles += ceil_div(batch.sequences[i].n_tokens, tile_tokens);
  }
}

/// @param most_keys  that a query of the batch sees
template <int HeadDim, class T, class KV>
void launch_split(attention_batch<T, KV>& batch, int most_keys, const attention_device& device,
                  cudaStream_t stream) {
  using shape = split_shape_for<HeadDim, KV>;
  set_tiles(batch, split_rows / batch.group);
  const int n_items = batch.n_tiles * batch.n_kv_heads;
  // Two blocks of threads a processor, if every warp of them has two blocks of keys.
  const int useful = ceil_div(most_keys, 2 * shape::warps * shape::keys);
  const auto room = static_cast<int>(
      std::min<std::size_t>(device.most_partials / static_cast<std::size_t>(n_items) /
                                static_cast<std::size_t>(partial_rows<HeadDim>::floats),
                            1U << 16));
  split_scratch scratch = device.scratch;
  scratch.n_splits = std::min({ceil_div(2 * device.n_processors, n_items), useful, room});
  if (n_items > device.most_items) scratch.n_splits = 1;
  scratch.n_splits = std::max(1, scratch.n_splits);
  // Items first: only that extent of a grid may pass 65,535.
  const dim3 grid(static_cast<unsigned int>(n_items), static_cast<unsigned int>(scratch.n_splits));
  launch("attend_split_kernel", attend_split_kernel<T, KV, shape>, grid, shape::warps * 32,
         split_shared_bytes<shape>, stream, batch, scratch);
}

template <class T, int HeadDim>
void launch_tiles(attention_batch<T>& batch, const attention_device& device, cudaStream_t stream) {
  if (device.encode != nullptr && can_be_mapped(batch, HeadDim)) {
    using shape = wgmma_shape_for<HeadDim>;
    set_tiles(batch, shape::rows / batch.group);
    return launch_wgmma<T, shape>(batch, device.encode, device.n_processors, stream);
  }
  using shape = tile_shape_for<HeadDim>;
  set_tiles(batch, shape::rows / batch.group);
  launch("attend_tile_kernel", attend_tile_kernel<T, shape>,
         static_cast<unsigned int>(batch.n_tiles * batch.n_kv_heads), shape::warps * 32,
         shape::shared_bytes, stream, batch);
}

template <class T, class KV>
void launch_rows(attention_batch<T, KV>& batch, int head_dim, cudaStream_t stream) {
  if (row_shared_bytes(head_dim) > 48 * 1024) {
    throw backend_error("cuda: attention with head dimension " + std::to_string(head_dim) +
                        ", at most " + std::to_string(48 * 1024 / row_shared_bytes(1)) +
                        " is supported");
  }
  set_tiles(batch, 1);
  launch("attend_rows_kernel", attend_rows_kernel<T, KV>,
         static_cast<unsigned int>(batch.n_tiles * batch.n_kv_heads), row_warps * 32,
         row_shared_bytes(head_dim), stream, batch, head_dim);
}

/// Can the kernels that move 16 bytes at a time read and write these?
template <class T, class KV>
bool is_aligned(const attention_sequence<T, KV>& s, int head_dim) {
  const auto at = [](const void* p, std::uintptr_t n) {
    return reinterpret_cast<std::uintptr_t>(p) % n == 0;
  };
  bool all = at(s.q, 4) && at(s.o, 4) && (s.q_token | s.q_head | s.o_token | s.o_head) % 2 == 0;
  for (const attention_part<KV>& p : s.parts) {
    if (p.rows == 0) continue;
    if constexpr (std::is_same_v<KV, q8>) {
      // Rows end to end, each on a whole word.
      const index_t width = row_width<q8>(head_dim);
      all = all && at(p.k, 4) && at(p.v, 4) && (p.k_head | p.v_head) % 4 == 0 && p.k_row == width &&
            p.v_row == width;
      continue;
    }
    all = all && at(p.k, 16) && at(p.v, 16) && (p.k_head | p.k_row | p.v_head | p.v_row) % 8 == 0;
  }
  return all;
}

/// Do the kernels on matrix units take the batch?
template <class T, class KV>
bool fits_matrix_units(const attention_batch<T, KV>& batch, int head_dim,
                       const attention_device& device) {
  if (sizeof(T) != 2 || (head_dim != 64 && head_dim != 128)) return false;
  if (!(head_dim == 64 ? split_fits<64, KV> : split_fits<128, KV>)(device.most_shared)) {
    return false;
  }
  bool fits = batch.scale > 0.0F && batch.group <= (std::is_same_v<KV, q8> ? split_rows : 64);
  for (int i = 0; i < batch.n_sequences; ++i) {
    fits = fits && is_aligned(batch.sequences[i], head_dim);
  }
  return fits;
}
template <class T, class KV>
int most_tokens(const attention_batch<T, KV>& batch) {
  int most = 0;
  for (int i = 0; i < batch.n_sequences; ++i) most = std::max(most, batch.sequences[i].n_tokens);
  return most;
}

/// Attention of a batch by the kernel that fits; all sequences have the same heads.
template <class T, class KV>
void launch_attention(attention_batch<T, KV>& batch, int head_dim, int most_keys,
                      const attention_device& device, cudaStream_t stream) {
  if (most_tokens(batch) == 0) return;
  if constexpr (sizeof(T) == 2) {
    const auto launch = [&]<int HeadDim>(std::integral_constant<int, HeadDim>) {
      if constexpr (std::is_same_v<KV, q8>) {
        launch_split<HeadDim>(batch, most_keys, device, stream);  // Sixteen rows at a time.
      } else if (most_tokens(batch) * batch.group <= split_rows) {
        launch_split<HeadDim>(batch, most_keys, device, stream);
      } else {
        launch_tiles<T, HeadDim>(batch, device, stream);
      }
    };
    if (fits_matrix_units(batch, head_dim, device)) {
      return head_dim == 64 ? launch(std::integral_constant<int, 64>())
                            : launch(std::integral_constant<int, 128>());
    }
  }
  launch_rows(batch, head_dim, stream);
}

}  // namespace gistkv::backends::cuda_detail
