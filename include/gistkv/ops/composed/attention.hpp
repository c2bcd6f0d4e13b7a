// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/ops/kv_spans.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/ops/rows.hpp>

/// Attention out of matmul, masked_softmax, matmul: what every backend has after nine primitives,
/// and what a native path is tested against. Queries go in tiles, so that scratch does not grow
/// with their number, and only key rows that some query of the tile sees are touched.

namespace gistkv::composed {

/// Queries of one tile.
inline constexpr index_t attention_tile = 64;

/// Rows of a cache of another type that are converted at a time: never the whole cache.
inline constexpr index_t converted_rows = 256;

/// @param head_dim  of a cache whose elements KV are not T
template <class B, class T, class KV = T>
constexpr std::size_t attention_workspace_size(index_t n_q, index_t n_heads, index_t n_kv_heads,
                                               index_t n_keys, index_t head_dim = 0) {
  const std::size_t converted =
      std::is_same_v<T, KV>
          ? 0
          : workspace<B>::template bytes_for<T>(std::min(n_keys, converted_rows) * head_dim);
  return converted + workspace<B>::template bytes_for<T>(n_heads / n_kv_heads *
                                                         std::min(n_q, attention_tile) * n_keys);
}

namespace detail {

/// Calls f(rows, column) for rows [n, head_dim] of one KV head that follow each other, until all
/// parts are through: whole parts, or pieces of them in `converted` where their elements are not T.
template <class B, class T, class KV, std::size_t N, class F>
void for_rows(B& be, const std::array<kv_span<KV, space_of<B>>, N>& parts,
              tensor_view<const KV, 3, space_of<B>> kv_span<KV, space_of<B>>::*which,
              index_t kv_head, matrix_view<T, space_of<B>> converted, F&& f) {
  index_t column = 0;
  for (const auto& part : parts) {
    if (part.rows() == 0) continue;
    const auto rows = (part.*which).at(kv_head);
    if constexpr (std::is_same_v<T, KV>) {
      f(rows, column);
    } else {
      for (index_t begin = 0; begin < part.rows(); begin += converted_rows) {
        const index_t n = std::min(converted_rows, part.rows() - begin);
        ops::read_rows<B, T, KV>(be, converted.rows(0, n), rows.rows(begin, n));
        f(matrix_view<const T, space_of<B>>(converted.rows(0, n)), column + begin);
      }
    }
    column += part.rows();
  }
}

/// One tile: o, q [group, m, head_dim] of one KV head; keys are the parts laid end to end.
template <class B, class T, class KV, AttentionMask M, std::size_t N>
void attend(B& be, tensor_view<T, 3, space_of<B>> o, tensor_view<const T, 3, space_of<B>> q,
            index_t kv_head, const std::array<kv_span<KV, space_of<B>>, N>& parts, const M& mask,
            double scale, workspace<B>& scratch, matrix_view<T, space_of<B>> lse) {
  using view = tensor_view<const T, 3, space_of<B>>;
  using rows_view = matrix_view<const T, space_of<B>>;
  const index_t group = q.extent(0);
  index_t n_keys = 0;
  for (const auto& part : parts) n_keys += part.rows();
  const typename workspace<B>::scope scope(scratch);
  auto scores = scratch.template take<T>({group, q.extent(1), n_keys});
  matrix_view<T, space_of<B>> converted;
  if constexpr (!std::is_same_v<T, KV>) {
    converted = scratch.template take<T>({std::min(n_keys, converted_rows), q.extent(2)});
  }
  // The heads of a group share their keys: a batch stride of 0.
  auto shared_by_group = [&](const rows_view& x) {
    return view(x.data(), {group, x.extent(0), x.extent(1)}, {0, x.stride(0), 1});
  };
  for_rows<B, T>(be, parts, &kv_span<KV, space_of<B>>::k, kv_head, converted,
                 [&](const rows_view& keys, index_t column) {
                   ops::matmul<B, T>(be, scores.slice(2, column, keys.extent(0)), q,
                                     shared_by_group(keys), {.transpose_b = true});
                 });
  ops::masked_softmax<B, T>(be, scores, mask, {.scale = scale}, lse);
  bool first = true;
  for_rows<B, T>(be, parts, &kv_span<KV, space_of<B>>::v, kv_head, converted,
                 [&](const rows_view& values, index_t column) {
                   ops::matmul<B, T>(be, o, scores.slice(2, column, values.extent(0)),
                                     shared_by_group(values), {.accumulate = !first});
                   first = false;
                 });
  if (first) {  // No key at all: the empty product is the zero that the contract asks for.
    const view none(nullptr, {group, 0, o.extent(2)}, {0, o.extent(2), 1});
    ops::matmul<B, T>(be, o, scores, none);
  }
}

/// Heads [kv_head * group, ...) of rows [begin, begin + m) as [group, m, head_dim].
template <class T, MemorySpace Space>
tensor_view<T, 3, Space> head_group(tensor_view<T, 3, Space> x, index_t kv_head, index_t group,
                                    index_t begin, index_t m) {
  return {x.data() + x.offset(begin, kv_head * group, 0),
          {group, m, x.extent(2)},
          {x.stride(1), x.stride(0), x.stride(2)}};
}

/// The tile's part of lse [n_q, n_heads] as [group, m].
template <class T, MemorySpace Space>
matrix_view<T, Space> head_group(matrix_view<T, Space> lse, index_t kv_head, index_t group,
                                 index_t begin, index_t m) {
  if (lse.empty()) return {};
  return {
      lse.data() + lse.offset(begin, kv_head * group), {group, m}, {lse.stride(1), lse.stride(0)}};
}

}  // namespace detail

/// Two-span form; see ops::attention.
template <class B, class T, class KV>
void attention(B& be, tensor_view<T, 3, space_of<B>> o, tensor_view<const T, 3, space_of<B>> q,
               const kv_spans<KV, space_of<B>>& kv, const span_list& spans, double scale,
               workspace<B>& scratch, matrix_view<T, space_of<B>> lse) {
  const index_t n_kv_heads = kv.n_kv_heads();
  const index_t group = q.extent(1) / n_kv_heads;
  auto rows = [](const kv_span<KV, space_of<B>>& part, index_t begin, index_t count) {
    return kv_span<KV, space_of<B>>{part.k.slice(1, begin, count), part.v.slice(1, begin, count)};
  };
  for (index_t begin = 0; begin < q.extent(0); begin += attention_tile) {
    const index_t m = std::min(attention_tile, q.extent(0) - begin);
    const auto [n_anchors, local_begin, local_end] =
        seen_by(spans.host.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(m)),
                kv.local.rows());
    const index_t n_shared = std::min(n_anchors, kv.shared.rows());
    const std::array parts{rows(kv.shared, 0, n_shared), rows(kv.own, 0, n_anchors - n_shared),
                           rows(kv.local, local_begin, local_end - local_begin)};
    const span_mask mask{spans.in_backend_memory + begin, n_anchors, local_begin};
    for (index_t h = 0; h < n_kv_heads; ++h) {
      detail::attend<B, T>(be, detail::head_group(o, h, group, begin, m),
                           detail::head_group(q, h, group, begin, m), h, parts, mask, scale,
                           scratch, detail::head_group(lse, h, group, begin, m));
    }
  }
}

/// Dense form with any mask; see ops::attention.
template <class B, class T, AttentionMask M>
void attention(B& be, tensor_view<T, 3, space_of<B>> o, tensor_view<const T, 3, space_of<B>> q,
               const kv_span<T, space_of<B>>& kv, const M& mask, double scale,
               workspace<B>& scratch, matrix_view<T, space_of<B>> lse) {
  const index_t n_kv_heads = kv.k.extent(0);
  const index_t group = q.extent(1) / n_kv_heads;
  for (index_t begin = 0; begin < q.extent(0); begin += attention_tile) {
    const index_t m = std::min(attention_tile, q.extent(0) - begin);
    for (index_t h = 0; h < n_kv_heads; ++h) {
      detail::attend<B, T>(be, detail::head_group(o, h, group, begin, m),
                           detail::head_group(q, h, group, begin, m), h, std::array{kv},
                           right_aligned{mask, begin}, scale, scratch,
                           detail::head_group(lse, h, group, begin, m));
    }
  }
}

}  // namespace gistkv::composed
