// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/attention.cuh>
#include <gistkv/backends/cuda/cascade.cuh>
#include <gistkv/backends/cuda/few_rows.cuh>
#include <gistkv/backends/cuda/graphs.cuh>
#include <gistkv/backends/cuda/kernels.cuh>
#include <gistkv/backends/cuda/products.cuh>
#include <gistkv/backends/cuda/runtime.cuh>
#include <gistkv/backends/cuda/training.cuh>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/ops/few_rows.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::backends {

struct cuda_options {
  /// The caller's, on the device that is current; none: one of the backend's own.
  std::optional<cudaStream_t> stream = std::nullopt;
  cuda_allocator allocator = cuda_detail::runtime_allocator();
  std::size_t product_workspace = std::size_t{32} << 20;  ///< Bytes that cuBLASLt may use.
  bool graphs = true;    ///< Steps of few rows that come again are launched as CUDA graphs.
  bool few_rows = true;  ///< Their fused launches; false: for tests.
  bool wgmma = true;     ///< The attention kernel of sm_90a where it can run; false: for tests.
};

/// Backend for NVIDIA GPUs from sm_80 on: cuBLASLt multiplies matrices, own kernels do the rest,
/// among them attention over anchors and local rows (cuda/attention_plan.hpp) and what training
/// needs (cuda/training.cuh).
///
/// T is the type of activations and weights: bf16, f16 or float. Sums are carried in float. Caches
/// are of T or of q8. Calls are queued on one stream and return at once; only `download`,
/// `synchronize`, `pack`, sums of squares and large uploads wait, and small ones of which a
/// megabyte is under way. Memory comes from the allocator; what the kernels and cuBLASLt need
/// beside their arguments is taken on construction, for training where a call needs more than those
/// before it. The device that is current then has to be current in every call; one object serves
/// one thread at a time.
template <class T = bf16>
requires(std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, f16>) class cuda
    : public no_native,
      public cuda_detail::training<cuda<T>, T> {
 public:
  using space = device_space;
  using element = T;
  static constexpr std::string_view name = "cuda";
  static constexpr bool native_attention = true;
  static constexpr bool native_attention_batch = true;
  static constexpr bool native_append = true;
  static constexpr bool native_few_rows = true;
  static constexpr bool native_replay = true;
  using recordings = cuda_detail::step_graphs;
  template <class KV>
  static constexpr bool native_cache = std::same_as<KV, q8>;
  template <class U>
  static constexpr bool supports = std::same_as<U, T>;

  /// @throws backend_error if there is no device of sm_80 or later, and for what CUDA reports.
  explicit cuda(const cuda_options& options = {})
      : allocator_(options.allocator),
        device_(current_device()),
        graphs_(options.graphs),
        few_rows_(options.few_rows),
        stream_(options.stream ? cuda_detail::stream_handle(*options.stream)
                               : cuda_detail::stream_handle()),
        product_workspace_(allocator_, options.product_workspace, stream()),
        partials_(allocator_, partial_bytes, stream()),
        counters_(allocator_, counter_bytes, stream()),
        products_(product_workspace_.data(), product_workspace_.size()) {
    using namespace cuda_detail;
    check(cudaMemsetAsync(counters_.data(), 0, counter_bytes, stream()), "cudaMemsetAsync");
    attention_.n_processors = attribute(cudaDevAttrMultiProcessorCount);
    attention_.most_shared =
        static_cast<std::uint32_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    attention_.scratch.partials = static_cast<float*>(partials_.data());
    attention_.scratch.counters = static_cast<unsigned int*>(counters_.data());
    attention_.most_partials = partial_bytes / sizeof(float);
    attention_.most_items = counter_bytes / sizeof(unsigned int);
    if constexpr (sizeof(T) == 2) {
      if (options.wgmma && device_.architecture == 90 && has_wgmma()) {
        attention_.encode = find_encode_function();
      }
      prepare_attention<T, 64>(attention_);
      prepare_attention<T, 128>(attention_);
      prepare_few_rows<T>(attention_.most_shared);
    }
  }
  explicit cuda(cudaStream_t stream) : cuda(cuda_options{.stream = stream}) {}

  cudaStream_t stream() const { return stream_.get(); }
  /// Compute capability, as 10 major + minor.
  int architecture() const { return device_.architecture; }
  /// Does attention of many rows go by wgmma (sm_90a), not by mma.sync (sm_80 and up)?
  bool uses_wgmma() const { return attention_.encode != nullptr; }
  /// Of the host.
  int n_threads() const { return 1; }

  // Storage.

  void* allocate(std::size_t n_bytes) {
    void* p = allocator_.allocate(allocator_.context, n_bytes, stream());
    if (p == nullptr) {
      throw backend_error("cuda: no device memory for " + std::to_string(n_bytes) + " bytes");
    }
    return p;
  }
  void deallocate(void* p, std::size_t n_bytes) noexcept {
    allocator_.deallocate(allocator_.context, p, n_bytes, stream());
  }
  void upload(void* to, const void* from, std::size_t n_bytes) {
    if (n_bytes == 0) return;
    if (cuda_detail::staging::fits(n_bytes)) {
      return staging_.upload(to, from, n_bytes, stream());
    }
    cuda_detail::check(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, stream()),
                       "cudaMemcpyAsync");
    synchronize();  // The caller's memory is free on return, page-locked or not.
  }
  void download(void* to, const void* from, std::size_t n_bytes) {
    cuda_detail::check(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, stream()),
                       "cudaMemcpyAsync");
    synchronize();
  }
  void copy(void* to, const void* from, std::size_t n_bytes) {
    cuda_detail::check(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, stream()),
                       "cudaMemcpyAsync");
  }
  void synchronize() {
    cuda_detail::check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
  }

  /// A weight as T, row-major, rows aligned to 16 bytes; weights in blocks are dequantised.
  class packed_weight {
   public:
    packed_weight() = default;
    index_t rows() const { return rows_; }
    index_t cols() const { return cols_; }

   private:
    friend class cuda;
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t stride_ = 0;
    cuda_detail::device_block data_;
  };

  /// @throws shape_error if host holds fewer bytes than its extents need; backend_error.
  packed_weight pack(const host_matrix& host) {
    packed_weight w;
    w.rows_ = host.rows;
    w.cols_ = host.cols;
    if (host.empty()) return w;
    constexpr index_t aligned = 16 / static_cast<index_t>(sizeof(T));
    w.stride_ = (host.cols + aligned - 1) / aligned * aligned;
    const auto row_bytes = static_cast<std::size_t>(w.stride_) * sizeof(T);
    w.data_ = cuda_detail::device_block(allocator_, static_cast<std::size_t>(host.rows) * row_bytes,
                                        stream());
    std::vector<float> row(static_cast<std::size_t>(host.cols));
    const index_t piece =
        std::max<index_t>(1, static_cast<index_t>((std::size_t{8} << 20) / row_bytes));
    std::vector<T> rows;
    for (index_t begin = 0; begin < host.rows; begin += piece) {
      const index_t count = std::min(piece, host.rows - begin);
      rows.assign(static_cast<std::size_t>(count * w.stride_), T(0.0F));
      for (index_t r = 0; r < count; ++r) {
        dequantize_row(host, begin + r, row.data());
        std::transform(row.begin(), row.end(), rows.begin() + r * w.stride_,
                       [](float x) { return T(x); });
      }
      upload(static_cast<T*>(w.data_.data()) + begin * w.stride_, rows.data(),
             rows.size() * sizeof(T));
    }
    return w;
  }

  // Primitives; their formulas stand in ops/.

  void linear(matrix_view<T, space> o, matrix_view<const T, space> x, const packed_weight& w) {
    products_.multiply<T>({o.data(), 0, o.stride(0)}, {x.data(), 0, x.stride(0)},
                          {static_cast<const T*>(w.data_.data()), 0, w.stride_}, 1, o.extent(0),
                          w.rows_, w.cols_, true, false, 1.0F, stream());
  }

  void matmul(tensor_view<T, 3, space> o, tensor_view<const T, 3, space> a,
              tensor_view<const T, 3, space> b, const matmul_options& options) {
    products_.multiply<T>(
        {o.data(), o.stride(0), o.stride(1)}, {a.data(), a.stride(0), a.stride(1)},
        {b.data(), b.stride(0), b.stride(1)}, o.extent(0), o.extent(1), o.extent(2), a.extent(2),
        options.transpose_b, options.accumulate, static_cast<float>(options.alpha), stream());
  }

  void norm(matrix_view<T, space> o, matrix_view<const T, space> x,
            vector_view<const T, space> weight, vector_view<const T, space> bias,
            const norm_options& options) {
    cuda_detail::launch("norm_rows", cuda_detail::norm_rows<T>, blocks(x.extent(0)),
                        cuda_detail::row_threads, 0, stream(), rows_of(o), rows_of(x),
                        weight.data(), weight.stride(0), bias.empty() ? nullptr : bias.data(),
                        bias.stride(0), x.extent(1), options.kind == norm_kind::layer,
                        static_cast<float>(options.eps));
  }

  void rope(tensor_view<T, 3, space> x, vector_view<const std::int32_t, space> positions,
            vector_view<const float, space> frequencies, const rope_options& options) {
    const index_t half = x.extent(2) / 2;
    const auto threads = static_cast<unsigned int>(std::clamp<index_t>(half, 32, 256));
    cuda_detail::launch("rope_rows", cuda_detail::rope_rows<T>, blocks(x.extent(0)), threads, 0,
                        stream(), x.data(), x.stride(0), x.stride(1), x.extent(1), half,
                        positions.data(), positions.stride(0), frequencies.data(),
                        frequencies.stride(0), static_cast<float>(options.magnitude));
  }

  void activation(matrix_view<T, space> o, matrix_view<const T, space> gate,
                  matrix_view<const T, space> up, activation_kind kind) {
    const auto factors = up.empty() ? cuda_detail::row_view<const T>{} : rows_of(up);
    by_width(o.extent(1), {rows_of<const T>(o), rows_of(gate), factors}, [&]<int W>(width<W>) {
      cuda_detail::launch("activate_cells", cuda_detail::activate_cells<T, W>,
                          cell_blocks(o.size() / W), cuda_detail::row_threads, 0, stream(),
                          rows_of(o), rows_of(gate), factors, o.extent(0), o.extent(1), kind);
    });
  }

  void add(matrix_view<T, space> o, matrix_view<const T, space> a, matrix_view<const T, space> b) {
    by_width(o.extent(1), {rows_of<const T>(o), rows_of(a), rows_of(b)}, [&]<int W>(width<W>) {
      cuda_detail::launch("add_cells", cuda_detail::add_cells<T, W>, cell_blocks(o.size() / W),
                          cuda_detail::row_threads, 0, stream(), rows_of(o), rows_of(a), rows_of(b),
                          o.extent(0), o.extent(1));
    });
  }

  template <AttentionMask M>
  void masked_softmax(tensor_view<T, 3, space> s, const M& mask, const softmax_options& options,
                      matrix_view<T, space> lse) {
    cuda_detail::launch("softmax_rows", cuda_detail::softmax_rows<T, M>,
                        blocks(s.extent(0) * s.extent(1)), cuda_detail::row_threads, 0, stream(),
                        s.data(), s.stride(0), s.stride(1), s.extent(1), s.extent(2), mask,
                        static_cast<float>(options.scale), lse.empty() ? nullptr : lse.data(),
                        lse.stride(0), lse.stride(1));
  }

  /// Of T, or of what caches are made of.
  template <class U>
  void gather_rows(matrix_view<U, space> o, matrix_view<const U, space> x,
                   vector_view<const std::int32_t, space> rows) {
    by_width(o.extent(1), {rows_of<const U>(o), rows_of(x)}, [&]<int W>(width<W>) {
      cuda_detail::launch("gather_cells", cuda_detail::gather_cells<U, W>,
                          cell_blocks(o.size() / W), cuda_detail::row_threads, 0, stream(),
                          rows_of(o), rows_of(x), rows.data(), rows.stride(0), o.extent(0),
                          o.extent(1));
    });
  }

  void scatter_rows(matrix_view<T, space> o, matrix_view<const T, space> x,
                    vector_view<const std::int32_t, space> rows) {
    by_width(o.extent(1), {rows_of<const T>(o), rows_of(x)}, [&]<int W>(width<W>) {
      cuda_detail::launch("scatter_cells", cuda_detail::scatter_cells<T, W>,
                          cell_blocks(x.size() / W), cuda_detail::row_threads, 0, stream(),
                          rows_of(o), rows_of(x), rows.data(), rows.stride(0), x.extent(0),
                          x.extent(1));
    });
  }

  // Fused paths.

  template <class KV>
  using attention_of = gistkv::attention_call<T, space, KV>;
  using attention_call = attention_of<T>;

  template <class KV>
  void attention(tensor_view<T, 3, space> o, tensor_view<const T, 3, space> q,
                 const kv_spans<KV, space>& kv, const span_list& spans, double scale,
                 matrix_view<T, space> lse) {
    const attention_of<KV> call{o, q, kv, spans, lse};
    attend<KV>({&call, 1}, static_cast<float>(scale));
  }

  /// Attention of sequences of any lengths in one launch, or one for each eight of them. All have
  /// the same heads and head dimension; arguments are not checked.
  template <class KV = T>
  void attention_batch(std::type_identity_t<std::span<const attention_of<KV>>> calls,
                       double scale) {
    while (!calls.empty()) {
      const std::size_t n =
          std::min(calls.size(), static_cast<std::size_t>(cuda_detail::max_sequences));
      attend<KV>(calls.first(n), static_cast<float>(scale));
      calls = calls.subspan(n);
    }
  }

  /// The same out of cuBLASLt's products (cuda/cascade.hpp), any head dimension and alignment. What
  /// `attention` does where its kernels do not fit and there is more than a step's work.
  void attention_by_library(std::span<const attention_call> calls, double scale) {
    for (const attention_call& c : calls) {
      const auto batch = batch_of<T>({&c, 1}, static_cast<float>(scale));
      attend_by_library(batch, c.spans.host, static_cast<int>(c.q.extent(2)));
    }
  }

  /// One head of one kind.
  template <class KV>
  void append_rows(matrix_view<KV, space> o, matrix_view<const T, space> x,
                   vector_view<const std::int32_t, space> rows) {
    cuda_detail::append_batch<T, KV> batch;
    batch.k = x.data();
    batch.k_token = x.stride(0);
    batch.n_kv_heads = 1;
    batch.head_dim = static_cast<std::int32_t>(x.extent(1));
    cuda_detail::append_sequence<KV>& s = batch.sequences[batch.n_sequences++];
    s.local.k = o.data();
    s.local.k_row = o.stride(0);
    s.local.rows = rows.data();
    s.local.rows_step = rows.stride(0);
    s.n_tokens = static_cast<std::int32_t>(x.extent(0));
    cuda_detail::launch_append(batch, stream());
  }

  template <class S>
  void append(tensor_view<const T, 3, space> k, tensor_view<const T, 3, space> v,
              std::span<const S> sequences) {
    while (!sequences.empty()) {
      const std::size_t n =
          std::min(sequences.size(), static_cast<std::size_t>(cuda_detail::max_appended));
      cuda_detail::launch_append(append_batch_of(k, v, sequences.first(n)), stream());
      sequences = sequences.subspan(n);
    }
  }

  bool few_rows(index_t n, index_t d, index_t width) const {
    using namespace cuda_detail;
    return few_rows_ && sizeof(T) == 2 && n <= few_rows_most && d % 32 == 0 &&
           width % (2 * few_rows_columns) == 0 &&
           few_rows_shared_bytes(static_cast<int>(n),
                                 static_cast<int>(std::min(d, index_t{1} << 16))) <=
               few_rows_most_shared(attention_.most_shared);
  }

  template <class S>
  void project(const projection_call<cuda, T>& p, std::span<const S> sequences) {
    if constexpr (sizeof(T) == 2) {
      cuda_detail::projection_batch<T, typename S::element> batch;
      batch.x = normed(p.x, p.norm);
      for (std::size_t i = 0; i < p.maps.size(); ++i) batch.maps[i] = weight_rows_of(p.maps[i]);
      batch.q = p.q.data();
      batch.q_token = p.q.stride(0);
      batch.q_head = p.q.stride(1);
      batch.k = p.k.data();
      batch.v = p.v.data();
      batch.append = append_batch_of<S>(p.k, p.v, sequences);
      batch.positions = p.positions.data();
      batch.position_step = p.positions.stride(0);
      batch.frequencies = p.frequencies.data();
      batch.frequency_step = p.frequencies.stride(0);
      batch.magnitude = static_cast<float>(p.rope.magnitude);
      batch.n_heads = static_cast<std::int32_t>(p.q.extent(1));
      batch.counters = static_cast<unsigned int*>(counters_.data());
      cuda_detail::launch_projection(batch, stream());
    }
  }

  /// As far as attention goes by the kernel that takes its lengths from the device.
  bool replays(index_t n, index_t group) const {
    return graphs_ && sizeof(T) == 2 && n * group <= cuda_detail::split_rows;
  }
  template <class F>
  void replay(recordings& graphs, const replay_key& key, F&& f) {
    graphs.run(key, stream(), f);
  }

  void gated(const gated_call<cuda, T>& g) {
    if constexpr (sizeof(T) == 2) {
      const cuda_detail::gated_batch<T> batch{normed(g.x, g.norm),  weight_rows_of(g.gate),
                                              weight_rows_of(g.up), g.o.data(),
                                              g.o.stride(0),        g.kind};
      cuda_detail::launch_gate(batch, g.o.extent(1), stream());
    }
  }

 private:
  friend class cuda_detail::training<cuda, T>;
  cuda_detail::products& library() { return products_; }
  int n_processors() const { return attention_.n_processors; }
  /// Memory of the training tier, until its next call.
  void* training_memory(std::size_t n_bytes) {
    if (training_memory_.size() < n_bytes) {
      training_memory_ = {};
      training_memory_ = cuda_detail::device_block(allocator_, n_bytes, stream());
    }
    return training_memory_.data();
  }
  static cuda_detail::attention_sequence<T> backward_sequence(
      const tensor_view<const T, 3, space>& q, const tensor_view<const T, 3, space>& o,
      const kv_spans<T, space>& kv, const span_list& spans) {
    cuda_detail::attention_sequence<T> s;
    s.q = q.data();
    s.q_token = q.stride(0);
    s.q_head = q.stride(1);
    s.o = const_cast<T*>(o.data());  // Only read.
    s.o_token = o.stride(0);
    s.o_head = o.stride(1);
    s.parts[cuda_detail::local_part] = part_of(kv.local);
    s.parts[cuda_detail::own_part] = part_of(kv.own);
    s.spans = spans.in_backend_memory;
    s.n_tokens = static_cast<std::int32_t>(q.extent(0));
    return s;
  }

  static constexpr std::size_t partial_bytes = std::size_t{16} << 20;
  static constexpr std::size_t counter_bytes = std::size_t{16} << 10;

  struct device_info {
    int index = 0;
    int architecture = 0;
  };
  static device_info current_device() {
    device_info info;
    cuda_detail::check(cudaGetDevice(&info.index), "cudaGetDevice");
    int major = 0, minor = 0;
    cuda_detail::check(
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, info.index),
        "cudaDeviceGetAttribute");
    cuda_detail::check(
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, info.index),
        "cudaDeviceGetAttribute");
    info.architecture = 10 * major + minor;
    if (info.architecture < 80) {
      throw backend_error("cuda: the device is sm_" + std::to_string(info.architecture) +
                          ", sm_80 or later is needed");
    }
    return info;
  }
  bool has_wgmma() {
    auto* answer = static_cast<int*>(partials_.data());
    cuda_detail::launch("report_wgmma", cuda_detail::report_wgmma<T>, 1, 1, 0, stream(), answer);
    int has = 0;
    download(&has, answer, sizeof has);
    return has != 0;
  }
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    cuda_detail::check(cudaDeviceGetAttribute(&value, which, device_.index),
                       "cudaDeviceGetAttribute");
    return value;
  }

  template <class U>
  static cuda_detail::row_view<U> rows_of(const matrix_view<U, space>& x) {
    return {x.data(), x.stride(0)};
  }
  template <int W>
  using width = std::integral_constant<int, W>;
  /// f(width) with as many elements at a time as fit into 16 bytes, if all rows begin at multiples
  /// of that and hold a multiple of it; else one at a time.
  template <class U = T, class F>
  static void by_width(index_t d, std::initializer_list<cuda_detail::row_view<const U>> matrices,
                       F&& f) {
    constexpr int most = cuda_detail::widest<U>;
    bool fits = d % most == 0;
    for (const auto& m : matrices) {
      fits = fits && m.stride % most == 0 && reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0;
    }
    fits ? f(width<most>()) : f(width<1>());
  }
  static unsigned int blocks(index_t n) { return static_cast<unsigned int>(n); }
  /// Every thread takes one cell, or some if there are very many.
  static unsigned int cell_blocks(index_t n_cells) {
    const index_t n = (n_cells + cuda_detail::row_threads - 1) / cuda_detail::row_threads;
    return static_cast<unsigned int>(std::clamp<index_t>(n, 1, 1 << 20));
  }

  static cuda_detail::normed_rows<T> normed(const matrix_view<const T, space>& x,
                                            const norm_call<cuda, T>& norm) {
    return {x.data(),
            x.stride(0),
            norm.weight.data(),
            norm.weight.stride(0),
            static_cast<std::int32_t>(x.extent(0)),
            static_cast<std::int32_t>(x.extent(1)),
            static_cast<float>(norm.options.eps),
            norm.options.kind == norm_kind::layer};
  }
  static cuda_detail::weight_rows<T> weight_rows_of(const linear_call<cuda, T>& map) {
    return {static_cast<const T*>(map.w->data_.data()), map.w->stride_,
            map.bias.empty() ? nullptr : map.bias.data(), map.bias.stride(0)};
  }

  template <class KV>
  static cuda_detail::append_target<KV> target_of(
      const tensor_view<KV, 3, space>& k, const tensor_view<KV, 3, space>& v,
      const vector_view<const std::int32_t, space>& rows) {
    return {k.data(),    v.data(),    k.stride(0), k.stride(1),
            v.stride(0), v.stride(1), rows.data(), rows.stride(0)};
  }
  template <class S>
  static cuda_detail::append_batch<T, typename S::element> append_batch_of(
      const tensor_view<const T, 3, space>& k, const tensor_view<const T, 3, space>& v,
      std::span<const S> sequences) {
    cuda_detail::append_batch<T, typename S::element> batch;
    batch.k = k.data();
    batch.v = v.data();
    batch.k_token = k.stride(0);
    batch.k_head = k.stride(1);
    batch.v_token = v.stride(0);
    batch.v_head = v.stride(1);
    batch.n_kv_heads = static_cast<std::int32_t>(k.extent(1));
    batch.head_dim = static_cast<std::int32_t>(k.extent(2));
    for (const S& s : sequences) {
      auto& to = batch.sequences[batch.n_sequences++];
      to.anchors = target_of(s.anchor_keys, s.anchor_values, s.anchor_rows);
      to.local = target_of(s.local_keys, s.local_values, s.local_rows);
      to.first_token = static_cast<std::int32_t>(s.begin);
      to.n_tokens = static_cast<std::int32_t>(s.count);
    }
    return batch;
  }

  template <class KV>
  static cuda_detail::attention_batch<T, KV> batch_of(std::span<const attention_of<KV>> calls,
                                                      float scale) {
    using namespace cuda_detail;
    cuda_detail::attention_batch<T, KV> batch;
    batch.scale = scale;
    for (const attention_of<KV>& c : calls) {
      batch.n_kv_heads = static_cast<std::int32_t>(c.kv.n_kv_heads());
      batch.group = static_cast<std::int32_t>(c.q.extent(1)) / batch.n_kv_heads;
      attention_sequence<T, KV>& s = batch.sequences[batch.n_sequences++];
      s.q = c.q.data();
      s.q_token = c.q.stride(0);
      s.q_head = c.q.stride(1);
      s.o = c.o.data();
      s.o_token = c.o.stride(0);
      s.o_head = c.o.stride(1);
      if (!c.lse.empty()) {
        s.lse = c.lse.data();
        s.lse_token = c.lse.stride(0);
        s.lse_head = c.lse.stride(1);
      }
      s.parts[local_part] = part_of(c.kv.local);
      s.parts[shared_part] = part_of(c.kv.shared);
      s.parts[own_part] = part_of(c.kv.own);
      s.spans = c.spans.in_backend_memory;
      s.n_tokens = static_cast<std::int32_t>(c.q.extent(0));
    }
    return batch;
  }

  template <class KV>
  void attend(std::span<const attention_of<KV>> calls, float scale) {
    using namespace cuda_detail;
    auto batch = batch_of<KV>(calls, scale);
    const auto head_dim = static_cast<int>(calls.front().q.extent(2));
    if constexpr (std::same_as<KV, T>) {
      const bool many = most_tokens(batch) * batch.group > split_rows;
      if (many && !fits_matrix_units(batch, head_dim, attention_)) {
        return attention_by_library(calls, static_cast<double>(scale));
      }
    }
    index_t most_keys = 0;
    for (const attention_of<KV>& c : calls) {
      most_keys = std::max(most_keys, c.kv.shared.rows() + c.kv.own.rows() + c.kv.local.rows());
    }
    launch_attention(batch, head_dim, static_cast<int>(most_keys), attention_, stream());
  }
  void attend_by_library(const cuda_detail::attention_batch<T>& batch,
                         std::span<const visible_spans> seen, int head_dim) {
    using namespace cuda_detail;
    cascade_library library(products_, stream());
    const auto memory =
        cascade_memory<T>::of(partials_.data(), partial_bytes, batch.group, head_dim);
    attend_cascade<T>(library, batch.sequences[0], seen, batch.n_kv_heads, batch.group, head_dim,
                      batch.scale, memory);
  }

  template <class KV>
  static cuda_detail::attention_part<KV> part_of(const kv_span<KV, space>& x) {
    if (x.rows() == 0) return {};
    return {x.k.data(),
            x.v.data(),
            x.k.stride(0),
            x.k.stride(1),
            x.v.stride(0),
            x.v.stride(1),
            static_cast<std::int32_t>(x.rows())};
  }

  cuda_allocator allocator_;
  device_info device_;
  bool graphs_;
  bool few_rows_;
  cuda_detail::stream_handle stream_;
  cuda_detail::staging staging_;
  cuda_detail::device_block product_workspace_;
  cuda_detail::device_block partials_;
  cuda_detail::device_block counters_;
  cuda_detail::products products_;
  cuda_detail::attention_device attention_;
  cuda_detail::device_block training_memory_;
};

static_assert(Backend<cuda<bf16>>);
static_assert(Backend<cuda<f16>>);
static_assert(Backend<cuda<float>>);
static_assert(Trains<cuda<bf16>, bf16>);
static_assert(Trains<cuda<float>, float>);

}  // namespace gistkv::backends
