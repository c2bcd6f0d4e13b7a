// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/eval/scored_text.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>

namespace gistkv {

namespace {

constexpr token_t first_gist = 1000;

/// A word with the space in front of it is a token, as long as its number of bytes says.
void tokenize(std::string_view text, std::vector<token_t>& ids) {
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = text.find(' ', at + 1);
    if (end == std::string_view::npos) end = text.size();
    ids.push_back(static_cast<token_t>(end - at));
    at = end;
  }
}

text::gist_layout lay_out(std::string_view text, index_t n_gist) {
  return text::lay_out(text, text::paper(), n_gist, first_gist, tokenize,
                       [](token_t t) { return static_cast<index_t>(t); });
}

std::size_t n_rated(const std::vector<token_t>& targets) {
  std::size_t n = 0;
  for (const token_t t : targets) n += t >= 0 ? 1 : 0;
  return n;
}

/// Bytes of the text that the rated tokens stand for.
index_t bytes_rated(const text::gist_layout& rows, const std::vector<token_t>& targets) {
  index_t n = 0;
  for (std::size_t i = 0; i + 1 < rows.ids.size(); ++i) {
    if (targets[i] >= 0 && rows.is_gist[i + 1] == 0) n += targets[i];
  }
  return n;
}

TEST_CASE("the same bytes are rated whatever the rows are") {
  const std::string text = "Aa bb. Cc dd ee. Ff gg hh. Ii jj kk ll.";
  const auto plain = lay_out(text, 0);
  const auto gisted = lay_out(text, 2);
  const auto size = static_cast<index_t>(text.size());
  const std::array both = {&plain, &gisted};
  for (index_t wanted = 1; wanted < size; ++wanted) {
    const index_t cut = eval::common_cut(both, wanted, size);
    CHECK(cut >= wanted);
    if (cut == size) continue;
    const eval::byte_range range{cut, size};
    const auto a = eval::targets_in(plain, range);
    const auto b = eval::targets_in(gisted, range);
    CAPTURE(cut);
    CHECK(bytes_rated(plain, a) == size - cut);
    // Sentences end behind a space, and one more stands behind the last full stop: it is no text.
    CHECK(bytes_rated(gisted, b) == size - cut);
    CHECK(eval::n_tokens_in(plain, range) == static_cast<index_t>(n_rated(a)));
  }
  CHECK(eval::common_cut(both, size, size) == size);
}

TEST_CASE("gists are rated only if asked for, and never count as text") {
  const std::string text = "Aa bb. Cc dd.";
  const auto gisted = lay_out(text, 2);
  const eval::byte_range all{0, static_cast<index_t>(text.size())};
  const auto regular = eval::targets_in(gisted, all);
  const auto with_gists = eval::targets_in(gisted, all, true);
  CHECK(n_rated(with_gists) == n_rated(regular) + 4);
  const auto rated = eval::rated_rows(gisted, with_gists);
  CHECK(std::count(rated.begin(), rated.end(), 1) == static_cast<long>(n_rated(regular)));
  for (const token_t t : regular) CHECK(t < first_gist);
}

TEST_CASE("gists spread by a period that is no whole number") {
  std::string text;
  for (int i = 0; i < 100; ++i) text += " w";
  const auto plain = lay_out(text, 0);
  REQUIRE(plain.n_rows() == 100);
  const auto spread = eval::spread_gists(plain, 2.5, 3, first_gist);
  CHECK(spread.n_sentences == 40);
  CHECK(spread.n_gist == 120);
  CHECK(spread.n_regular == 100);
  const std::vector<std::uint8_t> begin(spread.is_gist.begin(), spread.is_gist.begin() + 11);
  CHECK(begin == std::vector<std::uint8_t>{0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1});
  CHECK(spread.sentence.back() == 40 - 1);
  std::vector<token_t> regular;
  for (std::size_t i = 0; i < spread.ids.size(); ++i) {
    if (spread.is_gist[i] == 0) regular.push_back(spread.ids[i]);
  }
  CHECK(regular == plain.ids);
  CHECK_THROWS_AS(eval::spread_gists(plain, 0.5, 3, first_gist), argument_error);
}

TEST_CASE("a layout without its gists") {
  const auto gisted = lay_out("Aa bb. Cc dd. Ee", 2);
  const eval::marked_layout plain = eval::without_gists(gisted);
  CHECK(plain.rows.n_rows() == gisted.n_regular);
  CHECK(plain.rows.n_gist == 0);
  CHECK(std::count(plain.ends.begin(), plain.ends.end(), 1) == gisted.n_sentences);
  std::size_t row = 0;
  for (std::size_t i = 0; i < gisted.ids.size(); ++i) {
    if (gisted.is_gist[i] != 0) continue;
    CHECK(plain.rows.ids[row] == gisted.ids[i]);
    CHECK(plain.rows.text_begin[row] == gisted.text_begin[i]);
    const bool last = i + 1 < gisted.ids.size() && gisted.is_gist[i + 1] != 0;
    CHECK(plain.ends[row] == (last ? 1 : 0));
    ++row;
  }
}

TEST_CASE("separators") {
  for (const char* yes : {".", ",", " ,", "?", "!\n", "\n", "\n\n", "...", " :"}) {
    CAPTURE(yes);
    CHECK(eval::is_separator(yes));
  }
  for (const char* no : {"", " ", "a.", " the", "-", "\t", "\"", "3.14"}) {
    CAPTURE(no);
    CHECK_FALSE(eval::is_separator(no));
  }
}

}  // namespace

}  // namespace gistkv
