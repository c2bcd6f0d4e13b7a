// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <cstddef>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/io/pretokenizer.hpp>

#include <support/data.hpp>

using namespace gistkv;
using io::pretokenizer;

namespace {

std::vector<std::string> words(pretokenizer rule, std::string_view text) {
  std::vector<std::string> found;
  io::split_words(rule, text, [&](std::string_view word) { found.emplace_back(word); });
  return found;
}

using strings = std::vector<std::string>;

}  // namespace

TEST_CASE("pretokenizer: the words are those of an independent regular expression engine") {
  const auto path = test::source_dir() / "tests/data/pretokenizer_splits.json";
  const auto cases = nlohmann::json::parse(std::ifstream(path));
  REQUIRE(cases.size() > 400);
  for (const auto& c : cases) {
    const auto text = c["text"].get<std::string>();
    for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "smollm"}) {
      std::vector<std::size_t> lengths;
      for (const auto& word : words(io::pretokenizer_by_name(name), text)) {
        lengths.push_back(word.size());
      }
      INFO(std::string(name), " on ", c["text"].dump());
      CHECK(lengths == c[name].get<std::vector<std::size_t>>());
    }
  }
}

TEST_CASE("pretokenizer: what the four rules make of the same text") {
  const std::string text = "He'LL pay  $1234\n\nnow";
  CHECK(words(pretokenizer::gpt2, text) ==
        strings{"He", "'", "LL", " pay", " ", " $", "1234", "\n", "\n", "now"});
  CHECK(words(pretokenizer::llama_bpe, text) ==
        strings{"He", "'LL", " pay", " ", " $", "123", "4", "\n\n", "now"});
  CHECK(words(pretokenizer::qwen2, text) ==
        strings{"He", "'LL", " pay", " ", " $", "1", "2", "3", "4", "\n\n", "now"});
  CHECK(words(pretokenizer::smollm, text) ==
        strings{"He", "'", "LL", " pay", " ", " $", "1", "2", "3", "4", "\n", "\n", "now"});
}

TEST_CASE("pretokenizer: smollm does not see past a number") {
  // Alone, the two spaces are a run to the end of the stretch; gpt2 sees the 5 behind them.
  CHECK(words(pretokenizer::smollm, "a  5") == strings{"a", "  ", "5"});
  CHECK(words(pretokenizer::gpt2, "a  5") == strings{"a", " ", " 5"});
}

TEST_CASE("pretokenizer: any bytes are covered, each invalid one as a character of no class") {
  for (const auto rule :
       {pretokenizer::gpt2, pretokenizer::llama_bpe, pretokenizer::qwen2, pretokenizer::smollm}) {
    CHECK(words(rule, "").empty());
    CHECK(words(rule, "\xFF\xFE").size() == 1);
    random_generator random(7);
    for (int round = 0; round < 2000; ++round) {
      std::string text;
      for (index_t n = random.below(12); n > 0; --n) {
        constexpr std::string_view likely = " \n'sa1.\xC3\xA9\xE3\x80\x80\xFF";
        text.push_back(random.below(4) == 0 ? static_cast<char>(random.below(256))
                                            : likely[static_cast<std::size_t>(random.below(
                                                  static_cast<index_t>(likely.size())))]);
      }
      std::string joined;
      for (const auto& word : words(rule, text)) {
        CHECK_FALSE(word.empty());
        joined += word;
      }
      CHECK(joined == text);
    }
  }
}

TEST_CASE("pretokenizer: names") {
  CHECK(io::pretokenizer_by_name("llama-bpe") == pretokenizer::llama_bpe);
  CHECK(io::pretokenizer_by_name("llama3") == pretokenizer::llama_bpe);
  CHECK_THROWS_WITH_AS(io::pretokenizer_by_name("tekken"),
                       "tokenizer: pre-tokenizer 'tekken' is not known, expected gpt-2, llama-bpe, "
                       "qwen2 or smollm",
                       format_error);
}
