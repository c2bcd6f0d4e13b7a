// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <gistkv/core/op_options.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/types.hpp>

/// The primitives that are one pass over memory. Rows are strided, elements of a row lie side by
/// side; sums are carried in float, and each is formed in an order that depends on nothing but the
/// row's length.

namespace gistkv::backends::cuda_detail {

inline constexpr int row_threads = 256;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) {
  return __uint_as_float(static_cast<unsigned int>(x.bits) << 16);
}
__device__ inline float to_float(q8 x) { return static_cast<float>(x.level); }
__device__ inline float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  bf16 y;
  y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
  return y;
}
template <>
__device__ inline f16 from_float<f16>(float x) {
  f16 y;
  y.bits = __half_as_ushort(__float2half_rn(x));
  return y;
}

/// Rows of a matrix in device memory, as kernels take them.
template <class T>
struct row_view {
  T* data = nullptr;
  index_t stride = 0;
  __device__ T* row(index_t i) const { return data + i * stride; }
};

/// Sum (or greatest) of x over the threads of the block, known to all of them. Uses `shared`.
template <class F>
__device__ float reduce_block(float x, float* shared, F&& combine) {
  for (int step = 16; step > 0; step /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffU, x, step));
  }
  __syncthreads();  // The last reduction's readers are done.
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
  for (unsigned int w = 1; w < blockDim.x / 32; ++w) x = combine(x, shared[w]);
  return x;
}
struct plus {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct greater_of {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// ops::norm; one block a row.
template <class T>
__global__ void __launch_bounds__(row_threads)
    norm_rows(row_view<T> o, row_view<const T> x, const T* weight, index_t weight_step,
              const T* bias, index_t bias_step, index_t d, bool centred, float eps) {
  __shared__ float shared[row_threads / 32];
  const T* from = x.row(blockIdx.x);
  T* to = o.row(blockIdx.x);
  const auto begin = static_cast<index_t>(threadIdx.x);
  const auto n = static_cast<float>(d);
  float mean = 0.0F;
  if (centred) {
    float sum = 0.0F;
    for (index_t j = begin; j < d; j += row_threads) sum += to_float(from[j]);
    mean = reduce_block(sum, shared, plus{}) / n;
  }
  float squares = 0.0F;
  for (index_t j = begin; j < d; j += row_threads) {
    const float distance = to_float(from[j]) - mean;
    squares += distance * distance;
  }
  const float factor = rsqrtf(reduce_block(squares, shared, plus{}) / n + eps);
  for (index_t j = begin; j < d; j += row_threads) {
    float y = (to_float(from[j]) - mean) * factor * to_float(weight[j * weight_step]);
    if (bias != nullptr) y += to_float(bias[j * bias_step]);
    to[j] = from_float<T>(y);
  }
}

/// Sine and cosine of position * frequency.
__device__ inline void rotation(std::int32_t position, float frequency, float& sine,
                                float& cosine) {
  // In float the angle of position 10^6 would be wrong by a tenth of a radian.
  const double turns =
      static_cast<double>(position) * static_cast<double>(frequency) * 0.15915494309189535;
  // What is left of the whole turns is small enough for float.
  sincospif(2.0F * static_cast<float>(turns - rint(turns)), &sine, &cosine);
}

/// ops::rope; one block a row, each thread one pair of dimensions of all heads.
template <class T>
__global__ void rope_rows(T* x, index_t row_stride, index_t head_stride, index_t n_heads,
                          index_t half, const std::int32_t* positions, index_t position_step,
                          const float* frequencies, index_t frequency_step, float magnitude) {
  T* row = x + blockIdx.x * row_stride;
  const std::int32_t position = positions[blockIdx.x * position_step];
  for (index_t j = threadIdx.x; j < half; j += blockDim.x) {
    float sine, cosine;
    rotation(position, frequencies[j * frequency_step], sine, cosine);
    for (index_t h = 0; h < n_heads; ++h) {
      T* head = row + h * head_stride;
      const float a = to_float(head[j]);
      const float b = to_float(head[j + half]);
      head[j] = from_float<T>(magnitude * (a * cosine - b * sine));
      head[j + half] = from_float<T>(magnitude * (b * cosine + a * sine));
    }
  }
}

/// x / (1 + e^-z), and 0 where e^-z overflows, also for x = -inf, whose quotient would be NaN.
__device__ inline float times_sigmoid(float x, float z) {
  const float e = expf(-z);
  return e == INFINITY ? 0.0F : x / (1.0F + e);
}
__device__ inline float activate(float x, activation_kind kind) {
  switch (kind) {
    case activation_kind::silu:
      return times_sigmoid(x, x);
    case activation_kind::gelu: {
      // 1 + erf(u) = erfc(-u), which keeps its digits where u is far below 0; -inf gives 0 there.
      const float tail = erfcf(-0.70710678118654752F * x);
      return tail == 0.0F ? 0.0F : 0.5F * x * tail;
    }
    case activation_kind::gelu_tanh:
      return times_sigmoid(x, 1.5957691216057308F * (x + 0.044715F * x * x * x));
  }
  return 0.0F;
}

/// W neighbours of a row, moved as one.
template <class T, int W>
struct alignas(W * sizeof(T)) cells {
  T at[W];
};
/// Elements of T that 16 bytes hold.
template <class T>
inline constexpr int widest = 16 / static_cast<int>(sizeof(T));

template <int W, class T>
__device__ cells<T, W> load_cells(const T* from) {
  return *reinterpret_cast<const cells<T, W>*>(from);
}
template <int W, class T>
__device__ void store_cells(T* to, const cells<T, W>& values) {
  *reinterpret_cast<cells<T, W>*>(to) = values;
}

/// f(row, column of the first of W cells) on a grid that walks over all of them.
template <int W = 1, class F>
__device__ void for_cells(index_t n, index_t d, F&& f) {
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t pieces = d / W;
  for (index_t at = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < n * pieces;
       at += step) {
    f(at / pieces, at % pieces * W);
  }
}

template <class T, int W>
__global__ void __launch_bounds__(row_threads)
    activate_cells(row_view<T> o, row_view<const T> gate, row_view<const T> up, index_t n,
                   index_t d, activation_kind kind) {
  for_cells<W>(n, d, [&](index_t i, index_t j) {
    const auto x = load_cells<W>(gate.row(i) + j);
    cells<T, W> factors{};
    if (up.data != nullptr) factors = load_cells<W>(up.row(i) + j);
    cells<T, W> y;
    for (int c = 0; c < W; ++c) {
      const float factor = up.data != nullptr ? to_float(factors.at[c]) : 1.0F;
      y.at[c] = from_float<T>(activate(to_float(x.at[c]), kind) * factor);
    }
    store_cells<W>(o.row(i) + j, y);
  });
}

template <class T, int W>
__global__ void __launch_bounds__(row_threads)
    add_cells(row_view<T> o, row_view<const T> a, row_view<const T> b, index_t n, index_t d) {
  for_cells<W>(n, d, [&](index_t i, index_t j) {
    const auto left = load_cells<W>(a.row(i) + j);
    const auto right = load_cells<W>(b.row(i) + j);
    cells<T, W> y;
    for (int c = 0; c < W; ++c) {
      y.at[c] = from_float<T>(to_float(left.at[c]) + to_float(right.at[c]));
    }
    store_cells<W>(o.row(i) + j, y);
  });
}

/// ops::masked_softmax; one block a row. Masked scores are never computed with.
template <class T, class M>
__global__ void __launch_bounds__(row_threads)
    softmax_rows(T* s, index_t head_stride, index_t row_stride, index_t n_q, index_t n_k, M mask,
                 float scale, T* lse, index_t lse_head_stride, index_t lse_row_stride) {
  __shared__ float shared[row_threads / 32];
  const index_t h = blockIdx.x / n_q;
  const index_t i = blockIdx.x % n_q;
  T* row = s + h * head_stride + i * row_stride;
  const auto begin = static_cast<index_t>(threadIdx.x);
  const float nothing = -INFINITY;
  float top = nothing;
  for (index_t j = begin; j < n_k; j += row_threads) {
    if (mask(i, j)) top = fmaxf(top, scale * to_float(row[j]));
  }
  top = reduce_block(top, shared, greater_of{});
  float sum = 0.0F;
  for (index_t j = begin; j < n_k; j += row_threads) {
    if (mask(i, j)) sum += expf(scale * to_float(row[j]) - top);
  }
  sum = reduce_block(sum, shared, plus{});
  for (index_t j = begin; j < n_k; j += row_threads) {
    row[j] = from_float<T>(mask(i, j) ? expf(scale * to_float(row[j]) - top) / sum : 0.0F);
  }
  if (lse != nullptr && threadIdx.x == 0) {
    lse[h * lse_head_stride + i * lse_row_stride] =
        from_float<T>(top == nothing ? nothing : top + logf(sum));
  }
}

template <class T, int W>
__global__ void __launch_bounds__(row_threads)
    gather_cells(row_view<T> o, row_view<const T> x, const std::int32_t* rows, index_t row_step,
                 index_t n, index_t d) {
  for_cells<W>(n, d, [&](index_t i, index_t j) {
    store_cells<W>(o.row(i) + j, load_cells<W>(x.row(rows[i * row_step]) + j));
  });
}

template <class T, int W>
__global__ void __launch_bounds__(row_threads)
    scatter_cells(row_view<T> o, row_view<const T> x, const std::int32_t* rows, index_t row_step,
                  index_t n, index_t d) {
  for_cells<W>(n, d, [&](index_t i, index_t j) {
    const std::int32_t to = rows[i * row_step];
    if (to >= 0) store_cells<W>(o.row(to) + j, load_cells<W>(x.row(i) + j));
  });
}

/// A product for what cuBLASLt does not take: no columns to sum over, rows that repeat. One thread
/// an element of o.
template <class T, class O>
__global__ void __launch_bounds__(row_threads)
    plain_product(O* o, index_t o_batch, index_t o_row, const T* a, index_t a_batch, index_t a_row,
                  const T* b, index_t b_batch, index_t b_row, index_t batch, index_t m, index_t n,
                  index_t k, bool transpose_a, bool transpose_b, bool accumulate, float alpha) {
  for_cells<1>(batch * m, n, [&](index_t row, index_t j) {
    const index_t h = row / m;
    const T* left = a + h * a_batch + (transpose_a ? row % m : row % m * a_row);
    const index_t left_step = transpose_a ? a_row : 1;
    const T* right = b + h * b_batch + (transpose_b ? j * b_row : j);
    const index_t step = transpose_b ? 1 : b_row;
    float sum = 0.0F;
    for (index_t p = 0; p < k; ++p)
      sum += to_float(left[p * left_step]) * to_float(right[p * step]);
    O* to = o + h * o_batch + row % m * o_row + j;
    *to = from_float<O>(accumulate ? to_float(*to) + alpha * sum : alpha * sum);
  });
}

}  // namespace gistkv::backends::cuda_detail
