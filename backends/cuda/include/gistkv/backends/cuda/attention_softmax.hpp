// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/attention_plan.hpp>

/// The online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) on the registers in which the
/// matrix units keep their results. The same source runs on a device and, lane by lane, in the
/// emulation of the tests.
///
/// A group G is a warp, or the four of a warpgroup, in step. `G::registers<V, N>` are N values that
/// every lane has of its own, (lane, i) to name one; on a device a lane sees no others, and `lane`
/// says who it is. `g.each(f)` calls f(lane) for all of them; what stands between two collective
/// calls is one `each`.

namespace gistkv::backends::cuda_detail {

/// Running result of the rows of one fragment: sum exp(scale (s - top)) and that times v.
template <class G, int HeadDim>
struct attention_state {
  typename G::template registers<float, HeadDim / 2> o;
  typename G::template registers<float, 2> top;  ///< Greatest score, not scaled; of rows r, r + 8.
  typename G::template registers<float, 2> sum;

  GISTKV_HD void clear(G& g) {
    g.each([&](int lane) {
      for (int e = 0; e < HeadDim / 2; ++e) o(lane, e) = 0.0F;
      for (int h = 0; h < 2; ++h) {
        top(lane, h) = G::minus_infinity();
        sum(lane, h) = 0.0F;
      }
    });
  }
};

/// Scores of keys that a row's token does not see become -inf. Rows behind the last see nothing.
template <class G, int N, class Order = natural_order>
GISTKV_HD void mask_scores(G& g, typename G::template registers<float, N>& s,
                           const key_block& block, const visible_spans* spans, int first_row,
                           int n_rows, int group) {
  g.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + fragment_row(lane, 2 * h);
      visible_spans seen;
      if (row < n_rows) seen = spans[row / group];
      for (int e = 2 * h; e < N; e += 4) {
        for (int i = e; i < e + 2; ++i) {
          if (!block.sees(seen, Order::key(lane, i))) s(lane, i) = G::minus_infinity();
        }
      }
    }
  });
}

/// s <- exp(scale (s - top)) with top the greatest score up to now; `sum` takes them in, `shrink`
/// is what they make of the earlier terms.
template <class G, int N, int HeadDim>
GISTKV_HD void weigh_scores(G& g, typename G::template registers<float, N>& s,
                            attention_state<G, HeadDim>& state,
                            typename G::template registers<float, 2>& shrink, float scale_log2) {
  typename G::template registers<float, 2> top;
  g.each([&](int lane) {
    for (int h = 0; h < 2; ++h) top(lane, h) = state.top(lane, h);
    for (int e = 0; e < N; ++e) {
      const int h = e / 2 % 2;
      top(lane, h) = greatest(top(lane, h), s(lane, e));
    }
  });
  g.quad_max(top);
  g.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      // Before the first visible key there is nothing to subtract: exp2(-inf - 0) = 0.
      const bool none = top(lane, h) == G::minus_infinity();
      const float base = none ? 0.0F : top(lane, h) * scale_log2;
      shrink(lane, h) = G::exp2(state.top(lane, h) * scale_log2 - base);
      float sum = 0.0F;
      for (int e = 2 * h; e < N; e += 4) {
        for (int i = e; i < e + 2; ++i) {
          s(lane, i) = G::exp2(s(lane, i) * scale_log2 - base);
          sum += s(lane, i);
        }
      }
      state.sum(lane, h) = state.sum(lane, h) * shrink(lane, h) + sum;
      state.top(lane, h) = top(lane, h);
    }
  });
}

template <class G, int HeadDim>
GISTKV_HD void shrink_state(G& g, attention_state<G, HeadDim>& state,
                            typename G::template registers<float, 2>& shrink) {
  g.each([&](int lane) {
    for (int e = 0; e < HeadDim / 2; ++e) state.o(lane, e) *= shrink(lane, e / 2 % 2);
  });
}

/// Weights [16, N * 2 keys] as the left operands of the products with the values, in T: keys
/// [16 t, 16 t + 16) at 4 t.
template <class T, class G, int N>
GISTKV_HD void pack_weights(G& g, typename G::template registers<std::uint32_t, N / 2>& a,
                            typename G::template registers<float, N>& s) {
  g.each([&](int lane) {
    for (int i = 0; i < N / 2; ++i)
      a(lane, i) = G::template pack<T>(s(lane, 2 * i), s(lane, 2 * i + 1));
  });
}

/// Queries of rows [first_row, ...) of a tile as left operands: dimensions [16 t, 16 t + 16) at
/// 4 t. Rows behind the last are 0.
template <class T, int HeadDim, class Order = natural_order, class KV, class G>
GISTKV_HD void load_queries(G& g, typename G::template registers<std::uint32_t, HeadDim / 4>& a,
                            const attention_sequence<T, KV>& s, const attention_item& item,
                            int group, int first_row) {
  g.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + fragment_row(lane, 2 * h);
      const bool inside = row < item.count * group;
      const T* q = s.q + (item.begin + row / group) * s.q_token +
                   (item.kv_head * group + row % group) * s.q_head;
      for (int e = 0; e < HeadDim / 8; ++e) {
        a(lane, 2 * e + h) = inside ? G::load_pair(q + Order::query_dim(lane, e)) : 0U;
      }
    }
  });
}

/// The end of it: o / sum, and the log of the sum, to memory.
template <class T, int HeadDim, class G>
GISTKV_HD void store_result(G& g, attention_state<G, HeadDim>& state,
                            const attention_sequence<T>& s, const attention_item& item, int group,
                            int first_row, float scale) {
  g.quad_sum(state.sum);
  g.each([&](int lane) {
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + fragment_row(lane, 2 * h);
      if (row >= item.count * group) continue;
      const index_t token = item.begin + row / group;
      const index_t head = item.kv_head * group + row % group;
      const float sum = state.sum(lane, h);
      const float factor = sum > 0.0F ? 1.0F / sum : 0.0F;
      T* o = s.o + token * s.o_token + head * s.o_head;
      for (int e = 2 * h; e < HeadDim / 2; e += 4) {
        G::store_pair(
            o + fragment_col(lane, e),
            G::template pack<T>(state.o(lane, e) * factor, state.o(lane, e + 1) * factor));
      }
      if (s.lse != nullptr && lane % 4 == 0) {
        G::store(s.lse + token * s.lse_token + head * s.lse_head,
                 sum > 0.0F ? state.top(lane, h) * scale + G::log(sum) : G::minus_infinity());
      }
    }
  });
}

}  // namespace gistkv::backends::cuda_detail
