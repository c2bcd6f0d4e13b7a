// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/text/boundary.hpp>

namespace gistkv::text {

/// Appends the tokens of a piece of text to a vector.
template <class T>
concept Tokenize = std::invocable < T&,
        std::string_view, std::vector<token_t>
& > ;

/// Number of text bytes that a token stands for. Optional: see gist_layout::text_begin.
using token_length = std::function<index_t(token_t)>;

/// A token sequence with its gists. The four vectors have one entry a row.
struct gist_layout {
  std::vector<token_t> ids;
  std::vector<std::uint8_t> is_gist;   ///< 1 for a gist.
  std::vector<std::int32_t> sentence;  ///< Number of complete gist groups in front of the row.
  /// Offset of the row's first byte in the text (all texts of a builder, one behind the other); of
  /// a gist: of the boundary; inserted bytes lie at the boundary. -1 where unknown: verbatim
  /// tokens, and, unless a `token_length` was given, tokens behind the first of a piece and forced
  /// gists.
  std::vector<index_t> text_begin;
  index_t n_regular = 0;    ///< Rows that are no gists.
  index_t n_gist = 0;       ///< Rows that are.
  index_t n_sentences = 0;  ///< Complete gist groups.

  index_t n_rows() const { return static_cast<index_t>(ids.size()); }
};

/// Lays out text and template tokens, as a stream.
///
/// Text is tokenised piece by piece between boundaries (a boundary's `inserted` bytes belong to the
/// piece in front of it), and n_gist gists with the ids first_gist_id + i follow each boundary. A
/// piece is tokenised when the boundary that closes it, or the end of the text, is known; until
/// then the open sentence is buffered, and under a segmenter without textual boundaries the whole
/// text.
///
/// The segmenter's `max_tokens` ends a sentence after that many regular tokens, between two tokens:
/// nothing is tokenised anew. Verbatim tokens count, but no group is forced between them. Where the
/// limit meets a boundary of the text there is one group, not two.
///
/// Tokens that the tokenizer itself gives the id of a gist (a gist's name written in the text) are
/// gists like any other: groups are counted n_gist gists at a time, adjacent or not.
///
/// n_gist = 0 is the plain sequence: no gists, no inserted bytes, each text tokenised in one piece.
class gist_layout_builder {
 public:
  /// @throws argument_error if n_gist or first_gist_id is negative, or the ids pass token_t.
  gist_layout_builder(index_t n_gist, token_t first_gist_id, token_length length = {})
      : n_gist_(n_gist), first_gist_id_(first_gist_id), length_(std::move(length)) {
    if (n_gist < 0) {
      throw argument_error("gist layout: n_gist is " + std::to_string(n_gist) + ", want 0 or more");
    }
    constexpr index_t last = std::numeric_limits<token_t>::max();
    if (first_gist_id < 0 || n_gist - 1 > last - first_gist_id) {
      throw argument_error("gist layout: " + std::to_string(n_gist) + " gists from id " +
                           std::to_string(first_gist_id) + " on, want ids in [0, " +
                           std::to_string(last) + "]");
    }
  }

  /// Takes the next bytes of a text. All pieces of a text, and its `finish_text`, need the same
  /// segmenter, which must be fresh at the first. What the tokenizer throws comes through; the
  /// builder is then of no use.
  template <Segmenter S, Tokenize T>
  void append_text(S& segmenter, std::string_view piece, T&& tokenize) {
    text_open_ = true;
    buffer_ += piece;
    if (n_gist_ == 0) return;
    found_.clear();
    segmenter.push(piece, found_);
    lay_out_sentences(segmenter.max_tokens(), tokenize);
  }

  /// Ends a text: lays out what is buffered. Further texts and verbatim tokens may follow.
  template <Segmenter S, Tokenize T>
  void finish_text(S& segmenter, T&& tokenize) {
    const index_t limit = n_gist_ > 0 ? segmenter.max_tokens() : 0;
    if (n_gist_ > 0) {
      found_.clear();
      segmenter.finish(found_);
      lay_out_sentences(limit, tokenize);
    }
    if (!buffer_.empty()) {
      const auto size = static_cast<index_t>(buffer_.size());
      lay_out_piece(buffer_, size, limit, tokenize);
      buffer_begin_ += size;
      buffer_.clear();
      if (limit > 0 && in_sentence_ >= limit) add_group(buffer_begin_);
    }
    text_begin_ = buffer_begin_;
    text_open_ = false;
  }

  /// Appends tokens that no boundary may split, such as those of a chat template.
  /// @throws argument_error inside a text: its open sentence is not tokenised yet.
  void append_verbatim(std::span<const token_t> ids) {
    if (text_open_) {
      throw argument_error("gist layout: verbatim tokens inside a text, " +
                           std::to_string(buffer_.size()) +
                           " bytes of it not laid out, want finish_text first");
    }
    for (const token_t id : ids) add_row(id, -1);
  }

  /// The rows so far.
  const gist_layout& layout() const { return layout_; }

  /// Hands the rows over; the builder is of no use after it.
  gist_layout take() { return std::move(layout_); }

 private:
  /// Lays out the sentences that `found_` closes and drops their bytes from the buffer.
  template <class T>
  void lay_out_sentences(index_t limit, T& tokenize) {
    std::size_t begin = 0;
    for (const boundary& b : found_) {
      const index_t at = text_begin_ + b.offset;
      const auto end = static_cast<std::size_t>(at - buffer_begin_) + begin;
      const std::string_view bytes = std::string_view(buffer_).substr(begin, end - begin);
      if (b.inserted.empty()) {
        lay_out_piece(bytes, at - buffer_begin_, limit, tokenize);
      } else {
        piece_.assign(bytes).append(b.inserted);
        lay_out_piece(piece_, at - buffer_begin_, limit, tokenize);
      }
      add_group(at);
      begin = end;
      buffer_begin_ = at;
    }
    buffer_.erase(0, begin);
  }

  /// The rows of a piece whose first `size` bytes are text. A group that `limit` demands goes in
  /// front of the token that would pass it: at the end of the piece another one may come anyway.
  template <class T>
  void lay_out_piece(std::string_view bytes, index_t size, index_t limit, T& tokenize) {
    tokens_.clear();
    tokenize(bytes, tokens_);
    index_t at = buffer_begin_;
    // Tokens may be longer than the bytes they stand for (a normal form, a space in front). Behind
    // the text begins only what was inserted there.
    const index_t last = size - (static_cast<index_t>(bytes.size()) > size ? 0 : 1);
    for (const token_t id : tokens_) {
      if (limit > 0 && in_sentence_ >= limit) add_group(at);
      add_row(id, at);
      at = length_ ? std::min(at + length_(id), buffer_begin_ + last) : -1;
    }
  }

  void add_group(index_t at) {
    for (index_t i = 0; i < n_gist_; ++i) {
      add_row(static_cast<token_t>(first_gist_id_ + i), at);
    }
  }

  void add_row(token_t id, index_t at) {
    const index_t i = static_cast<index_t>(id) - first_gist_id_;
    const bool gist = 0 <= i && i < n_gist_;
    layout_.ids.push_back(id);
    layout_.is_gist.push_back(gist ? 1 : 0);
    layout_.sentence.push_back(static_cast<std::int32_t>(layout_.n_sentences));
    layout_.text_begin.push_back(at);
    if (!gist) {
      ++layout_.n_regular;
      ++in_sentence_;
    } else if (++layout_.n_gist % n_gist_ == 0) {
      ++layout_.n_sentences;
      in_sentence_ = 0;
    }
  }

  index_t n_gist_;
  token_t first_gist_id_;
  token_length length_;
  gist_layout layout_;
  std::string buffer_;           ///< Text that is not laid out.
  std::string piece_;            ///< A piece with its inserted bytes.
  std::vector<boundary> found_;  ///< Boundaries of the last call.
  std::vector<token_t> tokens_;  ///< Tokens of the last piece.
  index_t buffer_begin_ = 0;     ///< Offset of buffer_[0], counted over all texts.
  index_t text_begin_ = 0;       ///< Offset of the current text.
  index_t in_sentence_ = 0;      ///< Regular rows since the last complete group.
  bool text_open_ = false;
};

/// The layout of one text. n_gist, first_gist_id, length, errors: as gist_layout_builder.
template <Segmenter S, Tokenize T>
gist_layout lay_out(std::string_view text, S segmenter, index_t n_gist, token_t first_gist_id,
                    T&& tokenize, token_length length = {}) {
  gist_layout_builder builder(n_gist, first_gist_id, std::move(length));
  builder.append_text(segmenter, text, tokenize);
  builder.finish_text(segmenter, tokenize);
  return builder.take();
}

}  // namespace gistkv::text
