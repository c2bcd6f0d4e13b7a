// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include <cuda.h>
#include <cuda_runtime.h>

#include <gistkv/backends/cuda/attention_shapes.hpp>
#include <gistkv/backends/cuda/device_warpgroup.cuh>
#include <gistkv/backends/cuda/runtime.cuh>

/// The launch of the attention kernel of sm_90a.

namespace gistkv::backends::cuda_detail {

// wgmma needs code of sm_90a itself: code of sm_90 or for later devices does not have it.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool device_code_has_wgmma = true;
#else
inline constexpr bool device_code_has_wgmma = false;
#endif

/// Which code the program brought along for this device, only the device knows.
template <class T>
__global__ void report_wgmma(int* has_wgmma) {
  *has_wgmma = device_code_has_wgmma ? 1 : 0;
}

/// The first multiple of 1024 in dynamic shared memory, to which swizzle patterns are bound.
__device__ inline void* aligned_shared() {
  extern __shared__ __align__(1024) unsigned char swizzled_shared[];
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(swizzled_shared));
  return swizzled_shared + ((1024U - at % 1024U) % 1024U);
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::groups * 128, 1)
    attend_wgmma_kernel(const __grid_constant__ attention_batch<T> batch,
                        const __grid_constant__ tensor_maps<device_warpgroup> maps) {
  if constexpr (device_code_has_wgmma) {
    device_warpgroup g(aligned_shared());
    attend_wgmma<T, Shape>(g, batch, maps, static_cast<int>(blockIdx.x),
                           static_cast<int>(gridDim.x));
  }
}
template <class Shape>
inline constexpr std::uint32_t wgmma_shared_bytes = Shape::shared_bytes + 1024;

/// cuTensorMapEncodeTiled of the driver, which is not linked to; null where it has none.
using encode_function = decltype(&cuTensorMapEncodeTiled);
inline encode_function find_encode_function() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status{};
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &status) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // The kernels of sm_80 do without.
    return nullptr;
  }
  if (status != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<encode_function>(found);
}

/// Rows of all heads as the copy engine sees them, in boxes of n_rows rows and one panel.
template <class T>
CUtensorMap encode_map(encode_function encode, const T* data, index_t rows, index_t n_heads,
                       index_t row_stride, index_t head_stride, int head_dim, int n_rows) {
  const auto bytes = [](index_t n) {
    return static_cast<cuuint64_t>(n) * static_cast<cuuint64_t>(sizeof(T));
  };
  const cuuint64_t extents[3] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(rows),
                                 static_cast<cuuint64_t>(n_heads)};
  const cuuint64_t strides[2] = {bytes(mapped_stride(row_stride, rows, head_dim)),
                                 bytes(mapped_stride(head_stride, n_heads, head_dim))};
  const cuuint32_t box[3] = {panel_cols, static_cast<cuuint32_t>(n_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult code = encode(
      &map,
      std::same_as<T, bf16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
      const_cast<void*>(static_cast<const void*>(data)), extents, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) {
    throw backend_error("cuda: cuTensorMapEncodeTiled failed with " +
                        std::to_string(static_cast<int>(code)));
  }
  return map;
}

/// @param batch  cut into tiles of this kernel's rows, and can_be_mapped
template <class T, class Shape>
void launch_wgmma(const attention_batch<T>& batch, encode_function encode, int n_processors,
                  cudaStream_t stream) {
  tensor_maps<device_warpgroup> maps{};
  for (int i = 0; i < batch.n_sequences; ++i) {
    for (int p = 0; p < n_parts; ++p) {
      const attention_part<T>& x = batch.sequences[i].parts[p];
      if (x.rows == 0) continue;
      maps.k[i][p] = encode_map(encode, x.k, x.rows, batch.n_kv_heads, x.k_row, x.k_head,
                                Shape::head_dim, Shape::keys);
      maps.v[i][p] = encode_map(encode, x.v, x.rows, batch.n_kv_heads, x.v_row, x.v_head,
                                Shape::head_dim, Shape::keys);
    }
  }
  const int n_blocks = std::min(n_processors, batch.n_tiles * batch.n_kv_heads);
  launch("attend_wgmma_kernel", attend_wgmma_kernel<T, Shape>, static_cast<unsigned int>(n_blocks),
         Shape::groups * 128, wgmma_shared_bytes<Shape>, stream, batch, maps);
}

}  // namespace gistkv::backends::cuda_detail
