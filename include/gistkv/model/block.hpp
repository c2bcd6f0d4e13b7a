// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/low_rank_map.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/append.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/few_rows.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rope.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv::model {

/// A row vector of a model file in a backend's memory; an empty matrix gives an empty buffer.
/// @throws shape_error for more rows than one or fewer bytes than it needs.
template <class T, Storage B>
buffer<T, B> load_vector(B& be, const host_matrix& source) {
  if (source.empty()) return {};
  if (source.rows != 1) {
    throw shape_error("vector '" + source.name + "': " + std::to_string(source.rows) +
                      " rows, expected 1");
  }
  std::vector<float> values(static_cast<std::size_t>(source.cols));
  dequantize_row(source, 0, values.data());
  const std::vector<T> converted(values.begin(), values.end());
  return buffer<T, B>(be, std::span<const T>(converted));
}

/// y = W x + b in a backend's memory.
template <class B, class T>
struct linear_map {
  packed_weight_t<B> weight;
  buffer<T, B> bias;

  linear_map(B& be, const host_linear& source)
      : weight(be.pack(source.weight)), bias(load_vector<T>(be, source.bias)) {}

  void operator()(B& be, matrix_view<T, space_of<B>> o, matrix_view<const T, space_of<B>> x) const {
    ops::linear<B, T>(be, o, x, weight, bias.view({bias.size()}));
  }
  linear_call<B, T> call() const { return {&weight, bias.view({bias.size()})}; }
};

/// Several maps of the same activations, in one call of the backend; `coarse` as in ops::linears.
template <class B, class T, std::size_t N>
void apply(
    B& be, matrix_view<const T, space_of<B>> x,
    const std::array<std::pair<const linear_map<B, T>*, matrix_view<T, space_of<B>>>, N>& maps,
    row_range coarse) {
  std::array<linear_output<B, T>, N> outputs;
  for (std::size_t i = 0; i < N; ++i) outputs[i] = {maps[i].second, &maps[i].first->weight};
  ops::linears<B, T>(be, outputs, x, coarse);
  for (const auto& [map, o] : maps) {
    if (map->bias.size() == 0) continue;
    ops::add<B, T>(be, o, o, repeat_rows(map->bias.view({map->bias.size()}), o.extent(0)));
  }
}

/// What a block needs to know of one sequence of the batch: its rows in the packed batch, where
/// their keys and values go, and what its queries see. Views are those of one layer.
template <class T, MemorySpace Space>
struct sequence_kv : kv_append<T, Space> {
  kv_spans<T, Space> visible = {};
  span_list spans = {};
  /// Rows of the batch that are gists of this sequence, to which a block's LoRA applies; counted
  /// from the first row of the batch.
  vector_view<const std::int32_t, Space> gist_rows = {};
  /// Gists of a sentence that others of it follow, likewise counted: of them only keys and values
  /// are needed.
  row_range inner_gists = {};
};

/// The rows of a batch that a LoRA applies to.
enum class lora_on { all_rows, gist_rows };

/// Looks at no queries; see block::forward.
struct nobody {
  void operator()(const auto&...) const {}
};

/// One pre-norm transformer layer of the Llama family, by configuration only:
///   a = x + W_o attention(rope(norm_q(W_q n(x) + b_q)), rope(norm_k(W_k n(x) + b_k)), W_v n(x) +
///   b_v) y = a + W_down (act(W_gate m(a)) * W_up m(a))
/// with n, m the attention and feed-forward norms.
template <class B, class T, class KV = T>
requires Computes<B, T>
class block {
 public:
  using space = space_of<B>;

  block(B& be, const model_config& config, const host_block& w)
      : attention_norm_(load_vector<T>(be, w.attention_norm)),
        query_(be, w.query),
        key_(be, w.key),
        value_(be, w.value),
        query_norm_(load_vector<T>(be, w.query_norm)),
        key_norm_(load_vector<T>(be, w.key_norm)),
        output_(be, w.output),
        feed_forward_norm_(load_vector<T>(be, w.feed_forward_norm)),
        gate_(be, w.gate),
        up_(be, w.up),
        down_(be, w.down) {
    const std::array maps = {&w.query, &w.key, &w.value, &w.output, &w.gate, &w.up, &w.down};
    for (std::size_t i = 0; i < maps.size(); ++i) {
      extents_[i] = {maps[i]->weight.rows, maps[i]->weight.cols};
    }
    if (config.attention_scale > 0) {
      scale_ = config.attention_scale;
    } else {
      scale_ = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
    }
  }

  /// Bytes of scratch for n rows that see at most n_keys keys each.
  static std::size_t workspace_size(const model_config& c, index_t n, index_t n_keys) {
    auto bytes = [n](index_t width) { return workspace<B>::template bytes_for<T>(n * width); };
    const std::size_t attention =
        2 * bytes(c.n_heads * c.head_dim) + 2 * bytes(c.n_kv_heads * c.head_dim) +
        ops::attention_workspace_size<B, T, KV>(n, c.n_heads, c.n_kv_heads, n_keys, c.head_dim);
    return bytes(c.d_model) + std::max(attention, 2 * bytes(c.d_ff));
  }

  /// LoRA for some blocks that is packed and not yet in place.
  struct packed_lora {
    std::size_t layer;
    std::size_t target;
    lora_on rows;
    std::unique_ptr<low_rank_map<B, T>> map;
  };
  /// Packs LoRA for the blocks of a model, which stay as they are.
  /// @throws argument_error as validate(lora), and for a layer or a target that is not there;
  ///         shape_error for a change that does not fit its map; what the backend throws.
  static std::vector<packed_lora> pack(B& be, std::span<const block> blocks, const lora& l,
                                       lora_on rows) {
    validate(l);
    std::vector<packed_lora> all;
    for (const low_rank& f : l.factors) {
      if (f.layer < 0 || f.layer >= static_cast<index_t>(blocks.size())) {
        throw argument_error("transformer: LoRA for layer " + std::to_string(f.layer) + " of " +
                             std::to_string(blocks.size()));
      }
      const auto layer = static_cast<std::size_t>(f.layer);
      const std::size_t target = blocks[layer].target_of(f);
      all.push_back({layer, target, rows, std::make_unique<low_rank_map<B, T>>(be, f, l.alpha)});
    }
    return all;
  }
  /// Adds LoRA, to all rows or to those of gist tokens only (sequence_kv::gist_rows): then all
  /// others stay as they are, to the bit. A map may have both.
  void adapt(packed_lora&& source) noexcept {
    auto& maps = source.rows == lora_on::all_rows ? lora_ : gist_lora_;
    maps[source.target] = std::move(source.map);
  }
  /// Bytes of scratch that LoRA needs for n rows, n_gists of them gists of one sequence at most.
  std::size_t lora_workspace_size(index_t n, index_t n_gists) const {
    std::size_t most = 0;
    for (const auto& map : lora_) {
      if (map) most = std::max(most, map->workspace_size(n));
    }
    for (const auto& map : gist_lora_) {
      if (map) most = std::max(most, map->workspace_size(n_gists));
    }
    return most;
  }

  /// Transforms the rows x in place and writes their keys and values.
  /// @param[in,out] x  [n, d_model], the sequences one after the other
  /// @param[in] positions, frequencies  as ops::rope
  /// @param[in] see  called as see(sequence, q, scale) with the rotated queries [count, n_heads,
  ///                 head_dim] of each sequence, behind its attention
  template <class See = nobody>
  void forward(B& be, const model_config& c, matrix_view<T, space> x,
               vector_view<const std::int32_t, space> positions,
               vector_view<const float, space> frequencies, const rope_options& rope,
               std::span<const sequence_kv<KV, space>> sequences, workspace<B>& scratch,
               See&& see = {}) const {
    const typename workspace<B>::scope scope(scratch);
    const auto more = scratch.template take<T>({x.extent(0), c.d_model});
    attend(be, c, more, x, positions, frequencies, rope, sequences, scratch, see);
    ops::add<B, T>(be, x, x, more);
    feed_forward(be, c, more, x, sequences, scratch);
    ops::add<B, T>(be, x, x, more);
  }

 private:
  /// The number of the map that a change is of. @throws argument_error, shape_error.
  std::size_t target_of(const low_rank& f) const {
    const auto at = std::find(targets.begin(), targets.end(), f.target);
    if (at == targets.end()) {
      throw argument_error("LoRA: target '" + f.target + "' is none of a block");
    }
    const auto i = static_cast<std::size_t>(at - targets.begin());
    expect_fits(f, extents_[i].rows, extents_[i].cols);
    return i;
  }

  static vector_view<const T, space> vector(const buffer<T, B>& b) { return b.view({b.size()}); }

  /// y <- W_o attention(n(x))
  template <class See>
  void attend(B& be, const model_config& c, matrix_view<T, space> y, matrix_view<const T, space> x,
              vector_view<const std::int32_t, space> positions,
              vector_view<const float, space> frequencies, const rope_options& rope,
              std::span<const sequence_kv<KV, space>> sequences, workspace<B>& scratch,
              See& see) const {
    const typename workspace<B>::scope scope(scratch);
    const index_t n = x.extent(0);
    const auto q = scratch.template take<T>({n, c.n_heads, c.head_dim});
    const auto k = scratch.template take<T>({n, c.n_kv_heads, c.head_dim});
    const auto v = scratch.template take<T>({n, c.n_kv_heads, c.head_dim});
    const auto o = scratch.template take<T>({n, c.n_heads, c.head_dim});
    const norm_options norm{c.norm, c.norm_eps};
    if (fuses_heads(be, c, n, sequences)) {
      if constexpr (B::native_few_rows) {
        ops::project<B, T>(be,
                           {q,
                            k,
                            v,
                            x,
                            {vector(attention_norm_), norm},
                            {query_.call(), key_.call(), value_.call()},
                            positions,
                            frequencies,
                            rope},
                           sequences);
      }
    } else {
      ops::norm<B, T>(be, y, x, vector(attention_norm_), {}, norm);
      apply<B, T, 3>(
          be, y,
          {{{&query_, joined_heads(q)}, {&key_, joined_heads(k)}, {&value_, joined_heads(v)}}},
          coarse_rows(sequences));
      add_lora(be, 0, joined_heads(q), y, sequences, scratch);
      add_lora(be, 1, joined_heads(k), y, sequences, scratch);
      add_lora(be, 2, joined_heads(v), y, sequences, scratch);
      if (query_norm_.size() > 0) norm_heads(be, c, q, query_norm_);
      if (key_norm_.size() > 0) norm_heads(be, c, k, key_norm_);
      ops::rope<B, T>(be, q, positions, frequencies, rope);
      ops::rope<B, T>(be, k, positions, frequencies, rope);
      ops::append<B, T>(be, k, v, sequences);
    }
    for (const auto& s : sequences) {
      ops::attention<B, T, KV>(be, o.rows(s.begin, s.count), q.rows(s.begin, s.count), s.visible,
                               s.spans, scale_, scratch);
      see(s, tensor_view<const T, 3, space>(q.rows(s.begin, s.count)), scale_);
    }
    apply<B, T, 1>(be, joined_heads(o), {{{&output_, y}}}, coarse_rows(sequences));
    add_lora(be, 3, y, joined_heads(o), sequences, scratch);
  }

  /// y <- W_down (act(W_gate m(x)) * W_up m(x))
  void feed_forward(B& be, const model_config& c, matrix_view<T, space> y,
                    matrix_view<const T, space> x,
                    std::span<const sequence_kv<KV, space>> sequences,
                    workspace<B>& scratch) const {
    const typename workspace<B>::scope scope(scratch);
    const auto gate = scratch.template take<T>({x.extent(0), c.d_ff});
    const norm_options norm{c.norm, c.norm_eps};
    if (!has_lora(4, sequences) && !has_lora(5, sequences) &&
        ops::takes_few_rows(be, x.extent(0), c.d_model, c.d_ff)) {
      if constexpr (B::native_few_rows) {
        ops::gated<B, T>(
            be,
            {gate, x, {vector(feed_forward_norm_), norm}, gate_.call(), up_.call(), c.activation});
      }
    } else {
      const auto up = scratch.template take<T>({x.extent(0), c.d_ff});
      ops::norm<B, T>(be, y, x, vector(feed_forward_norm_), {}, norm);
      apply<B, T, 2>(be, y, {{{&gate_, gate}, {&up_, up}}}, coarse_rows(sequences));
      add_lora(be, 4, gate, y, sequences, scratch);
      add_lora(be, 5, up, y, sequences, scratch);
      ops::activation<B, T>(be, gate, gate, up, c.activation);
    }
    apply<B, T, 1>(be, gate, {{{&down_, y}}}, coarse_rows(sequences));
    add_lora(be, 6, y, gate, sequences, scratch);
  }

  /// Rows may lie side by side only: those of one sequence.
  static row_range coarse_rows(std::span<const sequence_kv<KV, space>> sequences) {
    return sequences.size() == 1 ? sequences.front().inner_gists : row_range{};
  }

  /// May the backend go from x to rotated and appended heads in one call?
  bool fuses_heads(const B& be, const model_config& c, index_t n,
                   std::span<const sequence_kv<KV, space>> sequences) const {
    const bool adapted = has_lora(0, sequences) || has_lora(1, sequences) || has_lora(2, sequences);
    return !adapted && query_norm_.size() == 0 && key_norm_.size() == 0 &&
           ops::takes_few_rows(be, n, c.d_model, c.head_dim);
  }

  /// Whether LoRA of one target has anything to add to these rows.
  bool has_lora(std::size_t target, std::span<const sequence_kv<KV, space>> sequences) const {
    if (lora_[target]) return true;
    return gist_lora_[target] &&
           std::ranges::any_of(sequences, [](const auto& s) { return !s.gist_rows.empty(); });
  }

  /// o += LoRA of one target, on all rows and on those of gists.
  void add_lora(B& be, std::size_t target, matrix_view<T, space> o, matrix_view<const T, space> x,
                std::span<const sequence_kv<KV, space>> sequences, workspace<B>& scratch) const {
    if (lora_[target]) lora_[target]->add_to(be, o, x, scratch);
    if (!gist_lora_[target]) return;
    for (const auto& s : sequences) {
      if (!s.gist_rows.empty()) gist_lora_[target]->add_to(be, o, x, s.gist_rows, scratch);
    }
  }

  /// [n, heads, head_dim] as [n, heads * head_dim].
  static matrix_view<T, space> joined_heads(tensor_view<T, 3, space> x) {
    return {x.data(), {x.extent(0), x.extent(1) * x.extent(2)}};
  }
  /// The normalisation of each head by itself (Qwen3).
  static void norm_heads(B& be, const model_config& c, tensor_view<T, 3, space> x,
                         const buffer<T, B>& weight) {
    const matrix_view<T, space> heads(x.data(), {x.extent(0) * x.extent(1), x.extent(2)});
    ops::norm<B, T>(be, heads, heads, vector(weight), {}, {c.norm, c.norm_eps});
  }

  static constexpr std::array<std::string_view, 7> targets = {"query", "key", "value", "output",
                                                              "gate",  "up",  "down"};
  struct host_extents {
    index_t rows = 0;
    index_t cols = 0;
  };

  std::array<host_extents, 7> extents_ = {};
  // In the order of `targets`: on all rows, and on those of gists. Pointers, as a backend's weights
  // may throw when they are moved.
  std::array<std::unique_ptr<low_rank_map<B, T>>, 7> lora_;
  std::array<std::unique_ptr<low_rank_map<B, T>>, 7> gist_lora_;
  buffer<T, B> attention_norm_;
  linear_map<B, T> query_;
  linear_map<B, T> key_;
  linear_map<B, T> value_;
  buffer<T, B> query_norm_;
  buffer<T, B> key_norm_;
  linear_map<B, T> output_;
  buffer<T, B> feed_forward_norm_;
  linear_map<B, T> gate_;
  linear_map<B, T> up_;
  linear_map<B, T> down_;
  double scale_ = 0;
};

}  // namespace gistkv::model
