// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/io/byte_alphabet.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <io/small_tokenizer.hpp>

using namespace gistkv;
using namespace std::string_literals;
using io::special_tokens;
using io::token_kind;
using io::tokenizer;
using io::tokenizer_data;
using test::small_tokenizer_data;

namespace {

using ids = std::vector<token_t>;

std::vector<std::string> pieces(const tokenizer& t, std::string_view text,
                                special_tokens mode = special_tokens::parse) {
  std::vector<std::string> found;
  for (const token_t id : t.encode(text, mode)) found.emplace_back(t.piece(id));
  return found;
}

using strings = std::vector<std::string>;

/// Merging by its definition: search all pairs for the smallest rank, join the leftmost, repeat.
strings merged_slowly(const tokenizer_data& data, std::string_view word) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t rank = 0; rank < data.merges.size(); ++rank) {
    const auto& m = data.merges[rank];
    ranks[{m.substr(0, m.find(' ')), m.substr(m.find(' ') + 1)}] = rank;
  }
  strings symbols;
  for (const char c : word) symbols.push_back(io::to_byte_alphabet({&c, 1}));
  for (;;) {
    std::size_t best = data.merges.size();
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        at = i;
      }
    }
    if (best == data.merges.size()) return symbols;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

}  // namespace

TEST_CASE("byte alphabet: 256 characters, there and back") {
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  CHECK(io::from_byte_alphabet(io::to_byte_alphabet(all)) == all);
  CHECK(io::to_byte_alphabet(" \n\x7F\xAD~") == "\u0120\u010a\u0121\u0143~");
  CHECK_FALSE(io::from_byte_alphabet("a b"));
  CHECK_FALSE(io::from_byte_alphabet("\u0144"));
  CHECK_FALSE(io::from_byte_alphabet("\xFF"));
}

TEST_CASE("tokenizer: merges by rank, the leftmost pair first") {
  const tokenizer t(small_tokenizer_data());
  CHECK(pieces(t, "the then") == strings{"the", " the", "n"});
  CHECK(pieces(t, "aaaaa") == strings{"aaaa", "a"});
  CHECK(pieces(t, "aaa") == strings{"aa", "a"});
  CHECK(t.encode("").empty());
  CHECK(pieces(t, "\0a"s) == strings{"\0"s, "a"});
  const std::string invalid = "\xFFthe\xC3";
  CHECK(t.decode(t.encode(invalid)) == invalid);
}

TEST_CASE("tokenizer: merging equals its definition, for short words and long ones") {
  const tokenizer_data data = small_tokenizer_data();
  const tokenizer t(data);
  random_generator random(11);
  constexpr std::string_view letters = "aatheinr";
  for (int round = 0; round < 600; ++round) {
    std::string word;
    for (index_t n = 1 + random.below(round % 3 == 0 ? 160 : 20); n > 0; --n) {
      word.push_back(letters[static_cast<std::size_t>(random.below(8))]);
    }
    CHECK(pieces(t, word) == merged_slowly(data, word));
  }
}

TEST_CASE("tokenizer: a megabyte without a space is no trouble") {
  const tokenizer t(small_tokenizer_data());
  const std::string word(1 << 20, 'a');
  const auto found = t.encode(word);
  CHECK(found.size() == word.size() / 4);
  CHECK(t.decode(found) == word);
  const std::string marks(1 << 20, '<');  // Each might begin a special token.
  CHECK(t.encode(marks).size() == marks.size());
}

TEST_CASE("tokenizer: text long enough for the cache of words gives the same ids") {
  const tokenizer t(small_tokenizer_data());
  random_generator random(5);
  std::string text;
  ids expected;
  while (text.size() < 20000) {
    std::string word = " ";
    for (index_t n = 1 + random.below(6); n > 0; --n) {
      word.push_back("thein\xC3"[random.below(6)]);
    }
    text += word;
    t.encode(word, expected);
  }
  CHECK(t.encode(text) == expected);
}

TEST_CASE("tokenizer: threads may share one") {
  const tokenizer t(small_tokenizer_data());
  std::string text;
  for (int i = 0; i < 3000; ++i) text += " then the <|end|> aaa" + std::to_string(i);
  const auto expected = t.encode(text);
  std::vector<ids> found(4);
  std::vector<std::thread> threads;
  for (auto& f : found) threads.emplace_back([&] { t.encode(text, f); });
  for (auto& thread : threads) thread.join();
  for (const auto& f : found) CHECK(f == expected);
}

TEST_CASE("tokenizer: special tokens in text") {
  const tokenizer t(small_tokenizer_data());
  CHECK(pieces(t, "a<|end|>the<|end|>") == strings{"a", "<|end|>", "the", "<|end|>"});
  CHECK(pieces(t, "<|end|", special_tokens::parse) == strings{"<", "|", "e", "n", "d", "|"});
  CHECK(pieces(t, "a<|end|>", special_tokens::as_text) ==
        strings{"a", "<", "|", "e", "n", "d", "|", ">"});
  // Of two at one place the longest; user-defined ones are found in any text.
  CHECK(pieces(t, "<|end|>+<|") == strings{"<|end|>+", "<", "|"});
  CHECK(pieces(t, "x<tab>y", special_tokens::as_text) == strings{"x", "<tab>", "y"});
  // Unused and unknown tokens are never found.
  CHECK(pieces(t, "<unk>") == strings{"<", "u", "n", "k", ">"});
  CHECK(pieces(t, "[PAD]").size() == 5);
  CHECK(t.is_special(*t.find("<|end|>")));
  CHECK_FALSE(t.is_special(*t.find("<tab>")));
  CHECK_FALSE(t.is_special(*t.find("the")));
}

TEST_CASE("tokenizer: white space beside a token that swallows it") {
  tokenizer_data data = small_tokenizer_data();
  const auto id = [&](const char* text) {
    return static_cast<token_t>(std::find(data.tokens.begin(), data.tokens.end(), text) -
                                data.tokens.begin());
  };
  data.strip_left = {id("<|end|>")};
  data.strip_right = {id("<tab>")};
  const tokenizer t(data);
  CHECK(pieces(t, "a \u3000\n<|end|> b") == strings{"a", "<|end|>", " ", "b"});
  CHECK(pieces(t, "a <tab> \u3000\nb") == strings{"a", " ", "<tab>", "b"});
  CHECK(pieces(t, "<tab>  <|end|>") == strings{"<tab>", "<|end|>"});
  CHECK(pieces(t, " <|end|>", special_tokens::as_text).size() == 8);
}

TEST_CASE("tokenizer: a byte without a token vanishes and its neighbours merge") {
  tokenizer_data data = small_tokenizer_data({'x', 0xC3});
  const tokenizer t(data);
  CHECK(pieces(t, "txhe") == strings{"the"});
  CHECK(pieces(t, "x").empty());
  CHECK(pieces(t, "\u00e9") == strings{"\xA9"});

  data.unk = 0;
  data.unk_for_missing = true;
  CHECK(pieces(tokenizer(data), "txxhe") == strings{"t", "!", "!", "he"});
  data.fuse_unk = true;
  CHECK(pieces(tokenizer(data), "txxhe") == strings{"t", "!", "he"});
}

TEST_CASE("tokenizer: prefix space, whole words first, composition") {
  tokenizer_data data = small_tokenizer_data();
  data.add_prefix_space = true;
  CHECK(pieces(tokenizer(data), "the<|end|>the the") == strings{" the", "<|end|>", " the", " the"});
  CHECK(pieces(tokenizer(data), " the") == strings{" the"});
  CHECK(pieces(tokenizer(data), "").empty());

  data = small_tokenizer_data();
  CHECK(pieces(tokenizer(data), "neth") == strings{"n", "e", "th"});
  data.ignore_merges = true;  // "neth" is a token that no merges lead to.
  CHECK(pieces(tokenizer(data), "neth") == strings{"neth"});
  CHECK(pieces(tokenizer(data), "nethe") == strings{"n", "e", "the"});

  data = small_tokenizer_data();
  data.compose = true;
  CHECK(tokenizer(data).decode(tokenizer(data).encode("e\u0301<|end|>u\u0308")) ==
        "\u00e9<|end|>\u00fc");
}

TEST_CASE("tokenizer: pieces and ids, both ways") {
  const tokenizer t(small_tokenizer_data());
  for (token_t id = 0; id < t.vocab_size(); ++id) {
    CHECK(t.find(t.piece(id)) == id);
  }
  CHECK_FALSE(t.find("no such token"));
  CHECK(t.decode(ids{}).empty());
  CHECK(t.decode(ids{*t.find(" the"), *t.find("<|end|>")}) == " the<|end|>");
  const std::string beyond = std::to_string(t.vocab_size());
  CHECK_THROWS_WITH_AS(
      t.decode(ids{static_cast<token_t>(t.vocab_size())}),
      ("tokenizer: token " + beyond + " is outside the vocabulary of " + beyond).c_str(),
      argument_error);
  CHECK_THROWS_AS(t.piece(-1), argument_error);
  CHECK_THROWS_AS(t.is_special(1 << 30), argument_error);
}

TEST_CASE("tokenizer: tokens that end an answer") {
  tokenizer_data data = small_tokenizer_data();
  data.eos = 3;
  data.end_tokens = {7, 3};
  const tokenizer t(data);
  const auto ends = t.end_tokens();
  CHECK(ids(ends.begin(), ends.end()) == ids{3, 7, *t.find("<|end|>")});
  // A word that only looks like such a name is none.
  data.kinds[static_cast<std::size_t>(*t.find("<|end|>"))] = token_kind::user_defined;
  CHECK(tokenizer(data).end_tokens().size() == 2);
}

TEST_CASE("tokenizer: gists go behind the vocabulary") {
  const tokenizer base(small_tokenizer_data());
  const tokenizer t = base.with_gists(2);
  const auto n = static_cast<token_t>(base.vocab_size());
  CHECK(t.vocab_size() == n + 2);
  CHECK(base.vocab_size() == n);
  CHECK(t.find("<end_of_sentence_1>") == n + 1);
  CHECK(t.piece(n) == "<end_of_sentence_0>");
  CHECK(t.is_special(n + 1));
  CHECK(t.encode("a<end_of_sentence_0><end_of_sentence_1>") == ids{*t.find("a"), n, n + 1});
  CHECK(t.encode("<end_of_sentence>").size() > 1);
  CHECK(t.encode("<end_of_sentence_0>", special_tokens::as_text) ==
        base.encode("<end_of_sentence_0>"));
  CHECK(base.encode("<end_of_sentence_0>").size() > 1);

  const std::string more[] = {"<more>"};
  const tokenizer twice = t.with_special(more);
  CHECK(twice.encode("<end_of_sentence_1><more>") == ids{n + 1, n + 2});
  CHECK_THROWS_WITH_AS(t.with_gists(1), "tokenizer: '<end_of_sentence_0>' is a token already",
                       argument_error);
  CHECK_THROWS_AS(base.with_gists(0), argument_error);
  const std::string same[] = {"<more>", "<more>"};
  CHECK_THROWS_AS(base.with_special(same), argument_error);
  const std::string empty[] = {""};
  CHECK_THROWS_AS(base.with_special(empty), argument_error);
}

TEST_CASE("tokenizer: the fingerprint tells tokenizers apart") {
  const tokenizer_data data = small_tokenizer_data();
  const auto print = tokenizer(data).fingerprint();
  CHECK(tokenizer(data).fingerprint() == print);
  CHECK(tokenizer(data).with_gists(1).fingerprint() != print);
  CHECK(tokenizer(data).with_gists(1).fingerprint() != tokenizer(data).with_gists(2).fingerprint());
  const auto differs = [&](auto change) {
    tokenizer_data other = data;
    change(other);
    return tokenizer(other).fingerprint() != print;
  };
  CHECK(differs([](auto& d) { std::swap(d.merges[0], d.merges[1]); }));
  CHECK(differs([](auto& d) { std::swap(d.tokens[0], d.tokens[1]); }));
  CHECK(differs([](auto& d) { d.pre = "smollm"; }));
  CHECK(differs([](auto& d) { d.ignore_merges = true; }));
  CHECK(differs([](auto& d) { d.kinds.back() = token_kind::user_defined; }));
  CHECK_FALSE(differs([](auto& d) { d.chat_template = "x"; }));
}

TEST_CASE("tokenizer: data that is no vocabulary is refused by name") {
  const auto refusal = [](auto change) {
    tokenizer_data data = small_tokenizer_data();
    data.source = "model.gguf";
    change(data);
    try {
      const tokenizer t(data);
    } catch (const format_error& e) {
      return std::string(e.what());
    }
    return "accepted"s;
  };
  const tokenizer_data good = small_tokenizer_data();
  const std::string n = std::to_string(good.tokens.size());
  CHECK(refusal([](auto& d) { d.tokens.clear(); }) == "model.gguf: the vocabulary is empty");
  CHECK(refusal([](auto& d) { d.kinds.resize(3); }) ==
        "model.gguf: 3 token types for " + n + " tokens");
  CHECK(refusal([](auto& d) { d.tokens[7] = d.tokens[2]; }) ==
        "model.gguf: token '#' is in the vocabulary twice, as 2 and 7");
  CHECK(refusal([](auto& d) { d.merges.push_back("the zz"); }) ==
        "model.gguf: merge " + std::to_string(good.merges.size()) +
            " 'the zz' needs token 'zz', which is not in the vocabulary");
  CHECK(refusal([](auto& d) { d.merges.push_back("n n"); }).find("needs token 'nn'") !=
        std::string::npos);
  CHECK(refusal([](auto& d) { d.merges.push_back(d.merges[0]); }) ==
        "model.gguf: merge 't h' is listed twice");
  for (const char* merge : {"", " ", "a", "ab ", " a", "  "}) {
    CHECK(refusal([&](auto& d) { d.merges.push_back(merge); }).starts_with("model.gguf: merge "));
  }
  CHECK(refusal([](auto& d) { d.bos = -1; }).starts_with("model.gguf: bos token -1 is outside"));
  CHECK(refusal([&](auto& d) { d.eos = static_cast<token_t>(d.tokens.size()); }) ==
        "model.gguf: eos token " + n + " is outside the vocabulary of " + n);
  CHECK(refusal([](auto& d) { d.end_tokens = {1 << 30}; }) != "accepted");
  CHECK(refusal([](auto& d) { d.strip_left = {-5}; }) != "accepted");
  CHECK(refusal([](auto& d) { d.add_bos = true; }) ==
        "model.gguf: a bos token is asked for, but none is named");
  CHECK(refusal([](auto& d) { d.unk_for_missing = true; }) != "accepted");
  CHECK(refusal([](auto& d) { d.pre = "none"; }) != "accepted");
  CHECK(refusal([](auto& d) {
          d.pre = "qwen2";
          d.add_prefix_space = true;
        }) != "accepted");
  CHECK(refusal([](auto& d) {
          d.tokens.push_back("");
          d.kinds.push_back(token_kind::control);
        }) == "model.gguf: special token " + n + " has no text");
  CHECK(refusal([](auto&) {}) == "accepted");
}
