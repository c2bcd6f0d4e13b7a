// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/soft_prompt.hpp>
#include <gistkv/model/transformer.hpp>

namespace gistkv::model {

struct session_options {
  /// Tokens of one forward pass at most. What is computed does not depend on it; to the bit only on
  /// a backend whose rows do not depend on their number in a call (docs/backends.md).
  index_t chunk = 256;
  bool past_context = false;  ///< Go on behind the positions the model was trained for.
};

/// One sequence being read and continued: a cache, the memory for a pass, and the logits behind the
/// last token. The transformer, and the backend with it, must outlive it.
template <class B, class T = element_t<B>, class KV = T>
class session {
 public:
  using cache_type = cache::gist_cache<B, KV>;

  session(const transformer<B, T, KV>& model, cache::cache_options cache,
          session_options options = {})
      : session(model, cache_type(model.backend(), model.cache_shape(), cache), options) {}

  /// Goes on from a cache that exists; its last token has no logits until the next is read.
  session(const transformer<B, T, KV>& model, cache_type cache, session_options options = {})
      : model_(&model), options_(options), cache_(std::move(cache)) {
    if (options.chunk < 1) {
      throw argument_error("session: chunk is " + std::to_string(options.chunk) +
                           ", expected 1 or more");
    }
    const cache::cache_rule& rule = cache_.options().rule;
    if (rule.n_gist != 0 && rule.n_gist != model.n_gist()) {
      throw argument_error("session: the cache closes sentences with " +
                           std::to_string(rule.n_gist) + " gists, the model has " +
                           std::to_string(model.n_gist()));
    }
  }

  /// Reads tokens, chunk after chunk. `progress`, if given, is called as progress(n tokens done).
  /// Appends to `rows_after`, if given, the rows held behind each token. On an exception those that
  /// were read are whole chunks, and no logits are left.
  /// @throws argument_error for no tokens, or positions behind the trained context.
  template <class Progress>
  void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after,
            Progress&& progress) {
    const auto n = static_cast<index_t>(tokens.size());
    check(n);
    std::vector<std::uint8_t> flags;
    for (const token_t t : tokens) flags.push_back(model_->is_gist(t) ? 1 : 0);
    for (index_t begin = 0; begin < n;) {
      const auto rest = std::span<const std::uint8_t>(flags).subspan(
          static_cast<std::size_t>(begin),
          static_cast<std::size_t>(std::min(options_.chunk, n - begin)));
      const index_t count = cache_.max_append(rest);
      std::vector<index_t> held;
      if (rows_after != nullptr) {
        held = cache_.rows_held_behind(rest.first(static_cast<std::size_t>(count)));
      }
      const auto piece =
          tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
      forward({&cache_, piece, {}}, count, begin + count == n);
      if (rows_after != nullptr) {
        held.back() = cache_.rows_held();  // A budget may have dropped some.
        rows_after->insert(rows_after->end(), held.begin(), held.end());
      }
      begin += count;
      progress(begin);
    }
  }
  void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after = nullptr) {
    read(tokens, rows_after, [](index_t) {});
  }

  /// Reads vectors in place of tokens, chunk after chunk. @throws as read; shape_error for vectors
  /// of another width than the model's, and as validate(soft_prompt).
  void read_soft(const soft_prompt& soft) {
    const index_t n = soft.size();
    check(n);
    validate(soft);
    if (soft.d_model != model_->config().d_model) {
      throw shape_error("session: soft tokens of width " + std::to_string(soft.d_model) +
                        ", the model has " + std::to_string(model_->config().d_model));
    }
    for (index_t begin = 0; begin < n;) {
      const index_t count = std::min(options_.chunk, n - begin);
      forward({&cache_, {}, soft.part(begin, count)}, count, begin + count == n);
      begin += count;
    }
  }

  /// Logits behind the last token read, gists last. @throws argument_error if nothing was read.
  std::span<const float> logits() const {
    if (logits_.empty()) throw argument_error("session: no logits before a token is read");
    return logits_;
  }

  /// Gists that close a sentence; 0: none is closed.
  index_t n_gist() const { return cache_.options().rule.n_gist; }
  token_t first_gist() const { return model_->first_gist(); }

  const transformer<B, T, KV>& model() const { return *model_; }
  cache_type& cache() { return cache_; }
  const cache_type& cache() const { return cache_; }

  /// A second sequence with the same past: anchors are shared, raw rows copied.
  session fork() {
    session twin(*model_, cache_.fork(), options_);
    twin.logits_ = logits_;
    return twin;
  }

 private:
  void check(index_t n) const {
    if (n == 0) throw argument_error("session: no tokens to read");
    const index_t end = cache_.next_position() + n;
    const index_t context = model_->config().n_context;
    if (!options_.past_context && context > 0 && end > context) {
      throw argument_error("session: " + std::to_string(end) +
                           " positions are needed (gists included), the model was trained for " +
                           std::to_string(context));
    }
  }

  void forward(const sequence_step<B, KV>& step, index_t n, bool last) {
    logits_.clear();
    B& be = model_->backend();
    const index_t d = model_->config().d_model;
    const std::size_t need = model_->workspace_size({&step, 1});
    // A quarter more, so that a growing cache does not reallocate at every token.
    if (need > scratch_.bytes()) scratch_ = workspace<B>(be, need + need / 4);
    if (hidden_.size() < n * d) hidden_ = buffer<T, B>(be, n * d);
    const auto hidden = hidden_.view({n, d});
    model_->forward({&step, 1}, hidden, scratch_);
    if (!last) return;
    const index_t n_vocab = model_->n_vocab();
    if (device_logits_.size() < n_vocab) device_logits_ = buffer<T, B>(be, n_vocab);
    model_->logits(device_logits_.view({1, n_vocab}), hidden.rows(n - 1, 1));
    host_logits_.resize(static_cast<std::size_t>(n_vocab));
    be.download(host_logits_.data(), device_logits_.data(), device_logits_.bytes());
    for (const T l : host_logits_) logits_.push_back(static_cast<float>(l));
  }

  const transformer<B, T, KV>* model_;
  session_options options_;
  cache_type cache_;
  workspace<B> scratch_;
  buffer<T, B> hidden_;
  buffer<T, B> device_logits_;
  std::vector<T> host_logits_;
  std::vector<float> logits_;
};

}  // namespace gistkv::model
