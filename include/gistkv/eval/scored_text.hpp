// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/text/gist_layout.hpp>

/// Which tokens of a text are rated, so that methods with different rows are rated on the same
/// bytes. Layouts need a token_length, so that every row knows where its text begins.

namespace gistkv::eval {

/// A range of bytes of a text.
struct byte_range {
  index_t begin = 0;
  index_t end = 0;
};

/// The first offset from `wanted` on at which a regular row begins in every layout, so that a text
/// can be cut there for all of them; `size` if there is none.
inline index_t common_cut(std::span<const text::gist_layout* const> layouts, index_t wanted,
                          index_t size) {
  index_t at = wanted;
  for (bool moved = true; moved && at < size;) {
    moved = false;
    for (const text::gist_layout* layout : layouts) {
      index_t next = size;
      for (std::size_t i = 0; i < layout->ids.size(); ++i) {
        if (layout->is_gist[i] != 0 || layout->text_begin[i] < at) continue;
        next = layout->text_begin[i];
        break;
      }
      if (next == at) continue;
      at = next;
      moved = true;
    }
  }
  return std::min(at, size);
}

/// The token to rate behind each row: the next one, where it is regular, stands for text of the
/// range and is not inserted; with `gists` also where it is a gist of a boundary in (begin, end].
/// -1 elsewhere. The first row of a sequence is never rated: nothing stands in front of it.
inline std::vector<token_t> targets_in(const text::gist_layout& layout, byte_range range,
                                       bool gists = false) {
  std::vector<token_t> targets(layout.ids.size(), -1);
  for (std::size_t i = 0; i + 1 < layout.ids.size(); ++i) {
    const index_t at = layout.text_begin[i + 1];
    // Inserted bytes lie behind the last byte of their piece, so at the end of the range.
    const bool inside = layout.is_gist[i + 1] != 0 ? gists && at > range.begin && at <= range.end
                                                   : at >= range.begin && at < range.end;
    if (inside) targets[i] = layout.ids[i + 1];
  }
  return targets;
}

/// Rows whose pass rates a regular token: over them the memory of a policy is averaged.
inline std::vector<std::uint8_t> rated_rows(const text::gist_layout& layout,
                                            std::span<const token_t> targets) {
  std::vector<std::uint8_t> rated(layout.ids.size(), 0);
  for (std::size_t i = 0; i + 1 < layout.ids.size(); ++i) {
    rated[i] = targets[i] >= 0 && layout.is_gist[i + 1] == 0 ? 1 : 0;
  }
  return rated;
}

/// Number of regular rows that begin in the range: with the layout of the plain text, the number
/// of tokens that the base tokenizer makes of it, but for a first row, which nothing can rate.
inline index_t n_tokens_in(const text::gist_layout& plain, byte_range range) {
  const std::vector<token_t> targets = targets_in(plain, range);
  return std::count_if(targets.begin(), targets.end(), [](token_t t) { return t >= 0; });
}

/// A plain text with a group of n_gist gists behind every `period` tokens on average: group k comes
/// behind token ceil(k period). A period that is no whole number lets bytes be matched closely.
/// @throws argument_error for a period below 1.
inline text::gist_layout spread_gists(const text::gist_layout& plain, double period, index_t n_gist,
                                      token_t first_gist) {
  if (!(period >= 1)) {
    throw argument_error("spread gists: the period is " + std::to_string(period) +
                         " tokens, expected 1 or more");
  }
  text::gist_layout spread;
  auto add = [&spread](token_t id, std::uint8_t gist, index_t at) {
    spread.ids.push_back(id);
    spread.is_gist.push_back(gist);
    spread.sentence.push_back(static_cast<std::int32_t>(spread.n_sentences));
    spread.text_begin.push_back(at);
  };
  for (std::size_t i = 0; i < plain.ids.size(); ++i) {
    add(plain.ids[i], 0, plain.text_begin[i]);
    ++spread.n_regular;
    const auto due = static_cast<index_t>(static_cast<double>(i + 1) / period);
    if (due <= spread.n_sentences) continue;
    const index_t at = i + 1 < plain.ids.size() ? plain.text_begin[i + 1] : plain.text_begin[i] + 1;
    for (index_t g = 0; g < n_gist; ++g) {
      add(static_cast<token_t>(first_gist + g), 1, at);
      ++spread.n_gist;
    }
    ++spread.n_sentences;
  }
  return spread;
}

/// The regular rows of a layout with gists, and 1 for each that gists follow: it ends a sentence.
struct marked_layout {
  text::gist_layout rows;
  std::vector<std::uint8_t> ends;
};
inline marked_layout without_gists(const text::gist_layout& gisted) {
  marked_layout plain;
  for (std::size_t i = 0; i < gisted.ids.size(); ++i) {
    if (gisted.is_gist[i] != 0) {
      if (!plain.ends.empty()) plain.ends.back() = 1;
      continue;
    }
    plain.rows.ids.push_back(gisted.ids[i]);
    plain.rows.is_gist.push_back(0);
    plain.rows.sentence.push_back(gisted.sentence[i]);
    plain.rows.text_begin.push_back(gisted.text_begin[i]);
    plain.ends.push_back(0);
  }
  plain.rows.n_regular = plain.rows.n_rows();
  plain.rows.n_sentences = gisted.n_sentences;
  return plain;
}

/// Whether a token is a separator of SepLLM: its text is white space and one of `. , ? ! ; :`, or
/// such characters and line ends alone.
inline bool is_separator(std::string_view piece) {
  constexpr std::string_view marks = ".,?!;:";
  bool found = false;
  for (const char c : piece) {
    const bool mark = marks.find(c) != std::string_view::npos || c == '\n';
    if (!mark && c != ' ' && c != '\t' && c != '\r') return false;
    found = found || mark;
  }
  return found;
}

}  // namespace gistkv::eval
