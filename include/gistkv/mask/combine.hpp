// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/core/attention_mask.hpp>

namespace gistkv {

/// Every key.
struct everything_mask {
  GISTKV_HD constexpr bool operator()(index_t, index_t) const { return true; }
};

/// The first `n_sink` keys, causally.
struct sink_mask {
  index_t n_sink = 1;
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const { return k <= q && k < n_sink; }
};

/// The last `width` keys up to and including q.
struct window_mask {
  index_t width = 1;
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const {
    return k <= q && q - k < width;
  }
};

/// Keys that both masks allow.
template <AttentionMask A, AttentionMask B>
struct both {
  A first;
  B second;
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const {
    return first(q, k) && second(q, k);
  }
};
template <class A, class B>
both(A, B) -> both<A, B>;

/// Keys that at least one of the masks allows, for instance a sink and a window (StreamingLLM).
template <AttentionMask A, AttentionMask B>
struct either {
  A first;
  B second;
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const {
    return first(q, k) || second(q, k);
  }
};
template <class A, class B>
either(A, B) -> either<A, B>;

/// The mask for queries that are rows [begin, ...) of a longer sequence: query j is at q = begin +
/// j.
template <AttentionMask M>
struct right_aligned {
  M mask;
  index_t begin = 0;
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const { return mask(begin + q, k); }
};
template <class M>
right_aligned(M, index_t) -> right_aligned<M>;

}  // namespace gistkv
