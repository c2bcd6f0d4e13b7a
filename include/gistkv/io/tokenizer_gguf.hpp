// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/tokenizer_data.hpp>

namespace gistkv::io {

/// The vocabulary in the `tokenizer.*` keys of a model file. What these keys leave unsaid is
/// supplied by the pre-tokenizer's name, as the models behind it define it: llama-bpe takes a word
/// that is a token as it is, qwen2 composes text to NFC.
/// @throws format_error naming file and key: a key missing or of another type, a vocabulary that is
/// no byte-level BPE, a token type outside 1..6.
inline tokenizer_data read_tokenizer(const gguf_file& file) {
  using namespace std::string_literals;
  tokenizer_data data;
  data.source = file.name();
  if (const auto model = file.get<std::string>("tokenizer.ggml.model"); model != "gpt2") {
    throw format_error(file.name() + ": key 'tokenizer.ggml.model' is " + quote(model) +
                       ", expected 'gpt2' (byte-level BPE)");
  }
  data.pre = file.get<std::string>("tokenizer.ggml.pre");
  for (const std::string_view t : file.strings("tokenizer.ggml.tokens"))
    data.tokens.emplace_back(t);
  for (const std::string_view m : file.strings("tokenizer.ggml.merges"))
    data.merges.emplace_back(m);
  for (const int kind :
       file.find<std::vector<int>>("tokenizer.ggml.token_type").value_or(std::vector<int>{})) {
    if (kind < 1 || kind > 6) {
      throw format_error(file.name() + ": key 'tokenizer.ggml.token_type' holds " +
                         std::to_string(kind) + ", expected 1 to 6");
    }
    data.kinds.push_back(static_cast<token_kind>(kind));
  }
  const auto id = [&](const char* name) {
    return file.find<token_t>("tokenizer.ggml."s + name + "_token_id");
  };
  data.bos = id("bos");
  data.eos = id("eos");
  data.unk = id("unknown");
  data.pad = id("padding");
  for (const char* name : {"eot", "eom"}) {
    if (const auto end = id(name)) data.end_tokens.push_back(*end);
  }
  // Files older than the key add_bos_token: of the rules here only Llama 3's begins with bos.
  data.add_bos = file.find<bool>("tokenizer.ggml.add_bos_token")
                     .value_or(data.bos && data.pre.starts_with("llama"));
  data.add_prefix_space = file.find<bool>("tokenizer.ggml.add_space_prefix").value_or(false);
  data.ignore_merges = data.pre.starts_with("llama");
  data.compose = data.pre == "qwen2";
  data.chat_template = file.find<std::string>("tokenizer.chat_template").value_or("");
  return data;
}

}  // namespace gistkv::io
