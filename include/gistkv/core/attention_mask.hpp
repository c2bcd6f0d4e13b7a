// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <type_traits>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// Says whether query q sees key k. A predicate, never a matrix: trivially copyable, so that it
/// goes into a kernel by value. Every mask of the library is causal by itself but
/// everything_mask.
template <class M>
concept AttentionMask = std::is_trivially_copyable_v<M> && requires(const M& m, index_t i) {
  { m(i, i) } -> std::same_as<bool>;
};

/// k <= q.
struct causal_mask {
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const { return k <= q; }
};

}  // namespace gistkv
