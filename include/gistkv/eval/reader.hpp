// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/eval/attention_received.hpp>
#include <gistkv/eval/policy.hpp>
#include <gistkv/eval/reading.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/transformer.hpp>

namespace gistkv::eval {

/// Reads a sequence under a policy: chunk after chunk, evicting behind each block, and rating the
/// tokens that are asked for. Logits exist for a few rows at a time, never for all.
template <class B, class T = element_t<B>, class KV = T>
class reader {
 public:
  using cache_type = cache::gist_cache<B, KV>;
  using space = space_of<B>;

  /// Goes on from a cache, whose rule must be the policy's. What it holds counts as not looked at
  /// and not marked. @throws argument_error.
  reader(const model::transformer<B, T, KV>& m, cache_type& cache, policy p,
         model::session_options options = {})
      : model_(&m), cache_(&cache), policy_(p), options_(options) {
    validate(p);
    if (!(cache.options().rule == p.rule)) {
      throw argument_error("reader: the cache has another rule than the policy");
    }
    if (options.chunk < 1) {
      throw argument_error("reader: chunk is " + std::to_string(options.chunk) +
                           ", expected 1 or more");
    }
    const cache::cache_shape shape = cache.shape();
    if (looks()) received_.resize(static_cast<std::size_t>(shape.n_layers * shape.n_kv_heads));
    fit_to_cache();
  }

  /// Reads, and appends the scores of its targets to `scores`. `progress` is called as
  /// progress(rows done).
  /// @throws argument_error for no rows, spans of another length, or positions behind the context.
  template <class Progress>
  void read(const reading& what, std::vector<token_score>& scores, Progress&& progress) {
    check(what);
    const auto n = static_cast<index_t>(what.ids.size());
    for (index_t begin = 0; begin < n;) {
      index_t count = std::min(options_.chunk, n - begin);
      if (evicts()) count = std::min(count, until_eviction(what, begin));
      const bool due = evicts() && count == until_eviction(what, begin);
      forward(what, begin, count, scores);
      begin += count;
      in_block_ += count;
      if (due) {
        evict();
        in_block_ = 0;
      }
      progress(begin);
    }
  }
  void read(const reading& what, std::vector<token_score>& scores) {
    read(what, scores, [](index_t) {});
  }

  const policy& rules() const { return policy_; }

 private:
  /// Rows of logits in memory at a time.
  static constexpr index_t logit_rows = 64;

  bool evicts() const { return policy_.eviction != eviction::none; }
  /// Whether what queries look at decides.
  bool looks() const {
    return policy_.eviction == eviction::heavy_hitters || policy_.eviction == eviction::observed;
  }
  /// How many rows from `begin` on are read before the next eviction; more than there are: none.
  index_t until_eviction(const reading& what, index_t begin) const {
    if (policy_.eviction != eviction::sentences) return policy_.block - in_block_;
    const auto from = what.marked.begin() + begin;
    return std::find(from, what.marked.end(), 1) - from + 1;
  }

  /// What a pass tells about its queries.
  struct observer {
    reader& of;
    index_t first;  ///< Of the chunk's queries, the first that counts.

    void operator()(index_t, matrix_view<const T, space>) const {}
    template <class Sequence>
    void queries(index_t l, const Sequence& s, tensor_view<const T, 3, space> q,
                 double scale) const {
      const index_t n = q.extent(0) - first;
      if (!of.looks() || n <= 0) return;
      const auto heads = static_cast<std::size_t>(of.cache_->shape().n_kv_heads);
      const span_list spans{s.spans.host.subspan(static_cast<std::size_t>(first)),
                            s.spans.in_backend_memory + first};
      // Rows of local keys begin at the cache's first live row: plans count from there too.
      add_attention_received<B, T, KV>(
          of.model_->backend(), q.rows(first, n), s.visible, spans, scale,
          std::span(of.received_).subspan(static_cast<std::size_t>(l) * heads, heads));
    }
  };

  void check(const reading& what) const {
    if (what.ids.empty()) throw argument_error("reader: no rows to read");
    if (policy_.eviction == eviction::sentences && what.marked.empty()) {
      throw argument_error("reader: no marks that say where sentences end");
    }
    for (const std::size_t n : {what.marked.size(), what.targets.size()}) {
      if (n == 0 || n == what.ids.size()) continue;
      throw argument_error("reader: " + std::to_string(n) + " marks or targets for " +
                           std::to_string(what.ids.size()) + " rows");
    }
    const index_t end = cache_->next_position() + static_cast<index_t>(what.ids.size());
    const index_t context = model_->config().n_context;
    if (!options_.past_context && context > 0 && end > context) {
      throw argument_error("reader: " + std::to_string(end) +
                           " positions are needed (gists included), the model was trained for " +
                           std::to_string(context));
    }
  }

  void fit_to_cache() {
    const auto n = static_cast<std::size_t>(cache_->n_local());
    marked_.resize(n, 0);
    for (std::vector<float>& r : received_) r.resize(n, 0.0F);
  }

  void forward(const reading& what, index_t begin, index_t count,
               std::vector<token_score>& scores) {
    B& be = model_->backend();
    const auto first = static_cast<std::size_t>(begin);
    const auto n = static_cast<std::size_t>(count);
    const model::sequence_step<B, KV> step{cache_, what.ids.subspan(first, n), {}};
    const std::size_t need = model_->workspace_size({&step, 1});
    if (need > scratch_.bytes()) scratch_ = workspace<B>(be, need + need / 4);
    const index_t d = model_->config().d_model;
    if (hidden_.size() < count * d) hidden_ = buffer<T, B>(be, count * d);
    const auto hidden = hidden_.view({count, d});
    if (evicts()) {
      // Scores must have room for the rows of this pass; the cache only shrinks at an eviction.
      const auto rows = marked_.size() + n;
      for (std::vector<float>& r : received_) r.resize(rows, 0.0F);
      index_t counted = 0;
      if (policy_.eviction == eviction::observed) {
        counted = std::max<index_t>(0, policy_.block - policy_.observation - in_block_);
      }
      model_->forward({&step, 1}, hidden, scratch_, observer{*this, counted});
      for (std::size_t i = 0; i < n; ++i) {
        marked_.push_back(what.marked.empty() ? std::uint8_t{0} : what.marked[first + i]);
      }
      // Sink rows are no local rows.
      const auto local = static_cast<std::size_t>(cache_->n_local());
      marked_.erase(marked_.begin(),
                    marked_.begin() + static_cast<std::ptrdiff_t>(marked_.size() - local));
      for (std::vector<float>& r : received_) r.resize(local);
    } else {
      model_->forward({&step, 1}, hidden, scratch_);
    }
    score(what, begin, count, scores);
  }

  void score(const reading& what, index_t begin, index_t count, std::vector<token_score>& scores) {
    if (what.targets.empty()) return;
    B& be = model_->backend();
    const index_t n_vocab = model_->n_vocab();
    const index_t d = model_->config().d_model;
    auto target = [&](index_t i) { return what.targets[static_cast<std::size_t>(begin + i)]; };
    for (index_t i = 0; i < count;) {
      if (target(i) < 0) {
        ++i;
        continue;
      }
      index_t m = 1;
      while (m < logit_rows && i + m < count && target(i + m) >= 0) ++m;
      if (logits_.size() < m * n_vocab) logits_ = buffer<T, B>(be, m * n_vocab);
      model_->logits(logits_.view({m, n_vocab}), hidden_.view({count, d}).rows(i, m));
      host_logits_.resize(static_cast<std::size_t>(m * n_vocab));
      be.download(host_logits_.data(), logits_.data(), host_logits_.size() * sizeof(T));
      for (index_t r = 0; r < m; ++r) {
        const auto row =
            std::span<const T>(host_logits_)
                .subspan(static_cast<std::size_t>(r * n_vocab), static_cast<std::size_t>(n_vocab));
        row_.clear();
        for (const T x : row) row_.push_back(static_cast<float>(x));
        token_score s =
            score_row(row_, static_cast<std::size_t>(model_->config().n_vocab), target(i + r));
        s.row = begin + i + r;
        scores.push_back(s);
      }
      i += m;
    }
  }

  void evict() {
    const cache::eviction_budget budget = policy_.budget();
    const std::int32_t base = cache_->ledger().live_begin();
    std::vector<std::vector<std::int32_t>> lists;
    if (policy_.eviction == eviction::sentences) {
      lists.push_back(cache::keep_sentences(marked_, policy_.sentences));
    } else if (cache_->n_local() <= budget.rows) {
      return forget_if_observed();
    } else if (!looks()) {  // Without marks the newest rows.
      lists.push_back(cache::keep_marked(marked_, budget));
    }
    for (const std::vector<float>& r : received_) {
      lists.push_back(policy_.eviction == eviction::observed
                          ? cache::keep_scored(cache::max_pooled(r, policy_.pool), budget)
                          : cache::keep_scored(r, budget));
    }
    take(marked_, lists.front());
    for (std::size_t i = 0; i < received_.size(); ++i) take(received_[i], lists[i]);
    forget_if_observed();
    for (auto& list : lists) {
      for (std::int32_t& row : list) row += base;
    }
    cache_->keep(lists);
  }

  /// An observation is for one eviction.
  void forget_if_observed() {
    if (policy_.eviction != eviction::observed) return;
    for (std::vector<float>& r : received_) std::fill(r.begin(), r.end(), 0.0F);
  }

  template <class U>
  static void take(std::vector<U>& of, std::span<const std::int32_t> rows) {
    std::size_t n = 0;
    for (const std::int32_t row : rows) of[n++] = of[static_cast<std::size_t>(row)];
    of.resize(n);
  }

  const model::transformer<B, T, KV>* model_;
  cache_type* cache_;
  policy policy_;
  model::session_options options_;
  index_t in_block_ = 0;
  std::vector<std::uint8_t> marked_;          ///< Of the local rows.
  std::vector<std::vector<float>> received_;  ///< [n_layers * n_kv_heads][local rows]
  workspace<B> scratch_;
  buffer<T, B> hidden_;
  buffer<T, B> logits_;
  std::vector<T> host_logits_;
  std::vector<float> row_;
};

}  // namespace gistkv::eval
