// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include <cublasLt.h>

#include <gistkv/backends/cuda/kernels.cuh>
#include <gistkv/backends/cuda/runtime.cuh>
#include <gistkv/core/types.hpp>

namespace gistkv::backends::cuda_detail {

template <class T>
constexpr cudaDataType_t cuda_type() {
  if constexpr (std::same_as<T, bf16>) {
    return CUDA_R_16BF;
  } else if constexpr (std::same_as<T, f16>) {
    return CUDA_R_16F;
  } else {
    return CUDA_R_32F;
  }
}

/// Row-major matrices of a batch: element (h, i, j) at h * batch + i * row + j.
template <class T>
struct batch_view {
  T* data = nullptr;
  index_t batch = 0;
  index_t row = 0;
};

/// o = alpha a b (+ o) by cuBLASLt, in float or in 16-bit elements with sums in float. What the
/// library says to a shape is asked once and kept.
class products {
 public:
  /// @param workspace  device memory that the library may use, for calls on one stream at a time
  products(void* workspace, std::size_t workspace_bytes)
      : workspace_(workspace), workspace_bytes_(workspace_bytes) {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cublasLtCreate");
    handle_.reset(made);
  }

  /// o [batch, m, n], a [batch, m, k], b [batch, k, n]; [batch, k, m] or [batch, n, k] of what is
  /// transposed. O is T or float.
  template <class T, class O = T>
  void multiply(batch_view<O> o, batch_view<const T> a, batch_view<const T> b, index_t batch,
                index_t m, index_t n, index_t k, bool transpose_b, bool accumulate, float alpha,
                cudaStream_t stream, bool transpose_a = false) {
    // The stride of a dimension of extent 1 means nothing, but the library checks it.
    const index_t a_rows = transpose_a ? k : m;
    const index_t a_cols = transpose_a ? m : k;
    const index_t b_cols = transpose_b ? k : n;
    const shape s{static_cast<index_t>(cuda_type<T>()),
                  static_cast<index_t>(cuda_type<O>()),
                  batch,
                  m,
                  n,
                  k,
                  m == 1 ? std::max(o.row, n) : o.row,
                  a_rows == 1 ? std::max(a.row, a_cols) : a.row,
                  (transpose_b ? n : k) == 1 ? std::max(b.row, b_cols) : b.row,
                  o.batch,
                  a.batch,
                  b.batch,
                  transpose_a ? 1 : 0,
                  transpose_b ? 1 : 0,
                  alignment(o),
                  alignment(a),
                  alignment(b)};
    const plan* p = nullptr;
    if (k > 0 && s.o_row >= n && s.a_row >= a_cols && s.b_row >= b_cols) p = &plan_for(s);
    if (p == nullptr || !p->usable) {
      const index_t blocks =
          std::clamp<index_t>((batch * m * n + row_threads - 1) / row_threads, 1, index_t{1} << 20);
      launch("plain_product", plain_product<T, O>, static_cast<unsigned int>(blocks), row_threads,
             0, stream, o.data, o.batch, o.row, a.data, a.batch, a.row, b.data, b.batch, b.row,
             batch, m, n, k, transpose_a, transpose_b, accumulate, alpha);
      return;
    }
    const float beta = accumulate ? 1.0F : 0.0F;
    // The library counts columns first: what it multiplies is o^T = b^T a^T.
    check(cublasLtMatmul(handle_.get(), p->operation.get(), &alpha, b.data, p->b.get(), a.data,
                         p->a.get(), &beta, o.data, p->o.get(), o.data, p->o.get(), &p->algorithm,
                         workspace_, workspace_bytes_, stream),
          "cublasLtMatmul");
  }

 private:
  struct shape {
    index_t type, o_type, batch, m, n, k, o_row, a_row, b_row, o_batch, a_batch, b_batch,
        transpose_a, transpose_b, o_alignment, a_alignment, b_alignment;
    friend auto operator<=>(const shape&, const shape&) = default;
  };

  template <auto Destroy>
  struct destroy {
    template <class P>
    void operator()(P* p) const {
      Destroy(p);
    }
  };
  template <class P, auto Destroy>
  using owned = std::unique_ptr<std::remove_pointer_t<P>, destroy<Destroy>>;
  using owned_layout = owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

  struct plan {
    owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> operation;
    owned_layout o, a, b;
    cublasLtMatmulAlgo_t algorithm{};
    bool usable = false;
  };

  /// Bytes, up to 16, to which every row begins aligned.
  template <class T>
  static index_t alignment(const batch_view<T>& x) {
    const auto bits = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(x.data)) |
                      static_cast<std::uint64_t>(x.row * static_cast<index_t>(sizeof(T))) |
                      static_cast<std::uint64_t>(x.batch * static_cast<index_t>(sizeof(T))) | 16U;
    return index_t{1} << std::countr_zero(bits);
  }

  static owned_layout layout(cudaDataType_t type, index_t rows, index_t cols, index_t row_stride,
                             index_t batch, index_t batch_stride) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, type, static_cast<std::uint64_t>(cols),
                                     static_cast<std::uint64_t>(rows), row_stride),
          "cublasLtMatrixLayoutCreate");
    owned_layout result(made);
    const auto count = static_cast<std::int32_t>(batch);
    const std::int64_t stride = batch_stride;
    set(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
    set(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
    return result;
  }
  template <class V>
  static void set(cublasLtMatrixLayout_t of, cublasLtMatrixLayoutAttribute_t what, const V& value) {
    check(cublasLtMatrixLayoutSetAttribute(of, what, &value, sizeof value),
          "cublasLtMatrixLayoutSetAttribute");
  }
  template <class V>
  static void set(cublasLtMatmulPreference_t of, cublasLtMatmulPreferenceAttributes_t what,
                  const V& value) {
    check(cublasLtMatmulPreferenceSetAttribute(of, what, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  }

  const plan& plan_for(const shape& s) {
    // Prompts of all lengths pass by; what they ask for must not pile up.
    constexpr std::size_t most_plans = 4096;
    const auto known = plans_.find(s);
    if (known != plans_.end()) return known->second;
    if (plans_.size() >= most_plans) plans_.clear();
    plan p;
    const auto type = static_cast<cudaDataType_t>(s.type);
    cublasLtMatmulDesc_t operation = nullptr;
    check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    p.operation.reset(operation);
    const cublasOperation_t turned = s.transpose_b != 0 ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                         sizeof turned),
          "cublasLtMatmulDescSetAttribute");
    const cublasOperation_t turned_a = s.transpose_a != 0 ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &turned_a,
                                         sizeof turned_a),
          "cublasLtMatmulDescSetAttribute");
    p.o = layout(static_cast<cudaDataType_t>(s.o_type), s.m, s.n, s.o_row, s.batch, s.o_batch);
    p.a = s.transpose_a != 0 ? layout(type, s.k, s.m, s.a_row, s.batch, s.a_batch)
                             : layout(type, s.m, s.k, s.a_row, s.batch, s.a_batch);
    p.b = s.transpose_b != 0 ? layout(type, s.n, s.k, s.b_row, s.batch, s.b_batch)
                             : layout(type, s.k, s.n, s.b_row, s.batch, s.b_batch);
    cublasLtMatmulPreference_t made = nullptr;
    check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
    const owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference(made);
    set(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        static_cast<std::uint64_t>(workspace_bytes_));
    set(made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        static_cast<std::uint32_t>(s.b_alignment));
    set(made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        static_cast<std::uint32_t>(s.a_alignment));
    set(made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        static_cast<std::uint32_t>(s.o_alignment));
    set(made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        static_cast<std::uint32_t>(s.o_alignment));
    // Partial sums must not be rounded to 16 bits.
    set(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    cublasLtMatmulHeuristicResult_t found{};
    int n_found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_.get(), operation, p.b.get(), p.a.get(), p.o.get(),
                                       p.o.get(), made, 1, &found, &n_found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic");
    p.usable = status == CUBLAS_STATUS_SUCCESS && n_found > 0;
    p.algorithm = found.algo;
    return plans_.emplace(s, std::move(p)).first->second;
  }

  owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  void* workspace_;
  std::size_t workspace_bytes_;
  std::map<shape, plan> plans_;
};

}  // namespace gistkv::backends::cuda_detail
