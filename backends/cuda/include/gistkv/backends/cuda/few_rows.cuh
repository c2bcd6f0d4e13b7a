// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/attention.cuh>
#include <gistkv/backends/cuda/few_rows.hpp>

/// The launches of few_rows.hpp and append_rows.hpp.

namespace gistkv::backends::cuda_detail {

template <class T, class KV>
__global__ void __launch_bounds__(few_rows_warps * 32)
    project_kernel(const __grid_constant__ projection_batch<T, KV> batch) {
  device_group<32> w(attention_shared);
  project_columns(w, batch, static_cast<int>(blockIdx.x));
}

template <class T>
__global__ void __launch_bounds__(few_rows_warps * 32)
    gate_kernel(const __grid_constant__ gated_batch<T> batch) {
  device_group<32> w(attention_shared);
  gate_columns(w, batch, static_cast<int>(blockIdx.x));
}

inline constexpr int append_warps = 4;

template <class T, class KV>
__global__ void __launch_bounds__(append_warps * 32)
    append_kernel(const __grid_constant__ append_batch<T, KV> batch, int n_items) {
  device_group<32> w(attention_shared);
  const int item = static_cast<int>(blockIdx.x) * append_warps + w.index();
  if (item < n_items) append_row(w, batch, item);
}

/// Once a device and type. @param available  bytes of shared memory that a block may have
template <class T>
void prepare_few_rows(std::uint32_t available) {
  const std::uint32_t most = few_rows_most_shared(available);
  allow_shared(project_kernel<T, T>, most);
  allow_shared(project_kernel<T, q8>, most);
  allow_shared(gate_kernel<T>, most);
}

template <class T, class KV>
void launch_projection(const projection_batch<T, KV>& batch, cudaStream_t stream) {
  launch("project_kernel", project_kernel<T, KV>,
         static_cast<unsigned int>(projection_items(batch)), few_rows_warps * 32,
         few_rows_shared_bytes(batch.x.n, batch.x.d), stream, batch);
}

template <class T>
void launch_gate(const gated_batch<T>& batch, index_t columns, cudaStream_t stream) {
  launch("gate_kernel", gate_kernel<T>, static_cast<unsigned int>(columns / few_rows_columns),
         few_rows_warps * 32, few_rows_shared_bytes(batch.x.n, batch.x.d), stream, batch);
}

template <class T, class KV>
void launch_append(const append_batch<T, KV>& batch, cudaStream_t stream) {
  const int n_items = append_items(batch);
  if (n_items == 0) return;
  launch("append_kernel", append_kernel<T, KV>,
         static_cast<unsigned int>(ceil_div(n_items, append_warps)), append_warps * 32, 0, stream,
         batch, n_items);
}

}  // namespace gistkv::backends::cuda_detail
