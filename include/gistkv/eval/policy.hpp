// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <gistkv/cache/eviction.hpp>
#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/error.hpp>

namespace gistkv::eval {

/// What chooses the rows that go when a cache without gists is over its budget.
enum class eviction {
  none,           ///< Nothing: the rule of the cache says it all.
  separators,     ///< Separators and a local window stay: SepLLM, cache::keep_marked.
  heavy_hitters,  ///< What all queries so far looked at most stays: H2O, cache::keep_scored.
  observed,       ///< What the last queries looked at most stays: SnapKV.
  sentences,      ///< The last closed sentences stay, all of them: cache::keep_sentences.
  newest,         ///< The newest stay: a window that does not move on while nothing is evicted.
};

/// A method of keeping a cache small, as all evaluations read with it:
///
///   full        rule {n_gist 0}, whatever the sink
///   sag         rule {n_gist N_g, recent K, n_sink S} on a text with gists at sentence ends
///   uniform     the same rule, gists every so many tokens (the placement of Activation Beacon,
///               Zhang et al. 2024, arXiv 2401.03462)
///   window      rule {n_sink, window}: StreamingLLM (Xiao et al. 2023, arXiv 2309.17453)
///   separators, heavy_hitters, observed, newest   rule {n_sink} and an eviction
///   sentences   rule {n_sink} on the tokens of sag without its gists: what those are worth
///
/// An eviction takes place behind every `block` tokens of the text, so a pass reads up to `rows` +
/// `block` rows; papers that evict token by token have block 1. That of sentences takes place where
/// one ends, so that each token reads the raw rows that it reads under sag. Scores are summed over
/// the query heads of a KV head; each layer and KV head keeps rows of its own, equally many. Keys
/// keep the rotation of their position in the text.
struct policy {
  cache::cache_rule rule;
  eval::eviction eviction = eval::eviction::none;
  index_t rows = 0;          ///< Rows behind the sink that an eviction leaves.
  double recent = 0.5;       ///< The share of them that is the newest.
  index_t block = 64;        ///< Tokens between evictions.
  index_t observation = 32;  ///< Of `observed`: queries that count, the last of a block.
  index_t pool = 7;          ///< Of `observed`: width of the maximum over neighbours.
  index_t sentences = 0;     ///< Of `sentences`: closed ones that stay (K).

  cache::eviction_budget budget() const {
    if (eviction == eviction::newest) return {rows, rows};
    const auto newest = static_cast<index_t>(std::llround(recent * static_cast<double>(rows)));
    // SnapKV keeps the window that it observes from.
    const index_t least = eviction == eval::eviction::observed ? observation : 0;
    return {rows, std::min(rows, std::max(newest, least))};
  }

  friend bool operator==(const policy&, const policy&) = default;
};

/// @throws argument_error naming the field.
inline void validate(const policy& p) {
  cache::validate(p.rule);
  if (p.eviction == eviction::none) return;
  auto check = [](bool holds, const char* field, double value, const char* want) {
    if (holds) return;
    throw argument_error(std::string("policy: ") + field + " is " + std::to_string(value) +
                         ", expected " + want);
  };
  check(p.rule.n_gist == 0, "n_gist", static_cast<double>(p.rule.n_gist),
        "0 where rows are evicted");
  check(p.rule.window == 0, "window", static_cast<double>(p.rule.window),
        "0 where rows are evicted");
  if (p.eviction == eviction::sentences) {
    return check(p.sentences >= 0, "sentences", static_cast<double>(p.sentences), "0 or more");
  }
  check(p.rows >= 1, "rows", static_cast<double>(p.rows), "1 or more");
  check(p.block >= 1, "block", static_cast<double>(p.block), "1 or more");
  check(p.recent >= 0 && p.recent <= 1, "recent", p.recent, "a share of 0 to 1");
  check(p.observation >= 1, "observation", static_cast<double>(p.observation), "1 or more");
  check(p.pool >= 1, "pool", static_cast<double>(p.pool), "1 or more");
}

/// Rows that a pass over each row of a sequence may read, those held twice counted twice and itself
/// included: what the memory of a policy is at that moment, in rows of the cache. No model needed.
/// @param marked  of `sentences`: 1 for the last row of a sentence; other policies do not ask
/// @throws argument_error for a policy that is none, or marks of another length
inline std::vector<index_t> rows_read(const policy& p, std::span<const std::uint8_t> is_gist,
                                      std::span<const std::uint8_t> marked = {}) {
  validate(p);
  const bool by_sentence = p.eviction == eviction::sentences;
  if (by_sentence && marked.size() != is_gist.size()) {
    throw argument_error("rows read: " + std::to_string(marked.size()) + " marks for " +
                         std::to_string(is_gist.size()) + " rows");
  }
  std::vector<std::uint8_t> ends;  // Of the local rows.
  cache::row_ledger books(p.rule);
  std::vector<index_t> read;
  std::vector<std::int32_t> first(static_cast<std::size_t>(p.rows));
  index_t in_block = 0;
  for (const std::uint8_t gist : is_gist) {
    const auto placed = books.append(gist != 0);
    read.push_back(static_cast<index_t>(books.anchors().size()) +
                   std::max(0, placed.spans.local_end - placed.spans.local_begin));
    if (by_sentence) {
      if (placed.local < 0) continue;
      ends.push_back(marked[read.size() - 1]);
      if (ends.back() == 0) continue;
      const std::vector<std::int32_t> kept = cache::keep_sentences(ends, p.sentences);
      ends.erase(ends.begin(), ends.end() - static_cast<std::ptrdiff_t>(kept.size()));
      std::vector<std::int32_t> numbers(kept.size());
      std::iota(numbers.begin(), numbers.end(),
                books.local_end() - static_cast<std::int32_t>(kept.size()));
      books.keep(numbers);
    } else if (p.eviction == eviction::none) {
      if (read.size() % 1024 == 0) books.forget_dead_rows();
    } else if (++in_block == p.block) {
      in_block = 0;
      if (books.local_end() - books.live_begin() <= p.rows) continue;
      std::iota(first.begin(), first.end(), books.live_begin());  // How many counts, not which.
      books.keep(first);
    }
  }
  return read;
}

/// Mean of rows_read over the rows with `counted`; 0 if there is none.
inline double mean_rows_read(const policy& p, std::span<const std::uint8_t> is_gist,
                             std::span<const std::uint8_t> counted,
                             std::span<const std::uint8_t> marked = {}) {
  const std::vector<index_t> read = rows_read(p, is_gist, marked);
  double sum = 0;
  index_t n = 0;
  for (std::size_t i = 0; i < read.size(); ++i) {
    if (counted[i] == 0) continue;
    sum += static_cast<double>(read[i]);
    ++n;
  }
  return n > 0 ? sum / static_cast<double>(n) : 0;
}

/// The policy whose mean of rows_read over the counted rows of a plain text is nearest to
/// `mean_rows`: its window, or the rows that an eviction leaves, is chosen; a policy with neither
/// comes back as it is.
inline policy fitted(policy p, std::span<const std::uint8_t> counted, double mean_rows) {
  const bool window = p.rule.window > 0;
  if (!window && (p.eviction == eviction::none || p.eviction == eviction::sentences)) return p;
  const std::vector<std::uint8_t> no_gists(counted.size(), 0);
  auto with = [&](index_t n) {
    policy candidate = p;
    (window ? candidate.rule.window : candidate.rows) = n;
    return candidate;
  };
  auto mean = [&](index_t n) { return mean_rows_read(with(n), no_gists, counted); };
  index_t low = 1;  // The greatest n known to read less than asked for, if any does.
  index_t high = std::max<index_t>(1, static_cast<index_t>(counted.size()));
  while (high - low > 1) {
    const index_t middle = low + (high - low) / 2;
    (mean(middle) <= mean_rows ? low : high) = middle;
  }
  return with(std::abs(mean(low) - mean_rows) <= std::abs(mean(high) - mean_rows) ? low : high);
}

}  // namespace gistkv::eval
