// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// What one query sees, as two contiguous ranges of rows: anchors [0, anchors) and token-order rows
/// [local_begin, local_end). This is what kernels read instead of a mask.
struct visible_spans {
  std::int32_t anchors = 0;
  std::int32_t local_begin = 0;
  std::int32_t local_end = 0;

  friend constexpr bool operator==(const visible_spans&, const visible_spans&) = default;
};
static_assert(std::is_trivially_copyable_v<visible_spans>);

/// The predicate of visible_spans over keys laid out as [anchors | local rows]: key k < n_anchors
/// is anchor k, key n_anchors + r is the row local_offset + r.
struct span_mask {
  const visible_spans* spans = nullptr;  ///< One entry a query, in the kernel's memory.
  index_t n_anchors = 0;                 ///< Anchor keys that are laid out.
  index_t local_offset = 0;              ///< First local row that is laid out.

  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const {
    const visible_spans s = spans[q];
    if (k < n_anchors) return k < s.anchors;
    const index_t row = k - n_anchors + local_offset;
    return row >= s.local_begin && row < s.local_end;
  }
};

}  // namespace gistkv
