// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/train/batch.hpp>

namespace gistkv::train {

/// What is learned from the full-cache model beside the tokens that came.
struct lesson {
  /// Share of the divergence from its distribution in the loss, 0 to 1.
  double mix = 0.0;
  /// Weight of the distance from its hidden states; see hidden_distance.
  double hidden = 0.0;

  bool empty() const { return mix == 0.0 && hidden == 0.0; }
};

/// @throws argument_error naming the field.
inline void validate(const lesson& l) {
  if (!(l.mix >= 0.0 && l.mix <= 1.0)) {
    throw argument_error("lesson: mix is " + std::to_string(l.mix) + ", expected 0 to 1");
  }
  if (!(l.hidden >= 0.0 && std::isfinite(l.hidden))) {
    throw argument_error("lesson: hidden is " + std::to_string(l.hidden) +
                         ", expected a finite number of 0 or more");
  }
}

/// Sequences as a full-cache model reads them, without gists.
struct plain_view {
  std::vector<sequence> sequences;
  /// For each target, the row of these that predicts the same token.
  std::vector<std::int32_t> target_rows;
  /// For each row of these, the same token's row among those with gists.
  std::vector<std::int32_t> rows;
};

/// @param first_gist  tokens from here on are gists
/// @throws argument_error for a target that is a gist, which the teacher does not know, or that has
///         only gists in front, from which it predicts nothing; shape_error as validate.
inline plain_view without_gists(std::span<const sequence> sequences, token_t first_gist) {
  plain_view view;
  std::int32_t row = 0;
  for (const sequence& s : sequences) {
    validate(s);
    sequence& p = view.sequences.emplace_back();
    for (std::size_t i = 0; i < s.tokens.size(); ++i, ++row) {
      const bool target = i > 0 && (s.weights.empty() || s.weights[i] != 0.0F);
      if (s.tokens[i] >= first_gist) {
        if (!target) continue;
        throw argument_error("distillation: token " + std::to_string(s.tokens[i]) +
                             ", a gist, is a target; want gists that are none");
      }
      if (target && p.tokens.empty()) {
        throw argument_error("distillation: token " + std::to_string(s.tokens[i]) +
                             ", behind nothing but gists, is a target; want it to be none");
      }
      if (target) view.target_rows.push_back(static_cast<std::int32_t>(view.rows.size()) - 1);
      p.tokens.push_back(s.tokens[i]);
      p.weights.push_back(0.0F);
      view.rows.push_back(row);
    }
  }
  return view;
}

/// The full-cache model as a teacher of one batch: the same text without gists.
template <Storage B>
class teacher {
 public:
  lesson wanted;
  batch<B> plain;
  std::vector<std::int32_t> target_rows;  ///< As in plain_view.
  buffer<std::int32_t, B> rows;           ///< As in plain_view.

  /// @throws argument_error as validate(lesson); what without_gists and batch throw.
  teacher(B& be, const lesson& what, std::span<const sequence> sequences, const sentence_rule& rule,
          index_t n_vocab)
      : teacher(be, what, without_gists(sequences, static_cast<token_t>(n_vocab)), rule, n_vocab) {}

  /// @throws shape_error unless a batch may be of the sequences that this was made of.
  void expect_same_text(const batch<B>& b) const {
    if (rows.size() + b.n_gists() == b.n && target_rows.size() == b.targets.size()) return;
    throw shape_error("teacher: of " + std::to_string(rows.size()) + " tokens and " +
                      std::to_string(target_rows.size()) + " targets, the batch has " +
                      std::to_string(b.n - b.n_gists()) + " and " +
                      std::to_string(b.targets.size()));
  }

 private:
  teacher(B& be, const lesson& what, const plain_view& view, const sentence_rule& rule,
          index_t n_vocab)
      : wanted(what),
        plain(be, view.sequences, rule, n_vocab),
        target_rows(view.target_rows),
        rows(be, std::span<const std::int32_t>(view.rows)) {
    validate(what);
  }
};

}  // namespace gistkv::train
