// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/pretokenizer.hpp>
#include <gistkv/io/tokenizer_data.hpp>
#include <gistkv/io/word_rule_json.hpp>

namespace gistkv::io {

namespace detail {

/// The pre-tokenizer that read_word_rule recognises as the rule `pre`.
inline nlohmann::json word_rule_json(const tokenizer_data& data) {
  const pretokenizer rule = pretokenizer_by_name(data.pre);
  const bool split = rule == pretokenizer::llama_bpe || rule == pretokenizer::qwen2;
  nlohmann::json bytes = {{"type", "ByteLevel"},
                          {"add_prefix_space", data.add_prefix_space},
                          {"trim_offsets", true},
                          {"use_regex", !split}};
  if (rule == pretokenizer::gpt2) return bytes;
  nlohmann::json first = {{"type", "Digits"}, {"individual_digits", true}};
  if (split) {
    const std::string_view name = rule == pretokenizer::qwen2 ? "qwen2" : "llama-bpe";
    for (const auto& [pattern, of] : word_patterns) {
      if (of != name) continue;
      first = {{"type", "Split"},
               {"pattern", {{"Regex", pattern}}},
               {"behavior", "Isolated"},
               {"invert", false}};
    }
  }
  return {{"type", "Sequence"}, {"pretokenizers", {first, bytes}}};
}

inline bool contains(const std::vector<token_t>& tokens, token_t t) {
  return std::find(tokens.begin(), tokens.end(), t) != tokens.end();
}

}  // namespace detail

/// Writes a vocabulary as Hugging Face's tokenizer.json, tokenizer_config.json and
/// generation_config.json into a directory that is there, each whole or not at all;
/// read_tokenizer_json reads them as a tokenizer that gives the same ids. The format knows fewer
/// kinds: an `unknown` token comes back as a control token, an `unused` one as a normal one.
/// @throws format_error for a pre-tokenizer that is not known, and for another number of kinds than
///         of tokens, unless there are none; file_error.
inline void write_tokenizer_json(const std::filesystem::path& directory,
                                 const tokenizer_data& data) {
  if (!data.kinds.empty() && data.kinds.size() != data.tokens.size()) {
    throw format_error(data.source + ": " + std::to_string(data.kinds.size()) +
                       " token types for " + std::to_string(data.tokens.size()) + " tokens");
  }
  const auto name = [&data](token_t t) { return data.tokens.at(static_cast<std::size_t>(t)); };
  nlohmann::json vocab = nlohmann::json::object();
  nlohmann::json added = nlohmann::json::array();
  for (std::size_t i = 0; i < data.tokens.size(); ++i) {
    vocab.emplace(data.tokens[i], i);
    const token_kind kind = data.kinds.empty() ? token_kind::normal : data.kinds[i];
    if (kind == token_kind::normal || kind == token_kind::byte || kind == token_kind::unused) {
      continue;
    }
    const auto t = static_cast<token_t>(i);
    added.push_back({{"id", i},
                     {"content", data.tokens[i]},
                     {"single_word", false},
                     {"lstrip", detail::contains(data.strip_left, t)},
                     {"rstrip", detail::contains(data.strip_right, t)},
                     {"normalized", false},
                     {"special", kind != token_kind::user_defined}});
  }
  nlohmann::json model = {{"type", "BPE"},
                          {"dropout", nullptr},
                          {"unk_token", nullptr},
                          {"continuing_subword_prefix", nullptr},
                          {"end_of_word_suffix", nullptr},
                          {"fuse_unk", data.fuse_unk},
                          {"byte_fallback", false},
                          {"ignore_merges", data.ignore_merges}};
  if (data.unk_for_missing && data.unk) model["unk_token"] = name(*data.unk);
  model["vocab"] = std::move(vocab);
  model["merges"] = data.merges;

  nlohmann::json root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  root["added_tokens"] = std::move(added);
  root["normalizer"] = data.compose ? nlohmann::json{{"type", "NFC"}} : nlohmann::json(nullptr);
  root["pre_tokenizer"] = detail::word_rule_json(data);
  root["post_processor"] = nullptr;
  if (data.add_bos && data.bos) {
    const std::string bos = name(*data.bos);
    const nlohmann::json token = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
    const auto text = [](const char* id, int type) {
      return nlohmann::json{{"Sequence", {{"id", id}, {"type_id", type}}}};
    };
    const nlohmann::json ids = nlohmann::json::array({*data.bos});
    const nlohmann::json tokens = nlohmann::json::array({bos});
    root["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", nlohmann::json::array({token, text("A", 0)})},
        {"pair", nlohmann::json::array({token, text("A", 0), text("B", 1)})},
        {"special_tokens", {{bos, {{"id", bos}, {"ids", ids}, {"tokens", tokens}}}}}};
  }
  root["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", true},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  root["model"] = std::move(model);

  nlohmann::json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                           {"add_bos_token", data.add_bos},
                           {"add_prefix_space", data.add_prefix_space},
                           {"clean_up_tokenization_spaces", false}};
  const auto put = [&](const char* key, const std::optional<token_t>& t) {
    if (t) config[key] = name(*t);
  };
  put("bos_token", data.bos);
  put("eos_token", data.eos);
  put("unk_token", data.unk);
  put("pad_token", data.pad);
  if (!data.chat_template.empty()) config["chat_template"] = data.chat_template;

  nlohmann::json generation = nlohmann::json::object();
  if (data.bos) generation["bos_token_id"] = *data.bos;
  nlohmann::json ends = nlohmann::json::array();
  if (data.eos) ends.push_back(*data.eos);
  for (const token_t t : data.end_tokens) {
    if (t != data.eos) ends.push_back(t);
  }
  if (!ends.empty()) generation["eos_token_id"] = std::move(ends);

  const auto write = [&directory, &data](const char* file, const nlohmann::json& document) {
    try {
      write_file_atomically(directory / file, document.dump(2) + "\n");
    } catch (const nlohmann::json::exception& failure) {
      throw format_error(data.source + ": the vocabulary is no UTF-8: " + failure.what());
    }
  };
  write("tokenizer.json", root);
  write("tokenizer_config.json", config);
  write("generation_config.json", generation);
}

}  // namespace gistkv::io
