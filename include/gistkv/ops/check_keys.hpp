// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <string_view>

#include <gistkv/mask/visible_spans.hpp>
#include <gistkv/ops/check.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::ops {

/// Keys and values that fit each other and the queries q [n_q, n_heads, head_dim], and spans, one a
/// query, that name rows of them. @throws shape_error, with `op` in front.
template <class T, class KV, MemorySpace Space>
void expect_keys(std::string_view op, const tensor_view<const T, 3, Space>& q,
                 const kv_spans<KV, Space>& kv, const span_list& spans) {
  const std::string start = std::string(op) + ": ";
  const index_t n_q = q.extent(0);
  const index_t n_kv_heads = kv.n_kv_heads();
  const index_t head_dim = q.extent(2);
  if (n_kv_heads == 0 || q.extent(1) % n_kv_heads != 0) {
    throw shape_error(start + "n_heads " + std::to_string(q.extent(1)) +
                      " is no multiple of n_kv_heads " + std::to_string(n_kv_heads));
  }
  expect_contiguous_rows(op, "q", q);
  for (const auto& part : std::array{kv.shared, kv.own, kv.local}) {
    if (part.rows() == 0) continue;
    expect_shape(op, "k", part.k, {n_kv_heads, part.rows(), head_dim});
    expect_shape(op, "v", part.v, {n_kv_heads, part.rows(), head_dim});
    expect_contiguous_rows(op, "k", part.k);
    expect_contiguous_rows(op, "v", part.v);
  }
  if (static_cast<index_t>(spans.host.size()) != n_q) {
    throw shape_error(start + "spans has " + std::to_string(spans.host.size()) +
                      " entries, expected " + std::to_string(n_q));
  }
  const index_t n_anchors = kv.shared.rows() + kv.own.rows();
  for (const visible_spans& s : spans.host) {
    if (s.anchors < 0 || s.anchors > n_anchors) {
      throw shape_error(start + "spans name " + std::to_string(s.anchors) + " anchors of " +
                        std::to_string(n_anchors));
    }
    if (s.local_begin < s.local_end && (s.local_begin < 0 || s.local_end > kv.local.rows())) {
      throw shape_error(start + "spans name local rows to " + std::to_string(s.local_end) + " of " +
                        std::to_string(kv.local.rows()));
    }
  }
}

}  // namespace gistkv::ops
