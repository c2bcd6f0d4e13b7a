// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::io {

/// A pre-tokenizer of tokenizer.json by its name in GGUF (pretokenizer.hpp).
struct word_rule {
  std::string pre;
  bool add_prefix_space = false;
};

namespace detail {

/// The regular expressions of pretokenizer.hpp as tokenizer.json files spell them.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 3> word_patterns = {{
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "gpt-2"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
     R"(|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "llama-bpe"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
     R"(|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "qwen2"},
}};

/// The members of a sequence of parts, in order; a single part by itself; nothing for null.
inline std::vector<json_fields> parts_of(const json_fields& parent, const std::string& key,
                                         const std::string& members) {
  const nlohmann::json* node = parent.find(key);
  if (node == nullptr) return {};
  json_fields part(*node, parent.where() + ": " + key);
  if (part.get<std::string>("type") != "Sequence") return {part};
  const nlohmann::json* list = part.find(members);
  if (list == nullptr || !list->is_array()) part.fail(members, part.object(), "an array");
  std::vector<json_fields> parts;
  for (const auto& member : *list) parts.emplace_back(member, part.where());
  return parts;
}

/// A Split into matches of a known pattern: the rule's name.
inline std::string split_rule(const json_fields& split) {
  const nlohmann::json* pattern = split.find("pattern");
  if (pattern == nullptr) split.fail("pattern", nullptr, "an object");
  const json_fields fields(*pattern, split.where() + ": pattern");
  const auto regex = fields.get<std::string>("Regex");
  const auto behavior = split.get<std::string>("behavior");
  if (behavior != "Isolated" || split.find<bool>("invert").value_or(false)) {
    throw format_error(split.where() + ": Split with behavior " + quote(behavior) +
                       " or inverted, expected 'Isolated' and not inverted");
  }
  for (const auto& [known, name] : word_patterns) {
    if (regex == known) return std::string(name);
  }
  throw format_error(split.where() + ": Split with the pattern '" + regex +
                     "', expected that of gpt-2, llama-bpe or qwen2");
}

}  // namespace detail

/// Recognises the `pre_tokenizer` of a tokenizer.json by its structure: ByteLevel alone (gpt-2),
/// Digits and ByteLevel (smollm), Split by a known pattern and ByteLevel.
/// @throws format_error that says what was found instead.
inline word_rule read_word_rule(const json_fields& tokenizer_json) {
  const auto parts = detail::parts_of(tokenizer_json, "pre_tokenizer", "pretokenizers");
  std::string types;
  for (const auto& part : parts)
    types += (types.empty() ? "" : ", ") + part.get<std::string>("type");
  const bool two = types == "Digits, ByteLevel" || types == "Split, ByteLevel";
  if (!two && types != "ByteLevel") {
    throw format_error(tokenizer_json.where() + ": pre_tokenizer is [" + types +
                       "], expected [ByteLevel], [Digits, ByteLevel] or [Split, ByteLevel]");
  }
  const json_fields& bytes = parts.back();
  word_rule rule;
  rule.add_prefix_space = bytes.find<bool>("add_prefix_space").value_or(true);
  const bool splits_words = bytes.find<bool>("use_regex").value_or(true);
  if (types == "ByteLevel") {
    rule.pre = "gpt-2";
  } else if (types == "Split, ByteLevel") {
    rule.pre = detail::split_rule(parts.front());
  } else {
    rule.pre = "smollm";
    if (!parts.front().find<bool>("individual_digits").value_or(false)) {
      throw format_error(parts.front().where() +
                         ": Digits keeps digits together, expected "
                         "individual_digits to be true");
    }
  }
  if (splits_words != (types != "Split, ByteLevel")) {
    throw format_error(bytes.where() + ": [" + types + "] with use_regex " +
                       (splits_words ? "true, expected false" : "false, expected true"));
  }
  return rule;
}

}  // namespace gistkv::io
