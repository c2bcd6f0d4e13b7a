// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/core/types.hpp>

namespace gistkv::backends::onednn_detail {

/// What a CPU's instruction set has to provide for training (simd/training.inc).
struct training_kernels {
  /// o[r, j] = (accumulate ? o[r, j] : 0) + alpha sum_p a[r, p] b[p, j], r < m, j < n, p < k, with
  /// a[r, p] at a + r a_row + p a_step.
  void (*product)(float* o, index_t ldo, const float* a, index_t a_row, index_t a_step,
                  const float* b, index_t ldb, index_t m, index_t n, index_t k, bool accumulate,
                  float alpha);
  /// x <- e^(x - max x), n >= 1; returns the sum, and the maximum in `top`.
  float (*exponentials)(float* x, index_t n, float* top);
  void (*scale)(float* x, index_t n, float a);
  /// A row of ops::activation_backward; up and d_up may be null.
  void (*silu_backward)(float* d_gate, float* d_up, const float* dy, const float* gate,
                        const float* up, index_t n);
  /// A row of ops::norm_backward without the weight's derivative, and the row's statistics.
  void (*norm_backward)(float* dx, const float* dy, const float* x, const float* weight, index_t n,
                        bool centred, float eps, float* mean, float* factor);
  /// Of one query over n keys, [anchors | ... | seen local rows [begin, end) | ...]: scores s
  /// become probabilities p = softmax(scale s) of what is seen, and their derivatives dp those of
  /// the scores, scale p (dp - sum_j p_j dp_j); what is not seen becomes 0 in both.
  void (*attention_weights)(float* s, float* dp, index_t n, index_t anchors, index_t begin,
                            index_t end, float scale);
};

}  // namespace gistkv::backends::onednn_detail
