// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/attention_backward_rows.hpp>
#include <gistkv/backends/cuda/attention_backward_tile.hpp>
#include <gistkv/backends/cuda/device_group.cuh>
#include <gistkv/backends/cuda/kernels.cuh>
#include <gistkv/backends/cuda/many_tensors.hpp>
#include <gistkv/backends/cuda/products.cuh>
#include <gistkv/backends/cuda/runtime.cuh>
#include <gistkv/backends/cuda/training_rows.hpp>
#include <gistkv/core/training_backend.hpp>
#include <gistkv/ops/composed/attention_backward.hpp>
#include <gistkv/ops/kv_spans.hpp>

/// The launches of the tier `Trains`. All of them give the same bits each time: no atomics, and
/// sums in an order that shapes fix.

namespace gistkv::backends::cuda_detail {

extern __shared__ __align__(1024) unsigned char training_shared[];

/// Work of one warp each, `work(w, item)` of n items; four warps a block of threads.
inline constexpr int training_warps = 4;
template <class F>
__global__ void __launch_bounds__(training_warps * 32)
    for_warps(index_t n, const __grid_constant__ F work) {
  device_group<32> w(training_shared);
  const index_t item = static_cast<index_t>(blockIdx.x) * training_warps + w.index();
  if (item < n) work(w, item);
}

/// Work of the warps of a block together.
template <class F>
__global__ void __launch_bounds__(loss_warps * 32) for_rows(const __grid_constant__ F work) {
  device_group<32> w(training_shared);
  work(w, static_cast<index_t>(blockIdx.x));
}

/// Work of one thread each.
template <class F>
__global__ void __launch_bounds__(row_threads)
    for_elements(index_t n, const __grid_constant__ F work) {
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    work(i);
  }
}

/// Work of one block of threads each, `work(item, thread, n_threads)`.
template <class F>
__global__ void __launch_bounds__(row_threads) for_blocks(const __grid_constant__ F work) {
  work(static_cast<index_t>(blockIdx.x), static_cast<int>(threadIdx.x), row_threads);
}

/// Sum of squares of each block's share, in double.
inline constexpr int norm_blocks = 256;
static __global__ void __launch_bounds__(row_threads)
    sum_squares(const float* x, index_t n, double* sums) {
  __shared__ double shared[row_threads];
  double sum = 0.0;
  for (index_t i = static_cast<index_t>(blockIdx.x) * row_threads + threadIdx.x; i < n;
       i += index_t{norm_blocks} * row_threads) {
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  shared[threadIdx.x] = sum;
  for (unsigned int half = row_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

/// Rows of a matrix, of element type U, on host and device.
template <class U>
struct strided_rows {
  U* data = nullptr;
  index_t stride = 0;
  GISTKV_HD U* operator()(index_t i) const { return data + i * stride; }
};
template <class V>
auto strided(const V& view) {
  return strided_rows<std::remove_pointer_t<decltype(view.data())>>{view.data(), view.stride(0)};
}

// Functions of the launches: what a lambda would be, which nvcc takes from no private member.

template <class T>
struct norm_backward_work {
  strided_rows<T> dx;
  strided_rows<const T> dy, x;
  const T* weight;
  index_t weight_step, d;
  bool centred;
  float eps;
  float* statistics;
  template <class W>
  __device__ void operator()(W& w, index_t i) const {
    norm_backward_row<T>(w, dx(i), dy(i), x(i), weight, weight_step, d, centred, eps,
                         statistics == nullptr ? nullptr : statistics + 2 * i);
  }
};

/// Rows of which one thread adds up a column.
inline constexpr index_t weight_rows_at_once = 64;
template <class T>
struct norm_weight_parts {
  strided_rows<const T> dy, x;
  const float* statistics;
  float* parts;
  index_t n, d;
  __device__ void operator()(index_t at) const {
    const index_t piece = at / d, j = at % d;
    float sum = 0.0F;
    const index_t end = least(n, (piece + 1) * weight_rows_at_once);
    for (index_t i = piece * weight_rows_at_once; i < end; ++i) {
      sum += to_float(dy(i)[j]) * (to_float(x(i)[j]) - statistics[2 * i]) * statistics[2 * i + 1];
    }
    parts[at] = sum;
  }
};
struct norm_weight_sum {
  const float* parts;
  float* dw;
  index_t step, n_parts, d;
  __device__ void operator()(index_t j) const {
    float sum = 0.0F;
    for (index_t p = 0; p < n_parts; ++p) sum += parts[p * d + j];
    dw[j * step] += sum;
  }
};

template <class T>
struct activation_backward_work {
  strided_rows<T> d_gate, d_up;
  strided_rows<const T> dy, gate, up;
  index_t d;
  activation_kind kind;
  template <class W>
  __device__ void operator()(W& w, index_t i) const {
    const bool gated = up.data != nullptr;
    activation_backward_row<T>(w, d_gate(i), gated ? d_up(i) : nullptr, dy(i), gate(i),
                               gated ? up(i) : nullptr, d, kind);
  }
};

template <class T>
struct softmax_backward_work {
  T* d;
  const T* p;
  index_t d_head, d_row, p_head, p_row, n_rows, n;
  float alpha;
  template <class W>
  __device__ void operator()(W& w, index_t r) const {
    softmax_backward_row<T>(w, d + r / n_rows * d_head + r % n_rows * d_row,
                            p + r / n_rows * p_head + r % n_rows * p_row, n, alpha);
  }
};

template <class T>
struct cross_entropy_work {
  strided_rows<T> x;
  float* losses;
  const std::int32_t* targets;
  const float* weights;
  strided_rows<const T> teacher;
  index_t loss_step, target_step, weight_step, n;
  float mix;
  template <class W>
  __device__ void operator()(W& w, index_t i) const {
    cross_entropy_row<T>(w, loss_warps, x(i), losses + i * loss_step, n, targets[i * target_step],
                         weights[i * weight_step], teacher.data == nullptr ? nullptr : teacher(i),
                         mix);
  }
};

template <class O, class T>
struct scatter_add_work {
  strided_rows<O> o;
  strided_rows<const T> x;
  const std::int32_t* rows;
  index_t row_step, n, d, pieces;
  template <class W>
  __device__ void operator()(W& w, index_t item) const {
    scatter_add_piece<O, T>(w, o.data, o.stride, x.data, x.stride, rows, row_step,
                            static_cast<int>(n), d, static_cast<int>(item / pieces),
                            item % pieces * scatter_columns);
  }
};

template <class T>
struct dropout_work {
  strided_rows<T> o;
  strided_rows<const T> x;
  index_t d;
  dropout_rule rule;
  __device__ void operator()(index_t at) const {
    o(at / d)[at % d] =
        from_float<T>(rule(to_float(x(at / d)[at % d]), static_cast<std::uint64_t>(at)));
  }
};

struct adamw_work {
  float* p;
  const float* gradient;
  float* first;
  float* second;
  adamw_step step;
  __device__ void operator()(index_t i) const { step(p[i], gradient[i], first[i], second[i]); }
};

template <class T>
struct update_work {
  tensor_list<T> list;
  __device__ void operator()(index_t piece, int thread, int n_threads) const {
    update_piece<device_group<32>>(list, piece, thread, n_threads);
  }
};
template <class T>
struct clear_work {
  tensor_list<T> list;
  __device__ void operator()(index_t piece, int thread, int n_threads) const {
    clear_piece(list, piece, thread, n_threads);
  }
};
template <class T>
struct squares_work {
  tensor_list<T> list;
  double* sums;
  template <class W>
  __device__ void operator()(W& w, index_t item) const {
    add_squares(w, list, item, sums);
  }
};

template <class T>
struct narrow_work {
  T* o;
  const float* x;
  __device__ void operator()(index_t i) const { o[i] = from_float<T>(x[i]); }
};

template <class T>
struct backward_query_work {
  attention_backward_call<T> call;
  int head_dim;
  template <class W>
  __device__ void operator()(W& w, index_t item) const {
    backward_query_row<T>(w, call, head_dim, item);
  }
};
template <class T>
struct backward_key_work {
  attention_backward_call<T> call;
  int head_dim;
  int part;
  template <class W>
  __device__ void operator()(W& w, index_t item) const {
    backward_key_row<T>(w, call, head_dim, part, item / call.n_kv_heads, item % call.n_kv_heads);
  }
};

template <class T, int HeadDim>
__global__ void __launch_bounds__(backward_warps * 32)
    backward_queries_kernel(const __grid_constant__ backward_tiles<T> tiles) {
  device_group<32> w(training_shared);
  backward_queries<T, HeadDim>(w, tiles, static_cast<int>(blockIdx.x));
}
template <class T, int HeadDim>
__global__ void __launch_bounds__(backward_warps * 32)
    backward_keys_kernel(const __grid_constant__ backward_tiles<T> tiles) {
  device_group<32> w(training_shared);
  backward_keys<T, HeadDim>(w, tiles, static_cast<int>(blockIdx.x));
}
template <class T>
struct add_splits_work {
  backward_tiles<T> tiles;
  int head_dim;
  __device__ void operator()(index_t at) const {
    add_splits<device_group<32>>(tiles, head_dim, at);
  }
};

/// Do the kernels on matrix units take the call?
template <class T>
bool fits_matrix_units(const attention_backward_call<T>& c, int head_dim) {
  if (sizeof(T) != 2 || (head_dim != 64 && head_dim != 128)) return false;
  const auto at = [](const void* p, std::uintptr_t n) {
    return reinterpret_cast<std::uintptr_t>(p) % n == 0;
  };
  const attention_sequence<T>& s = c.forward;
  bool fits = c.scale > 0.0F && c.group <= backward_rows && at(s.q, 16) && at(c.d_o, 16) &&
              at(c.dq, 4) && (c.dq_token | c.dq_head) % 2 == 0 &&
              (s.q_token | s.q_head | c.d_o_token | c.d_o_head) % 8 == 0;
  for (const int i : {local_part, own_part}) {
    const attention_part<T>& p = s.parts[i];
    if (p.rows == 0) continue;
    fits = fits && at(p.k, 16) && at(p.v, 16) && (p.k_head | p.k_row | p.v_head | p.v_row) % 8 == 0;
  }
  return fits;
}

/// Base of the backend: the tier `Trains` for elements of T. The backend lends its products, its
/// stream and memory that stays until the next call of this tier.
template <class Backend, class T>
class training {
 public:
  static constexpr bool native_attention_backward = true;
  /// Rows whose logits exist at a time: 200 MB in 16 bits with a vocabulary of 50,000.
  static constexpr index_t head_rows = 2048;

  void clear(void* to, std::size_t n_bytes) {
    check(cudaMemsetAsync(to, 0, n_bytes, stream()), "cudaMemsetAsync");
  }

  void accumulate_products(matrix_view<float, device_space> o, matrix_view<const T, device_space> a,
                           matrix_view<const T, device_space> b, double alpha) {
    self().library().template multiply<T, float>(
        {o.data(), 0, o.stride(0)}, {a.data(), 0, a.stride(0)}, {b.data(), 0, b.stride(0)}, 1,
        o.extent(0), o.extent(1), a.extent(0), false, true, static_cast<float>(alpha), stream(),
        true);
  }

  void norm_backward(matrix_view<T, device_space> dx, vector_view<float, device_space> dw,
                     matrix_view<const T, device_space> dy, matrix_view<const T, device_space> x,
                     vector_view<const T, device_space> weight, const norm_options& options) {
    const index_t n = dx.extent(0), d = dx.extent(1);
    const index_t n_parts = (n + weight_rows_at_once - 1) / weight_rows_at_once;
    float* statistics = nullptr;
    if (!dw.empty()) {
      statistics = static_cast<float*>(
          self().training_memory(static_cast<std::size_t>(2 * n + n_parts * d) * sizeof(float)));
    }
    warps(n, 0,
          norm_backward_work<T>{strided(dx), strided(dy), strided(x), weight.data(),
                                weight.stride(0), d, options.kind == norm_kind::layer,
                                static_cast<float>(options.eps), statistics});
    if (dw.empty()) return;
    float* parts = statistics + 2 * n;
    elements(n_parts * d, norm_weight_parts<T>{strided(dy), strided(x), statistics, parts, n, d});
    elements(d, norm_weight_sum{parts, dw.data(), dw.stride(0), n_parts, d});
  }

  void activation_backward(matrix_view<T, device_space> d_gate, matrix_view<T, device_space> d_up,
                           matrix_view<const T, device_space> dy,
                           matrix_view<const T, device_space> gate,
                           matrix_view<const T, device_space> up, activation_kind kind) {
    warps(d_gate.extent(0), 0,
          activation_backward_work<T>{
              strided(d_gate), up.empty() ? strided_rows<T>{} : strided(d_up), strided(dy),
              strided(gate), up.empty() ? strided_rows<const T>{} : strided(up), d_gate.extent(1),
              kind});
  }

  void softmax_backward(tensor_view<T, 3, device_space> d, tensor_view<const T, 3, device_space> p,
                        double alpha) {
    warps(
        d.extent(0) * d.extent(1), 0,
        softmax_backward_work<T>{d.data(), p.data(), d.stride(0), d.stride(1), p.stride(0),
                                 p.stride(1), d.extent(1), d.extent(2), static_cast<float>(alpha)});
  }

  void cross_entropy(matrix_view<T, device_space> logits, vector_view<float, device_space> losses,
                     vector_view<const std::int32_t, device_space> targets,
                     vector_view<const float, device_space> weights,
                     matrix_view<const T, device_space> teacher, double mix) {
    const cross_entropy_work<T> work{strided(logits),
                                     losses.data(),
                                     targets.data(),
                                     weights.data(),
                                     teacher.empty() ? strided_rows<const T>{} : strided(teacher),
                                     losses.stride(0),
                                     targets.stride(0),
                                     weights.stride(0),
                                     logits.extent(1),
                                     static_cast<float>(mix)};
    launch("for_rows", for_rows<cross_entropy_work<T>>, static_cast<unsigned int>(logits.extent(0)),
           loss_warps * 32, loss_shared_bytes, stream(), work);
  }

  template <class O>
  void scatter_add_rows(matrix_view<O, device_space> o, matrix_view<const T, device_space> x,
                        vector_view<const std::int32_t, device_space> rows) {
    const index_t n = x.extent(0), d = x.extent(1);
    const index_t pieces = (d + scatter_columns - 1) / scatter_columns;
    warps(
        n * pieces, 0,
        scatter_add_work<O, T>{strided(o), strided(x), rows.data(), rows.stride(0), n, d, pieces});
  }
  void scatter_add_rows(matrix_view<T, device_space> o, matrix_view<const T, device_space> x,
                        vector_view<const std::int32_t, device_space> rows) {
    scatter_add_rows<T>(o, x, rows);
  }

  void dropout(matrix_view<T, device_space> o, matrix_view<const T, device_space> x,
               const dropout_options& options) {
    elements(o.size(), dropout_work<T>{strided(o), strided(x), o.extent(1), dropout_rule(options)});
  }

  double squared_norm(vector_view<const float, device_space> x) {
    auto* sums = static_cast<double*>(self().training_memory(norm_blocks * sizeof(double)));
    launch("sum_squares", sum_squares, norm_blocks, row_threads, 0, stream(), x.data(), x.extent(0),
           sums);
    std::array<double, norm_blocks> found{};
    self().download(found.data(), sums, sizeof found);
    double total = 0.0;
    for (const double sum : found) total += sum;
    return total;
  }

  void adamw(vector_view<float, device_space> p, vector_view<const float, device_space> gradient,
             vector_view<float, device_space> first, vector_view<float, device_space> second,
             const adamw_options& options) {
    elements(p.extent(0), adamw_work{p.data(), gradient.data(), first.data(), second.data(),
                                     adamw_step(options)});
  }

  void narrow(vector_view<T, device_space> o, vector_view<const float, device_space> x) {
    elements(o.extent(0), narrow_work<T>{o.data(), x.data()});
  }

  static constexpr bool native_many_tensors = true;

  void adamw_many(std::span<const trained_tensor<T>> tensors,
                  std::span<const adamw_options> options) {
    const packed_tensors<T> packed(tensors, options);
    pieces(packed, update_work<T>{listed(packed)});
  }
  void clear_gradients(std::span<const trained_tensor<T>> tensors) {
    const packed_tensors<T> packed(tensors);
    pieces(packed, clear_work<T>{listed(packed)});
  }
  double squared_norm_many(std::span<const trained_tensor<T>> tensors) {
    const packed_tensors<T> packed(tensors);
    std::array<double, square_warps> found{};
    const tensor_list<T> list = listed(packed, sizeof found);
    auto* sums = static_cast<double*>(self().training_memory(0));
    warps(square_warps, 0, squares_work<T>{list, sums});
    self().download(found.data(), sums, sizeof found);
    double total = 0.0;
    for (const double sum : found) total += sum;
    return total;
  }

  static constexpr bool native_attention_backward_batch = true;

  void attention_backward(
      tensor_view<T, 3, device_space> dq, const kv_gradient<T, device_space>& d_own,
      const kv_gradient<T, device_space>& d_local, tensor_view<const T, 3, device_space> d_o,
      tensor_view<const T, 3, device_space> q, tensor_view<const T, 3, device_space> o,
      matrix_view<const T, device_space> lse, const kv_spans<T, device_space>& kv,
      const span_list& spans, double scale) {
    const attention_derivative<T, device_space> call{dq, d_own, d_local, d_o, q, o, lse, kv, spans};
    attention_backward_batch({&call, 1}, scale);
  }

  /// On matrix units eight sequences at a time, else one.
  void attention_backward_batch(std::span<const attention_derivative<T, device_space>> calls,
                                double scale) {
    backward_tiles<T> tiles;
    const auto launch = [&] {
      if constexpr (sizeof(T) == 2) {
        if (tiles.n_sequences == 0) return;
        calls.front().q.extent(2) == 64 ? launch_tiles<64>(tiles) : launch_tiles<128>(tiles);
        tiles = {};
      }
    };
    for (const attention_derivative<T, device_space>& from : calls) {
      if (from.dq.empty()) continue;
      const attention_backward_call<T> c = call_of(from, static_cast<float>(scale));
      const auto head_dim = static_cast<int>(from.q.extent(2));
      if (!fits_matrix_units(c, head_dim)) {
        launch_rows(c, head_dim);
        continue;
      }
      tiles.add(c);
      if (tiles.n_sequences == max_sequences) launch();
    }
    launch();
  }

 private:
  Backend& self() { return static_cast<Backend&>(*this); }
  cudaStream_t stream() { return self().stream(); }

  attention_backward_call<T> call_of(const attention_derivative<T, device_space>& from,
                                     float scale) {
    attention_backward_call<T> c;
    c.forward = self().backward_sequence(from.q, from.o, from.kv, from.spans);
    c.d_o = from.d_o.data();
    c.d_o_token = from.d_o.stride(0);
    c.d_o_head = from.d_o.stride(1);
    c.dq = from.dq.data();
    c.dq_token = from.dq.stride(0);
    c.dq_head = from.dq.stride(1);
    const auto set = [&c](int part, const kv_gradient<T, device_space>& to) {
      c.dk[part] = to.dk.data();
      c.dk_head[part] = to.dk.stride(0);
      c.dk_row[part] = to.dk.stride(1);
      c.dv[part] = to.dv.data();
      c.dv_head[part] = to.dv.stride(0);
      c.dv_row[part] = to.dv.stride(1);
    };
    set(local_part, from.d_local);
    if (from.kv.own.rows() > 0) set(own_part, from.d_own);
    c.n_kv_heads = static_cast<std::int32_t>(from.kv.n_kv_heads());
    c.group = static_cast<std::int32_t>(from.q.extent(1)) / c.n_kv_heads;
    c.scale = scale;
    return c;
  }

  template <class F>
  void warps(index_t n, std::uint32_t shared_bytes, const F& work) {
    if (n == 0) return;
    const auto blocks = static_cast<unsigned int>((n + training_warps - 1) / training_warps);
    launch("for_warps", for_warps<F>, blocks, training_warps * 32, shared_bytes, stream(), n, work);
  }
  /// The list in the training memory, behind `before` bytes.
  tensor_list<T> listed(const packed_tensors<T>& packed, std::size_t before = 0) {
    const std::span<const std::byte> bytes = packed.bytes();
    auto* memory = static_cast<std::byte*>(self().training_memory(before + bytes.size())) + before;
    self().upload(memory, bytes.data(), bytes.size());
    return packed.at(memory);
  }
  template <class F>
  void pieces(const packed_tensors<T>& packed, const F& work) {
    if (packed.n_pieces() == 0) return;
    launch("for_blocks", for_blocks<F>, static_cast<unsigned int>(packed.n_pieces()), row_threads,
           0, stream(), work);
  }
  template <class F>
  void elements(index_t n, const F& work) {
    if (n == 0) return;
    const auto blocks = static_cast<unsigned int>(
        std::min<index_t>((n + row_threads - 1) / row_threads, index_t{1} << 16));
    launch("for_elements", for_elements<F>, blocks, row_threads, 0, stream(), n, work);
  }

  static std::size_t statistics_bytes(const attention_backward_call<T>& c) {
    return static_cast<std::size_t>(c.forward.n_tokens) *
           static_cast<std::size_t>(c.n_kv_heads * c.group) * sizeof(row_statistics);
  }

  template <int HeadDim>
  void launch_tiles(backward_tiles<T>& b) {
    // Splits of the anchors, which all later tiles see: some four blocks of threads a processor.
    b.set_part(own_part, 1);
    const int own_items = b.n_key_items();
    const int own_splits = own_items == 0 ? 1
                                          : std::clamp(4 * self().n_processors() / own_items, 1,
                                                       ceil_div(b.most_tiles(), 4));
    const index_t own_sums = b.n_derivatives(HeadDim) * own_splits;
    b.set_part(local_part, 1);
    const auto n_sums = static_cast<std::size_t>(std::max(own_sums, b.n_derivatives(HeadDim)));

    std::size_t bounds_at = 0;
    for (int i = 0; i < b.n_sequences; ++i) bounds_at += statistics_bytes(b.calls[i]);
    const std::size_t sums_at =
        (bounds_at + static_cast<std::size_t>(b.n_tiles) * sizeof(tile_bounds) + 15) / 16 * 16;
    auto* memory =
        static_cast<std::byte*>(self().training_memory(sums_at + n_sums * sizeof(float)));
    b.bounds = reinterpret_cast<tile_bounds*>(memory + bounds_at);
    b.sums = reinterpret_cast<float*>(memory + sums_at);
    for (int i = 0; i < b.n_sequences; ++i) {
      b.calls[i].statistics = reinterpret_cast<row_statistics*>(memory);
      memory += statistics_bytes(b.calls[i]);
    }
    constexpr std::uint32_t shared = backward_shared_bytes<HeadDim>;
    static_assert(shared <= 48 * 1024);
    launch("backward_queries_kernel", backward_queries_kernel<T, HeadDim>,
           static_cast<unsigned int>(b.n_query_items()), backward_warps * 32, shared, stream(), b);
    for (const int part : {local_part, own_part}) {
      b.set_part(part, part == own_part ? own_splits : 1);
      if (b.n_key_items() == 0) continue;
      launch("backward_keys_kernel", backward_keys_kernel<T, HeadDim>,
             static_cast<unsigned int>(b.n_key_items()), backward_warps * 32, shared, stream(), b);
      elements(b.n_derivatives(HeadDim), add_splits_work<T>{b, HeadDim});
    }
  }

  void launch_rows(attention_backward_call<T> c, int head_dim) {
    static_assert(backward_row_warps == training_warps);
    const std::uint32_t shared = backward_row_shared_bytes(head_dim);
    if (shared > 48 * 1024) {
      throw backend_error("cuda: backward pass of attention with head dimension " +
                          std::to_string(head_dim) + ", at most " +
                          std::to_string(48 * 1024 / backward_row_shared_bytes(1)) +
                          " is supported");
    }
    c.statistics = static_cast<row_statistics*>(self().training_memory(statistics_bytes(c)));
    const index_t n_queries = index_t{c.forward.n_tokens} * c.n_kv_heads * c.group;
    warps(n_queries, shared, backward_query_work<T>{c, head_dim});
    for (const int part : {local_part, own_part}) {
      const index_t n_keys = index_t{c.forward.parts[part].rows} * c.n_kv_heads;
      warps(n_keys, shared, backward_key_work<T>{c, head_dim, part});
    }
  }
};

}  // namespace gistkv::backends::cuda_detail
