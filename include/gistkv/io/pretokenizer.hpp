// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::io {

/// Rules that cut text into words before byte-level BPE; no token crosses a cut. Each stands for a
/// regular expression over Unicode classes (L letters, N numbers, s White_Space) whose first
/// matching alternative is taken, again and again from where the last match ended:
///
/// gpt2:      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// llama_bpe: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
///             ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
/// qwen2:     as llama_bpe, but \p{N} instead of \p{N}{1,3}
/// smollm:    each \p{N} alone, then gpt2 in each stretch between them, which sees nothing past it
///
/// All of them match every character, so the words cover the text. A byte that is no valid UTF-8
/// counts as a character outside all classes.
enum class pretokenizer : std::uint8_t { gpt2, llama_bpe, qwen2, smollm };

/// Rule by its name in GGUF's `tokenizer.ggml.pre`. @throws format_error for any other name.
inline pretokenizer pretokenizer_by_name(std::string_view name) {
  if (name == "gpt-2") return pretokenizer::gpt2;
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") return pretokenizer::llama_bpe;
  if (name == "qwen2") return pretokenizer::qwen2;
  if (name == "smollm") return pretokenizer::smollm;
  throw format_error("tokenizer: pre-tokenizer " + quote(name) +
                     " is not known, expected gpt-2, llama-bpe, qwen2 or smollm");
}

namespace detail {

enum class char_class : std::uint8_t { other, letter, number, space, newline };

struct char_unit {
  char_class kind = char_class::other;
  std::size_t length = 1;

  bool is_space() const { return kind == char_class::space || kind == char_class::newline; }
};

constexpr char_class class_of(char32_t code_point) {
  if (code_point == '\r' || code_point == '\n') return char_class::newline;
  if (text::is_letter(code_point)) return char_class::letter;
  if (text::is_number(code_point)) return char_class::number;
  return text::is_space(code_point) ? char_class::space : char_class::other;
}

constexpr auto ascii_classes() {
  std::array<char_class, 128> classes{};
  for (std::size_t c = 0; c < classes.size(); ++c) classes[c] = class_of(static_cast<char32_t>(c));
  return classes;
}
inline constexpr auto ascii_class = ascii_classes();

/// The character at byte `at`, which must lie inside.
inline char_unit unit_at(std::string_view s, std::size_t at) {
  const auto byte = static_cast<unsigned char>(s[at]);
  if (byte < 0x80) return {ascii_class[byte], 1};
  const text::decoded unit = text::decode_utf8(s.substr(at, 4));
  return {class_of(unit.code_point), static_cast<std::size_t>(unit.length)};
}

/// End of the run of characters of class `kind` that begins at `at`, at most `most` of them.
inline std::size_t run_end(std::string_view s, std::size_t at, char_class kind,
                           std::size_t most = std::string_view::npos) {
  for (; most > 0 && at < s.size(); --most) {
    const char_unit u = unit_at(s, at);
    if (u.kind != kind) break;
    at += u.length;
  }
  return at;
}

/// Length of 's 't 're 've 'm 'll 'd at the beginning of `s`, which begins with an apostrophe; 0 if
/// none. Without regard to case, U+017F is a small s too (simple case folding).
inline std::size_t contraction(std::string_view s, bool any_case) {
  const auto letter = [&](std::size_t i) {
    const char c = i < s.size() ? s[i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  switch (letter(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return letter(2) == 'e' ? 3 : 0;
    case 'l':
      return letter(2) == 'l' ? 3 : 0;
    default:
      return any_case && s.substr(1, 2) == "\xC5\xBF" ? 3 : 0;
  }
}

/// \s+(?!\S)|\s+ : a run of white space leaves its last character to the word behind it.
inline std::size_t spaces_end(std::string_view s) {
  std::size_t end = 0;
  std::size_t last = 0;
  while (end < s.size()) {
    const char_unit u = unit_at(s, end);
    if (!u.is_space()) break;
    last = end;
    end += u.length;
  }
  return end == s.size() || last == 0 ? end : last;
}

inline std::size_t gpt2_word(std::string_view s) {
  if (s[0] == '\'') {
    if (const std::size_t n = contraction(s, false); n != 0) return n;
  }
  const std::size_t start = s[0] == ' ' && s.size() > 1 ? 1 : 0;
  const char_unit u = unit_at(s, start);
  return u.is_space() ? spaces_end(s) : run_end(s, start + u.length, u.kind);
}

inline std::size_t llama_word(std::string_view s, std::size_t digits) {
  if (s[0] == '\'') {
    if (const std::size_t n = contraction(s, true); n != 0) return n;
  }
  const char_unit first = unit_at(s, 0);
  if (first.kind == char_class::letter) return run_end(s, first.length, char_class::letter);
  if (first.kind == char_class::number) return run_end(s, 0, char_class::number, digits);
  if (first.kind != char_class::newline) {
    const std::size_t end = run_end(s, first.length, char_class::letter);
    if (end > first.length) return end;
  }
  const std::size_t start = s[0] == ' ' ? 1 : 0;
  if (std::size_t end = run_end(s, start, char_class::other); end > start) {
    return run_end(s, end, char_class::newline);
  }
  std::size_t behind_newline = 0;
  for (std::size_t at = 0; at < s.size();) {
    const char_unit u = unit_at(s, at);
    if (!u.is_space()) break;
    at += u.length;
    if (u.kind == char_class::newline) behind_newline = at;
  }
  return behind_newline != 0 ? behind_newline : spaces_end(s);
}

}  // namespace detail

/// Calls sink(std::string_view) with each word of `text`, in order. Views into `text`. Linear time.
template <class Sink>
void split_words(pretokenizer rule, std::string_view text, Sink&& sink) {
  const auto all = [&sink](std::string_view stretch, auto word) {
    while (!stretch.empty()) {
      const std::size_t n = word(stretch);
      sink(stretch.substr(0, n));
      stretch.remove_prefix(n);
    }
  };
  switch (rule) {
    case pretokenizer::gpt2:
      return all(text, detail::gpt2_word);
    case pretokenizer::llama_bpe:
      return all(text, [](std::string_view s) { return detail::llama_word(s, 3); });
    case pretokenizer::qwen2:
      return all(text, [](std::string_view s) { return detail::llama_word(s, 1); });
    case pretokenizer::smollm:
      break;
  }
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const detail::char_unit u = detail::unit_at(text, at);
    if (u.kind == detail::char_class::number) {
      all(text.substr(begin, at - begin), detail::gpt2_word);
      sink(text.substr(at, u.length));
      begin = at + u.length;
    }
    at += u.length;
  }
  all(text.substr(begin), detail::gpt2_word);
}

}  // namespace gistkv::io
