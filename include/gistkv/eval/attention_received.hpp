// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/kv_spans.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/matmul.hpp>

namespace gistkv::eval {

namespace detail {

/// The first `count` keys of a part from `begin` on, [n_kv_heads, count, head_dim], as elements of
/// T: a view if they are, else converted on the host into `converted`.
template <class B, class T, class KV>
tensor_view<const T, 3, space_of<B>> keys_as(B& be, tensor_view<const KV, 3, space_of<B>> keys,
                                             buffer<T, B>& converted) {
  if constexpr (std::is_same_v<T, KV>) {
    return keys;
  } else {
    const index_t n_heads = keys.extent(0);
    const index_t n = keys.extent(1);
    const index_t d = keys.extent(2);
    const index_t width = row_width<KV>(d);
    std::vector<KV> stored(static_cast<std::size_t>(n * width));
    std::vector<T> elements(static_cast<std::size_t>(n_heads * n * d));
    for (index_t h = 0; h < n_heads && n > 0; ++h) {
      be.download(stored.data(), keys.at(h).data(), stored.size() * sizeof(KV));
      for (index_t r = 0; r < n; ++r) {
        decode_row(stored.data() + r * width, d, elements.data() + (h * n + r) * d);
      }
    }
    converted = buffer<T, B>(be, std::span<const T>(elements));
    return converted.view({n_heads, keys.extent(1), keys.extent(2)});
  }
}

}  // namespace detail

/// received[h][j] += sum over queries i and query heads g of KV head h of
///   softmax_j(scale <q[i, g, :], k[h, j, :]>),  over the rows j that spans[i] names,
/// for local rows j: what eviction by attention needs of a pass. Fused attention does not have it,
/// so scores are computed again, out of matmul and masked_softmax, on any backend.
///
/// Queries go in tiles, so memory is linear in the number of keys.
/// @param[in] q      [n_q, n_heads, head_dim], rotated
/// @param[in] kv     as ops::attention
/// @param[in] spans  of the n_q queries
/// @param[in,out] received  n_kv_heads vectors of at least as many entries as rows of kv.local
/// Allocates. Waits for the backend.
template <class B, class T, class KV>
requires Computes<B, T>
void add_attention_received(B& be, tensor_view<const T, 3, space_of<B>> q,
                            const kv_spans<KV, space_of<B>>& kv, const span_list& spans,
                            double scale, std::span<std::vector<float>> received) {
  using space = space_of<B>;
  using view = tensor_view<const T, 3, space>;
  const index_t n_kv_heads = kv.n_kv_heads();
  const index_t group = q.extent(1) / n_kv_heads;
  const index_t n_local = kv.local.rows();
  const index_t n_anchors = kv.shared.rows() + kv.own.rows();
  const index_t n_keys = n_anchors + n_local;
  const index_t tile = std::min(q.extent(0), composed::attention_tile);
  if (q.extent(0) == 0 || n_local == 0) return;

  std::array<buffer<T, B>, 3> converted;
  const std::array<view, 3> keys = {detail::keys_as<B, T, KV>(be, kv.shared.k, converted[0]),
                                    detail::keys_as<B, T, KV>(be, kv.own.k, converted[1]),
                                    detail::keys_as<B, T, KV>(be, kv.local.k, converted[2])};
  buffer<T, B> scores(be, group * tile * n_keys);
  buffer<T, B> sums(be, group * n_keys);
  const std::vector<T> one(static_cast<std::size_t>(tile), static_cast<T>(1.0F));
  const buffer<T, B> ones(be, std::span<const T>(one));
  for (index_t h = 0; h < n_kv_heads; ++h) {
    for (index_t begin = 0; begin < q.extent(0); begin += tile) {
      const index_t m = std::min(tile, q.extent(0) - begin);
      const auto s = scores.view({group, m, n_keys});
      const auto queries = composed::detail::head_group(q, h, group, begin, m);
      index_t column = 0;
      for (const view& part : keys) {
        if (part.extent(1) == 0) continue;
        const view shared_by_group(part.data() + h * part.stride(0),
                                   {group, part.extent(1), part.extent(2)}, {0, part.stride(1), 1});
        ops::matmul<B, T>(be, s.slice(2, column, part.extent(1)), queries, shared_by_group,
                          {.transpose_b = true});
        column += part.extent(1);
      }
      ops::masked_softmax<B, T>(be, s, span_mask{spans.in_backend_memory + begin, n_anchors, 0},
                                {.scale = scale});
      const view weights(ones.data(), {group, 1, m}, {0, m, 1});
      ops::matmul<B, T>(be, sums.view({group, 1, n_keys}), weights, s, {.accumulate = begin > 0});
    }
    const std::vector<T> found = sums.to_host();
    std::vector<float>& total = received[static_cast<std::size_t>(h)];
    for (index_t g = 0; g < group; ++g) {
      for (index_t j = 0; j < n_local; ++j) {
        total[static_cast<std::size_t>(j)] +=
            static_cast<float>(found[static_cast<std::size_t>(g * n_keys + n_anchors + j)]);
      }
    }
  }
}

}  // namespace gistkv::eval
