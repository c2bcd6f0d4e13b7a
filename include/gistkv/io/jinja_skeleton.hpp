// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>

namespace gistkv::io {

namespace detail {

/// Writes the tags of a Jinja template in one spelling: see jinja_skeleton.
class jinja_normalizer {
 public:
  explicit jinja_normalizer(std::string_view source) : rest_(source) {
    // Jinja drops one newline at the end of a template.
    if (rest_.ends_with('\n')) rest_.remove_suffix(1);
  }

  std::string run() {
    while (!rest_.empty()) {
      const std::size_t open = std::min(next_tag(), rest_.size());
      const std::string_view printed = rest_.substr(0, open);
      rest_.remove_prefix(open);
      check_prints_nothing(printed);
      if (!rest_.empty()) tag();
    }
    return std::move(out_);
  }

 private:
  enum class tag_kind { none, output, block, comment };

  std::size_t next_tag() const {
    for (std::size_t i = rest_.find('{'); i != std::string_view::npos; i = rest_.find('{', i + 1)) {
      if (i + 1 < rest_.size() &&
          std::string_view("{%#").find(rest_[i + 1]) != std::string_view::npos) {
        return i;
      }
    }
    return std::string_view::npos;
  }

  /// Text between tags is printed, less what the `-` of its tags and, in Hugging Face's settings,
  /// trim_blocks and lstrip_blocks take away.
  void check_prints_nothing(std::string_view text) {
    const bool strips_end = rest_.size() > 2 && rest_[2] == '-';
    const bool block_follows = rest_.size() > 1 && rest_[1] != '{';
    const bool blank = text.find_first_not_of(" \t\r\n") == std::string_view::npos;
    if (blank && (strips_start_ || strips_end)) return;
    std::string_view left = text;
    if ((last_ == tag_kind::block || last_ == tag_kind::comment) && left.starts_with('\n')) {
      left.remove_prefix(1);
    }
    if (block_follows) {
      const std::size_t line = left.rfind('\n') + 1;  // npos + 1 is the beginning.
      if (left.find_first_not_of(" \t", line) == std::string_view::npos)
        left = left.substr(0, line);
    }
    if (!left.empty()) {
      throw format_error("chat template: prints " + quote(text) +
                         " between its tags, expected all text inside {{ }}");
    }
  }

  void tag() {
    const char kind = rest_[1];
    last_ = kind == '{' ? tag_kind::output : kind == '%' ? tag_kind::block : tag_kind::comment;
    const std::string close = std::string(1, kind == '{' ? '}' : kind) + '}';
    rest_.remove_prefix(2);
    if (rest_.starts_with('-') || rest_.starts_with('+')) rest_.remove_prefix(1);
    if (last_ == tag_kind::comment) {
      const std::size_t end = rest_.find(close);
      if (end == std::string_view::npos) unterminated();
      strips_start_ = end > 0 && rest_[end - 1] == '-';
      rest_.remove_prefix(end + 2);
      return;
    }
    out_ += {'{', kind};
    literal_end_ = std::string::npos;
    for (;;) {
      if (rest_.empty()) unterminated();
      if (rest_.starts_with(close)) break;
      if (rest_.starts_with("-" + close)) break;
      const char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == '\'' || c == '"') {
        literal(c);
      } else if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
        out_ += c;
      }
    }
    strips_start_ = rest_.front() == '-';
    rest_.remove_prefix(strips_start_ ? 3 : 2);
    out_ += close;
  }

  /// A string up to `quote_mark`; joined to the one before it if only a plus lies between.
  void literal(char quote_mark) {
    if (literal_end_ != std::string::npos && out_.size() == literal_end_ + 1 &&
        out_.back() == '+') {
      out_.resize(literal_end_ - 1);
    } else {
      out_ += '\'';
    }
    for (;;) {
      if (rest_.empty()) unterminated();
      char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == quote_mark) break;
      if (c == '\\') {
        if (rest_.empty()) unterminated();
        c = rest_.front();
        rest_.remove_prefix(1);
        c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
      }
      out_ += c;
    }
    out_ += '\'';
    literal_end_ = out_.size();
  }

  [[noreturn]] static void unterminated() {
    throw format_error("chat template: ends inside a tag");
  }

  std::string_view rest_;
  std::string out_;
  tag_kind last_ = tag_kind::none;
  bool strips_start_ = false;
  std::size_t literal_end_ = std::string::npos;
};

inline void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

}  // namespace detail

/// The tags of a Jinja template without anything that does not matter: comments, white space and
/// its control, the kind of quotation marks, escapes, strings cut in two. Two spellings of the same
/// template give the same skeleton.
/// @throws format_error if the template prints text between its tags or ends inside one.
inline std::string jinja_skeleton(std::string_view source) {
  std::string skeleton = detail::jinja_normalizer(source).run();
  for (const std::string_view object : {"message", "messages[0]"}) {
    for (const std::string_view field : {"role", "content"}) {
      detail::replace_all(skeleton, std::string(object) + "." + std::string(field),
                          std::string(object) + "['" + std::string(field) + "']");
    }
  }
  return skeleton;
}

}  // namespace gistkv::io
