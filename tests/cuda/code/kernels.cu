// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The hot kernels and nothing else, for inspect.sh.

#include <gistkv/backends/cuda/attention.cuh>
#include <gistkv/backends/cuda/few_rows.cuh>
#include <gistkv/backends/cuda/training.cuh>

namespace gistkv::backends::cuda_detail {

template <class T, int HeadDim>
void take_addresses(const void** out) {
  out[0] = reinterpret_cast<const void*>(&attend_tile_kernel<T, tile_shape_for<HeadDim>>);
  out[1] = reinterpret_cast<const void*>(&attend_split_kernel<T, T, split_shape_for<HeadDim, T>>);
  out[3] = reinterpret_cast<const void*>(&attend_split_kernel<T, q8, split_shape_for<HeadDim, q8>>);
  out[2] = reinterpret_cast<const void*>(&attend_wgmma_kernel<T, wgmma_shape_for<HeadDim>>);
}
template <class T>
void take_addresses(const void** out) {
  out[0] = reinterpret_cast<const void*>(&project_kernel<T, T>);
  out[1] = reinterpret_cast<const void*>(&project_kernel<T, q8>);
  out[2] = reinterpret_cast<const void*>(&gate_kernel<T>);
}
template <int HeadDim>
void take_backward_addresses(const void** out) {
  out[0] = reinterpret_cast<const void*>(&backward_queries_kernel<bf16, HeadDim>);
  out[1] = reinterpret_cast<const void*>(&backward_keys_kernel<bf16, HeadDim>);
}
void take_row_addresses(const void** out) {
  out[0] = reinterpret_cast<const void*>(&for_rows<cross_entropy_work<bf16>>);
  out[1] = reinterpret_cast<const void*>(&for_warps<activation_backward_work<bf16>>);
}
template void take_backward_addresses<64>(const void**);
template void take_addresses<bf16>(const void**);
template void take_addresses<f16>(const void**);
template void take_addresses<bf16, 64>(const void**);
template void take_addresses<bf16, 128>(const void**);
template void take_addresses<f16, 64>(const void**);
template void take_addresses<f16, 128>(const void**);

}  // namespace gistkv::backends::cuda_detail
