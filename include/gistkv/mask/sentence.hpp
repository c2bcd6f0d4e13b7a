// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/attention_mask.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/mask/visible_spans.hpp>

namespace gistkv {

/// What sentence attention lets a query see besides the anchors.
struct sentence_rule {
  index_t n_gist = 4;  ///< Gists that close a sentence (N_g); 0: none is a gist, nothing is closed.
  index_t recent = 0;  ///< Closed sentences whose rows stay raw (K); 0 is the paper.
  index_t n_sink = 0;  ///< First rows that every later row sees (S).
};

/// The visibility rule of Sentence-Anchored Gist Compression (arXiv 2511.08128):
///
///   visible(q, k) = k <= q and (k < n_sink or (valid(q) and valid(k) and
///                   (gist(k) or sentence(q) - sentence(k) <= recent)))
///
/// sentence(i) is the number of complete gist groups before i. The arrays are borrowed and lie
/// where the predicate runs; q and k are positions in the gisted sequence.
struct sentence_mask {
  const std::int32_t* sentence_of = nullptr;
  const std::uint8_t* is_gist = nullptr;
  const std::uint8_t* is_valid = nullptr;  ///< Null: every row is valid.
  index_t recent = 0;
  index_t n_sink = 0;

  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const {
    if (k > q) return false;
    if (k < n_sink) return true;
    if (is_valid != nullptr && (is_valid[q] == 0 || is_valid[k] == 0)) return false;
    return is_gist[k] != 0 || sentence_of[q] - sentence_of[k] <= recent;
  }
};

/// Where the sentences of a gisted sequence begin and end, found from its gist flags.
///
/// Gists are counted n_gist at a time over the whole sequence, adjacent or not; an incomplete group
/// closes nothing. Gist tokens inside the sink are sinks and count for nothing.
class sentence_structure {
 public:
  /// @throws argument_error for a field below 0.
  sentence_structure(std::span<const std::uint8_t> is_gist, sentence_rule rule)
      : rule_(rule), is_gist_(is_gist.begin(), is_gist.end()) {
    if (rule.n_gist < 0 || rule.recent < 0 || rule.n_sink < 0) {
      throw argument_error("sentence rule: n_gist " + std::to_string(rule.n_gist) + ", recent " +
                           std::to_string(rule.recent) + ", n_sink " + std::to_string(rule.n_sink) +
                           ", expected 0 or more");
    }
    index_t n_seen = 0;
    sentence_of_.reserve(is_gist.size());
    for (std::size_t i = 0; i < is_gist.size(); ++i) {
      sentence_of_.push_back(static_cast<std::int32_t>(group_ends_.size()));
      if (rule.n_gist == 0 || static_cast<index_t>(i) < rule.n_sink) {
        is_gist_[i] = 0;
        continue;
      }
      if (is_gist[i] != 0 && ++n_seen % rule.n_gist == 0) {
        group_ends_.push_back(static_cast<index_t>(i));
      }
    }
  }

  index_t size() const { return static_cast<index_t>(sentence_of_.size()); }
  const sentence_rule& rule() const { return rule_; }
  std::span<const std::int32_t> sentence_of() const { return sentence_of_; }
  std::span<const std::uint8_t> is_gist() const { return is_gist_; }
  /// Position of the last gist of each complete group.
  std::span<const index_t> group_ends() const { return group_ends_; }

  /// The predicate; borrows this object. `is_valid`, if given, has size() entries.
  sentence_mask mask(const std::uint8_t* is_valid = nullptr) const {
    return {sentence_of_.data(), is_gist_.data(), is_valid, rule_.recent, rule_.n_sink};
  }

  /// The same set for query q as two spans, c = max(0, sentence(q) - recent):
  /// anchors [0, min(n_sink, q + 1) + n_gist c) in anchor order, and positions [start, q + 1) with
  /// start = n_sink if c = 0, else one past the last gist of group c - 1.
  visible_spans spans(index_t q) const {
    const index_t c =
        std::max<index_t>(0, sentence_of_[static_cast<std::size_t>(q)] - rule_.recent);
    const index_t start = c == 0 ? rule_.n_sink : group_ends_[static_cast<std::size_t>(c - 1)] + 1;
    return {static_cast<std::int32_t>(std::min(rule_.n_sink, q + 1) + rule_.n_gist * c),
            static_cast<std::int32_t>(std::min(start, q + 1)), static_cast<std::int32_t>(q + 1)};
  }

  /// Positions of the anchor rows in anchor order: the sink and every gist.
  std::vector<index_t> anchors() const {
    std::vector<index_t> rows;
    for (index_t i = 0; i < size(); ++i) {
      if (i < rule_.n_sink || is_gist_[static_cast<std::size_t>(i)] != 0) rows.push_back(i);
    }
    return rows;
  }

 private:
  sentence_rule rule_;
  std::vector<std::uint8_t> is_gist_;
  std::vector<std::int32_t> sentence_of_;
  std::vector<index_t> group_ends_;
};

}  // namespace gistkv
