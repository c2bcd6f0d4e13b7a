// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/model/sampler.hpp>
#include <gistkv/text/boundary.hpp>

namespace gistkv::model {

/// What generation needs of a tokenizer.
template <class C>
concept TextCodec = requires(const C& c, token_t t, std::string_view text,
                             std::vector<token_t>& out) {
  { c.piece(t) } -> std::convertible_to<std::string_view>;  ///< The bytes of a token.
  c.encode(text, out);                                      ///< Appends the tokens of a text.
};

/// A sequence that can be continued: a session, or what an engine of another make has in its place.
template <class S>
concept Sequence = requires(S& s, const S& c, std::span<const token_t> tokens,
                            std::vector<index_t>* rows_after) {
  s.read(tokens, rows_after);  ///< Appends to rows_after the rows held behind each token.
  /// Behind the last token read: of the model's tokens, and behind these of the gists, which an
  /// engine may leave out.
  { c.logits() } -> std::convertible_to<std::span<const float>>;
  { c.n_gist() } -> std::convertible_to<index_t>;      ///< Close a sentence; 0: none is closed.
  { c.first_gist() } -> std::convertible_to<token_t>;  ///< Id of gist 0; no other token is above.
};

/// Who says that a sentence is over.
enum class close_rule {
  segmenter,  ///< The segmenter, on the generated text; gist logits are -inf.
  model,      ///< The model, by sampling gist 0, as the paper trains it; other gists are -inf, and
              ///< gist 0 too where the sentence has no token yet.
};

struct generate_options {
  /// Stop once so many regular tokens are written, or so many rows, gists included. The pass that
  /// comes there is written whole: up to N_g gists, and white space in front of a boundary.
  index_t max_tokens = 128;
  index_t max_rows = std::numeric_limits<index_t>::max();
  std::vector<token_t> stop_tokens = {};     ///< End the text and are not part of it.
  std::vector<std::string> stop_texts = {};  ///< End the text in front of their first occurrence.
  close_rule close = close_rule::segmenter;
};

enum class stop_reason { stop_token, stop_text, max_tokens, max_rows };

inline std::string_view to_string(stop_reason r) {
  switch (r) {
    case stop_reason::stop_token:
      return "stop_token";
    case stop_reason::stop_text:
      return "stop_text";
    case stop_reason::max_rows:
      return "max_rows";
    case stop_reason::max_tokens:
      break;
  }
  return "max_tokens";
}

struct generation {
  std::vector<token_t> ids;         ///< Everything written to the cache, gists included.
  std::vector<index_t> rows_after;  ///< Rows held behind each of `ids`.
  std::string text;                 ///< Bytes of the regular tokens, cut at a stop text.
  index_t n_regular = 0;
  index_t n_forwards = 0;
  stop_reason reason = stop_reason::max_tokens;
};

/// Continues a sequence token by token while its cache closes the sentences that end.
///
/// The close step is one forward of up to 1 + N_g rows. A sampled token that completes a sentence
/// is fed with the gists behind it; a token that only shows that the sentence had ended before it
/// is dropped, what lies in front of the boundary (usually one space) is fed with the gists, and
/// the next token is sampled behind the last gist. A segmenter that looks ahead may name a boundary
/// that lies before tokens already fed; the gists then go where the boundary became known, and
/// those tokens stay in the sentence that they show to be over. The paper's rule never does that.
template <Sequence Target, text::Segmenter S, TextCodec Codec>
class generator {
 public:
  /// @param target, codec  must outlive the generator
  /// @param segmenter  has seen the text read so far, of which a sentence may be open
  /// @param n_bytes    length of that text
  /// @param n_open     regular tokens that the open sentence already has
  generator(Target& target, const Codec& codec, S segmenter, generate_options options,
            index_t n_bytes = 0, index_t n_open = 0)
      : target_(target),
        codec_(codec),
        options_(std::move(options)),
        fresh_(segmenter),
        segmenter_(std::move(segmenter)),
        n_bytes_(n_bytes),
        n_open_(n_open) {
    std::vector<text::boundary> ignored;
    fresh_.finish(ignored);  // Makes it ready for a new text.
  }

  /// Runs to a stop. `on_text(bytes)` receives text as it becomes final: bytes that could still
  /// turn out to begin a stop text are held back. What the sequence throws comes through, and with
  /// it goes what this run has written, though not its rows: `max_rows` stops in front of an end
  /// that is known.
  template <class OnText>
  generation run(sampler& sample, OnText&& on_text) {
    generation out;
    std::size_t reported = 0;
    std::vector<token_t> regular;  // The penalty for what was written is not for closing sentences.
    auto report = [&](std::size_t end) {
      if (end <= reported) return;
      on_text(std::string_view(out.text).substr(reported, end - reported));
      reported = end;
    };
    while (out.n_regular < options_.max_tokens) {
      if (static_cast<index_t>(out.ids.size()) >= options_.max_rows) {
        out.reason = stop_reason::max_rows;
        break;
      }
      const token_t t = sample(masked_logits(), regular);
      if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), t) !=
          options_.stop_tokens.end()) {
        out.reason = stop_reason::stop_token;
        break;
      }
      const std::size_t n_searched = out.text.size();
      const auto n_ids = static_cast<std::ptrdiff_t>(out.ids.size());
      advance(t, out);
      std::copy_if(out.ids.begin() + n_ids, out.ids.end(), std::back_inserter(regular),
                   [this](token_t id) { return !is_gist(id); });
      if (cut_at_stop_text(out, n_searched)) {
        out.reason = stop_reason::stop_text;
        break;
      }
      report(out.text.size() - held_back(out.text));
    }
    report(out.text.size());
    return out;
  }
  generation run(sampler& sample) {
    return run(sample, [](std::string_view) {});
  }

 private:
  bool closes_sentences() const { return target_.n_gist() > 0; }
  bool is_gist(token_t t) const { return t >= target_.first_gist(); }
  /// Whether a byte of UTF-8 is not the first of its character.
  static bool is_continuation(char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
  }

  std::span<const float> masked_logits() {
    const std::span<const float> logits = target_.logits();
    logits_.assign(logits.begin(), logits.end());
    const auto first = static_cast<std::size_t>(target_.first_gist());
    const bool gist_0 = options_.close == close_rule::model && closes_sentences();
    if (gist_0 && logits_.size() <= first) {
      throw argument_error("generate: the model is to close sentences, and there are logits of " +
                           std::to_string(logits_.size()) + " tokens, none of a gist");
    }
    // An empty sentence is never closed: gists alone would never come to max_tokens.
    const bool may_close = gist_0 && n_open_ > 0;
    for (std::size_t i = first + (may_close ? 1 : 0); i < logits_.size(); ++i) {
      logits_[i] = -std::numeric_limits<float>::infinity();
    }
    return logits_;
  }

  void advance(token_t t, generation& out) {
    if (!closes_sentences()) return feed({t}, out);
    if (is_gist(t)) return close({}, out);
    if (options_.close == close_rule::model) return feed({t}, out);
    // As in a layout, a sentence of the greatest length ends in front of the token too many.
    const index_t limit = segmenter_.max_tokens();
    if (limit > 0 && n_open_ >= limit) return close({}, out);
    const std::string_view piece = codec_.piece(t);
    S ahead = segmenter_;
    found_.clear();
    ahead.push(piece, found_);
    const auto length = static_cast<index_t>(piece.size());
    if (found_.empty()) {
      feed({t}, out);
      segmenter_ = std::move(ahead);
      n_bytes_ += length;
      return;
    }
    const index_t inside = found_.front().offset - n_bytes_;
    // A token that goes on with a character of the tokens in front of it stays with them.
    const bool within_character = inside <= 0 && !piece.empty() && is_continuation(piece.front());
    if (inside == length || within_character) return close({t}, out);
    std::vector<token_t> before;
    if (inside > 0) codec_.encode(piece.substr(0, static_cast<std::size_t>(inside)), before);
    // An empty sentence is never closed: the token is taken whole, boundary or not.
    if (before.empty() && n_open_ == 0) return close({t}, out);
    close(std::move(before), out);
  }

  /// Feeds tokens of the open sentence and the gists that close it, in one forward.
  void close(std::vector<token_t> tokens, generation& out) {
    const auto n = static_cast<token_t>(target_.n_gist());
    for (token_t i = 0; i < n; ++i) tokens.push_back(target_.first_gist() + i);
    feed(tokens, out);
    segmenter_ = fresh_;
    n_bytes_ = 0;
    n_open_ = 0;
  }

  void feed(const std::vector<token_t>& tokens, generation& out) {
    target_.read(tokens, &out.rows_after);
    ++out.n_forwards;
    for (const token_t t : tokens) {
      out.ids.push_back(t);
      if (is_gist(t)) continue;
      ++out.n_regular;
      ++n_open_;
      out.text += codec_.piece(t);
    }
  }

  /// Cuts the text in front of the first stop text in it. There is none within its first n_searched
  /// bytes.
  bool cut_at_stop_text(generation& out, std::size_t n_searched) const {
    std::size_t first = std::string::npos;
    for (const std::string& stop : options_.stop_texts) {
      if (stop.empty()) continue;
      const std::size_t begin = n_searched > stop.size() ? n_searched - stop.size() : 0;
      first = std::min(first, out.text.find(stop, begin));
    }
    if (first == std::string::npos) return false;
    out.text.resize(first);
    return true;
  }

  /// Length of the longest end of `text` that is the beginning of a stop text.
  std::size_t held_back(std::string_view text) const {
    std::size_t longest = 0;
    for (const std::string& stop : options_.stop_texts) {
      for (std::size_t n = std::min(stop.size(), text.size()); n > longest; --n) {
        if (text.ends_with(std::string_view(stop).substr(0, n))) longest = n;
      }
    }
    return longest;
  }

  Target& target_;
  const Codec& codec_;
  generate_options options_;
  S fresh_;          ///< The segmenter before any text.
  S segmenter_;      ///< The segmenter behind the open sentence.
  index_t n_bytes_;  ///< Bytes that segmenter_ has seen.
  index_t n_open_;   ///< Regular tokens of the open sentence.
  std::vector<float> logits_;
  std::vector<text::boundary> found_;
};

}  // namespace gistkv::model
