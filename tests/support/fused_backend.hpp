// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/replay.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/composed/attention.hpp>
#include <gistkv/ops/few_rows.hpp>

namespace gistkv::test {

using plain = backends::eigen<float>;

/// The reference with every optional path, by composition of its primitives. Counts what is asked
/// of it. What is queued while it records is kept with its arguments, and made again as it was:
/// where a number of this step was among them, the result is that of another step.
class fused : public plain {
 public:
  using plain::plain;
  static constexpr bool native_attention = true;
  static constexpr bool native_append = true;
  static constexpr bool native_few_rows = true;
  static constexpr bool native_replay = true;
  template <class KV>
  static constexpr bool native_cache = std::same_as<KV, q8>;
  using calls = std::vector<std::function<void()>>;
  using recordings = std::map<replay_key, calls>;

  int n_projected = 0, n_gated = 0, n_appended = 0, n_recorded = 0, n_replayed = 0;
  index_t few = 8;

  void linear(matrix_view<float> o, matrix_view<const float> x, const packed_weight& w) {
    queue([=, this, &w] { plain::linear(o, x, w); });
  }
  void norm(matrix_view<float> o, matrix_view<const float> x, vector_view<const float> weight,
            vector_view<const float> bias, const norm_options& options) {
    queue([=, this] { plain::norm(o, x, weight, bias, options); });
  }
  void rope(tensor_view<float, 3> x, vector_view<const std::int32_t> positions,
            vector_view<const float> frequencies, const rope_options& options) {
    queue([=, this] { plain::rope(x, positions, frequencies, options); });
  }
  void activation(matrix_view<float> o, matrix_view<const float> gate, matrix_view<const float> up,
                  activation_kind kind) {
    queue([=, this] { plain::activation(o, gate, up, kind); });
  }
  void add(matrix_view<float> o, matrix_view<const float> a, matrix_view<const float> b) {
    queue([=, this] { plain::add(o, a, b); });
  }
  template <class U>
  void gather_rows(matrix_view<U> o, matrix_view<const U> x, vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < o.extent(0); ++i) {
      std::copy_n(x.data() + rows(i) * x.stride(0), o.extent(1), o.data() + i * o.stride(0));
    }
  }

  template <class KV>
  void attention(tensor_view<float, 3> o, tensor_view<const float, 3> q,
                 const kv_spans<KV, host_space>& kv, const span_list& spans, double scale,
                 matrix_view<float> lse) {
    const visible_spans* at = spans.in_backend_memory;
    queue([=, this] { attend(o, q, kv, {at, static_cast<std::size_t>(o.extent(0))}, scale, lse); });
  }
  template <class KV>
  void append_rows(matrix_view<KV> o, matrix_view<const float> x,
                   vector_view<const std::int32_t> rows) {
    queue([=] {
      for (index_t i = 0; i < x.extent(0); ++i) {
        if (rows(i) < 0) continue;
        encode_row(x.data() + i * x.stride(0), x.extent(1), o.data() + rows(i) * o.stride(0));
      }
    });
  }
  template <class S>
  void append(tensor_view<const float, 3> k, tensor_view<const float, 3> v,
              std::span<const S> sequences) {
    ++n_appended;
    for (const S& s : sequences) {
      for (index_t h = 0; h < k.extent(1); ++h) {
        const auto head = [&](const auto& x) {
          return matrix_view<const float>(x.data() + x.offset(s.begin, h, 0),
                                          {s.count, x.extent(2)}, {x.stride(0), 1});
        };
        append_rows(s.anchor_keys.at(h), head(k), s.anchor_rows);
        append_rows(s.anchor_values.at(h), head(v), s.anchor_rows);
        append_rows(s.local_keys.at(h), head(k), s.local_rows);
        append_rows(s.local_values.at(h), head(v), s.local_rows);
      }
    }
  }

  bool few_rows(index_t n, index_t, index_t) const { return n <= few; }
  template <class S>
  void project(const projection_call<fused, float>& p, std::span<const S> sequences) {
    ++n_projected;
    composed::project<fused, float>(*this, p, sequences, temporary(p.x.extents()));
  }
  void gated(const gated_call<fused, float>& g) {
    ++n_gated;
    composed::gated<fused, float>(*this, g, temporary(g.x.extents()), temporary(g.o.extents()));
  }

  bool replays(index_t n, index_t) const { return n <= few; }
  template <class F>
  void replay(recordings& kept, const replay_key& key, F&& f) {
    const auto known = kept.find(key);
    if (known != kept.end()) {
      ++n_replayed;
      for (const auto& call : known->second) call();
      return;
    }
    ++n_recorded;
    recorded_ = &kept[key];
    f();
    recorded_ = nullptr;
  }

 private:
  template <class F>
  void queue(F f) {
    f();
    if (recorded_ != nullptr) recorded_->push_back(f);
  }
  /// Memory that stays, as recorded calls use it again.
  matrix_view<float> temporary(std::array<index_t, 2> extents) {
    auto& memory = temporaries_.emplace_back(static_cast<std::size_t>(extents[0] * extents[1]));
    return {memory.data(), extents};
  }

  /// Rows of caches are those that the spans name: there may be more of them than when this was
  /// queued.
  template <class KV>
  void attend(tensor_view<float, 3> o, tensor_view<const float, 3> q,
              const kv_spans<KV, host_space>& kv, std::span<const visible_spans> spans,
              double scale, matrix_view<float> lse) {
    index_t n_anchors = 0, n_local = 0;
    for (const visible_spans& s : spans) {
      n_anchors = std::max<index_t>(n_anchors, s.anchors);
      n_local = std::max<index_t>(n_local, s.local_end);
    }
    const index_t n_shared = std::min(n_anchors, kv.shared.rows());
    std::vector<std::vector<float>> memory;
    const auto numbers = [&](const tensor_view<const KV, 3>& x, index_t rows) {
      const index_t d = q.extent(2), heads = kv.n_kv_heads();
      auto& all = memory.emplace_back(static_cast<std::size_t>(heads * rows * d));
      for (index_t i = 0; i < heads * rows; ++i) {
        decode_row(x.data() + i / rows * x.stride(0) + i % rows * x.stride(1), d,
                   all.data() + i * d);
      }
      return tensor_view<const float, 3>(all.data(), {heads, rows, d});
    };
    const auto part = [&](const kv_span<KV, host_space>& x, index_t rows) {
      return kv_span<float, host_space>{numbers(x.k, rows), numbers(x.v, rows)};
    };
    const kv_spans<float, host_space> all{
        part(kv.shared, n_shared), part(kv.own, n_anchors - n_shared), part(kv.local, n_local)};
    workspace<plain> scratch(*this,
                             composed::attention_workspace_size<plain, float>(
                                 o.extent(0), o.extent(1), all.n_kv_heads(), n_anchors + n_local));
    composed::attention<plain, float>(*this, o, q, all, {spans, spans.data()}, scale, scratch, lse);
  }

  calls* recorded_ = nullptr;
  std::deque<std::vector<float>> temporaries_;
};
static_assert(Backend<fused>);

}  // namespace gistkv::test
