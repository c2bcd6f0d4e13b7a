// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <gistkv/text/boundary.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::text {

/// Sentence boundaries of UAX #29, Unicode 17.0.0, rules SB1 to SB998 without tailoring.
///
/// The end of a text that is not empty is a boundary (SB2), or, with
/// `last_sentence::if_terminated`, only one behind a terminator or paragraph separator.
/// `placement::before_whitespace` moves every boundary in front of the white space that ends its
/// sentence; a sentence of white space alone then joins the next one. A byte outside valid UTF-8 is
/// a character without properties.
///
/// A boundary is known as soon as the next character that decides it: behind a full stop that may
/// be quite far (SB8 reads over digits and signs until a letter), but nothing is buffered
/// meanwhile. State: constant.
class unicode_sentences {
 public:
  static constexpr std::string_view name = "unicode";

  unicode_sentences() = default;
  explicit unicode_sentences(segmenter_options options) : options_(options) {}

  void push(std::string_view piece, std::vector<boundary>& out) {
    std::size_t i = 0;
    while (!cut_.empty() && i < piece.size()) {  // Complete the character that the last cut split.
      cut_ += piece[i++];
      drain(false, out);
    }
    while (i < piece.size()) {
      const std::string_view rest = piece.substr(i);
      if (static_cast<signed char>(rest[0]) < 0 && incomplete_utf8(rest)) {
        cut_ = rest;
        return;
      }
      const decoded unit = decode_utf8(rest);
      step(unit, out);
      i += static_cast<std::size_t>(unit.length);
    }
  }

  void finish(std::vector<boundary>& out) {
    drain(true, out);
    if (offset_ > 0) {
      // What looked ahead for a small letter (SB8) finds none now.
      if (candidate_ >= 0) emit(candidate_, candidate_text_end_, out);
      const bool terminated = stage_ != stage::text || after_separator_;
      if (terminated || options_.last_sentence == last_sentence::closed) {
        emit(offset_, text_end_, out);
      }
    }
    *this = unicode_sentences(options_);
  }

  index_t max_tokens() const { return 0; }
  segmenter_options options() const { return options_; }

 private:
  /// How far `SATerm Close* Sp* ParaSep?` has been matched.
  enum class stage { text, terminator, close, space };

  static constexpr bool is_separator(sentence_break b) {
    return b == sentence_break::sep || b == sentence_break::cr || b == sentence_break::lf;
  }
  static constexpr bool is_terminator(sentence_break b) {
    return b == sentence_break::a_term || b == sentence_break::s_term;
  }
  static constexpr bool is_letter_break(sentence_break b) {
    return b == sentence_break::o_letter || b == sentence_break::upper ||
           b == sentence_break::lower;
  }

  void drain(bool final, std::vector<boundary>& out) {
    while (!cut_.empty() && (final || !incomplete_utf8(cut_))) {
      const decoded unit = decode_utf8(cut_);
      step(unit, out);
      cut_.erase(0, static_cast<std::size_t>(unit.length));
    }
  }

  void emit(index_t offset, index_t text_end, std::vector<boundary>& out) {
    const index_t at = options_.placement == placement::after_whitespace ? offset : text_end;
    if (at > emitted_) {
      out.push_back({at});
      emitted_ = at;
    }
  }

  /// Takes one character and emits the boundaries that it makes certain.
  void step(decoded unit, std::vector<boundary>& out) {
    const sentence_break b = sentence_break_of(unit.code_point);
    const index_t begin = offset_;
    const index_t text_end = text_end_;
    offset_ += unit.length;
    if (!is_space(unit.code_point)) text_end_ = offset_;
    if (after_separator_) {
      if (after_cr_ && b == sentence_break::lf) {  // SB3
        after_cr_ = false;
        return;
      }
      emit(begin, text_end, out);  // SB4
      after_separator_ = after_cr_ = false;
      previous_ = before_terminator_ = sentence_break::other;
      stage_ = stage::text;
    } else if (b == sentence_break::extend || b == sentence_break::format) {
      return;  // SB5
    }
    resolve_candidate(b, out);
    if (stage_ != stage::text && candidate_ < 0 && breaks_before(b)) {
      if (decided_by_later_letter(b)) {
        candidate_ = begin;
        candidate_text_end_ = text_end;
      } else {
        emit(begin, text_end, out);
      }
    }
    advance(b);
  }

  /// SB8: a small letter ahead, with no letter, separator or terminator between, takes it back.
  void resolve_candidate(sentence_break b, std::vector<boundary>& out) {
    if (candidate_ < 0) return;
    if (b == sentence_break::lower) {
      candidate_ = -1;
    } else if (is_letter_break(b) || is_separator(b) || is_terminator(b)) {
      emit(candidate_, candidate_text_end_, out);
      candidate_ = -1;
    }
  }

  /// SB6 to SB11 for the place in front of `b`, `stage_` being that of the text before it; SB8 only
  /// as far as `b` itself decides it.
  bool breaks_before(sentence_break b) const {
    const bool a_term = terminator_ == sentence_break::a_term;
    if (a_term && stage_ == stage::terminator) {
      if (b == sentence_break::numeric) return false;  // SB6
      const bool after_case = before_terminator_ == sentence_break::upper ||
                              before_terminator_ == sentence_break::lower;
      if (after_case && b == sentence_break::upper) return false;  // SB7
    }
    if (a_term && b == sentence_break::lower) return false;                  // SB8
    if (b == sentence_break::s_continue || is_terminator(b)) return false;   // SB8a
    if (b == sentence_break::close && stage_ != stage::space) return false;  // SB9
    if (b == sentence_break::sp || is_separator(b)) return false;            // SB9, SB10
    return true;                                                             // SB11
  }

  bool decided_by_later_letter(sentence_break b) const {
    return terminator_ == sentence_break::a_term && !is_letter_break(b);
  }

  void advance(sentence_break b) {
    if (is_separator(b)) {
      after_separator_ = true;
      after_cr_ = b == sentence_break::cr;
    } else if (is_terminator(b)) {
      before_terminator_ = previous_;
      terminator_ = b;
      stage_ = stage::terminator;
    } else if (b == sentence_break::close && stage_ != stage::text && stage_ != stage::space) {
      stage_ = stage::close;
    } else if (b == sentence_break::sp && stage_ != stage::text) {
      stage_ = stage::space;
    } else {
      stage_ = stage::text;
    }
    previous_ = b;
  }

  segmenter_options options_;
  std::string cut_;         ///< Bytes of a character that is not complete, at most 3.
  index_t offset_ = 0;      ///< Bytes read.
  index_t text_end_ = 0;    ///< End of the last character that is not white space.
  index_t emitted_ = 0;     ///< Last boundary.
  index_t candidate_ = -1;  ///< Boundary that waits for SB8, or -1.
  index_t candidate_text_end_ = 0;
  stage stage_ = stage::text;
  sentence_break previous_ = sentence_break::other;
  sentence_break before_terminator_ = sentence_break::other;
  sentence_break terminator_ = sentence_break::other;
  bool after_separator_ = false;
  bool after_cr_ = false;
};

static_assert(Segmenter<unicode_sentences>);

}  // namespace gistkv::text
