// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include <gistkv/text/boundary.hpp>
#include <gistkv/text/english_abbreviation.hpp>
#include <gistkv/text/english_list_marker.hpp>
#include <gistkv/text/english_nesting.hpp>
#include <gistkv/text/english_reader.hpp>
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
    constexpr auto kinds = [] {
      std::array<char, 256> kind{};
      for (std::size_t c = 0; c < 128; ++c) {
        const auto unit = static_cast<char32_t>(c);
        kind[c] = is_letter(unit) || is_number(unit) || unit == ',' ? 'w' : c == ' ' ? ' ' : '\0';
      }
      return kind;
    }();
    const auto kind = [&](std::size_t i) { return kinds[static_cast<unsigned char>(window_[i])]; };
    std::size_t i = window_.at;
    while (i < window_.size() && kind(i) != '\0') {
      if (kind(i) == ' ') {
        ++i;
        continue;
      }
      window_.at = i;
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
    if (gap_ends_sentence_) begin_content(out, false);
    if (detail::is_mark(c)) return on_mark(out);
    if (detail::is_closing_bracket(c)) return on_closing_bracket(c, length, out);
    if (detail::is_single_quote(c)) return on_single_quote(c, length);
    if (detail::is_opening_bracket(c)) {
      nesting_.bracket(c, window_.offset(window_.at));
    } else if (detail::is_double_quote(c)) {
      nesting_.double_quote(c, window_.before(window_.at), window_.at == 0,
                            window_.offset(window_.at));
    } else if (detail::is_bullet(c)) {
      on_bullet(out);
    } else if (c != '-' && c != '*' && c != '+' && c != '#' && c != '>' && c != '_') {
      begin_content(out);
    }
    advance(window_.at + length);
    return true;
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
      const bool immediate = detail::is_immediate_mark(marks.last) &&
                             (closing.end == marks.end || !is_letter(next.code_point)) &&
                             sentence_break_of(next.code_point) != sentence_break::s_continue &&
                             !inner.open_at(window_.offset(closing.end));
      const bool ends = immediate || (closing.end == marks.end && is_run_on(begin, closing.end));
      if (window_.starved) return false;
      begin_content(out);
      advance(ends ? closing.end : marks.end);
      if (ends) {
        nesting_ = inner;
        pass_gap({closing.end}, true, out);
      }
      return true;
    }
    const detail::gap_run gap = detail::read_gap(window_, closing.end);
    const bool blank = gap.endless || gap.n_newlines > 1;
    const bool ends = blank || next.length == 0 ||
                      (!inner.open_at(window_.offset(closing.end)) &&
                       ends_sentence(begin, marks, closing, gap.end));
    const bool early = ends && !blank && ends_at_first_stop(begin, marks, closing, gap.end);
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

  /// Whether marks and closing signs, with white space up to `next` behind them, end a sentence.
  bool ends_sentence(std::size_t begin, const detail::mark_run& marks,
                     const detail::closing_run& closing, std::size_t next) {
    using kind = detail::following::kind;
    if (marks.spaced && marks.n_stops == 3 && is_space(window_.before(begin))) return false;
    const detail::following after = detail::read_following(window_, next);
    const marker item = detail::marker_ahead(window_, next);
    if (item && (item.first() || item.follows(list_))) return true;
    if (after.first == kind::small || after.first == kind::continuation) return false;
    if (after.first == kind::nothing || after.first == kind::bullet) return true;
    const std::string_view word = window_.word_before(begin);
    if (marks.single_stop() && closing.end == marks.end) {
      return stop_ends_sentence(word, begin, after);
    }
    if (after.first == kind::number) return true;
    if (marks.last == '!' &&
        detail::english_words::folded(word).in(detail::english_words::exclaimed_names)) {
      return detail::read_word(window_, after.word).folded().in(detail::english_words::starters);
    }
    return !(closing.quoted && names_speaker(after.word));
  }

  /// Whether the sentence so far is an adverbial such as `At about 5 a.m`.
  bool opens_with_time(std::size_t end) const {
    if (content_ < 0 || window_.offset(end) - content_ > 40) return false;
    const std::string_view opening = window_.view(window_.index(content_), end);
    return std::count(opening.begin(), opening.end(), ' ') <= 4 &&
           detail::english_words::folded(opening.substr(0, opening.find(' ')))
               .in(detail::english_words::time_prepositions);
  }

  /// `compounds. . . . The`: a full stop and the omission of what began the next sentence.
  bool ends_at_first_stop(std::size_t begin, const detail::mark_run& marks,
                          const detail::closing_run& closing, std::size_t next) {
    return marks.only_stops && marks.spaced && marks.n_stops == 4 && closing.end == marks.end &&
           !is_space(window_.before(begin)) && window_[marks.first_end] == ' ' &&
           window_.look(next).length > 0;
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
      const bool stop = window_.before(end) == '.';
      const std::string_view token = window_.word_before(end - stop);
      const std::size_t begin = end - stop - token.size();
      const bool brackets = window_.before(begin) == '(' && !stop;
      using style = marker::punctuation;
      const marker item = detail::read_list_marker(token, brackets ? style::brackets
                                                          : stop   ? style::stop_bracket
                                                                   : style::bracket);
      if (place_marker(item, begin - brackets, end + 1, out)) return true;
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
        (in_front != end_of_text_ && !is_space(in_front) && !detail::is_bullet(in_front))) {
      return false;
    }
    const index_t at = window_.offset(begin);
    const bool begins_sentence = content_ < 0 || content_ >= at;
    const bool weak = item.style == marker::punctuation::stop &&
                      item.kind == marker::numbering::capital;  // May be an initial.
    const bool goes_on = !weak && item.follows(list_) && at - list_at_ <= 400;
    if (!begins_sentence && !goes_on && (at != line_ || weak)) return false;
    if (!begins_sentence) {
      std::size_t text_end = begin;
      while (text_end > 0 && is_space(window_.before(text_end))) --text_end;
      emit(window_.offset(text_end), at, out);
      nesting_ = {};
    }
    if (!weak) {
      list_ = item;
      list_at_ = at;
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

  bool on_single_quote(char32_t quote, std::size_t length) {
    const std::size_t at = window_.at;
    const char32_t in_front = window_.before(at);
    const bool room = in_front == end_of_text_ || is_space(in_front) ||
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
    if (content_ >= 0 && window_.look(gap.end).length + gap.endless > 0) {
      ends = gap.endless || gap.n_newlines > 1 ||
             (!nesting_.open_at(text_end_) && line_ends_sentence(gap.end));
    }
    if (window_.starved) return false;
    pass_gap(gap, ends, out);
    return true;
  }

  /// Whether a line without a mark at its end is a heading, an item or the like.
  bool line_ends_sentence(std::size_t next) {
    using kind = detail::following::kind;
    constexpr index_t short_line = 55;  // Hard line ends of prose come later.
    const char32_t c = window_.peek(next);
    const bool dash_item = (c == '-' || c == '*' || c == '+') && is_space(window_.peek(next + 1));
    if (dash_item || c == '#' || c == '|' || detail::marker_ahead(window_, next)) return true;
    const detail::following after = detail::read_following(window_, next);
    if (after.first == kind::bullet) return true;
    if (after.first == kind::small || after.first == kind::continuation) return false;
    const std::size_t end = window_.index(text_end_);
    const char32_t last = window_.before(end);
    if (text_end_ - line_ > short_line || last == ',' || last == ';' || last == '&' ||
        detail::is_dash(last)) {
      return false;
    }
    return !detail::english_words::folded(window_.word_before(end))
                .in(detail::english_words::hanging);
  }

  static constexpr char32_t end_of_text_ = detail::end_of_text;

  segmenter_options options_;
  detail::text_window window_;
  detail::nesting nesting_;
  marker list_;                     ///< The last list item.
  index_t list_at_ = 0;             ///< Its offset.
  index_t emitted_ = 0;             ///< The last boundary.
  index_t text_end_ = 0;            ///< End of the last character that is not white space.
  index_t content_ = -1;            ///< Where the sentence's own text begins; -1: nowhere yet.
  index_t line_ = 0;                ///< Where the line's own text begins.
  bool gap_ends_sentence_ = false;  ///< White space too long to look over ends a sentence.
};

static_assert(Segmenter<english>);

}  // namespace gistkv::text
