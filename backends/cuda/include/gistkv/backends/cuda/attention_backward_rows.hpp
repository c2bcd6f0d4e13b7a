// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_plan.hpp>
#include <gistkv/backends/cuda/attention_tile.hpp>

/// The backward pass of attention over anchors and local rows for everything: any type, head
/// dimension, alignment. Two kernels without atomics, so that a result has the same bits each time:
/// one goes by queries and gives dq, and of each row the log of the sum of its weights and
/// <d_o, o>; the other goes by keys and gives dk and dv. The log that the forward pass left is not
/// used: in 16 bits it has three digits.

namespace gistkv::backends::cuda_detail {

/// Of one query and head.
struct row_statistics {
  float lse = 0.0F;    ///< -inf where nothing is seen.
  float along = 0.0F;  ///< <d_o, o>
};

/// One sequence; strides count elements. `forward` has q, o, spans, and the parts local and own.
template <class T>
struct attention_backward_call {
  attention_sequence<T> forward;
  const T* d_o = nullptr;
  T* dq = nullptr;
  index_t d_o_token = 0, d_o_head = 0, dq_token = 0, dq_head = 0;
  T* dk[n_parts] = {};
  T* dv[n_parts] = {};
  index_t dk_head[n_parts] = {}, dk_row[n_parts] = {}, dv_head[n_parts] = {}, dv_row[n_parts] = {};
  row_statistics* statistics = nullptr;  ///< [n_tokens, n_heads]
  std::int32_t n_kv_heads = 0;
  std::int32_t group = 0;
  float scale = 0.0F;
};

inline constexpr int backward_row_warps = 4;
/// Shared memory of a block: four vectors of each warp.
GISTKV_HD constexpr std::uint32_t backward_row_shared_bytes(int head_dim) {
  return static_cast<std::uint32_t>(backward_row_warps * 4 * head_dim * 4);
}

template <class W, class T>
GISTKV_HD float dot(const float* a, const T* b, int n) {
  float sum = 0.0F;
  for (int d = 0; d < n; ++d) sum += a[d] * W::to_float(b[d]);
  return sum;
}

/// Where key number `key` of those that a query sees lies.
GISTKV_HD constexpr int part_of_key(const visible_spans& seen, int key) {
  return key < seen.anchors ? own_part : local_part;
}
GISTKV_HD constexpr index_t row_of_key(const visible_spans& seen, int key) {
  return key < seen.anchors ? key : key - seen.anchors + seen.local_begin;
}

/// Query `item` of n_tokens * n_heads: its statistics, and dq.
template <class T, class W>
GISTKV_HD void backward_query_row(W& w, const attention_backward_call<T>& c, int head_dim,
                                  index_t item) {
  const attention_sequence<T>& s = c.forward;
  const index_t n_heads = c.n_kv_heads * c.group;
  const index_t token = item / n_heads;
  const index_t head = item % n_heads;
  const index_t kv_head = head / c.group;
  const visible_spans seen = s.spans[token];
  const int n_keys = seen.anchors + greatest(0, seen.local_end - seen.local_begin);
  float* q = w.template shared<float>(static_cast<std::uint32_t>(w.index() * 4 * head_dim * 4));
  float* d_o = q + head_dim;
  float* dq = d_o + head_dim;
  const auto key = [&](int number) {
    const attention_part<T>& p = s.parts[part_of_key(seen, number)];
    return p.k + kv_head * p.k_head + row_of_key(seen, number) * p.k_row;
  };
  const auto value = [&](int number) {
    const attention_part<T>& p = s.parts[part_of_key(seen, number)];
    return p.v + kv_head * p.v_head + row_of_key(seen, number) * p.v_row;
  };

  typename W::template registers<float, 1> along, top, sum;
  w.each([&](int lane) {
    along(lane, 0) = 0.0F;
    top(lane, 0) = W::minus_infinity();
    for (int d = lane; d < head_dim; d += 32) {
      q[d] = W::to_float(s.q[token * s.q_token + head * s.q_head + d]);
      d_o[d] = W::to_float(c.d_o[token * c.d_o_token + head * c.d_o_head + d]);
      dq[d] = 0.0F;
      along(lane, 0) += d_o[d] * W::to_float(s.o[token * s.o_token + head * s.o_head + d]);
    }
  });
  w.warp_sum(along);
  w.sync_warp();
  w.each([&](int lane) {
    for (int i = lane; i < n_keys; i += 32) {
      top(lane, 0) = greatest(top(lane, 0), c.scale * dot<W>(q, key(i), head_dim));
    }
  });
  w.warp_max(top);
  w.each([&](int lane) {
    sum(lane, 0) = 0.0F;
    for (int i = lane; i < n_keys; i += 32) {
      const float score = c.scale * dot<W>(q, key(i), head_dim);
      sum(lane, 0) += W::exp2((score - top(lane, 0)) * log2_e);
    }
  });
  w.warp_sum(sum);
  for (int first = 0; first < n_keys; first += 32) {
    typename W::template registers<float, 1> slope;
    w.each([&](int lane) {
      slope(lane, 0) = 0.0F;
      const int i = first + lane;
      if (i >= n_keys) return;
      const float score = c.scale * dot<W>(q, key(i), head_dim);
      const float weight = W::exp2((score - top(lane, 0)) * log2_e) / sum(lane, 0);
      slope(lane, 0) = c.scale * weight * (dot<W>(d_o, value(i), head_dim) - along(lane, 0));
    });
    const int count = least(32, n_keys - first);
    for (int i = 0; i < count; ++i) {
      w.each([&](int lane) {
        const float factor = w.from_lane(slope, i);
        const T* k = key(first + i);
        for (int d = lane; d < head_dim; d += 32) dq[d] += factor * W::to_float(k[d]);
      });
    }
  }
  w.each([&](int lane) {
    for (int d = lane; d < head_dim; d += 32) {
      W::store(c.dq + token * c.dq_token + head * c.dq_head + d, dq[d]);
    }
    if (lane == 0) {
      c.statistics[item] = {n_keys > 0 ? top(lane, 0) + W::log(sum(lane, 0)) : W::minus_infinity(),
                            along(lane, 0)};
    }
  });
  w.sync_warp();
}

/// Key row `row` of a part and a KV head: dk and dv.
template <class T, class W>
GISTKV_HD void backward_key_row(W& w, const attention_backward_call<T>& c, int head_dim, int part,
                                index_t row, index_t kv_head) {
  const attention_sequence<T>& s = c.forward;
  const attention_part<T>& p = s.parts[part];
  const index_t n_heads = c.n_kv_heads * c.group;
  float* k = w.template shared<float>(static_cast<std::uint32_t>(w.index() * 4 * head_dim * 4));
  float* v = k + head_dim;
  float* dk = v + head_dim;
  float* dv = dk + head_dim;
  w.each([&](int lane) {
    for (int d = lane; d < head_dim; d += 32) {
      k[d] = W::to_float(p.k[kv_head * p.k_head + row * p.k_row + d]);
      v[d] = W::to_float(p.v[kv_head * p.v_head + row * p.v_row + d]);
      dk[d] = 0.0F;
      dv[d] = 0.0F;
    }
  });
  w.sync_warp();
  const auto sees = [&](index_t token) {
    const visible_spans seen = s.spans[token];
    return part == own_part ? row < seen.anchors : row >= seen.local_begin && row < seen.local_end;
  };
  struct flag {
    int value;
  };
  for (index_t first = 0; first < s.n_tokens; first += 32) {
    typename W::template registers<flag, 1> seen;
    w.each([&](int lane) {
      const index_t token = first + lane;
      seen(lane, 0).value = token < s.n_tokens && sees(token) ? 1 : 0;
    });
    if (w.greatest_of(seen, &flag::value) == 0) continue;
    for (int member = 0; member < c.group; ++member) {
      const index_t head = kv_head * c.group + member;
      typename W::template registers<float, 1> weight, slope;
      w.each([&](int lane) {
        weight(lane, 0) = 0.0F;
        slope(lane, 0) = 0.0F;
        if (seen(lane, 0).value == 0) return;
        const index_t token = first + lane;
        const row_statistics of = c.statistics[token * n_heads + head];
        const float score =
            c.scale * dot<W>(k, s.q + token * s.q_token + head * s.q_head, head_dim);
        weight(lane, 0) = W::exp2((score - of.lse) * log2_e);
        const float change =
            dot<W>(v, c.d_o + token * c.d_o_token + head * c.d_o_head, head_dim) - of.along;
        slope(lane, 0) = c.scale * weight(lane, 0) * change;
      });
      const auto count = static_cast<int>(least<index_t>(32, s.n_tokens - first));
      for (int i = 0; i < count; ++i) {
        w.each([&](int lane) {
          const float by_value = w.from_lane(weight, i);
          const float by_key = w.from_lane(slope, i);
          const T* q = s.q + (first + i) * s.q_token + head * s.q_head;
          const T* d_o = c.d_o + (first + i) * c.d_o_token + head * c.d_o_head;
          for (int d = lane; d < head_dim; d += 32) {
            dk[d] += by_key * W::to_float(q[d]);
            dv[d] += by_value * W::to_float(d_o[d]);
          }
        });
      }
    }
  }
  w.each([&](int lane) {
    T* to_k = c.dk[part] + kv_head * c.dk_head[part] + row * c.dk_row[part];
    T* to_v = c.dv[part] + kv_head * c.dv_head[part] + row * c.dv_row[part];
    for (int d = lane; d < head_dim; d += 32) {
      W::store(to_k + d, W::to_float(to_k[d]) + dk[d]);
      W::store(to_v + d, W::to_float(to_v[d]) + dv[d]);
    }
  });
  w.sync_warp();
}

}  // namespace gistkv::backends::cuda_detail
