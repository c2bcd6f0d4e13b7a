// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/text/paper.hpp>
#include <gistkv/train/schedule.hpp>
#include <gistkv/train/token_stream.hpp>

namespace gistkv::test {

namespace {

/// A token a byte.
void bytes(std::string_view text, std::vector<token_t>& out) {
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
}

std::vector<std::int32_t> stream_of(const std::vector<std::string>& documents) {
  std::vector<std::int32_t> stream;
  for (const std::string& text : documents) {
    train::append_document(
        text::lay_out(text, text::paper{}, 1, 256, bytes, [](token_t) { return index_t{1}; }), {},
        stream);
  }
  return stream;
}

/// The characters of tokens, "|" for gist 0 and "." for the others, with "-" behind what is no
/// target.
std::string text_of(const train::sequence& s) {
  std::string text;
  for (std::size_t i = 0; i < s.tokens.size(); ++i) {
    const token_t t = s.tokens[i];
    std::string piece = t == 256 ? "|" : t > 256 ? "." : std::string(1, static_cast<char>(t));
    text += piece + (s.weights[i] == 0.0F ? "-" : "");
  }
  return text;
}

/// Windows that follow each other without a gap and hold no more rows than they may.
std::vector<train::window> checked_windows(const std::vector<std::int32_t>& stream,
                                           const train::window_options& o) {
  const auto windows = train::cut_windows(stream, o);
  std::size_t next = 0;
  for (const train::window& w : windows) {
    CHECK(w.begin == next);
    next = w.end;
    index_t rows = 0;
    for (const train::sequence& s : train::sequences_of(stream, w, o)) {
      rows += static_cast<index_t>(s.tokens.size());
    }
    CHECK(rows <= o.length);
  }
  CHECK(next == stream.size());
  return windows;
}

}  // namespace

TEST_CASE("a document becomes tokens, sentence ends and its end") {
  using train::document_end;
  using train::sentence_end;
  // The rule inserts a space behind a full stop that ends the text.
  CHECK(stream_of({"a. b."}) == std::vector<std::int32_t>{'a', '.', ' ', sentence_end, 'b', '.',
                                                          train::read_token(' '), sentence_end,
                                                          document_end});
  CHECK(stream_of({"a", "b"}) == std::vector<std::int32_t>{'a', document_end, 'b', document_end});
}

TEST_CASE("what is not to be learned is read, and no target") {
  const auto rows =
      text::lay_out("a. b.", text::paper{}, 1, 256, bytes, [](token_t) { return index_t{1}; });
  std::vector<std::uint8_t> learned(rows.ids.size(), 0);
  learned[4] = 1;  // b: a . space gist b
  std::vector<std::int32_t> stream;
  train::append_document(rows, learned, stream);
  CHECK(stream == std::vector<std::int32_t>{train::read_token('a'), train::read_token('.'),
                                            train::read_token(' '), train::sentence_end, 'b',
                                            train::read_token('.'), train::read_token(' '),
                                            train::sentence_end, train::document_end});
  train::window_options o;
  o.n_gist = 1;
  o.first_gist = 256;
  o.gist_targets = false;
  const auto found = train::sequences_of(stream, {0, stream.size()}, o);
  REQUIRE(found.size() == 1);
  CHECK(text_of(found[0]) == "a-.- -|-b.- -|-");
  CHECK(train::total_weight(found) == 1);
  learned.pop_back();
  CHECK_THROWS_AS(train::append_document(rows, learned, stream), argument_error);
}

TEST_CASE("windows begin at sentences, and no text is lost") {
  const auto stream = stream_of({"ab. cd. efg. h.", "ij. kl", "m. n. o. p. q. r. s. t. u."});
  for (const index_t n_gist : {1, 2, 4}) {
    for (const index_t length : {10, 13, 17, 64}) {
      CAPTURE(n_gist);
      CAPTURE(length);
      train::window_options o;
      o.n_gist = n_gist;
      o.first_gist = 256;
      o.length = length;
      std::string all;
      for (const train::window& w : checked_windows(stream, o)) {
        for (const train::sequence& s : train::sequences_of(stream, w, o)) {
          CHECK(s.weights.front() == 0.0F);
          for (std::size_t i = 0; i < s.tokens.size(); ++i) {
            if (s.tokens[i] < 256) all += static_cast<char>(s.tokens[i]);
          }
        }
      }
      // Inserted spaces included: one a document that ends with a full stop.
      CHECK(all == "ab. cd. efg. h. ij. klm. n. o. p. q. r. s. t. u. ");
    }
  }
}

TEST_CASE("targets: gists if they count, never the first token or an inserted space") {
  const auto stream = stream_of({"ab. c."});
  train::window_options o;
  o.n_gist = 2;
  o.first_gist = 256;
  const train::window whole{0, stream.size()};
  CHECK(text_of(train::sequences_of(stream, whole, o).front()) == "a-b. |.c. -|.");
  o.gist_targets = false;
  CHECK(text_of(train::sequences_of(stream, whole, o).front()) == "a-b. |-.-c. -|-.-");
  o.bos = 'B';
  CHECK(text_of(train::sequences_of(stream, whole, o).front()) == "B-ab. |-.-c. -|-.-");
  CHECK(train::total_weight(train::sequences_of(stream, whole, o)) == 6.0);
}

TEST_CASE("tokens longer than their text are targets all the same") {
  const text::paper before{{.placement = text::placement::before_whitespace}};
  const auto longer = [](token_t t) { return index_t{t == 'a' ? 3 : 1}; };
  std::vector<std::int32_t> stream;
  train::append_document(text::lay_out("ab. c", before, 1, 256, bytes, longer), {}, stream);
  CHECK(stream == std::vector<std::int32_t>{'a', 'b', '.', train::sentence_end, ' ', 'c',
                                            train::document_end});
}

TEST_CASE("a sentence that is longer than a window is cut") {
  const auto stream = stream_of({std::string(50, 'x')});
  train::window_options o;
  o.n_gist = 2;
  o.first_gist = 256;
  o.length = 20;
  const auto windows = train::cut_windows(stream, o);
  CHECK(windows.size() == 3);
  CHECK_THROWS_AS(train::cut_windows(stream, {.n_gist = 4, .first_gist = 256, .length = 5}),
                  argument_error);
  // Its gists, if they do not fit any more, are no sample of their own, with a first token or
  // without.
  for (const bool bos : {false, true}) {
    o.length = bos ? 22 : 21;
    if (bos) o.bos = 'B';
    index_t n_sequences = 0;
    const auto two = stream_of({std::string(19, 'x') + ". " + std::string(19, 'y') + ". z"});
    for (const train::window& w : train::cut_windows(two, o)) {
      for (const train::sequence& s : train::sequences_of(two, w, o)) {
        CHECK(std::any_of(s.tokens.begin() + (bos ? 1 : 0), s.tokens.end(),
                          [](token_t t) { return t < 256; }));
        ++n_sequences;
      }
    }
    CHECK(n_sequences > 0);
  }
}

TEST_CASE("a document that fits into a window is not cut") {
  const std::vector<std::string> texts = {"ab. cd. ef", "g. h", "ij. kl. m", "nopqrst. u. vwx. yz",
                                          "a"};
  const auto stream = stream_of(texts);
  for (const bool bos : {false, true}) {
    for (const index_t length : {12, 14, 17, 20, 27}) {
      CAPTURE(bos);
      CAPTURE(length);
      train::window_options o;
      o.n_gist = 2;
      o.first_gist = 256;
      o.length = length;
      if (bos) o.bos = 'B';
      for (const train::window& w : checked_windows(stream, o)) {
        if (w.begin == 0 || stream[w.begin - 1] == train::document_end) continue;
        // What begins in the middle of a document is of one that is too long for any window.
        std::size_t first = w.begin;
        while (first > 0 && stream[first - 1] != train::document_end) --first;
        index_t all = bos ? 1 : 0;
        for (std::size_t i = first; stream[i] != train::document_end; ++i) {
          all += stream[i] == train::sentence_end ? 2 : 1;
        }
        CHECK(all > length);
      }
    }
  }
}

TEST_CASE("documents take turns in how many recent sentences they keep") {
  const std::vector<std::string> texts = {"ab. cd. efg. h.", "i", "j", "kl. mn. o.", "p. q. r. s."};
  const auto stream = stream_of(texts);
  for (const index_t length : {8, 11, 15, 100}) {
    CAPTURE(length);
    train::window_options o;
    o.n_gist = 2;
    o.first_gist = 256;
    o.length = length;
    o.recent = {4, 0, 1};
    std::string all;
    for (const train::window& w : train::cut_windows(stream, o)) {
      for (const train::sequence& s : train::sequences_of(stream, w, o)) {
        // Its first letter says which document it is of; texts of one token are dropped.
        const char first = static_cast<char>(s.tokens.front());
        std::size_t document = 0;
        while (texts[document].find(first) == std::string::npos) ++document;
        CAPTURE(first);
        REQUIRE(s.recent.has_value());
        CHECK(*s.recent == o.recent[document % 3]);
        all += first;
      }
    }
    CHECK(all.find('k') != std::string::npos);
    CHECK(all.find('p') != std::string::npos);
    o.recent.clear();
    CHECK(!train::sequences_of(stream, train::cut_windows(stream, o).front(), o)[0].recent);
  }
}

TEST_CASE("an order has every window once and depends on seed and epoch only") {
  const auto order = train::shuffled(100, 3, 0);
  CHECK(order == train::shuffled(100, 3, 0));
  CHECK(order != train::shuffled(100, 3, 1));
  CHECK(order != train::shuffled(100, 4, 0));
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size(); ++i) CHECK(sorted[i] == static_cast<std::int32_t>(i));
}

TEST_CASE("schedules") {
  using train::schedule_kind;
  const train::schedule cosine{schedule_kind::cosine, 1.0, 0.5, 10, 110};
  CHECK(cosine.rate(1) == 0.1);
  CHECK(cosine.rate(10) == 1.0);
  CHECK(std::abs(cosine.rate(60) - 0.75) <= 1e-12);
  CHECK(std::abs(cosine.rate(110) - 0.5) <= 1e-12);
  const train::schedule linear{schedule_kind::linear, 1.0, 0.0, 0, 100};
  CHECK(std::abs(linear.rate(25) - 0.75) <= 1e-12);
  CHECK(linear.rate(100) == 0.0);
  const train::schedule constant{schedule_kind::constant, 1.0, 0.0, 0, 100};
  CHECK(constant.rate(100) == 1.0);
  CHECK(train::clip_factor(4.0, 1.0) == 0.25);
  CHECK(train::clip_factor(0.5, 1.0) == 1.0);
  CHECK(train::clip_factor(4.0, 0.0) == 1.0);
}

}  // namespace gistkv::test
