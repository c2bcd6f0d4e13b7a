// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <gistkv/io/byte_alphabet.hpp>
#include <gistkv/io/tokenizer_data.hpp>

namespace gistkv::test {

/// A gpt-2 vocabulary for tests: all bytes but `absent` (the printing ones first, so that "!" is
/// token 0), a few merges, a word that no merge makes, special tokens.
inline io::tokenizer_data small_tokenizer_data(const std::vector<unsigned>& absent = {}) {
  io::tokenizer_data data;
  data.source = "small";
  data.pre = "gpt-2";
  for (unsigned i = 0; i < 256; ++i) {
    const unsigned b = (i + 33) % 256;
    const char byte = static_cast<char>(b);
    if (std::find(absent.begin(), absent.end(), b) == absent.end()) {
      data.tokens.push_back(io::to_byte_alphabet({&byte, 1}));
    }
  }
  const std::string space = io::to_byte_alphabet(" ");
  for (const std::string& merge : {std::string("t h"), std::string("a a"), std::string("h e"),
                                   std::string("th e"), space + " the", std::string("i n"),
                                   std::string("aa aa"), std::string("e r"), std::string("he r")}) {
    data.merges.push_back(merge);
    std::string whole = merge;
    whole.erase(whole.find(' '), 1);
    data.tokens.push_back(whole);
  }
  data.tokens.push_back("neth");
  data.kinds.assign(data.tokens.size(), io::token_kind::normal);
  const auto special = [&](const char* text, io::token_kind kind) {
    data.tokens.push_back(text);
    data.kinds.push_back(kind);
  };
  special("<|end|>", io::token_kind::control);
  special("<|end|>+", io::token_kind::control);
  special("<tab>", io::token_kind::user_defined);
  special("<unk>", io::token_kind::unknown);
  special("[PAD]", io::token_kind::unused);
  return data;
}

}  // namespace gistkv::test
