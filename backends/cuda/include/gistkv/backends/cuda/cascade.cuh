// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/cascade.hpp>
#include <gistkv/backends/cuda/kernels.cuh>
#include <gistkv/backends/cuda/products.cuh>

/// The library of cascade.hpp: cuBLASLt, and one pass over memory between its products.

namespace gistkv::backends::cuda_detail {

struct device_math {
  __device__ static float minus_infinity() { return -INFINITY; }
  __device__ static float exp(float x) { return expf(x); }
  __device__ static float log(float x) { return logf(x); }
};

/// Weights of one row a block of threads: head blockIdx.y of the group, token blockIdx.x.
template <class T>
__global__ void __launch_bounds__(row_threads)
    weigh_piece(cascade_memory<T> memory, key_block block, const visible_spans* spans,
                float scale) {
  __shared__ float shared[row_threads / 32];
  const index_t row = static_cast<index_t>(blockIdx.y) * memory.most_tokens + blockIdx.x;
  const float* scores = memory.scores + row * memory.most_keys;
  T* weights = memory.weights + row * memory.most_keys;
  const visible_spans seen = spans[blockIdx.x];
  const int begin = static_cast<int>(threadIdx.x);
  float top = -INFINITY;
  for (int j = begin; j < block.rows; j += row_threads) {
    if (block.sees(seen, j)) top = fmaxf(top, scale * scores[j]);
  }
  top = reduce_block(top, shared, greater_of{});
  float sum = 0.0F;
  for (int j = begin; j < block.rows; j += row_threads) {
    if (block.sees(seen, j)) sum += expf(scale * scores[j] - top);
  }
  sum = reduce_block(sum, shared, plus{});
  for (int j = begin; j < block.rows; j += row_threads) {
    weights[j] = from_float<T>(block.sees(seen, j) ? expf(scale * scores[j] - top) / sum : 0.0F);
  }
  if (threadIdx.x == 0) memory.part_lse[row] = sum > 0.0F ? top + logf(sum) : -INFINITY;
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    merge_piece(cascade_memory<T> memory, int head_dim, bool first) {
  const index_t row = static_cast<index_t>(blockIdx.y) * memory.most_tokens + blockIdx.x;
  const float* part = memory.part + row * head_dim;
  float* all = memory.all + row * head_dim;
  const auto w =
      merge_weights::of<device_math>(first ? -INFINITY : memory.all_lse[row], memory.part_lse[row]);
  __syncthreads();  // All have read what one writes.
  if (threadIdx.x == 0) memory.all_lse[row] = w.lse;
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += row_threads) {
    all[d] =
        (w.second > 0.0F ? w.second * part[d] : 0.0F) + (w.first > 0.0F ? w.first * all[d] : 0.0F);
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads)
    store_merged(cascade_memory<T> memory, cascade_matrix<T> o, cascade_matrix<T> lse, int head_dim,
                 bool empty) {
  const index_t row = static_cast<index_t>(blockIdx.y) * memory.most_tokens + blockIdx.x;
  T* to = o.data + blockIdx.y * o.head + blockIdx.x * o.row;
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += row_threads) {
    to[d] = from_float<T>(empty ? 0.0F : memory.all[row * head_dim + d]);
  }
  if (lse.data != nullptr && threadIdx.x == 0) {
    lse.data[blockIdx.y * lse.head + blockIdx.x * lse.row] =
        from_float<T>(empty ? -INFINITY : memory.all_lse[row]);
  }
}

class cascade_library {
 public:
  cascade_library(products& by, cudaStream_t stream) : by_(&by), stream_(stream) {}

  template <class T>
  void multiply(cascade_matrix<float> o, cascade_matrix<const T> a, cascade_matrix<const T> b,
                int group, int m, int n, int k, bool transpose_b) {
    by_->multiply<T, float>({o.data, o.head, o.row}, {a.data, a.head, a.row},
                            {b.data, b.head, b.row}, group, m, n, k, transpose_b, false, 1.0F,
                            stream_);
  }
  template <class T>
  void weigh(const cascade_memory<T>& memory, const key_block& block, const visible_spans* spans,
             int group, int m, float scale) {
    launch("weigh_piece", weigh_piece<T>, grid(group, m), row_threads, 0, stream_, memory, block,
           spans, scale);
  }
  template <class T>
  void merge(const cascade_memory<T>& memory, int group, int m, int head_dim, bool first) {
    launch("merge_piece", merge_piece<T>, grid(group, m), row_threads, 0, stream_, memory, head_dim,
           first);
  }
  template <class T>
  void store(const cascade_memory<T>& memory, cascade_matrix<T> o, cascade_matrix<T> lse, int group,
             int m, int head_dim, bool empty) {
    launch("store_merged", store_merged<T>, grid(group, m), row_threads, 0, stream_, memory, o, lse,
           head_dim, empty);
  }

 private:
  static dim3 grid(int group, int m) {
    return {static_cast<unsigned int>(m), static_cast<unsigned int>(group), 1};
  }
  products* by_;
  cudaStream_t stream_;
};

}  // namespace gistkv::backends::cuda_detail
