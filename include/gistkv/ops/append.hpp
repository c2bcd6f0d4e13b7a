// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv {

/// Where the new keys and values of one sequence of a batch go, in one layer.
template <class KV, MemorySpace Space>
struct kv_append {
  using element = KV;

  index_t begin = 0;  ///< Rows [begin, begin + count) of the batch.
  index_t count = 0;
  tensor_view<KV, 3, Space> anchor_keys = {};  ///< [n_kv_heads, rows, head_dim]
  tensor_view<KV, 3, Space> anchor_values = {};
  tensor_view<KV, 3, Space> local_keys = {};
  tensor_view<KV, 3, Space> local_values = {};
  vector_view<const std::int32_t, Space> anchor_rows = {};  ///< [count], -1: not an anchor
  vector_view<const std::int32_t, Space> local_rows = {};
};

template <class S, class Space>
concept KvAppend = std::derived_from<S, kv_append<typename S::element, Space>>;

}  // namespace gistkv

namespace gistkv::composed {

/// Head after head; see ops::append.
template <class B, class T, KvAppend<space_of<B>> S>
void append(B& be, tensor_view<const T, 3, space_of<B>> k, tensor_view<const T, 3, space_of<B>> v,
            std::span<const S> sequences) {
  using element = typename S::element;
  const auto head = [](const auto& x, const S& s, index_t h) {
    return matrix_view<const T, space_of<B>>(x.data() + x.offset(s.begin, h, 0),
                                             {s.count, x.extent(2)}, {x.stride(0), x.stride(2)});
  };
  for (const S& s : sequences) {
    for (index_t h = 0; h < k.extent(1); ++h) {
      const auto keys = head(k, s, h);
      const auto values = head(v, s, h);
      ops::append_rows<B, T, element>(be, s.anchor_keys.at(h), keys, s.anchor_rows);
      ops::append_rows<B, T, element>(be, s.anchor_values.at(h), values, s.anchor_rows);
      ops::append_rows<B, T, element>(be, s.local_keys.at(h), keys, s.local_rows);
      ops::append_rows<B, T, element>(be, s.local_values.at(h), values, s.local_rows);
    }
  }
}

}  // namespace gistkv::composed

namespace gistkv::ops {

namespace detail {

/// @throws shape_error naming `op`.
template <class T, MemorySpace Space, KvAppend<Space> S>
void check_append(const char* op, const tensor_view<T, 3, Space>& k,
                  const tensor_view<T, 3, Space>& v, std::span<const S> sequences) {
  expect_shape(op, "v", v, k.extents());
  expect_contiguous_rows(op, "k", k);
  expect_contiguous_rows(op, "v", v);
  for (const S& s : sequences) {
    expect_shape(op, "anchor_rows", s.anchor_rows, {s.count});
    expect_shape(op, "local_rows", s.local_rows, {s.count});
    for (const auto& cache :
         std::array{s.anchor_keys, s.anchor_values, s.local_keys, s.local_values}) {
      expect_shape(op, "cache", cache, {k.extent(1), cache.extent(1), k.extent(2)});
      expect_contiguous_rows(op, "cache", cache);
    }
  }
}

}  // namespace detail

/// Writes the keys and values of a batch into the caches of its sequences, as append_rows does:
///   anchor_keys[h, anchor_rows[i], :] = local_keys[h, local_rows[i], :] = k[begin + i, h, :]
/// for the rows that are not negative, and the same of v.
///
/// @param[in] k, v       [n, n_kv_heads, head_dim]
/// @param[in] sequences  of types derived from kv_append; rows within k, within the caches
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T, KvAppend<space_of<B>> S>
requires Computes<B, T>
void append(B& be, std::type_identity_t<tensor_view<const T, 3, space_of<B>>> k,
            std::type_identity_t<tensor_view<const T, 3, space_of<B>>> v,
            std::span<const S> sequences) {
  using element = typename S::element;
  static_assert(std::is_same_v<T, element> || B::template native_cache<element>,
                "the backend has no caches of another type than its elements");
  detail::check_append("append", k, v, sequences);
  if constexpr (B::native_append) {
    if (!k.empty()) be.append(k, v, sequences);
  } else {
    composed::append<B, T>(be, k, v, sequences);
  }
}

}  // namespace gistkv::ops
