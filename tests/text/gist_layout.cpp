// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <text/segmenting.hpp>

#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>
#include <gistkv/text/segmenter_rule.hpp>

using namespace gistkv;
using namespace gistkv::test;
using text::boundary;
using text::gist_layout;
using text::gist_layout_builder;
using text::lay_out;

namespace {

using ids = std::vector<token_t>;
using indices = std::vector<index_t>;

constexpr token_t first = 70000;

/// Two bytes a token, but for an odd last one; `<g>` is gist 0. So it shows how text was cut.
void tokenize(std::string_view piece, ids& out) {
  while (!piece.empty()) {
    std::size_t n = std::min<std::size_t>(2, piece.size());
    token_t id = static_cast<unsigned char>(piece[0]);
    if (piece.starts_with("<g>")) {
      n = 3;
      id = first;
    } else if (n == 2) {
      id = (id + 1) * 256 + static_cast<unsigned char>(piece[1]);
    }
    out.push_back(id);
    piece.remove_prefix(n);
  }
}

index_t length_of(token_t id) { return id == first ? 3 : id < 256 ? 1 : 2; }

ids tokens_of(std::string_view text) {
  ids out;
  tokenize(text, out);
  return out;
}

bool same(const gist_layout& a, const gist_layout& b) {
  return a.ids == b.ids && a.is_gist == b.is_gist && a.sentence == b.sentence &&
         a.text_begin == b.text_begin && a.n_regular == b.n_regular && a.n_gist == b.n_gist &&
         a.n_sentences == b.n_sentences;
}

/// Ids as the method has them: rewrite piece by piece, then cut what passes the limit.
template <text::Segmenter S>
ids expected_ids(const S& segmenter, std::string_view text, index_t n_gist) {
  if (n_gist == 0) return tokens_of(text);
  ids out;
  index_t in_sentence = 0;
  const auto group = [&] {
    for (index_t i = 0; i < n_gist; ++i) out.push_back(static_cast<token_t>(first + i));
    in_sentence = 0;
  };
  const auto piece = [&](std::string bytes) {
    for (const token_t id : tokens_of(bytes)) {
      if (segmenter.max_tokens() > 0 && in_sentence == segmenter.max_tokens()) group();
      out.push_back(id);
      ++in_sentence;
    }
  };
  std::size_t begin = 0;
  for (const boundary& b : text::boundaries(segmenter, text)) {
    const auto end = static_cast<std::size_t>(b.offset);
    piece(std::string(text.substr(begin, end - begin)) + std::string(b.inserted));
    group();
    begin = end;
  }
  if (begin < text.size()) {
    piece(std::string(text.substr(begin)));
    if (segmenter.max_tokens() > 0 && in_sentence == segmenter.max_tokens()) group();
  }
  return out;
}

/// The facts of section 2 of the method, counted from the ids alone.
void check_counts(const gist_layout& layout, index_t n_gist) {
  const std::size_t n = layout.ids.size();
  REQUIRE(layout.is_gist.size() == n);
  REQUIRE(layout.sentence.size() == n);
  REQUIRE(layout.text_begin.size() == n);
  CHECK(layout.n_rows() == static_cast<index_t>(n));
  index_t gists = 0;
  for (std::size_t i = 0; i < n; ++i) {
    CHECK(layout.sentence[i] == (n_gist > 0 ? gists / n_gist : 0));
    const bool gist = layout.ids[i] >= first && layout.ids[i] < first + n_gist;
    CHECK(layout.is_gist[i] == (gist ? 1 : 0));
    gists += gist;
  }
  CHECK(layout.n_gist == gists);
  CHECK(layout.n_regular == static_cast<index_t>(n) - gists);
  CHECK(layout.n_sentences == (n_gist > 0 ? gists / n_gist : 0));
}

}  // namespace

TEST_CASE("layout: gists, inserted space and offsets of a short text") {
  const gist_layout layout = lay_out("Abc. De.", text::paper{}, 2, first, tokenize, length_of);
  const ids abc = tokens_of("Abc. ");
  const ids de = tokens_of("De. ");
  CHECK(layout.ids ==
        ids{abc[0], abc[1], abc[2], first, first + 1, de[0], de[1], first, first + 1});
  CHECK(layout.is_gist == std::vector<std::uint8_t>{0, 0, 0, 1, 1, 0, 0, 1, 1});
  CHECK(layout.sentence == std::vector<std::int32_t>{0, 0, 0, 0, 0, 1, 1, 1, 1});
  CHECK(layout.text_begin == indices{0, 2, 4, 5, 5, 5, 7, 8, 8});
  CHECK(layout.n_regular == 5);
  CHECK(layout.n_gist == 4);
  CHECK(layout.n_sentences == 2);
  const gist_layout unknown = lay_out("Abc. De.", text::paper{}, 2, first, tokenize);
  CHECK(unknown.ids == layout.ids);
  CHECK(unknown.text_begin == indices{0, -1, -1, 5, 5, 5, -1, 8, 8});
}

TEST_CASE("layout: random texts, any rule, any cut") {
  random_generator random(8);
  const std::vector<std::string> alphabet = {"a", "Bc", ". ", ".", "! ", "\n", "?", " ", "word "};
  for (const char* rule : {"paper", "unicode", "english", "uniform:3", "uniform:1",
                           "paper,max_length:4", "english,max_length:2"}) {
    const text::any_segmenter segmenter = text::parse_segmenter_rule(rule);
    for (int i = 0; i < 120; ++i) {
      const std::string text = random_text(alphabet, 24, random);
      const index_t n_gist = random.below(4);
      CAPTURE(text);
      CAPTURE(rule);
      CAPTURE(n_gist);
      const gist_layout whole = lay_out(text, segmenter, n_gist, first, tokenize, length_of);
      CHECK(whole.ids == expected_ids(segmenter, text, n_gist));
      check_counts(whole, n_gist);
      CHECK(std::is_sorted(whole.text_begin.begin(), whole.text_begin.end()));
      gist_layout_builder builder(n_gist, first, length_of);
      text::any_segmenter streamed = segmenter;
      std::string_view rest = text;
      while (!rest.empty()) {
        const auto n = static_cast<std::size_t>(random.below(6));
        builder.append_text(streamed, rest.substr(0, n), tokenize);
        rest.remove_prefix(std::min(n, rest.size()));
      }
      builder.finish_text(streamed, tokenize);
      CHECK(same(builder.layout(), whole));
    }
  }
}

TEST_CASE("layout: a sentence that only the end closes stays open where the text goes on") {
  const std::string_view prompt = "One. Two.";
  const gist_layout closed = lay_out(prompt, text::paper{}, 2, first, tokenize);
  text::paper inner;
  text::open_end segmenter(inner);
  gist_layout_builder builder(2, first);
  builder.append_text(segmenter, prompt, tokenize);
  builder.finish_text(segmenter, tokenize);
  const gist_layout open = builder.take();
  CHECK(closed.n_sentences == 2);
  CHECK(open.n_sentences == 1);
  CHECK(open.is_gist.back() == 0);
  // What the segmenter beneath has seen goes on: the next piece closes the sentence.
  std::vector<boundary> found;
  inner.push(" Three", found);
  CHECK(found.size() == 1);
}

TEST_CASE("layout: without gists it is the plain sequence in one piece") {
  const gist_layout layout = lay_out("Abc. De.", text::paper{}, 0, first, tokenize);
  CHECK(layout.ids == tokens_of("Abc. De."));
  CHECK(layout.n_gist == 0);
  CHECK(layout.n_sentences == 0);
  CHECK(lay_out("abcdef", text::uniform(1), 0, first, tokenize).ids == tokens_of("abcdef"));
  CHECK(lay_out("", text::paper{}, 4, first, tokenize).ids.empty());
}

TEST_CASE("layout: a limit that meets a boundary gives one group") {
  const gist_layout layout =
      lay_out("abc. ab. x", text::max_length{text::paper{}, 2}, 1, first, tokenize, length_of);
  const ids one = tokens_of("abc. ");
  const ids two = tokens_of("ab. ");
  const ids rest = tokens_of("x");
  CHECK(layout.ids == ids{one[0], one[1], first, one[2], first, two[0], two[1], first, rest[0]});
  CHECK(layout.text_begin == indices{0, 2, 4, 4, 5, 5, 7, 9, 9});
  // Exactly at the end of a text without a boundary there is a group too.
  CHECK(lay_out("abcd", text::uniform(2), 1, first, tokenize).ids ==
        ids{tokens_of("ab")[0], tokens_of("cd")[0], first});
  CHECK(lay_out("abcdef", text::uniform(2), 1, first, tokenize).ids ==
        ids{tokens_of("ab")[0], tokens_of("cd")[0], first, tokens_of("ef")[0]});
}

TEST_CASE("layout: verbatim tokens around texts") {
  gist_layout_builder builder(1, first, length_of);
  text::max_length segmenter{text::paper{}, 3};
  const ids open = {1, 2, 3, 4, 5};
  builder.append_verbatim(open);
  CHECK(builder.layout().ids == open);  // No group between them, whatever the limit.
  builder.append_text(segmenter, "ab. ", tokenize);
  CHECK_THROWS_WITH_AS(
      builder.append_verbatim(open),
      "gist layout: verbatim tokens inside a text, 0 bytes of it not laid out, want finish_text "
      "first",
      argument_error);
  builder.append_text(segmenter, "cd", tokenize);
  builder.finish_text(segmenter, tokenize);
  builder.append_verbatim(ids{9});
  builder.append_text(segmenter, "e.", tokenize);
  builder.finish_text(segmenter, tokenize);
  const gist_layout layout = builder.take();
  const ids ab = tokens_of("ab. ");
  const ids e = tokens_of("e. ");
  CHECK(layout.ids == ids{1, 2, 3, 4, 5, first, ab[0], ab[1], first, tokens_of("cd")[0], 9, e[0],
                          first, e[1], first});
  CHECK(layout.text_begin == indices{-1, -1, -1, -1, -1, 0, 0, 2, 4, 4, -1, 6, 8, 8, 8});
  check_counts(layout, 1);
}

TEST_CASE("layout: a gist's name in the text counts as a gist") {
  const gist_layout layout = lay_out("ab<g>cd. ef. ", text::paper{}, 2, first, tokenize, length_of);
  check_counts(layout, 2);
  CHECK(layout.n_gist == 5);
  CHECK(layout.n_sentences == 2);
  CHECK(layout.is_gist[1] == 1);
  // The group is complete with the first gist behind the first sentence.
  CHECK(layout.sentence == std::vector<std::int32_t>{0, 0, 0, 0, 0, 1, 1, 1, 1, 2});
}

TEST_CASE("layout: a long text without a boundary is laid out in linear time") {
  const std::string text(1 << 20, 'x');
  gist_layout_builder builder(4, first);
  text::max_length segmenter{text::paper{}, 100};
  for (const char& c : text) builder.append_text(segmenter, {&c, 1}, tokenize);
  builder.finish_text(segmenter, tokenize);
  CHECK(builder.layout().n_regular == (1 << 19));
  CHECK(builder.layout().n_sentences == (1 << 19) / 100);
}

TEST_CASE("layout: arguments and failing tokenizers") {
  CHECK_THROWS_WITH_AS(gist_layout_builder(-1, 5), "gist layout: n_gist is -1, want 0 or more",
                       argument_error);
  CHECK_THROWS_AS(gist_layout_builder(1, -1), argument_error);
  CHECK_THROWS_AS(gist_layout_builder(2, std::numeric_limits<token_t>::max()), argument_error);
  CHECK_NOTHROW(gist_layout_builder(1, std::numeric_limits<token_t>::max()));
  const auto failing = [](std::string_view, ids&) { throw std::runtime_error("no such byte"); };
  CHECK_THROWS_WITH(lay_out("a. ", text::paper{}, 1, first, failing), "no such byte");
}
