// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/workspace.hpp>
#include <gistkv/model/block.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/attention_backward.hpp>
#include <gistkv/ops/clear.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rope.hpp>
#include <gistkv/ops/rows.hpp>
#include <gistkv/train/batch.hpp>
#include <gistkv/train/trainable_linear.hpp>

namespace gistkv::train {

/// Rotation of a batch, and of its derivatives: the same by the opposite angle.
template <Storage B>
struct rotation {
  vector_view<const std::int32_t, space_of<B>> positions = {};
  vector_view<const float, space_of<B>> frequencies = {};
  vector_view<const float, space_of<B>> negated = {};
  rope_options options = {};
};

/// What a block keeps of its forward pass for the backward pass.
template <class T, MemorySpace Space>
struct block_activations {
  matrix_view<T, Space> x = {};         ///< [n, d_model], the block's input
  matrix_view<T, Space> qkv = {};       ///< [n, (n_heads + 2 n_kv_heads) head_dim], rotated
  matrix_view<T, Space> unnormed = {};  ///< Queries and keys before their norm, if they have one.
  matrix_view<T, Space> o = {};         ///< [n, n_heads head_dim], what attention gave
  matrix_view<T, Space> lse = {};       ///< [n, n_heads]
  matrix_view<T, Space> middle = {};    ///< [n, d_model], behind attention
  matrix_view<T, Space> gates = {};     ///< [n, 2 d_ff], gate and up
  std::array<lora_activations<T, Space>, 4> down = {};  ///< LoRA of qkv, output, gates, down.
};

/// One layer of model::block with its backward pass. The weights are constant or trained; either
/// way LoRA may come on top. Keys and values live for one pass only: a training batch has no cache.
template <class B, class T>
requires Trains<B, T>
class trainable_block {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;
  using const_matrix = matrix_view<const T, space>;
  using tensor = tensor_view<T, 3, space>;
  using activations = block_activations<T, space>;
  using lora_passes = std::span<const lora_rows<space>>;  ///< One for each LoRA.

  trainable_block(parameter_set<B, T>& set, const model::model_config& config,
                  const model::host_block& w, const std::string& prefix, bool train,
                  std::span<const lora_options> lora)
      : be_(&set.backend()),
        config_(config),
        attention_norm_(set, prefix + "attention_norm", w.attention_norm, train),
        query_norm_(set, prefix + "query_norm", w.query_norm, train),
        key_norm_(set, prefix + "key_norm", w.key_norm, train),
        feed_forward_norm_(set, prefix + "feed_forward_norm", w.feed_forward_norm, train),
        qkv_(set, prefix,
             std::array{linear_source{"query", &w.query}, linear_source{"key", &w.key},
                        linear_source{"value", &w.value}},
             train, lora),
        output_(set, prefix, std::array{linear_source{"output", &w.output}}, train, lora),
        gates_(set, prefix, std::array{linear_source{"gate", &w.gate}, linear_source{"up", &w.up}},
               train, lora),
        down_(set, prefix, std::array{linear_source{"down", &w.down}}, train, lora),
        scale_(config.attention_scale > 0 ? config.attention_scale
                                          : 1.0 / std::sqrt(static_cast<double>(config.head_dim))) {
  }

  /// Takes room for the activations of n rows, with LoRA on those that `on` names.
  activations reserve(workspace<B>& w, index_t n, lora_passes on) const {
    const auto& c = config_;
    activations a;
    a.x = w.template take<T>({n, c.d_model});
    a.qkv = w.template take<T>({n, qkv_.rows()});
    if (has_head_norms()) a.unnormed = w.template take<T>({n, query_width() + key_width()});
    a.o = w.template take<T>({n, query_width()});
    a.lse = w.template take<T>({n, c.n_heads});
    a.middle = w.template take<T>({n, c.d_model});
    a.gates = w.template take<T>({n, 2 * c.d_ff});
    const auto maps = {&qkv_, &output_, &gates_, &down_};
    std::size_t i = 0;
    for (const auto* map : maps) {
      for (std::size_t l = 0; l < on.size(); ++l) {
        a.down[i][l] = w.template take<T>({on[l].count(n), map->total_rank(l)});
      }
      ++i;
    }
    return a;
  }
  std::size_t activation_bytes(index_t n, lora_passes on) const {
    const auto bytes = [](index_t count) { return workspace<B>::template bytes_for<T>(count); };
    const auto& c = config_;
    std::size_t sum = 2 * bytes(n * c.d_model) + bytes(n * qkv_.rows()) + bytes(n * query_width()) +
                      bytes(n * c.n_heads) + bytes(n * 2 * c.d_ff);
    if (has_head_norms()) sum += bytes(n * (query_width() + key_width()));
    for (const auto* map : {&qkv_, &output_, &gates_, &down_}) {
      for (std::size_t l = 0; l < on.size(); ++l) {
        sum += bytes(on[l].count(n) * map->total_rank(l));
      }
    }
    return sum;
  }
  /// Bytes of scratch for either pass.
  std::size_t workspace_size(const batch<B>& b) const {
    const auto bytes = [](index_t count) { return workspace<B>::template bytes_for<T>(count); };
    const auto& c = config_;
    const index_t n = b.n;
    const std::size_t maps = std::max({qkv_.workspace_size(n), output_.workspace_size(n),
                                       gates_.workspace_size(n), down_.workspace_size(n)});
    const std::size_t attention =
        2 * bytes(b.anchors.size() * 2 * key_width()) + bytes(n * (query_width() + key_width())) +
        ops::attention_backward_workspace_size<B, T>(n, c.n_heads, c.n_kv_heads, b.most_keys()) +
        ops::attention_workspace_size<B, T>(n, c.n_heads, c.n_kv_heads, b.most_keys());
    return 2 * bytes(n * c.d_model) +
           std::max(3 * bytes(n * c.d_ff) + bytes(n * 2 * c.d_ff),
                    bytes(n * query_width()) + bytes(n * qkv_.rows()) + attention) +
           maps;
  }

  /// x <- block(x), leaving in `a` what backward needs.
  void forward(matrix x, const activations& a, const batch<B>& b, const rotation<B>& rope,
               lora_passes lora, workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const index_t n = b.n;
    copy(a.x, x);
    const matrix normed = scratch.template take<T>({n, config_.d_model});
    ops::norm<B, T>(*be_, normed, x, attention_norm_.view(), {}, norm());
    qkv_.forward(a.qkv, normed, a.down[0], lora, scratch);
    if (has_head_norms()) {
      copy(a.unnormed, a.qkv.slice(1, 0, query_width() + key_width()));
      norm_heads(queries(a.qkv), query_norm_);
      norm_heads(keys(a.qkv), key_norm_);
    }
    ops::rope<B, T>(*be_, queries(a.qkv), rope.positions, rope.frequencies, rope.options);
    ops::rope<B, T>(*be_, keys(a.qkv), rope.positions, rope.frequencies, rope.options);
    attend(a, b, scratch);
    output_.forward(normed, a.o, a.down[1], lora, scratch);
    ops::add<B, T>(*be_, a.middle, x, normed);
    ops::norm<B, T>(*be_, normed, a.middle, feed_forward_norm_.view(), {}, norm());
    gates_.forward(a.gates, normed, a.down[2], lora, scratch);
    const matrix activated = scratch.template take<T>({n, config_.d_ff});
    ops::activation<B, T>(*be_, activated, gate(a.gates), up(a.gates), config_.activation);
    down_.forward(normed, activated, a.down[3], lora, scratch);
    ops::add<B, T>(*be_, x, a.middle, normed);
  }

  /// d <- derivative with respect to the block's input, from that with respect to its output.
  /// Overwrites the activations.
  void backward(matrix d, const activations& a, const batch<B>& b, const rotation<B>& rope,
                lora_passes lora, workspace<B>& scratch) {
    feed_forward_backward(d, a, lora, scratch);
    attention_backward(d, a, b, rope, lora, scratch);
  }

  /// Of LoRA number i.
  void save(index_t layer, std::size_t i, std::vector<model::low_rank>& out) const {
    for (const auto* map : {&qkv_, &output_, &gates_, &down_}) map->save(layer, i, out);
  }
  void load(index_t layer, std::size_t i, std::span<const model::low_rank> from, load_step step) {
    for (auto* map : {&qkv_, &output_, &gates_, &down_}) map->load(layer, i, from, step);
  }
  void keep_for_teacher(std::size_t i) {
    for (auto* map : {&qkv_, &output_, &gates_, &down_}) map->keep_for_teacher(i);
  }

 private:
  /// A norm's weight, constant or trained.
  class norm_weight {
   public:
    norm_weight(parameter_set<B, T>& set, const std::string& name, const host_matrix& w,
                bool train) {
      if (w.empty()) return;
      if (train) {
        trained_ = &set.add(name, parameter_kind::norm, 1, w.cols, floats_of(w));
      } else {
        constant_ = model::load_vector<T>(set.backend(), w);
      }
    }
    bool empty() const { return trained_ == nullptr && constant_.size() == 0; }
    vector_view<const T, space> view() const {
      const auto& b = trained_ != nullptr ? trained_->value : constant_;
      return b.view({b.size()});
    }
    vector_view<accumulate_t<T>, space> gradient() {
      if (trained_ == nullptr) return {};
      return trained_->gradient.view({trained_->gradient.size()});
    }

   private:
    parameter<B, T>* trained_ = nullptr;
    buffer<T, B> constant_;
  };

  index_t query_width() const { return config_.n_heads * config_.head_dim; }
  index_t key_width() const { return config_.n_kv_heads * config_.head_dim; }
  bool has_head_norms() const { return !query_norm_.empty() || !key_norm_.empty(); }
  norm_options norm() const { return {config_.norm, config_.norm_eps}; }

  /// Columns of a matrix as [n, heads, head_dim].
  tensor heads(matrix m, index_t begin, index_t n_heads) const {
    return {m.data() + begin,
            {m.extent(0), n_heads, config_.head_dim},
            {m.stride(0), config_.head_dim, 1}};
  }
  tensor queries(matrix qkv) const { return heads(qkv, 0, config_.n_heads); }
  tensor keys(matrix qkv) const { return heads(qkv, query_width(), config_.n_kv_heads); }
  tensor values(matrix qkv) const {
    return heads(qkv, query_width() + key_width(), config_.n_kv_heads);
  }
  /// [n, heads, head_dim] as [heads, n, head_dim].
  static tensor by_head(tensor x) {
    return {
        x.data(), {x.extent(1), x.extent(0), x.extent(2)}, {x.stride(1), x.stride(0), x.stride(2)}};
  }
  matrix gate(matrix gates) const { return gates.slice(1, 0, config_.d_ff); }
  matrix up(matrix gates) const { return gates.slice(1, config_.d_ff, config_.d_ff); }

  /// The rows of `from`, which lie apart, side by side.
  void copy(matrix to, const_matrix from) {
    if (from.dense() && to.dense()) {
      be_->copy(to.data(), from.data(), static_cast<std::size_t>(to.size()) * sizeof(T));
      return;
    }
    ops::clear<B, T>(*be_, to);
    ops::add<B, T>(*be_, to, to, from);
  }
  /// Each head by itself (Qwen3); heads lie head_dim apart, so each is a strided matrix.
  void norm_heads(tensor x, const norm_weight& w) {
    if (w.empty()) return;
    for (index_t h = 0; h < x.extent(1); ++h) {
      const matrix m = head_matrix(x, h);
      ops::norm<B, T>(*be_, m, m, w.view(), {}, norm());
    }
  }
  static matrix head_matrix(tensor x, index_t h) {
    return {x.data() + x.offset(0, h, 0), {x.extent(0), x.extent(2)}, {x.stride(0), 1}};
  }
  void norm_heads_backward(tensor d, tensor unnormed, norm_weight& w, workspace<B>& scratch) {
    if (w.empty()) return;
    const typename workspace<B>::scope scope(scratch);
    const matrix dx = scratch.template take<T>({d.extent(0), d.extent(2)});
    for (index_t h = 0; h < d.extent(1); ++h) {
      ops::clear<B, T>(*be_, dx);
      ops::norm_backward<B, T>(*be_, dx, w.gradient(), head_matrix(d, h), head_matrix(unnormed, h),
                               w.view(), norm());
      copy(head_matrix(d, h), dx);
    }
  }

  /// Keys and values side by side, [n, 2 key_width].
  matrix keys_and_values(matrix qkv) const { return qkv.slice(1, query_width(), 2 * key_width()); }
  tensor anchor_keys(matrix anchors) const { return heads(anchors, 0, config_.n_kv_heads); }
  tensor anchor_values(matrix anchors) const {
    return heads(anchors, key_width(), config_.n_kv_heads);
  }
  vector_view<const std::int32_t, space> anchors_of(const batch<B>& b) const {
    return b.anchors.view({b.anchors.size()});
  }
  /// Keys and values of all anchors, laid end to end.
  matrix gathered_anchors(matrix qkv, const batch<B>& b, workspace<B>& scratch) {
    const matrix anchors = scratch.template take<T>({b.anchors.size(), 2 * key_width()});
    ops::gather_rows<B, T>(*be_, anchors, keys_and_values(qkv), anchors_of(b));
    return anchors;
  }
  /// What one sequence sees: its anchors, and all its rows where they lie.
  kv_spans<T, space> spans_of(matrix qkv, matrix anchors, const typename batch<B>::part& p) const {
    kv_spans<T, space> kv;
    const matrix rows = qkv.rows(p.begin, p.count);
    kv.local = {by_head(keys(rows)), by_head(values(rows))};
    if (p.n_anchors == 0) return kv;
    const matrix own = anchors.rows(p.first_anchor, p.n_anchors);
    kv.own = {by_head(anchor_keys(own)), by_head(anchor_values(own))};
    return kv;
  }

  void attend(const activations& a, const batch<B>& b, workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const matrix anchors = gathered_anchors(a.qkv, b, scratch);
    const tensor o = heads(a.o, 0, config_.n_heads);
    std::vector<attention_call<T, space>> calls;
    for (const auto& p : b.parts) {
      calls.push_back({o.rows(p.begin, p.count), queries(a.qkv).rows(p.begin, p.count),
                       spans_of(a.qkv, anchors, p), b.spans_of(p), a.lse.rows(p.begin, p.count)});
    }
    ops::attention_batch<B, T>(*be_, calls, scale_, scratch);
  }

  void feed_forward_backward(matrix d, const activations& a, lora_passes lora,
                             workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const index_t n = d.extent(0);
    const matrix activated = scratch.template take<T>({n, config_.d_ff});
    if (down_.needs_input()) {
      ops::activation<B, T>(*be_, activated, gate(a.gates), up(a.gates), config_.activation);
    }
    const matrix d_activated = scratch.template take<T>({n, config_.d_ff});
    down_.backward(d_activated, d, activated, a.down[3], lora, scratch);
    ops::activation_backward<B, T>(*be_, gate(a.gates), up(a.gates), d_activated, gate(a.gates),
                                   up(a.gates), config_.activation);
    const matrix normed = scratch.template take<T>({n, config_.d_model});
    if (gates_.needs_input()) {
      ops::norm<B, T>(*be_, normed, a.middle, feed_forward_norm_.view(), {}, norm());
    }
    const matrix d_normed = scratch.template take<T>({n, config_.d_model});
    gates_.backward(d_normed, a.gates, normed, a.down[2], lora, scratch);
    ops::norm_backward<B, T>(*be_, d, feed_forward_norm_.gradient(), d_normed, a.middle,
                             feed_forward_norm_.view(), norm());
  }

  void attention_backward(matrix d, const activations& a, const batch<B>& b,
                          const rotation<B>& rope, lora_passes lora, workspace<B>& scratch) {
    const typename workspace<B>::scope scope(scratch);
    const index_t n = d.extent(0);
    const matrix d_qkv = scratch.template take<T>({n, qkv_.rows()});
    // Only keys and values are added to, but all of it lies side by side.
    ops::clear<B, T>(*be_, d_qkv);
    {
      const typename workspace<B>::scope inner(scratch);
      const matrix d_o = scratch.template take<T>({n, query_width()});
      output_.backward(d_o, d, a.o, a.down[1], lora, scratch);
      attend_backward(d_qkv, d_o, a, b, scratch);
    }
    ops::rope<B, T>(*be_, queries(d_qkv), rope.positions, rope.negated, rope.options);
    ops::rope<B, T>(*be_, keys(d_qkv), rope.positions, rope.negated, rope.options);
    if (has_head_norms()) {
      norm_heads_backward(queries(d_qkv), queries(a.unnormed), query_norm_, scratch);
      norm_heads_backward(keys(d_qkv), keys(a.unnormed), key_norm_, scratch);
    }
    const matrix normed = scratch.template take<T>({n, config_.d_model});
    if (qkv_.needs_input()) {
      ops::norm<B, T>(*be_, normed, a.x, attention_norm_.view(), {}, norm());
    }
    const matrix d_normed = scratch.template take<T>({n, config_.d_model});
    qkv_.backward(d_normed, d_qkv, normed, a.down[0], lora, scratch);
    ops::norm_backward<B, T>(*be_, d, attention_norm_.gradient(), d_normed, a.x,
                             attention_norm_.view(), norm());
  }

  /// d_qkv, whose keys and values are 0, from d_o.
  void attend_backward(matrix d_qkv, matrix d_o, const activations& a, const batch<B>& b,
                       workspace<B>& scratch) {
    const matrix anchors = gathered_anchors(a.qkv, b, scratch);
    const matrix d_anchors = scratch.template take<T>({b.anchors.size(), 2 * key_width()});
    ops::clear<B, T>(*be_, d_anchors);
    std::vector<attention_derivative<T, space>> calls;
    for (const auto& p : b.parts) {
      const auto rows = [&p](auto x) { return x.rows(p.begin, p.count); };
      const matrix own = d_anchors.rows(p.first_anchor, p.n_anchors);
      calls.push_back({queries(rows(d_qkv)),
                       {by_head(anchor_keys(own)), by_head(anchor_values(own))},
                       {by_head(keys(rows(d_qkv))), by_head(values(rows(d_qkv)))},
                       heads(rows(d_o), 0, config_.n_heads),
                       queries(rows(a.qkv)),
                       heads(rows(a.o), 0, config_.n_heads),
                       rows(a.lse),
                       spans_of(a.qkv, anchors, p),
                       b.spans_of(p)});
    }
    ops::attention_backward_batch<B, T>(*be_, calls, scale_, scratch);
    if (anchors.empty()) return;
    // An anchor is a row too, and no row is two anchors.
    const matrix as_rows = anchors;
    ops::gather_rows<B, T>(*be_, as_rows, keys_and_values(d_qkv), anchors_of(b));
    ops::add<B, T>(*be_, d_anchors, d_anchors, as_rows);
    ops::scatter_rows<B, T>(*be_, keys_and_values(d_qkv), d_anchors, anchors_of(b));
  }

  B* be_;
  model::model_config config_;
  norm_weight attention_norm_;
  norm_weight query_norm_;
  norm_weight key_norm_;
  norm_weight feed_forward_norm_;
  trainable_linear<B, T> qkv_;
  trainable_linear<B, T> output_;
  trainable_linear<B, T> gates_;
  trainable_linear<B, T> down_;
  double scale_ = 0;
};

}  // namespace gistkv::train
