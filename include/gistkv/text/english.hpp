// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include <gistkv/text/boundary.hpp>
#include <gistkv/text/english_list_marker.hpp>
#include <gistkv/text/english_nesting.hpp>
#include <gistkv/text/english_reader.hpp>
#include <gistkv/text/english_rules.hpp>
#include <gistkv/text/english_window.hpp>
#include <gistkv/text/english_words.hpp>

namespace gistkv::text {

/// Sentences of English prose.
///
/// A mark (`.`, `!`, `?`, an ellipsis, a full stop of another script) with its closing quotation
/// marks and brackets ends a sentence where white space and then a capital letter, a digit or
/// nothing follows, unless
/// - the full stop belongs to an abbreviation, initial, acronym, clock time, list number or label
/// of
///   a number, and what follows does not tell that a sentence begins (english_abbreviation.hpp);
/// - a quotation or bracket is open (english_nesting.hpp), or `[...]` marks an omission;
/// - a quotation is followed by who said it: `"Is it?" Alice asked.`;
/// - the ellipsis is three spaced stops.
/// Full stops inside numbers, addresses and names have no white space behind them. Items of a list
/// (`1)`, `b.`, a bullet) begin a sentence inside a line too, when they continue a list that begins
/// with a sentence or line. A blank line always ends a sentence, a single newline in front of a
/// list item, or behind a short line when a capital letter follows: prose may have hard line ends.
///
/// A boundary is known some characters into the next sentence; 256 bytes at most are looked at in
/// front of a mark, and less than 100 behind it. State: some 350 bytes.
class english {
 public:
  static constexpr std::string_view name = "english";

  english() = default;
  explicit english(segmenter_options options) : options_(options) {}

  void push(std::string_view piece, std::vector<boundary>& out) {
    constexpr std::size_t most = 1 << 16;  // Bounds the window.
    while (!piece.empty()) {
      window_.append(piece.substr(0, most));
      piece.remove_prefix(std::min(most, piece.size()));
      run(out);
      window_.trim();
    }
  }

  void finish(std::vector<boundary>& out) {
    window_.final = true;
    run(out);
    const index_t end = window_.offset(window_.size());
    if (gap_ends_sentence_ || options_.last_sentence == last_sentence::closed) {
      emit(text_end_, end, out);
    }
    *this = english(options_);
  }

  index_t max_tokens() const { return 0; }
  segmenter_options options() const { return options_; }

 private:
  using marker = detail::list_marker;

  void run(std::vector<boundary>& out) {
    do {
      skip_words(out);
      window_.starved = false;
    } while (window_.at < window_.size() && step(out));
  }

  /// Passes over letters, digits and spaces.
  void skip_words(std::vector<boundary>& out) {
    const auto kind = [&](std::size_t i) {
      return detail::plain_bytes[static_cast<unsigned char>(window_[i])];
    };
    std::size_t i = window_.at;
    while (i < window_.size() && kind(i) != 0) {
      if (kind(i) == ' ') {
        ++i;
        continue;
      }
      window_.at = i;
      note_gap();
      begin_content(out);
      while (i < window_.size() && kind(i) == 'w') ++i;
      text_end_ = window_.offset(i);
    }
    window_.at = i;
  }

  /// Handles the character at `at`. False: more bytes are needed.
  bool step(std::vector<boundary>& out) {
    const decoded unit = window_.look(window_.at);
    if (window_.starved) return false;
    const char32_t c = unit.code_point;
    const auto length = static_cast<std::size_t>(unit.length);
    if (is_space(c)) {
      if (detail::is_newline(c)) return on_newline(out);
      window_.at += length;
      return true;
    }
    note_gap();
    if (gap_ends_sentence_) begin_content(out, false);
    if (detail::is_mark(c)) return on_mark(out);
    if (detail::is_closing_bracket(c)) return on_closing_bracket(c, length, out);
    if (detail::is_single_quote(c)) return on_single_quote(c, length);
    if (detail::is_double_quote(c)) return on_double_quote(c, length, out);
    if (detail::is_opening_bracket(c)) {
      nesting_.bracket(c, window_.offset(window_.at));
    } else if (detail::is_bullet(c)) {
      on_bullet(out);
    } else if (c != '-' && c != '*' && c != '+' && c != '#' && c != '>' && c != '_') {
      begin_content(out);
    }
    advance(window_.at + length);
    return true;
  }

  void note_gap() {
    if (text_end_ < window_.offset(window_.at)) gap_begin_ = text_end_;
  }

  void advance(std::size_t to) {
    window_.at = to;
    text_end_ = window_.offset(to);
  }

  /// The sentence's first letter, digit or symbol is at `at`, or what stands in front of them.
  void begin_content(std::vector<boundary>& out, bool content = true) {
    if (gap_ends_sentence_) {
      emit(text_end_, window_.offset(window_.at), out);
      gap_ends_sentence_ = false;
    }
    if (content && content_ < 0) content_ = window_.offset(window_.at);
  }

  void emit(index_t before_gap, index_t behind_gap, std::vector<boundary>& out) {
    const index_t at = options_.placement == placement::after_whitespace ? behind_gap : before_gap;
    if (at <= emitted_) return;
    out.push_back({at});
    emitted_ = at;
  }

  /// Goes on behind white space; `ends`: the text before it ends a sentence.
  void pass_gap(const detail::gap_run& gap, bool ends, std::vector<boundary>& out) {
    window_.at = gap.end;
    if (gap.n_newlines > 0) line_ = window_.offset(gap.end);
    if (gap.n_newlines > 1) nesting_ = {};
    if (!ends) return;
    content_ = -1;
    if (gap.endless) {
      gap_ends_sentence_ = true;
    } else {
      emit(text_end_, window_.offset(gap.end), out);
    }
  }

  bool on_mark(std::vector<boundary>& out) {
    const std::size_t begin = window_.at;
    const detail::mark_run marks = detail::read_marks(window_, begin);
    if (window_.starved) return false;
    const char32_t behind_marks = window_.peek(marks.end);
    detail::nesting inner = nesting_;
    const detail::closing_run closing = detail::read_closing(window_, marks.end, inner);
    const decoded next = window_.look(closing.end);
    if (window_.starved) return false;
    // So many marks or brackets are no sentence end; nor is an omission in brackets.
    const bool omission = detail::is_opening_bracket(window_.before(begin)) &&
                          detail::is_closing_bracket(behind_marks);
    if (window_.at_cap(closing.end) || omission) {
      begin_content(out);
      advance(marks.end);
      return true;
    }
    if (marks.single_stop() && on_stop_of_marker(begin, behind_marks, out)) return true;
    if (next.length > 0 && !is_space(next.code_point)) {
      const std::size_t end = ends_without_space(begin, marks, closing.end, next.code_point, inner);
      const detail::gap_run gap = detail::read_gap(window_, std::max(end, marks.end));
      if (window_.starved) return false;
      begin_content(out);
      advance(end > 0 ? end : marks.end);
      if (end > 0) {
        nesting_ = inner;
        pass_gap(gap, true, out);
      }
      return true;
    }
    const detail::gap_run gap = detail::read_gap(window_, closing.end);
    const bool blank = gap.endless || gap.n_newlines > 1;
    const bool ends = blank || next.length == 0 ||
                      (!inner.open_at(window_.offset(closing.end)) &&
                       ends_sentence(begin, marks, closing, gap.end));
    const bool early = ends && !blank && window_.look(gap.end).length > 0 &&
                       closing.end == marks.end &&
                       detail::ends_at_first_stop(window_, marks, begin);
    if (window_.starved) return false;
    begin_content(out);
    nesting_ = inner;
    if (early) {
      advance(marks.first_end);
      pass_gap({marks.first_end + 1}, true, out);
      content_ = window_.offset(window_.at);
      advance(marks.end);
      return true;
    }
    advance(closing.end);
    pass_gap(gap, ends, out);
    return true;
  }

  /// Where the sentence ends whose marks and closing signs have no white space behind them; 0 if it
  /// does not end.
  std::size_t ends_without_space(std::size_t begin, const detail::mark_run& marks,
                                 std::size_t closing_end, char32_t next,
                                 const detail::nesting& inner) {
    if (inner.open_at(window_.offset(closing_end))) return 0;
    const bool bare = closing_end == marks.end;
    if (detail::is_immediate_mark(marks.last)) {
      const bool goes_on = sentence_break_of(next) == sentence_break::s_continue;
      return goes_on || (!bare && is_letter(next)) ? 0 : closing_end;
    }
    if (!bare) return 0;
    const std::string_view word = word_before(begin);
    if (detail::is_run_on(window_, word, begin, marks.end)) return marks.end;
    if (!marks.single_stop()) return 0;
    const std::size_t end = detail::skip_note_numbers(window_, word, begin);
    return is_space(window_.peek(end)) ? end : 0;
  }

  /// The word in front of index i, as far as it belongs to the sentence.
  std::string_view word_before(std::size_t i) const {
    const std::string_view word = window_.word_before(i);
    const std::size_t begin = content_ < 0 ? i : window_.index(content_);
    return word.substr(begin > i - word.size() ? std::min(begin, i) - (i - word.size()) : 0);
  }

  /// Whether marks and closing signs, with white space up to `next` behind them, end a sentence.
  bool ends_sentence(std::size_t begin, const detail::mark_run& marks,
                     const detail::closing_run& closing, std::size_t next) {
    using kind = detail::following::kind;
    if (marks.spaced && marks.n_stops == 3 && is_space(window_.before(begin))) return false;
    const detail::following after = detail::read_following(window_, next);
    const std::string_view word = word_before(begin);
    const bool bare_stop = marks.single_stop() && closing.end == marks.end;
    const bool labels = bare_stop && detail::english_words::labels_number(word);
    const marker item = labels ? marker{} : detail::marker_ahead(window_, next);
    if (item && (item.style != marker::punctuation::stop || item.first() || list_.goes_on(item))) {
      return true;
    }
    if (after.first == kind::small || after.first == kind::continuation) return false;
    if (after.first == kind::nothing || after.first == kind::bullet) return true;
    if (bare_stop) {
      const bool opens_with_time =
          content_ >= 0 && window_.offset(begin) - content_ <= 40 &&
          detail::is_time_adverbial(window_.view(window_.index(content_), begin));
      return detail::stop_ends_sentence(window_, word, after, opens_with_time);
    }
    if (after.first == kind::number) return true;
    if (marks.last == '!' &&
        detail::english_words::folded(word).in(detail::english_words::exclaimed_names)) {
      return detail::read_word(window_, after.word).folded().in(detail::english_words::starters);
    }
    return !(closing.quoted && detail::names_speaker(window_, next));
  }

  /// The full stop at `begin` numbers a list item: `2. The`, or the first half of `2.) The`.
  bool on_stop_of_marker(std::size_t begin, char32_t behind, std::vector<boundary>& out) {
    const std::string_view token = window_.word_before(begin);
    if (behind == ')' && !nesting_.open_at(window_.offset(begin)) &&
        detail::read_list_marker(token, marker::punctuation::stop_bracket)) {
      begin_content(out);
      advance(begin + 1);
      return true;
    }
    if (!is_space(behind)) return false;
    return place_marker(detail::read_list_marker(token, marker::punctuation::stop),
                        begin - token.size(), begin + 1, out);
  }

  bool on_closing_bracket(char32_t bracket, std::size_t length, std::vector<boundary>& out) {
    const std::size_t end = window_.at;
    const char32_t behind = window_.peek(end + length);
    if (window_.starved) return false;
    nesting_.bracket(bracket, window_.offset(end));
    if (bracket == ')' && is_space(behind)) {
      std::size_t begin = end;
      const marker item = detail::marker_behind(window_, end, begin);
      if (place_marker(item, begin, end + 1, out)) return true;
    }
    begin_content(out);
    advance(end + length);
    return true;
  }

  /// If the marker in [begin, end) numbers a list item, ends the sentence in front of it.
  bool place_marker(const marker& item, std::size_t begin, std::size_t end,
                    std::vector<boundary>& out) {
    const char32_t in_front = window_.before(begin);
    if (!item ||
        (in_front != detail::end_of_text && !is_space(in_front) && !detail::is_bullet(in_front))) {
      return false;
    }
    const index_t at = window_.offset(begin);
    const bool begins_sentence = content_ < 0 || content_ >= at;
    if (!list_.accepts(item, at, begins_sentence, at == line_)) return false;
    if (!begins_sentence) {
      emit(gap_begin_, at, out);
      nesting_ = {};
    }
    content_ = at;
    advance(end);
    return true;
  }

  void on_bullet(std::vector<boundary>& out) {
    const bool apart = window_.at == 0 || is_space(window_.before(window_.at));
    if (!apart || content_ < 0) return;
    emit(text_end_, window_.offset(window_.at), out);
    content_ = -1;
    nesting_ = {};
  }

  /// Besides opening and closing: `"I only--" The door fell.` ends a sentence that was broken off.
  bool on_double_quote(char32_t quote, std::size_t length, std::vector<boundary>& out) {
    const std::size_t at = window_.at;
    const index_t offset = window_.offset(at);
    detail::nesting inner = nesting_;
    inner.double_quote(quote, window_.before(at), offset);
    const bool closes = nesting_.open_at(offset) && !inner.open_at(offset);
    const bool broken_off = closes && detail::is_dash(window_.before(at)) &&
                            detail::begins_sentence(window_, at + length);
    const detail::gap_run gap =
        broken_off ? detail::read_gap(window_, at + length) : detail::gap_run{};
    if (window_.starved) return false;
    nesting_ = inner;
    advance(at + length);
    if (broken_off) pass_gap(gap, true, out);
    return true;
  }

  bool on_single_quote(char32_t quote, std::size_t length) {
    const std::size_t at = window_.at;
    const char32_t in_front = window_.before(at);
    const bool room = in_front == detail::end_of_text || is_space(in_front) ||
                      detail::is_opening_bracket(in_front) || detail::is_dash(in_front) ||
                      detail::is_double_quote(in_front);
    const detail::read_word word(window_, at + length);
    const char32_t behind = window_.peek(at + length);
    if (window_.starved) return false;
    if (room && quote != 0x2019) {
      const bool elision = word.folded().in(detail::english_words::elisions);
      if (is_letter(behind) && !elision) nesting_.open_single(window_.offset(at));
    } else if (!is_letter(behind) && !is_number(behind)) {
      nesting_.close_single();
    }
    advance(at + length);
    return true;
  }

  bool on_newline(std::vector<boundary>& out) {
    const detail::gap_run gap = detail::read_gap(window_, window_.at);
    bool ends = false;
    if (text_end_ > emitted_ && (gap.endless || window_.look(gap.end).length > 0)) {
      const bool in_item = content_ >= 0 && list_.began_at(content_);
      const index_t length = text_end_ - (in_item ? std::max(line_, content_) : line_);
      ends = gap.endless || gap.n_newlines > 1 ||
             (content_ >= 0 && !nesting_.open_at(text_end_) &&
              detail::line_ends_sentence(window_, length, text_end_, gap.end));
    }
    if (window_.starved) return false;
    pass_gap(gap, ends, out);
    return true;
  }

  segmenter_options options_;
  detail::text_window window_;
  detail::nesting nesting_;
  detail::list_state list_;
  index_t emitted_ = 0;             ///< The last boundary.
  index_t text_end_ = 0;            ///< End of the last character that is not white space.
  index_t gap_begin_ = 0;           ///< End of the text in front of the last white space.
  index_t content_ = -1;            ///< Where the sentence's own text begins; -1: nowhere yet.
  index_t line_ = 0;                ///< Where the line's own text begins.
  bool gap_ends_sentence_ = false;  ///< White space too long to look over ends a sentence.
};

static_assert(Segmenter<english>);

}  // namespace gistkv::text
