// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <gistkv/backends/cuda/attention_tile.hpp>
#include <gistkv/core/q8.hpp>

/// Attention for everything that the matrix units do not take: float, any head dimension, any
/// alignment, any scale. A warp a row; slow, and right.

namespace gistkv::backends::cuda_detail {

inline constexpr int row_warps = 4;

/// Shared memory of a block: of each warp its query and its result.
GISTKV_HD constexpr std::uint32_t row_shared_bytes(int head_dim) {
  return static_cast<std::uint32_t>(row_warps * 2 * head_dim * 4);
}

/// What the elements of a row are multiples of.
template <class KV>
GISTKV_HD float unit_of_row(const KV* row, int head_dim) {
  if constexpr (std::is_same_v<KV, q8>) {
    return q8_scale(row, head_dim);
  } else {
    return 1.0F;
  }
}

/// The work of one block of threads: item number `number` of a batch with tiles of one token.
template <class T, class KV, class W>
GISTKV_HD void attend_rows(W& w, const attention_batch<T, KV>& batch, int head_dim, int number) {
  const attention_item item = item_of(batch, number);
  const attention_sequence<T, KV>& s = batch.sequences[item.sequence];
  const visible_spans seen = s.spans[item.begin];
  const int n_shared = least(s.parts[shared_part].rows, seen.anchors);
  const int n_local = greatest(0, seen.local_end - seen.local_begin);
  const int n_keys = seen.anchors + n_local;
  float* q = w.template shared<float>(static_cast<std::uint32_t>(w.index() * 2 * head_dim * 4));
  float* o = q + head_dim;

  for (int member = w.index(); member < batch.group; member += row_warps) {
    const int head = item.kv_head * batch.group + member;
    w.each([&](int lane) {
      for (int d = lane; d < head_dim; d += 32) {
        q[d] = W::to_float(s.q[item.begin * s.q_token + head * s.q_head + d]);
        o[d] = 0.0F;
      }
    });
    w.sync_warp();
    typename W::template registers<float, 1> top, sum;
    w.each([&](int lane) {
      top(lane, 0) = W::minus_infinity();
      sum(lane, 0) = 0.0F;
    });
    for (int first = 0; first < n_keys; first += 32) {
      typename W::template registers<float, 1> weight, highest, shrink;
      typename W::template registers<const KV*, 1> value;
      w.each([&](int lane) {
        weight(lane, 0) = W::minus_infinity();
        value(lane, 0) = nullptr;
        const int key = first + lane;
        if (key < n_keys) {
          const int part = key < n_shared       ? shared_part
                           : key < seen.anchors ? own_part
                                                : local_part;
          const index_t row = part == shared_part ? key
                              : part == own_part  ? key - n_shared
                                                  : key - seen.anchors + seen.local_begin;
          const attention_part<KV>& p = s.parts[part];
          const KV* k = p.k + item.kv_head * p.k_head + row * p.k_row;
          value(lane, 0) = p.v + item.kv_head * p.v_head + row * p.v_row;
          float score = 0.0F;
          for (int d = 0; d < head_dim; ++d) score += q[d] * W::to_float(k[d]);
          weight(lane, 0) = score * unit_of_row(k, head_dim) * batch.scale;
        }
        highest(lane, 0) = greatest(top(lane, 0), weight(lane, 0));
      });
      w.warp_max(highest);
      w.each([&](int lane) {
        shrink(lane, 0) = W::exp2((top(lane, 0) - highest(lane, 0)) * log2_e);
        weight(lane, 0) = W::exp2((weight(lane, 0) - highest(lane, 0)) * log2_e);
        sum(lane, 0) = sum(lane, 0) * shrink(lane, 0) + weight(lane, 0);
        top(lane, 0) = highest(lane, 0);
      });
      // Every lane needs all weights and takes some dimensions.
      const int count = least(32, n_keys - first);
      for (int d0 = 0; d0 < head_dim; d0 += 32) {
        typename W::template registers<float, 1> all;
        w.each([&](int lane) {
          all(lane, 0) = d0 + lane < head_dim ? o[d0 + lane] * shrink(lane, 0) : 0.0F;
        });
        for (int i = 0; i < count; ++i) {
          w.each([&](int lane) {
            float factor = w.from_lane(weight, i);
            const KV* v = w.from_lane(value, i);
            factor *= unit_of_row(v, head_dim);
            if (d0 + lane < head_dim) all(lane, 0) += factor * W::to_float(v[d0 + lane]);
          });
        }
        w.each([&](int lane) {
          if (d0 + lane < head_dim) o[d0 + lane] = all(lane, 0);
        });
      }
    }
    w.warp_sum(sum);
    w.each([&](int lane) {
      const float factor = sum(lane, 0) > 0.0F ? 1.0F / sum(lane, 0) : 0.0F;
      for (int d = lane; d < head_dim; d += 32) {
        W::store(s.o + item.begin * s.o_token + head * s.o_head + d, o[d] * factor);
      }
      if (s.lse != nullptr && lane == 0) {
        W::store(s.lse + item.begin * s.lse_token + head * s.lse_head,
                 sum(lane, 0) > 0.0F ? top(lane, 0) + W::log(sum(lane, 0)) : W::minus_infinity());
      }
    });
    w.sync_warp();
  }
}

}  // namespace gistkv::backends::cuda_detail
