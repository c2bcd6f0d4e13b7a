// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <gistkv/core/training_backend.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/composed/attention.hpp>
#include <gistkv/ops/kv_spans.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/matmul.hpp>

/// The backward pass of attention out of products and two softmax operations. As in the forward
/// pass, queries go in tiles and probabilities are computed anew: memory does not grow with the
/// square of the length.

namespace gistkv {

/// Derivatives of the keys and values of one span, [n_kv_heads, rows, head_dim] each.
template <class T, MemorySpace Space>
struct kv_gradient {
  tensor_view<T, 3, Space> dk = {};
  tensor_view<T, 3, Space> dv = {};
};

/// One sequence of ops::attention_backward_batch: the arguments of ops::attention_backward.
template <class T, MemorySpace Space>
struct attention_derivative {
  tensor_view<T, 3, Space> dq = {};
  kv_gradient<T, Space> d_own = {};
  kv_gradient<T, Space> d_local = {};
  tensor_view<const T, 3, Space> d_o = {};
  tensor_view<const T, 3, Space> q = {};
  tensor_view<const T, 3, Space> o = {};
  matrix_view<const T, Space> lse = {};
  kv_spans<T, Space> kv = {};
  span_list spans = {};
};

namespace composed {

template <class B, class T>
constexpr std::size_t attention_backward_workspace_size(index_t n_q, index_t n_heads,
                                                        index_t n_kv_heads, index_t n_keys) {
  return 2 * attention_workspace_size<B, T>(n_q, n_heads, n_kv_heads, n_keys);
}

namespace detail {

/// Rows of one head as a matrix.
template <class T, MemorySpace Space>
matrix_view<T, Space> head_rows(const tensor_view<T, 3, Space>& x, index_t head, index_t begin,
                                index_t count) {
  return {x.data() + x.offset(head, begin, 0), {count, x.extent(2)}, {x.stride(1), 1}};
}

}  // namespace detail

/// See ops::attention_backward.
template <class B, class T>
void attention_backward(B& be, tensor_view<T, 3, space_of<B>> dq,
                        const kv_gradient<T, space_of<B>>& d_own,
                        const kv_gradient<T, space_of<B>>& d_local,
                        tensor_view<const T, 3, space_of<B>> d_o,
                        tensor_view<const T, 3, space_of<B>> q, const kv_spans<T, space_of<B>>& kv,
                        const span_list& spans, double scale, workspace<B>& scratch) {
  using view = tensor_view<const T, 3, space_of<B>>;
  const index_t n_kv_heads = kv.n_kv_heads();
  const index_t group = q.extent(1) / n_kv_heads;
  for (index_t begin = 0; begin < q.extent(0); begin += attention_tile) {
    const index_t m = std::min(attention_tile, q.extent(0) - begin);
    const auto [n_anchors, local_begin, local_end] =
        seen_by(spans.host.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(m)),
                kv.local.rows());
    const index_t n_keys = n_anchors + local_end - local_begin;
    const span_mask mask{spans.in_backend_memory + begin, n_anchors, local_begin};
    struct part {
      const kv_span<T, space_of<B>>& from;
      const kv_gradient<T, space_of<B>>& to;
      index_t begin;
      index_t count;
      index_t column;
    };
    const std::array parts{
        part{kv.own, d_own, 0, n_anchors, 0},
        part{kv.local, d_local, local_begin, local_end - local_begin, n_anchors}};
    for (index_t h = 0; h < n_kv_heads; ++h) {
      const typename workspace<B>::scope scope(scratch);
      const auto p = scratch.template take<T>({group, m, n_keys});
      const auto ds = scratch.template take<T>({group, m, n_keys});
      const view queries = detail::head_group(q, h, group, begin, m);
      const view gradients = detail::head_group(d_o, h, group, begin, m);
      const auto dq_tile = detail::head_group(dq, h, group, begin, m);
      const auto shared = [&](const view& x, const part& of) {
        return view(x.data() + x.offset(h, of.begin, 0), {group, of.count, x.extent(2)},
                    {0, x.stride(1), 1});
      };
      for (const part& of : parts) {
        if (of.count == 0) continue;
        ops::matmul<B, T>(be, p.slice(2, of.column, of.count), queries, shared(of.from.k, of),
                          {.transpose_b = true});
        ops::matmul<B, T>(be, ds.slice(2, of.column, of.count), gradients, shared(of.from.v, of),
                          {.transpose_b = true});
      }
      ops::masked_softmax<B, T>(be, p, mask, {.scale = scale}, {});
      // Before ds is overwritten nothing else needs it, and masked columns have p = 0.
      ops::softmax_backward<B, T>(be, ds, p, scale);
      bool first = true;
      for (const part& of : parts) {
        if (of.count == 0) continue;
        ops::matmul<B, T>(be, dq_tile, ds.slice(2, of.column, of.count), shared(of.from.k, of),
                          {.accumulate = !first});
        first = false;
        const auto dk = detail::head_rows(of.to.dk, h, of.begin, of.count);
        const auto dv = detail::head_rows(of.to.dv, h, of.begin, of.count);
        for (index_t g = 0; g < group; ++g) {
          const auto columns = [&](const auto& x) {
            return matrix_view<const T, space_of<B>>(x.at(g).slice(1, of.column, of.count));
          };
          ops::accumulate_products<B, T>(be, dv, columns(p), gradients.at(g));
          ops::accumulate_products<B, T>(be, dk, columns(ds), queries.at(g));
        }
      }
      if (first) {
        const view none(nullptr, {group, 0, dq.extent(2)}, {0, dq.extent(2), 1});
        ops::matmul<B, T>(be, dq_tile, ds, none);
      }
    }
  }
}

}  // namespace composed
}  // namespace gistkv
