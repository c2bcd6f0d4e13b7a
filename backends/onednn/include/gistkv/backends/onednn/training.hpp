// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/attention_backward.hpp>
#include <gistkv/backends/onednn/cpu.hpp>
#include <gistkv/backends/onednn/scratch.hpp>
#include <gistkv/core/host_training.hpp>
#include <gistkv/ops/composed/attention_backward.hpp>

namespace gistkv::backends::onednn_detail {

/// Base of a backend that does not train.
template <class Backend>
struct no_training {
  explicit no_training(instruction_set) {}
};

/// The tier `Trains` of the onednn backend, on floats: what takes time, in vector registers.
template <class Backend>
class training : public host_training<Backend, float> {
 public:
  explicit training(instruction_set isa) : kernels_(&training_kernels_for<float>(isa)) {}

  void accumulate_products(matrix_view<float> o, matrix_view<const float> a,
                           matrix_view<const float> b, double alpha) {
    const index_t k = a.extent(0);
    for_blocks(o.extent(0), o.extent(1), k, [&](index_t i, index_t m, index_t j, index_t n) {
      kernels_->product(o.data() + i * o.stride(0) + j, o.stride(0), a.data() + i, 1, a.stride(0),
                        b.data() + j, b.stride(0), m, n, k, true, static_cast<float>(alpha));
    });
  }

  void norm_backward(matrix_view<float> dx, vector_view<float> dw, matrix_view<const float> dy,
                     matrix_view<const float> x, vector_view<const float> weight,
                     const norm_options& options) {
    if (!dw.empty()) {
      return host_training<Backend, float>::norm_backward(dx, dw, dy, x, weight, options);
    }
    self().for_rows(x.extent(0), 4 * x.extent(1), [&](index_t i) {
      float mean = 0.0F;
      float factor = 0.0F;
      kernels_->norm_backward(dx.data() + i * dx.stride(0), dy.data() + i * dy.stride(0),
                              x.data() + i * x.stride(0), weight.data(), x.extent(1),
                              options.kind == norm_kind::layer, static_cast<float>(options.eps),
                              &mean, &factor);
    });
  }

  void activation_backward(matrix_view<float> d_gate, matrix_view<float> d_up,
                           matrix_view<const float> dy, matrix_view<const float> gate,
                           matrix_view<const float> up, activation_kind kind) {
    if (kind != activation_kind::silu) {
      return host_training<Backend, float>::activation_backward(d_gate, d_up, dy, gate, up, kind);
    }
    self().for_rows(dy.extent(0), 8 * dy.extent(1), [&](index_t i) {
      kernels_->silu_backward(d_gate.data() + i * d_gate.stride(0),
                              up.empty() ? nullptr : d_up.data() + i * d_up.stride(0),
                              dy.data() + i * dy.stride(0), gate.data() + i * gate.stride(0),
                              up.empty() ? nullptr : up.data() + i * up.stride(0), dy.extent(1));
    });
  }

  void cross_entropy(matrix_view<float> logits, vector_view<float> losses,
                     vector_view<const std::int32_t> targets, vector_view<const float> weights,
                     matrix_view<const float> teacher, double mix) {
    if (!teacher.empty()) {
      return host_training<Backend, float>::cross_entropy(logits, losses, targets, weights, teacher,
                                                          mix);
    }
    const index_t n = logits.extent(1);
    self().for_rows(logits.extent(0), 8 * n, [&](index_t i) {
      float* x = logits.data() + i * logits.stride(0);
      const float at_target = x[targets(i)];
      float top = 0.0F;
      const float sum = kernels_->exponentials(x, n, &top);
      losses(i) = weights(i) * (std::log(sum) + top - at_target);
      kernels_->scale(x, n, weights(i) / sum);
      x[targets(i)] -= weights(i);
    });
  }

  static constexpr bool native_attention_backward = true;

  void attention_backward(tensor_view<float, 3> dq, const kv_gradient<float, host_space>& d_own,
                          const kv_gradient<float, host_space>& d_local,
                          tensor_view<const float, 3> d_o, tensor_view<const float, 3> q,
                          tensor_view<const float, 3> /*o*/, matrix_view<const float> /*lse*/,
                          const kv_spans<float, host_space>& kv, const span_list& spans,
                          double scale) {
    attention_.run(*kernels_,
                   {dq, d_own.dk, d_own.dv, d_local.dk, d_local.dv, d_o, q, kv.own, kv.local,
                    spans.host, static_cast<float>(scale)},
                   [this](index_t n, index_t work, const auto& f) { self().for_rows(n, work, f); });
  }

 protected:
  /// Rows from which on a product is worth blocking (and b transposing).
  static constexpr index_t blocked_rows = 8;

  /// ops::matmul with many rows.
  void multiply_blocked(tensor_view<float, 3> o, tensor_view<const float, 3> a,
                        tensor_view<const float, 3> b, const matmul_options& options) {
    const index_t k = a.extent(2);
    for (index_t h = 0; h < o.extent(0); ++h) {
      const auto to = o.at(h);
      const auto left = a.at(h);
      auto right = b.at(h);
      if (options.transpose_b) right = transposed(right);
      for_blocks(to.extent(0), to.extent(1), k, [&](index_t i, index_t m, index_t j, index_t n) {
        kernels_->product(to.data() + i * to.stride(0) + j, to.stride(0),
                          left.data() + i * left.stride(0), left.stride(0), 1, right.data() + j,
                          right.stride(0), m, n, k, options.accumulate,
                          static_cast<float>(options.alpha));
      });
    }
  }

 private:
  Backend& self() { return static_cast<Backend&>(*this); }

  /// Calls f(i, m, j, n) for blocks of an [rows, columns] product that sums k terms.
  template <class F>
  void for_blocks(index_t rows, index_t columns, index_t k, F&& f) {
    constexpr index_t block_rows = 96;
    constexpr index_t block_columns = 64;
    const index_t down = (rows + block_rows - 1) / block_rows;
    const index_t across = (columns + block_columns - 1) / block_columns;
    const index_t work = std::min(rows, block_rows) * std::min(columns, block_columns) * k / 8;
    self().for_rows(down * across, work, [&](index_t t) {
      const index_t i = t / across * block_rows;
      const index_t j = t % across * block_columns;
      f(i, std::min(block_rows, rows - i), j, std::min(block_columns, columns - j));
    });
  }

  matrix_view<const float> transposed(matrix_view<const float> x) {
    const index_t rows = x.extent(0);
    const index_t columns = x.extent(1);
    float* copy = transposed_.get<float>(static_cast<std::size_t>(rows * columns));
    constexpr index_t tile = 32;
    self().for_rows((columns + tile - 1) / tile, rows * tile, [&](index_t t) {
      const index_t end = std::min(columns, (t + 1) * tile);
      for (index_t first = 0; first < rows; first += tile) {
        for (index_t c = t * tile; c < end; ++c) {
          for (index_t r = first; r < std::min(rows, first + tile); ++r) {
            copy[c * rows + r] = x.data()[r * x.stride(0) + c];
          }
        }
      }
    });
    return {copy, {columns, rows}};
  }

  const training_kernels* kernels_;
  scratch transposed_;
  attention_backward_pass attention_;
};

}  // namespace gistkv::backends::onednn_detail
