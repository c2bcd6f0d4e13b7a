// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/io/byte_alphabet.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_json.hpp>
#include <golden/sag_tokenizer.hpp>
#include <io/gguf_builder.hpp>

using namespace gistkv;
using io::special_tokens;
using ids = std::vector<token_t>;

TEST_SUITE("golden") {
  TEST_CASE("tokenizer.json: what the file says of the vocabulary") {
    const auto golden = test::sag_golden("tokenizer.json");
    const auto t = test::model_tokenizer();
    if (!golden || !t) return;
    CHECK(t->add_bos() == (*golden)["add_bos"].get<bool>());
    CHECK(t->bos() == (*golden)["bos_id"].get<token_t>());
    CHECK(t->eos() == (*golden)["eos_id"].get<token_t>());
    CHECK(t->pad() == (*golden)["pad_id"].get<token_t>());
    CHECK(t->unk() == (*golden)["unk_id"].get<token_t>());
    const auto absent = (*golden)["bytes_absent_from_vocabulary"].get<std::vector<int>>();
    for (int b = 0; b < 256; ++b) {
      const std::string byte(1, static_cast<char>(b));
      const bool there = std::find(absent.begin(), absent.end(), b) == absent.end();
      INFO("byte ", b);
      CHECK(t->encode(byte).size() == (there ? 1 : 0));
    }
  }

  TEST_CASE("tokenizer.json: strings, there and back") {
    const auto golden = test::sag_golden("tokenizer.json");
    const auto t = test::model_tokenizer();
    if (!golden || !t) return;
    REQUIRE_FALSE((*golden)["strings"].empty());
    for (const auto& c : (*golden)["strings"]) {
      INFO(c.dump());
      const auto text = c["text"].get<std::string>();
      const auto expected = c["ids"].get<ids>();
      CHECK(t->encode(text) == expected);
      CHECK(t->encode(text, special_tokens::as_text) == c.value("ids_plain", expected));
      const bool lossy = c.value("lossy", false);
      CHECK(t->decode(expected) ==
            (lossy ? test::from_hex(c["decoded_hex"].get<std::string>()) : text));
    }
  }

  TEST_CASE("tokenizer.json: special tokens parsed and not") {
    const auto golden = test::sag_golden("tokenizer.json");
    const auto t = test::model_tokenizer();
    if (!golden || !t) return;
    REQUIRE_FALSE((*golden)["special"].empty());
    for (const auto& c : (*golden)["special"]) {
      INFO(c.dump());
      const auto text = c["text"].get<std::string>();
      CHECK(t->encode(text) == c["ids_special_on"].get<ids>());
      CHECK(t->encode(text, special_tokens::as_text) == c["ids_special_off"].get<ids>());
    }
  }

  TEST_CASE("tokenizer.json: ids to bytes") {
    const auto golden = test::sag_golden("tokenizer.json");
    const auto t = test::model_tokenizer();
    if (!golden || !t) return;
    REQUIRE_FALSE((*golden)["decode"].empty());
    for (const auto& c : (*golden)["decode"]) {
      INFO(c.dump());
      CHECK(t->decode(c["ids"].get<ids>()) == test::from_hex(c["bytes_hex"].get<std::string>()));
    }
  }

  TEST_CASE("the same vocabulary as tokenizer.json gives the same ids") {
    const auto golden = test::sag_golden("tokenizer.json");
    if (!golden || !test::require_file(test::model_path())) return;
    const auto data = io::read_tokenizer(io::gguf_file::open(test::model_path()));
    nlohmann::json vocab = nlohmann::json::object();
    nlohmann::json added = nlohmann::json::array();
    for (std::size_t i = 0; i < data.tokens.size(); ++i) {
      vocab[data.tokens[i]] = i;
      if (data.kinds[i] == io::token_kind::control) {
        added.push_back({{"id", i}, {"content", data.tokens[i]}, {"special", true}});
      }
    }
    nlohmann::json parts = {{{"type", "Digits"}, {"individual_digits", true}},
                            {{"type", "ByteLevel"}, {"add_prefix_space", false}}};
    const nlohmann::json document = {
        {"added_tokens", added},
        {"normalizer", nullptr},
        {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", parts}}},
        {"decoder", {{"type", "ByteLevel"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", data.merges}}}};
    const nlohmann::json config = {{"bos_token", data.tokens[1]},
                                   {"eos_token", {{"content", data.tokens[2]}}},
                                   {"pad_token", data.tokens[2]},
                                   {"unk_token", data.tokens[0]},
                                   {"chat_template", data.chat_template}};
    const test::scratch_directory directory;
    test::write_text(directory / "tokenizer.json", document.dump());
    test::write_text(directory / "tokenizer_config.json", config.dump());
    const io::tokenizer by_json(io::read_tokenizer_json(directory.path()));
    const io::tokenizer by_gguf(data);
    CHECK(by_json.fingerprint() == by_gguf.fingerprint());
    CHECK(by_json.eos() == by_gguf.eos());
    CHECK(by_json.pad() == by_gguf.pad());
    CHECK(by_json.unk() == by_gguf.unk());
    CHECK(by_json.chat_template() == by_gguf.chat_template());
    for (const char* section : {"strings", "special"}) {
      for (const auto& c : (*golden)[section]) {
        const auto text = c["text"].get<std::string>();
        INFO(c["text"].dump());
        CHECK(by_json.encode(text) == by_gguf.encode(text));
      }
    }
  }
}
