// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/types.hpp>

namespace gistkv::text {

/// A sentence end: the gists go at byte `offset` of the text, after `inserted` (usually empty; the
/// paper's rule adds one space behind a full stop that ends the text).
struct boundary {
  index_t offset = 0;
  std::string_view inserted = {};

  friend bool operator==(const boundary&, const boundary&) = default;
};

/// Where a sentence end lies that is followed by white space.
enum class placement {
  after_whitespace,  ///< In front of the next sentence's first character, as the paper has it.
  before_whitespace  ///< Behind the punctuation: the next piece begins with its space, and so with
                     ///< the token that a tokenizer uses for a word inside a text.
};

/// What becomes of the text behind the last punctuation.
enum class last_sentence {
  closed,        ///< The end of the text ends a sentence, punctuation or not (UAX #29, SB2).
  if_terminated  ///< Text without its punctuation stays open, as under the paper's rule: right for
                 ///< a text that generation will continue.
};

/// Options of the segmenters that know sentences.
struct segmenter_options {
  gistkv::text::placement placement = gistkv::text::placement::after_whitespace;
  gistkv::text::last_sentence last_sentence = gistkv::text::last_sentence::closed;

  friend bool operator==(const segmenter_options&, const segmenter_options&) = default;
};

/// Finds sentence ends in UTF-8 text that arrives in pieces.
///
/// `push` takes the next bytes and appends to `out` every boundary that is certain by now; `finish`
/// says that the text is over, appends the remaining ones and makes the object ready for a new
/// text. Offsets count from the first byte of the text, strictly increase over the calls, and do
/// not depend on how the text was cut. Any bytes are allowed, invalid UTF-8 included. Time is
/// linear. `boundary::inserted` refers to storage with static lifetime.
///
/// `max_tokens` is the number of tokens after which a sentence ends whatever the text says, 0 for
/// no limit. Only whoever tokenises can count tokens, so the layout enforces it (gist_layout.hpp).
template <class S>
concept Segmenter = std::copyable<S> &&
    requires(S& s, std::string_view piece, std::vector<boundary>& out) {
  { S::name } -> std::convertible_to<std::string_view>;
  s.push(piece, out);
  s.finish(out);
  { std::as_const(s).max_tokens() } -> std::same_as<index_t>;
};

/// A segmenter of a text that goes on, a prompt for one: what `finish` would close stays open for
/// what will be written behind it.
template <Segmenter S>
class open_end {
 public:
  static constexpr std::string_view name = "open_end";

  /// @param[in] inner  what finds the boundaries; must outlive this
  explicit open_end(S& inner) : inner_(&inner) {}

  void push(std::string_view piece, std::vector<boundary>& out) { inner_->push(piece, out); }
  void finish(std::vector<boundary>&) {}
  index_t max_tokens() const { return inner_->max_tokens(); }

 private:
  S* inner_;
};

/// All boundaries of a whole text.
template <Segmenter S>
std::vector<boundary> boundaries(S segmenter, std::string_view text) {
  std::vector<boundary> found;
  segmenter.push(text, found);
  segmenter.finish(found);
  return found;
}

}  // namespace gistkv::text
