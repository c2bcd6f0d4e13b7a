// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The hot kernels and nothing else, for inspect.sh.

#include <gistkv/backends/cuda/attention.cuh>

namespace gistkv::backends::cuda_detail {

template <class T, int HeadDim>
void take_addresses(const void** out) {
  out[0] = reinterpret_cast<const void*>(&attend_tile_kernel<T, tile_shape_for<HeadDim>>);
  out[1] = reinterpret_cast<const void*>(&attend_split_kernel<T, split_shape_for<HeadDim>>);
  out[2] = reinterpret_cast<const void*>(&attend_wgmma_kernel<T, wgmma_shape_for<HeadDim>>);
}
template void take_addresses<bf16, 64>(const void**);
template void take_addresses<bf16, 128>(const void**);
template void take_addresses<f16, 64>(const void**);
template void take_addresses<f16, 128>(const void**);

}  // namespace gistkv::backends::cuda_detail
