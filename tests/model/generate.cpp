// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Sampling, and decoding with the segmenter closing sentences, on random models.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/model/generate.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/text/paper.hpp>
#include <gistkv/text/unicode_sentences.hpp>
#include <gistkv/text/uniform.hpp>

#include "support/random_model.hpp"

namespace {

using namespace gistkv;
using backend = backends::eigen<double>;
using session_type = model::session<backend, double>;

/// Thirty tokens, some of them with a boundary inside.
struct toy_codec {
  std::vector<std::string> pieces{" ",  ".",  "a",   "b",    " a", " b", ".\n", "! ", "?",  "c",
                                  "\n", "d",  " c",  "e. f", "e",  "f",  " d",  "g",  ". ", "h",
                                  "i",  " e", "?\n", "j",    "k",  "l",  "m",   "n",  "o",  "p"};

  std::string_view piece(token_t t) const { return pieces.at(static_cast<std::size_t>(t)); }
  void encode(std::string_view text, std::vector<token_t>& out) const {
    for (const char c : text) {
      const auto at = std::find(pieces.begin(), pieces.end(), std::string(1, c));
      REQUIRE(at != pieces.end());
      out.push_back(static_cast<token_t>(at - pieces.begin()));
    }
  }
};

struct world {
  backend be{1};
  model::host_model source;
  model::gist_rows gists;
  model::transformer<backend, double> m;

  world(index_t n_gist, std::uint64_t seed)
      : source(test::random_model({.seed = seed})),
        gists(model::untrained_gist_rows(source, n_gist, 3)),
        m(be, source, gists) {}
};

TEST_CASE("generated sentences are closed where the segmenter says, in one forward each") {
  const toy_codec codec;
  random_generator random(21);
  index_t n_closed = 0;
  for (int i = 0; i < 40; ++i) {
    const index_t n_gist = 1 + random.below(4);
    const cache::cache_rule rule{n_gist, random.below(3), random.below(3), 0};
    const world w(n_gist, static_cast<std::uint64_t>(i) + 1);
    session_type s(w.m, cache::cache_options{rule});
    const std::vector<token_t> prompt{2, 3, 4};
    text::paper segmenter;
    std::string text;
    std::vector<text::boundary> none;
    for (const token_t t : prompt) text += codec.piece(t);
    segmenter.push(text, none);
    REQUIRE(none.empty());
    std::vector<index_t> rows_prompt;
    s.read(prompt, &rows_prompt);
    model::sampler sample({.temperature = 1.5, .seed = static_cast<std::uint64_t>(i)});
    model::generator generator(s, codec, segmenter, {.max_tokens = 150},
                               static_cast<index_t>(text.size()), 3);
    std::string streamed;
    const auto out = generator.run(sample, [&](std::string_view t) { streamed += t; });
    CHECK(streamed == out.text);
    CHECK(out.reason == model::stop_reason::max_tokens);
    CHECK(out.n_regular >= 150);  // White space in front of a boundary may be several tokens.
    CHECK(out.n_regular < 153);
    REQUIRE(out.rows_after.size() == out.ids.size());

    // The rows are those of the formula at every step, as if rows came one at a time.
    cache::row_ledger books(rule);
    for (std::size_t k = 0; k < prompt.size(); ++k) {
      books.append(false);
      CHECK(rows_prompt[k] == books.rows_held());
    }
    std::vector<index_t> gist_offsets;
    std::size_t n_forwards = 0;
    for (std::size_t k = 0; k < out.ids.size(); ++k) {
      const bool gist = w.m.is_gist(out.ids[k]);
      const auto p = books.append(gist);
      CHECK(out.rows_after[k] == books.rows_held());
      if (!gist) text += codec.piece(out.ids[k]);
      if (p.closes) {
        gist_offsets.push_back(static_cast<index_t>(text.size()));
        ++n_forwards;
      }
    }
    CHECK(s.cache().ledger().rows() == books.rows());
    n_closed += books.n_closed();
    // Each gist group stands at a boundary of the whole text, and none is missing.
    std::vector<text::boundary> boundaries;
    text::paper().push(text, boundaries);
    std::vector<index_t> offsets;
    for (const auto& b : boundaries) offsets.push_back(b.offset);
    CHECK(gist_offsets == offsets);
    // Nothing was fed twice or lost: reading the ids anew gives the same logits.
    session_type again(w.m, cache::cache_options{rule});
    std::vector<token_t> all = prompt;
    all.insert(all.end(), out.ids.begin(), out.ids.end());
    again.read(all);
    for (std::size_t k = 0; k < again.logits().size(); ++k) {
      CHECK(std::abs(again.logits()[k] - s.logits()[k]) < 1e-5F);
    }
    CHECK(out.n_forwards <= static_cast<index_t>(out.ids.size()));
  }
  CHECK(n_closed > 200);
}

TEST_CASE("a length limit closes sentences without punctuation") {
  const toy_codec codec;
  const world w(2, 5);
  session_type s(w.m, cache::cache_options{{2, 0, 1, 0}});
  s.read(std::vector<token_t>{2});
  model::sampler sample({.temperature = 1.0, .seed = 4});
  model::generator generator(s, codec, text::uniform(7), {.max_tokens = 90}, 1, 1);
  const auto out = generator.run(sample);
  index_t regular = 1;
  for (const token_t t : out.ids) {
    if (t == w.m.first_gist()) {
      CHECK(regular == 7);
      regular = 0;
    } else if (!w.m.is_gist(t)) {
      ++regular;
    }
  }
  CHECK(s.cache().ledger().n_closed() == (90 + 1 - 1) / 7);
}

TEST_CASE("gists do not count as written tokens, but as rows for which there is room") {
  const toy_codec codec;
  const world w(3, 5);
  auto run = [&](const model::generate_options& options) {
    session_type s(w.m, cache::cache_options{{3, 0, 1, 0}});
    s.read(std::vector<token_t>{2});
    model::sampler sample({.temperature = 1.0, .seed = 4});
    model::generator generator(s, codec, text::uniform(7), options, 1, 1);
    return generator.run(sample);
  };
  const auto whole = run({.max_tokens = 40});
  CHECK(whole.reason == model::stop_reason::max_tokens);
  CHECK(whole.n_regular == 40);
  // The last token of each sentence of 7 shows that there is one too many, of which 5 closed.
  CHECK(whole.ids.size() == 40 + 5 * 3);
  const auto cut = run({.max_tokens = 40, .max_rows = 20});
  CHECK(cut.reason == model::stop_reason::max_rows);
  CHECK(to_string(cut.reason) == "max_rows");
  CHECK(cut.ids.size() >= 20);
  CHECK(cut.ids.size() < 20 + 3);
  CHECK(std::equal(cut.ids.begin(), cut.ids.end(), whole.ids.begin()));
}

TEST_CASE("the model may close a sentence by gist 0, and only so") {
  const toy_codec codec;
  const world w(3, 6);
  session_type s(w.m, cache::cache_options{{3, 0, 1, 0}});
  s.read(std::vector<token_t>{2, 3});
  model::sampler sample({.temperature = 3.0, .seed = 5});
  model::generator generator(s, codec, text::paper{},
                             {.max_tokens = 300, .close = model::close_rule::model});
  const auto out = generator.run(sample);
  index_t expected = 0;
  for (const token_t t : out.ids) {
    if (w.m.is_gist(t)) {
      CHECK(t == w.m.first_gist() + expected);
      expected = (expected + 1) % 3;
    } else {
      CHECK(expected == 0);
    }
  }
  CHECK(s.cache().ledger().n_closed() > 0);
}

TEST_CASE("generation stops at tokens and at texts, which it does not show") {
  const toy_codec codec;
  const world w(1, 7);
  auto run = [&](const model::generate_options& options, std::string* streamed) {
    session_type s(w.m, cache::cache_options{{0, 0, 1, 0}});
    s.read(std::vector<token_t>{2, 3});
    model::sampler sample({.temperature = 1.0, .seed = 6});
    model::generator generator(s, codec, text::paper{}, options);
    return generator.run(sample, [&](std::string_view t) {
      if (streamed != nullptr) *streamed += t;
    });
  };
  const auto whole = run({.max_tokens = 60}, nullptr);
  REQUIRE(whole.ids.size() == 60);
  CHECK(whole.reason == model::stop_reason::max_tokens);
  const token_t stop = whole.ids[30];
  const auto first = std::find(whole.ids.begin(), whole.ids.end(), stop) - whole.ids.begin();
  const auto by_token = run({.max_tokens = 60, .stop_tokens = {stop}}, nullptr);
  CHECK(by_token.reason == model::stop_reason::stop_token);
  CHECK(by_token.ids == std::vector<token_t>(whole.ids.begin(), whole.ids.begin() + first));
  for (std::size_t begin = 0; begin + 9 < whole.text.size(); begin += 4) {
    const std::string needle = whole.text.substr(begin, 3);
    std::string streamed;
    const auto by_text = run({.max_tokens = 60, .stop_texts = {"zzz", needle}}, &streamed);
    CHECK(by_text.reason == model::stop_reason::stop_text);
    CHECK(by_text.text == whole.text.substr(0, whole.text.find(needle)));
    CHECK(streamed == by_text.text);
  }
}

/// In the place of a model: says the same tokens over and over. Gists are read, and not counted.
struct parrot {
  std::vector<token_t> says;
  index_t gists = 0;
  std::size_t fails_at = static_cast<std::size_t>(-1);  ///< Once, at so many tokens read.
  std::size_t n_read = 0;
  mutable std::vector<float> row = {};

  void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after) {
    if (n_read == fails_at) {
      fails_at = static_cast<std::size_t>(-1);
      throw argument_error("no room");
    }
    n_read += static_cast<std::size_t>(std::count_if(
        tokens.begin(), tokens.end(), [this](token_t t) { return t < first_gist(); }));
    rows_after->insert(rows_after->end(), tokens.size(), 0);
  }
  std::span<const float> logits() const {
    row.assign(static_cast<std::size_t>(30 + gists), 0.0F);
    row[static_cast<std::size_t>(says[n_read % says.size()])] = 1.0F;
    return row;
  }
  index_t n_gist() const { return gists; }
  token_t first_gist() const { return 30; }
};

TEST_CASE("the first stop text in the text ends it, in every run") {
  const toy_codec codec;
  // "a", "b", "e. f", "c": the token of many letters has both stop texts.
  parrot bird{{2, 3, 13, 9}};
  model::sampler greedy;
  model::generator generator(bird, codec, text::paper{},
                             {.max_tokens = 20, .stop_texts = {"f", ". "}});
  for (int run = 0; run < 2; ++run) {
    const auto out = generator.run(greedy);
    CHECK(out.reason == model::stop_reason::stop_text);
    CHECK(out.text == (run == 0 ? "abe" : "cabe"));
  }
}

TEST_CASE("a read that failed is as if it had not been tried") {
  const toy_codec codec;
  parrot bird{{2, 1}, 1, 1};  // "a", and then a full stop for which there is no room.
  model::sampler greedy;
  model::generator writer(bird, codec, text::paper{}, {.max_tokens = 4});
  CHECK_THROWS_AS(writer.run(greedy), argument_error);
  bird.says = {2, 0, 3, 1, 0};  // "a b. "
  const auto out = writer.run(greedy);
  CHECK(out.ids == std::vector<token_t>{0, 3, 1, 0, 30});
}

/// Three bytes of a character in two tokens, and a letter.
struct cut_character {
  std::string_view piece(token_t t) const {
    constexpr std::array<std::string_view, 5> pieces{"Hi.", " \xE4\xB8", "\xAD", "a", " "};
    return pieces.at(static_cast<std::size_t>(t));
  }
  void encode(std::string_view, std::vector<token_t>& out) const { out.push_back(4); }
};

TEST_CASE("a boundary that a character's last byte shows does not cost that byte") {
  parrot bird{{0, 1, 2, 3}, 1};
  model::sampler greedy;
  const cut_character codec;
  model::generator writer(bird, codec, text::unicode_sentences{}, {.max_tokens = 4});
  const auto out = writer.run(greedy);
  CHECK(out.text ==
        "Hi. \xE4\xB8\xAD"
        "a");
  CHECK(out.ids == std::vector<token_t>{0, 1, 2, 30, 3});
}

/// Says gist 0 a little rather than any of ten words, always.
struct closer {
  index_t n_closed = 0;
  std::vector<float> row = std::vector<float>(11, 1.0F);
  void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after) {
    n_closed += std::count(tokens.begin(), tokens.end(), first_gist());
    rows_after->insert(rows_after->end(), tokens.size(), 0);
    row.back() = 1.2F;
  }
  std::span<const float> logits() const { return row; }
  index_t n_gist() const { return 1; }
  token_t first_gist() const { return 10; }
};

TEST_CASE("the penalty for words does not keep a model from closing sentences") {
  closer target;
  const toy_codec codec;
  model::sampler greedy({.temperature = 0, .repeat_penalty = 1.3});
  model::generator writer(target, codec, text::paper{},
                          {.max_tokens = 10, .close = model::close_rule::model});
  const auto out = writer.run(greedy);
  CHECK(out.n_regular == 10);
  CHECK(target.n_closed == 9);
}

TEST_CASE("samplers follow their definitions") {
  CHECK(model::sampler({.temperature = 0})(std::vector<float>{1.0F, INFINITY, NAN}) == 1);
  for (int i = 0; i < 9; ++i) {
    CHECK(model::sampler({.temperature = 1, .seed = static_cast<std::uint64_t>(i)})(
              std::vector<float>{1.0F, INFINITY, -INFINITY}) == 1);
  }
  CHECK_THROWS_AS(model::sampler()(std::vector<float>{NAN, -INFINITY}), argument_error);
  const std::vector<float> logits{0.0F, 2.0F, 1.0F, 2.0F, -INFINITY, NAN};
  CHECK(model::sampler()(logits) == 1);  // Of equal logits the first.
  auto shares = [&](model::sampler_options o) {
    model::sampler sample(o);
    std::vector<double> counts(logits.size(), 0);
    for (int i = 0; i < 20000; ++i) counts[static_cast<std::size_t>(sample(logits))] += 1.0 / 20000;
    return counts;
  };
  const double total = 1 + 2 * std::exp(2.0) + std::exp(1.0);
  const auto plain = shares({.temperature = 1.0, .seed = 1});
  CHECK(std::abs(plain[0] - 1 / total) < 0.01);
  CHECK(std::abs(plain[1] - std::exp(2.0) / total) < 0.015);
  CHECK(std::abs(plain[2] - std::exp(1.0) / total) < 0.015);
  CHECK(plain[4] + plain[5] == 0);
  const auto warm = shares({.temperature = 2.0, .seed = 1});
  const double warm_total = 1 + 2 * std::exp(1.0) + std::exp(0.5);
  CHECK(std::abs(warm[1] - std::exp(1.0) / warm_total) < 0.015);
  CHECK(std::abs(warm[2] - std::exp(0.5) / warm_total) < 0.015);
  const auto top_k = shares({.temperature = 1.0, .top_k = 2, .seed = 2});
  CHECK(std::abs(top_k[1] - 0.5) < 0.02);
  CHECK(std::abs(top_k[3] - 0.5) < 0.02);
  // exp(2) twice is 0.80 of the whole: 0.85 needs the third token, 0.75 does not.
  CHECK(shares({.temperature = 1.0, .top_p = 0.75, .seed = 3})[2] == 0);
  const auto top_p = shares({.temperature = 1.0, .top_p = 0.85, .seed = 3});
  CHECK(top_p[2] > 0.1);
  CHECK(top_p[0] == 0);
  // Relative to the best, token 2 is exp(-1) = 0.37 likely and token 0 exp(-2) = 0.14.
  const auto min_p = shares({.temperature = 1.0, .min_p = 0.2, .seed = 4});
  CHECK(min_p[2] > 0.1);
  CHECK(min_p[0] == 0);
  model::sampler penal({.repeat_penalty = 4.0});
  const std::vector<token_t> seen{1, 1, 3};
  CHECK(penal(logits, seen) == 2);
  const std::vector<float> negative{-1.0F, -2.0F};
  const std::vector<token_t> zero{0};
  CHECK(penal(negative, zero) == 1);
  model::sampler a({.temperature = 1.0, .seed = 9});
  model::sampler b({.temperature = 1.0, .seed = 9});
  for (int i = 0; i < 100; ++i) CHECK(a(logits) == b(logits));
  CHECK_THROWS_AS(model::sampler()(std::vector<float>{NAN, -INFINITY}), argument_error);
  CHECK_THROWS_AS(model::sampler({.temperature = -1}), argument_error);
  CHECK_THROWS_AS(model::sampler({.top_p = 0}), argument_error);
  CHECK_THROWS_AS(model::sampler({.min_p = 2}), argument_error);
  CHECK_THROWS_AS(model::sampler({.top_k = -1}), argument_error);
  CHECK_THROWS_AS(model::sampler({.repeat_penalty = 0}), argument_error);
}

}  // namespace
