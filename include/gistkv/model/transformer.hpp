// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/replay.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/adapter.hpp>
#include <gistkv/model/block.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/model/sequence_step.hpp>
#include <gistkv/model/step_key.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv::model {

/// A whole decoder with its weights in a backend's memory, which nothing changes behind
/// construction and `adapt`; sequences keep their state in their caches, so one transformer serves
/// many.
template <class B, class T = element_t<B>, class KV = T>
requires Computes<B, T>
class transformer {
 public:
  using space = space_of<B>;
  using step = sequence_step<B, KV>;

  /// Packs the weights. `gists` may be empty (n_gist = 0): a plain model. So may the table: a stack
  /// of layers that reads vectors only; and the head where it is not tied: no logits.
  /// @throws shape_error, argument_error, and what the backend throws.
  transformer(B& be, const host_model& source, const gist_rows& gists = {})
      : be_(&be), config_(source.config), n_gist_(gists.n_gist) {
    validate(source);
    validate(gists, config_);
    if (!source.token_embedding.empty()) load_table(source.token_embedding, gists);
    for (const host_block& b : source.blocks) blocks_.emplace_back(be, config_, b);
    final_norm_ = load_vector<T>(be, source.final_norm);
    const host_linear head =
        config_.tied_head ? host_linear{source.token_embedding, {}} : source.head;
    if (!head.weight.empty()) head_.emplace(be, head);
    if (n_gist_ > 0) {
      const std::vector<float>& rows = gists.head.empty() ? gists.input : gists.head;
      gist_head_.emplace(be.pack({"gist head", weight_type::f32, n_gist_, config_.d_model,
                                  std::as_bytes(std::span<const float>(rows))}));
    }
    const std::vector<float> f = rope_frequencies(config_.rope, config_.head_dim);
    frequencies_ = buffer<float, B>(be, std::span<const float>(f));
  }

  /// Puts LoRA beside the weights, in place of what was there for the same rows and maps. On an
  /// exception nothing has changed. @throws as block::pack.
  void adapt(const lora& l, lora_on rows) { put(layer_type::pack(*be_, blocks_, l, rows)); }
  /// All LoRA of an adapter, or on an exception none. That on all rows needs no products of its own
  /// in a model of `merged` weights, which are floats: then adapt only with `on_gist_rows`.
  void adapt(const adapter& a) {
    auto all = layer_type::pack(*be_, blocks_, a.on_all_rows, lora_on::all_rows);
    auto gists = layer_type::pack(*be_, blocks_, a.on_gist_rows, lora_on::gist_rows);
    all.insert(all.end(), std::move_iterator(gists.begin()), std::move_iterator(gists.end()));
    put(std::move(all));
  }

  B& backend() const { return *be_; }
  const model_config& config() const { return config_; }
  index_t n_gist() const { return n_gist_; }
  /// Rows of the logits: the base vocabulary and the gists.
  index_t n_vocab() const { return config_.n_vocab + n_gist_; }
  token_t first_gist() const { return static_cast<token_t>(config_.n_vocab); }
  bool is_gist(token_t t) const { return t >= first_gist(); }

  /// What a cache for this model looks like.
  cache::cache_shape cache_shape() const {
    return {config_.n_layers, config_.n_kv_heads, config_.head_dim};
  }

  /// Bytes of scratch that forward needs for these steps at most.
  /// @throws argument_error for steps without a cache of their own.
  std::size_t workspace_size(std::span<const step> steps) const {
    expect_caches(steps);
    index_t n = 0;
    index_t n_keys = 0;
    std::size_t bytes = 0;
    for (const step& s : steps) {
      const index_t count = rows(s);
      n += count;
      n_keys = std::max(n_keys, s.cache->n_anchors() + s.cache->n_local() + 2 * count);
      bytes += 3 * workspace<B>::template bytes_for<std::int32_t>(count) +
               workspace<B>::template bytes_for<visible_spans>(count);
    }
    if (adapted_) {
      index_t n_gists = 0;  // Most of one sequence.
      for (const step& s : steps) {
        const index_t count = std::count_if(s.tokens.begin(), s.tokens.end(),
                                            [this](token_t t) { return is_gist(t); });
        bytes += workspace<B>::template bytes_for<std::int32_t>(count);
        n_gists = std::max(n_gists, count);
      }
      std::size_t lora = 0;
      for (const auto& b : blocks_) lora = std::max(lora, b.lora_workspace_size(n, n_gists));
      bytes += lora;
    }
    return bytes + workspace<B>::template bytes_for<std::int32_t>(n) +
           block<B, T, KV>::workspace_size(config_, n, n_keys);
  }

  /// Reads the tokens of all steps in one pass, writes their keys and values into the caches, and
  /// leaves the normed last hidden states, step after step, in `hidden`.
  ///
  /// Every row sees what the ledger of its cache says; a batch of n steps gives what n calls give,
  /// to the bit where a backend's rows do not depend on their number in a call (docs/backends.md).
  /// On an exception no cache has changed, but for one of memory to drop old sentences in when a
  /// budget asks for it: then every cache has its rows, and those that are over their budget drop
  /// behind the next pass (gist_cache::keep_budget).
  /// @param[out] hidden   [all tokens, d_model], dense where a step has embeddings
  /// @param[in]  scratch  at least workspace_size(steps) bytes
  /// @param[in]  observe  called as observe(i, x) with the hidden states: i = 0 the embeddings,
  ///                      i = l + 1 behind block l; an observer with a member queries is also
  ///                      called as observe.queries(l, sequence_kv, q, scale), see block::forward
  /// @throws argument_error for a token outside the vocabulary, a step without rows or without a
  ///         cache of its own; shape_error.
  template <class Observer>
  void forward(std::span<const step> steps, matrix_view<T, space> hidden, workspace<B>& scratch,
               Observer&& observe) const {
    const index_t n = check(steps, hidden);
    const typename workspace<B>::scope scope(scratch);
    B& be = *be_;
    try {
      const auto positions = scratch.template take<std::int32_t>({n});
      std::vector<sequence_kv<KV, space>> sequences;
      std::vector<typename cache::gist_cache<B, KV>::append_plan> plans;
      index_t begin = 0;
      for (const step& s : steps) {
        const index_t count = rows(s);
        const auto& plan = plans.emplace_back(s.cache->begin_append(gist_flags(s)));
        embed(s, hidden.rows(begin, count), scratch);
        upload(positions, begin, std::span<const std::int32_t>(plan.positions));
        auto& kv = sequences.emplace_back();
        kv.begin = begin;
        kv.count = count;
        kv.anchor_rows = uploaded(scratch, plan.anchor_rows);
        kv.local_rows = uploaded(scratch, plan.local_rows);
        kv.spans = {plan.spans, uploaded(scratch, plan.spans).data()};
        if (adapted_) kv.gist_rows = uploaded(scratch, gist_rows_of(s, begin));
        kv.inner_gists = inner_gists_of(s, begin);
        begin += count;
      }
      for (std::size_t i = 0; i < plans.size(); ++i) sequences[i].spans.host = plans[i].spans;

      observe(index_t{0}, matrix_view<const T, space>(hidden));
      const auto layers = [&] {
        run_layers(steps, hidden, positions, sequences, scratch, observe);
      };
      if constexpr (B::native_replay && std::is_same_v<std::remove_cvref_t<Observer>, nobody>) {
        index_t most = 0;
        for (const auto& s : sequences) most = std::max(most, s.count);
        if (be.replays(most, config_.n_heads / config_.n_kv_heads)) {
          be.replay(recordings_, key_of(steps, hidden, positions, sequences), layers);
        } else {
          layers();
        }
      } else {
        layers();
      }
    } catch (...) {
      for (const step& s : steps) s.cache->cancel();
      throw;
    }
    for (const step& s : steps) s.cache->commit();
    for (const step& s : steps) s.cache->keep_budget();
  }
  void forward(std::span<const step> steps, matrix_view<T, space> hidden,
               workspace<B>& scratch) const {
    forward(steps, hidden, scratch, nobody{});
  }

  /// Next-token logits of hidden states that forward left.
  /// @param[out] o       [n, n_vocab()], gists last
  /// @param[in]  hidden  [n, d_model]
  void logits(matrix_view<T, space> o, matrix_view<const T, space> hidden) const {
    ops::expect_shape("logits", "o", o, {hidden.extent(0), n_vocab()});
    if (!head_) throw argument_error("logits: the model was loaded without a head");
    (*head_)(*be_, o.slice(1, 0, config_.n_vocab), hidden);
    if (n_gist_ > 0) {
      ops::linear<B, T>(*be_, o.slice(1, config_.n_vocab, n_gist_), hidden, *gist_head_);
    }
  }

 private:
  using layer_type = block<B, T, KV>;

  void put(std::vector<typename layer_type::packed_lora> changes) {
    if (changes.empty()) return;
    recordings_ = {};
    for (auto& c : changes) blocks_[c.layer].adapt(std::move(c));
    adapted_ = true;
  }

  /// From embeddings to normed hidden states. All that is known of this step beyond key_of lies in
  /// the backend's memory.
  template <class Observer>
  void run_layers(std::span<const step> steps, matrix_view<T, space> hidden,
                  vector_view<const std::int32_t, space> positions,
                  std::vector<sequence_kv<KV, space>>& sequences, workspace<B>& scratch,
                  Observer& observe) const {
    const rope_options rope{rope_magnitude(config_.rope)};
    for (index_t l = 0; l < config_.n_layers; ++l) {
      for (std::size_t i = 0; i < steps.size(); ++i) set_layer(sequences[i], *steps[i].cache, l);
      blocks_[static_cast<std::size_t>(l)].forward(
          *be_, config_, hidden, positions, frequencies_.view({frequencies_.size()}), rope,
          sequences, scratch,
          [&](const auto& s, auto q, double scale) { show_queries(observe, l, s, q, scale); });
      observe(l + 1, matrix_view<const T, space>(hidden));
    }
    ops::norm<B, T>(*be_, hidden, hidden, final_norm_.view({final_norm_.size()}), {},
                    {config_.norm, config_.norm_eps});
  }

  /// What run_layers tells the backend, but for the weights.
  replay_key key_of(std::span<const step> steps, matrix_view<T, space> hidden,
                    vector_view<const std::int32_t, space> positions,
                    std::vector<sequence_kv<KV, space>>& sequences) const {
    replay_key key;
    key.add(hidden);
    key.add(hidden.extent(0));
    key.add(positions);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      add_to_key(key, sequences[i]);
      for (index_t l = 0; l < config_.n_layers; ++l) {
        set_layer(sequences[i], *steps[i].cache, l);
        add_layer_to_key(key, sequences[i]);
      }
    }
    return key;
  }

  /// To observers that want them.
  template <class Observer, class Sequence, class Queries>
  static void show_queries(Observer& observe, index_t layer, const Sequence& s, Queries q,
                           double scale) {
    if constexpr (requires { observe.queries(layer, s, q, scale); }) {
      observe.queries(layer, s, q, scale);
    }
  }

  index_t check(std::span<const step> steps, const matrix_view<T, space>& hidden) const {
    expect_caches(steps);
    index_t n = 0;
    for (const step& s : steps) {
      if (rows(s) == 0) throw argument_error("forward: a sequence without tokens");
      const index_t d = config_.d_model;
      if (!s.embeddings.empty() &&
          (!s.tokens.empty() || static_cast<index_t>(s.embeddings.size()) % d != 0)) {
        throw shape_error("forward: " + std::to_string(s.embeddings.size()) +
                          " embedding elements beside " + std::to_string(s.tokens.size()) +
                          " tokens, expected a multiple of " + std::to_string(d) + " beside none");
      }
      if (!s.embeddings.empty() && !hidden.dense()) {
        throw shape_error("forward: hidden has a row stride of " +
                          std::to_string(hidden.stride(0)) + ", expected " + std::to_string(d) +
                          " as embeddings are written to it");
      }
      if (!s.tokens.empty() && table_.size() == 0) {
        throw argument_error("forward: tokens for a model that was loaded without their table");
      }
      for (const token_t t : s.tokens) {
        if (t >= 0 && t < n_vocab()) continue;
        throw argument_error("forward: token " + std::to_string(t) +
                             " is outside the vocabulary of " + std::to_string(n_vocab()));
      }
      if (!(s.cache->shape() == cache_shape())) {
        throw shape_error("forward: the cache is for another model: " +
                          std::to_string(s.cache->shape().n_layers) + " layers, expected " +
                          std::to_string(config_.n_layers));
      }
      n += rows(s);
    }
    ops::expect_shape("forward", "hidden", hidden, {n, config_.d_model});
    return n;
  }

  index_t rows(const step& s) const {
    return static_cast<index_t>(s.tokens.size()) +
           static_cast<index_t>(s.embeddings.size()) / config_.d_model;
  }

  std::vector<std::int32_t> gist_rows_of(const step& s, index_t begin) const {
    std::vector<std::int32_t> found;
    for (std::size_t i = 0; i < s.tokens.size(); ++i) {
      if (is_gist(s.tokens[i])) {
        found.push_back(static_cast<std::int32_t>(begin + static_cast<index_t>(i)));
      }
    }
    return found;
  }

  /// Of the first sentence that the step closes.
  row_range inner_gists_of(const step& s, index_t begin) const {
    const auto gist = [this](token_t t) { return is_gist(t); };
    const auto first = std::find_if(s.tokens.begin(), s.tokens.end(), gist);
    const auto last = std::find_if_not(first, s.tokens.end(), gist);
    const index_t n = last - first;
    const index_t at = begin + (first - s.tokens.begin());
    return {at, at + std::max<index_t>(n - 1, 0)};
  }

  std::vector<std::uint8_t> gist_flags(const step& s) const {
    std::vector<std::uint8_t> flags(static_cast<std::size_t>(rows(s)), 0);
    for (std::size_t i = 0; i < s.tokens.size(); ++i) flags[i] = is_gist(s.tokens[i]) ? 1 : 0;
    return flags;
  }

  /// x <- the rows of the step.
  void embed(const step& s, matrix_view<T, space> x, workspace<B>& scratch) const {
    if (s.embeddings.empty()) {
      const auto tokens = scratch.template take<std::int32_t>({x.extent(0)});
      upload(tokens, 0, s.tokens);
      ops::gather_rows<B, T>(*be_, x, table_.view({n_vocab(), config_.d_model}), tokens);
    } else {
      const std::vector<T> converted(s.embeddings.begin(), s.embeddings.end());
      be_->upload(x.data(), converted.data(), converted.size() * sizeof(T));
    }
  }

  template <class U>
  void upload(vector_view<U, space> to, index_t begin, std::span<const U> from) const {
    be_->upload(to.data() + begin, from.data(), from.size_bytes());
  }
  template <class U>
  vector_view<const U, space> uploaded(workspace<B>& scratch, const std::vector<U>& from) const {
    const auto to = scratch.template take<U>({static_cast<index_t>(from.size())});
    upload(to, 0, std::span<const U>(from));
    return to;
  }

  static void set_layer(sequence_kv<KV, space>& kv, cache::gist_cache<B, KV>& cache,
                        index_t layer) {
    const auto views = cache.layer(layer);
    kv.anchor_keys = views.anchor_keys;
    kv.anchor_values = views.anchor_values;
    kv.local_keys = views.local_keys;
    kv.local_values = views.local_values;
    kv.visible = views.visible;
  }

  /// The embedding table with the gist rows behind it, in pieces: it is the largest tensor.
  void load_table(const host_matrix& source, const gist_rows& gists) {
    const index_t d = config_.d_model;
    if (source.rows != config_.n_vocab || source.cols != d) {
      throw shape_error("transformer: token embedding is [" + std::to_string(source.rows) + ", " +
                        std::to_string(source.cols) + "], expected [" +
                        std::to_string(config_.n_vocab) + ", " + std::to_string(d) + "]");
    }
    table_ = buffer<T, B>(*be_, n_vocab() * d);
    constexpr index_t piece = 1024;
    std::vector<float> row(static_cast<std::size_t>(d));
    std::vector<T> rows;
    for (index_t begin = 0; begin < n_vocab(); begin += piece) {
      rows.clear();
      for (index_t r = begin; r < std::min(begin + piece, n_vocab()); ++r) {
        if (r < source.rows) {
          dequantize_row(source, r, row.data());
        } else {
          std::copy_n(gists.input.begin() + (r - source.rows) * d, d, row.begin());
        }
        for (const float x : row) rows.push_back(static_cast<T>(x));
      }
      be_->upload(table_.data() + begin * d, rows.data(), rows.size() * sizeof(T));
    }
  }

  B* be_;
  [[no_unique_address]] mutable recordings_t<B> recordings_;
  model_config config_;
  index_t n_gist_;
  bool adapted_ = false;
  buffer<T, B> table_;  ///< [n_vocab(), d_model]
  std::vector<layer_type> blocks_;
  buffer<T, B> final_norm_;
  std::optional<linear_map<B, T>> head_;
  std::optional<packed_weight_t<B>> gist_head_;
  buffer<float, B> frequencies_;
};

}  // namespace gistkv::model
