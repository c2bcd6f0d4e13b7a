// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::train {

/// A token sequence to learn from, gists included, that knows nothing of what else is in its batch.
struct sequence {
  std::vector<token_t> tokens;
  /// One entry a token: what the loss of predicting it counts; 0 for what is no target. The first
  /// is never predicted. Empty: 1 for all but the first.
  std::vector<float> weights;
  /// Closed sentences whose rows stay raw (K); none: as the batch's rule says.
  std::optional<index_t> recent = {};
};

/// @throws shape_error for another number of weights than tokens, unless there are none.
inline void validate(const sequence& s) {
  if (s.weights.empty() || s.weights.size() == s.tokens.size()) return;
  throw shape_error("training sequence: " + std::to_string(s.weights.size()) +
                    " weights, expected " + std::to_string(s.tokens.size()));
}

/// Sum of the weights of all targets. @throws as validate.
inline double total_weight(std::span<const sequence> sequences) {
  double sum = 0;
  for (const sequence& s : sequences) {
    validate(s);
    for (std::size_t i = 1; i < s.tokens.size(); ++i) {
      sum += s.weights.empty() ? 1.0 : static_cast<double>(s.weights[i]);
    }
  }
  return sum;
}

/// Sequences one behind the other in a backend's memory, each with its positions from 0 and its own
/// visible spans: packed without cross-talk.
template <Storage B>
struct batch {
  struct part {
    index_t begin = 0;  ///< Rows [begin, begin + count).
    index_t count = 0;
    index_t first_anchor = 0;  ///< Anchors [first_anchor, first_anchor + n_anchors).
    index_t n_anchors = 0;
  };

  index_t n = 0;
  index_t n_vocab = 0;  ///< Tokens from here on are gists,
  index_t n_gist = 0;   ///< so many: the batch is for models of these numbers and no others.
  buffer<std::int32_t, B> tokens;           ///< [n]; a gist stands as 0
  buffer<std::int32_t, B> table_rows;       ///< [n]; a gist stands as -1
  buffer<std::int32_t, B> positions;        ///< [n]
  buffer<std::int32_t, B> gist_rows;        ///< Rows that are gists,
  buffer<std::int32_t, B> gists;            ///< and which gist each of them is.
  buffer<std::int32_t, B> anchors;          ///< Rows of the sinks and the gists, part after part.
  std::vector<visible_spans> spans;         ///< [n], in rows and anchors of the part alone,
  buffer<visible_spans, B> uploaded_spans;  ///< and the same in the backend's memory.
  std::vector<part> parts;
  std::vector<std::int32_t> target_rows;  ///< Rows that predict something,
  std::vector<std::int32_t> targets;      ///< what,
  std::vector<float> weights;             ///< and what its loss counts.

  index_t n_gists() const { return gist_rows.size(); }
  /// Most keys that a query may see: anchors and local rows of the longest sequence.
  index_t most_keys() const {
    index_t most = 0;
    for (const part& p : parts) most = std::max(most, p.count + p.n_anchors);
    return most;
  }
  span_list spans_of(const part& p) const {
    return {std::span(spans).subspan(static_cast<std::size_t>(p.begin),
                                     static_cast<std::size_t>(p.count)),
            uploaded_spans.data() + p.begin};
  }

  /// @throws shape_error unless it was made for a model of these numbers: what it holds are rows of
  ///         its table and its gists.
  void expect_made_for(index_t model_vocab, index_t model_gists) const {
    if (n_vocab == model_vocab && n_gist == model_gists) return;
    throw shape_error("batch: made for a vocabulary of " + std::to_string(n_vocab) + " and " +
                      std::to_string(n_gist) + " gists, the model has " +
                      std::to_string(model_vocab) + " and " + std::to_string(model_gists));
  }

  /// @param first_gist  tokens from here on are gists: the model's n_vocab
  /// @throws argument_error for a token outside [0, first_gist + rule.n_gist), shape_error.
  batch(B& be, std::span<const sequence> sequences, const sentence_rule& rule, index_t first_gist)
      : n_vocab(first_gist), n_gist(rule.n_gist) {
    std::vector<std::int32_t> all_tokens;
    std::vector<std::int32_t> all_table_rows;
    std::vector<std::int32_t> all_positions;
    std::vector<std::int32_t> all_gist_rows;
    std::vector<std::int32_t> all_gists;
    std::vector<std::int32_t> all_anchors;
    for (const sequence& s : sequences) {
      validate(s);
      const auto count = static_cast<index_t>(s.tokens.size());
      std::vector<std::uint8_t> flags;
      for (index_t i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const token_t t = s.tokens[at];
        if (t < 0 || t >= n_vocab + rule.n_gist) {
          throw argument_error("training sequence: token " + std::to_string(t) +
                               " is outside the vocabulary of " +
                               std::to_string(n_vocab + rule.n_gist));
        }
        const bool gist = t >= n_vocab;
        const auto row = static_cast<std::int32_t>(n + i);
        flags.push_back(gist ? 1 : 0);
        all_tokens.push_back(gist ? 0 : t);
        all_table_rows.push_back(gist ? -1 : t);
        all_positions.push_back(static_cast<std::int32_t>(i));
        if (gist) {
          all_gist_rows.push_back(row);
          all_gists.push_back(static_cast<std::int32_t>(t - n_vocab));
        }
        if (i == 0) continue;
        const float weight = s.weights.empty() ? 1.0F : s.weights[at];
        if (weight == 0.0F) continue;
        target_rows.push_back(row - 1);
        targets.push_back(t);
        weights.push_back(weight);
      }
      sentence_rule own = rule;
      own.recent = s.recent.value_or(rule.recent);
      const sentence_structure structure(flags, own);
      for (index_t q = 0; q < count; ++q) spans.push_back(structure.spans(q));
      part p{n, count, static_cast<index_t>(all_anchors.size()), 0};
      for (const index_t row : structure.anchors()) {
        all_anchors.push_back(static_cast<std::int32_t>(n + row));
        ++p.n_anchors;
      }
      parts.push_back(p);
      n += count;
    }
    tokens = uploaded(be, all_tokens);
    table_rows = uploaded(be, all_table_rows);
    positions = uploaded(be, all_positions);
    gist_rows = uploaded(be, all_gist_rows);
    gists = uploaded(be, all_gists);
    anchors = uploaded(be, all_anchors);
    uploaded_spans = buffer<visible_spans, B>(be, std::span<const visible_spans>(spans));
  }

 private:
  static buffer<std::int32_t, B> uploaded(B& be, const std::vector<std::int32_t>& from) {
    return buffer<std::int32_t, B>(be, std::span<const std::int32_t>(from));
  }
};

}  // namespace gistkv::train
