// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/text/boundary.hpp>

/// What every segmenter has to satisfy, and texts made to upset one.

namespace gistkv::test {

/// Boundaries of `text` pushed in random pieces of at most `longest` bytes, empty ones included.
template <text::Segmenter S>
std::vector<text::boundary> in_pieces(S segmenter, std::string_view text, index_t longest,
                                      random_generator& random) {
  std::vector<text::boundary> found;
  while (!text.empty()) {
    const auto n = static_cast<std::size_t>(longest == 1 ? 1 : random.below(longest + 1));
    segmenter.push(text.substr(0, n), found);
    text.remove_prefix(std::min(n, text.size()));
  }
  segmenter.finish(found);
  return found;
}

/// The boundaries of `text`, after checks that they increase, lie in (0, size], are certain when
/// they are reported, do not depend on the cut, and that `finish` leaves a fresh segmenter.
template <text::Segmenter S>
std::vector<text::boundary> checked_boundaries(const S& segmenter, std::string_view text,
                                               int n_cuts = 4) {
  const std::vector<text::boundary> whole = text::boundaries(segmenter, text);
  index_t last = 0;
  for (const text::boundary& b : whole) {
    CHECK(b.offset > last);
    last = b.offset;
  }
  CHECK(last <= static_cast<index_t>(text.size()));
  random_generator random(text.size() + 17);
  CHECK(in_pieces(segmenter, text, 1, random) == whole);
  for (int cut = 0; cut < n_cuts; ++cut) {
    CHECK(in_pieces(segmenter, text, 1 + random.below(40), random) == whole);
  }
  S used = segmenter;
  std::vector<text::boundary> found;
  used.push("One (\"two 'three. Fo\xC3", found);
  used.finish(found);
  CHECK(text::boundaries(used, text) == whole);
  return whole;
}

/// The text between boundaries, what remains behind the last one included.
inline std::vector<std::string> sentences(std::string_view text,
                                          const std::vector<text::boundary>& found) {
  std::vector<std::string> pieces;
  std::size_t begin = 0;
  for (const text::boundary& b : found) {
    pieces.emplace_back(text.substr(begin, static_cast<std::size_t>(b.offset) - begin));
    begin = static_cast<std::size_t>(b.offset);
  }
  if (begin < text.size()) pieces.emplace_back(text.substr(begin));
  return pieces;
}

/// Up to `n` fragments drawn from `alphabet`, one after the other.
inline std::string random_text(const std::vector<std::string>& alphabet, index_t n,
                               random_generator& random) {
  std::string text;
  for (index_t i = random.below(n + 1); i > 0; --i) {
    text += alphabet[static_cast<std::size_t>(random.below(static_cast<index_t>(alphabet.size())))];
  }
  return text;
}

/// Texts that break programs: empty, one byte, no spaces, nothing but marks, invalid UTF-8, NUL.
inline std::vector<std::string> hostile_texts() {
  std::vector<std::string> texts = {"",
                                    ".",
                                    "\n",
                                    "\r",
                                    std::string(1, '\0'),
                                    std::string("a.\0 b. \0.", 9),
                                    "\xFF\xFE. \xC3",
                                    "A.\xE2\x80 B. C\xE2\x80",
                                    "\xF0\x9F\x98. \xF0\x9F\x98\x80! \xF0",
                                    std::string(300, '.'),
                                    std::string(300, '"'),
                                    std::string(300, '('),
                                    std::string(300, ' ') + "A." + std::string(900, ' ') + "B",
                                    std::string(900, '\n') + "A",
                                    "A." + std::string(900, ')') + " B",
                                    "A. " + std::string(900, '5') + " b C"};
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte), all += ". A";
  texts.push_back(all);
  random_generator random(3);
  std::string noise;
  for (int i = 0; i < 4000; ++i) noise += static_cast<char>(random.below(256));
  texts.push_back(noise);
  return texts;
}

}  // namespace gistkv::test
