// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/safetensors_set.hpp>
#include <gistkv/io/strict_json.hpp>
#include <gistkv/io/tokenizer_data.hpp>
#include <gistkv/io/word_rule_json.hpp>

namespace gistkv::io {

namespace detail {

/// Reads the files of a Hugging Face tokenizer into a tokenizer_data.
class tokenizer_json_reader {
 public:
  explicit tokenizer_json_reader(std::filesystem::path directory)
      : directory_(std::move(directory)) {}

  tokenizer_data read() {
    const auto path = directory_ / "tokenizer.json";
    data_.source = path.string();
    const nlohmann::json document = parse_strict_json(read_text_file(path), path.string());
    const json_fields root(document, path.string());
    read_model(root);
    const word_rule rule = read_word_rule(root);
    data_.pre = rule.pre;
    data_.add_prefix_space = rule.add_prefix_space;
    for (const auto& part : parts_of(root, "normalizer", "normalizers")) {
      expect_type(part, "NFC");
      data_.compose = true;
    }
    for (const auto& part : parts_of(root, "decoder", "decoders")) expect_type(part, "ByteLevel");
    for (const auto& part : parts_of(root, "post_processor", "processors")) read_template(part);
    if_present("tokenizer_config.json", [this](const json_fields& f) { read_tokenizer_config(f); });
    if_present("generation_config.json", [this](const json_fields& f) { read_end_tokens(f); });
    if_present("config.json", [this](const json_fields& f) { read_model_config(f); });
    const auto jinja = directory_ / "chat_template.jinja";
    if (std::filesystem::exists(jinja)) data_.chat_template = read_text_file(jinja);
    if (!data_.eos && !data_.end_tokens.empty()) data_.eos = data_.end_tokens.front();
    return std::move(data_);
  }

 private:
  static void expect_type(const json_fields& part, const std::string& wanted) {
    if (const auto type = part.get<std::string>("type"); type != wanted) {
      throw format_error(part.where() + " is " + quote(type) + ", expected " + wanted + " or null");
    }
  }

  template <class Read>
  void if_present(const char* name, Read&& read) const {
    const auto path = directory_ / name;
    if (!std::filesystem::exists(path)) return;
    const nlohmann::json document = parse_strict_json(read_text_file(path), path.string());
    read(json_fields(document, path.string()));
  }

  void read_model(const json_fields& root) {
    const nlohmann::json* node = root.find("model");
    if (node == nullptr) root.fail("model", nullptr, "an object");
    const json_fields model(*node, root.where() + ": model");
    if (const auto type = model.find<std::string>("type").value_or("BPE"); type != "BPE") {
      model.fail("type", *model.find("type"), "'BPE'");
    }
    if (model.find<double>("dropout").value_or(0.0) != 0.0) {
      model.fail("dropout", *model.find("dropout"), "none: ids would be random");
    }
    if (model.find<bool>("byte_fallback").value_or(false)) {
      model.fail("byte_fallback", *model.find("byte_fallback"), "false (byte-level BPE)");
    }
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!model.find<std::string>(affix).value_or("").empty()) {
        model.fail(affix, *model.find(affix), "none");
      }
    }
    data_.ignore_merges = model.find<bool>("ignore_merges").value_or(false);
    data_.fuse_unk = model.find<bool>("fuse_unk").value_or(false);
    read_tokens(root, model);
    read_merges(model);
    if (const auto unk = model.find<std::string>("unk_token").value_or(""); !unk.empty()) {
      data_.unk = id_of(model, "unk_token", unk);
      data_.unk_for_missing = true;
    }
  }

  /// Ids may come in any order but must fill 0 .. n-1, so that a count bounds the memory.
  void read_tokens(const json_fields& root, const json_fields& model) {
    const nlohmann::json* vocab = model.find("vocab");
    if (vocab == nullptr || !vocab->is_object()) model.fail("vocab", nullptr, "an object");
    std::vector<json_fields> added;
    if (const nlohmann::json* list = root.find("added_tokens"); list != nullptr) {
      if (!list->is_array()) root.fail("added_tokens", *list, "an array");
      for (const auto& t : *list) added.emplace_back(t, root.where() + ": added_tokens");
    }
    std::size_t n = vocab->size();
    for (const auto& t : added) {
      const auto same = vocab->find(t.get<std::string>("content"));
      if (same == vocab->end()) {
        ++n;
      } else if (*same != t.get<std::int64_t>("id")) {
        t.fail("id", *t.find("id"), same->dump() + ", as in the vocabulary");
      }
    }
    data_.tokens.resize(n);
    data_.kinds.resize(n, token_kind::normal);
    std::vector<bool> taken(n, false);
    const auto put = [&](const std::string& text, const nlohmann::json& id) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= n) {
        throw format_error(root.where() + ": token " + quote(text) + " has id " + id.dump() +
                           ", expected 0 to " + std::to_string(n - 1) + " without gaps");
      }
      const auto i = id.get<std::size_t>();
      if (taken[i]) {
        throw format_error(root.where() + ": tokens " + quote(data_.tokens[i]) + " and " +
                           quote(text) + " both have id " + std::to_string(i));
      }
      taken[i] = true;
      data_.tokens[i] = text;
      ids_.emplace(text, static_cast<token_t>(i));
    };
    for (const auto& [text, id] : vocab->items()) put(text, id);
    for (const auto& t : added) {
      const auto text = t.get<std::string>("content");
      const nlohmann::json* id = t.find("id");
      if (id == nullptr) t.fail("id", nullptr, "an integer");
      if (!ids_.contains(text)) put(text, *id);
      read_added_token(t, ids_.at(text));
    }
    if (const auto gap = std::find(taken.begin(), taken.end(), false); gap != taken.end()) {
      throw format_error(root.where() + ": no token has id " + std::to_string(gap - taken.begin()) +
                         ", expected ids 0 to " + std::to_string(n - 1) + " without gaps");
    }
  }

  void read_added_token(const json_fields& t, token_t id) {
    if (t.find<bool>("single_word").value_or(false)) {
      t.fail("single_word", *t.find("single_word"),
             "false, for " + quote(t.get<std::string>("content")));
    }
    data_.kinds[static_cast<std::size_t>(id)] =
        t.find<bool>("special").value_or(false) ? token_kind::control : token_kind::user_defined;
    if (t.find<bool>("lstrip").value_or(false)) data_.strip_left.push_back(id);
    if (t.find<bool>("rstrip").value_or(false)) data_.strip_right.push_back(id);
  }

  /// "left right" or ["left", "right"].
  void read_merges(const json_fields& model) {
    const nlohmann::json* merges = model.find("merges");
    if (merges == nullptr || !merges->is_array()) model.fail("merges", nullptr, "an array");
    for (const auto& m : *merges) {
      if (m.is_string()) {
        data_.merges.push_back(m.get<std::string>());
      } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
        data_.merges.push_back(m[0].get<std::string>() + ' ' + m[1].get<std::string>());
      } else {
        model.fail("merges", m, "an array of 'left right' or ['left', 'right']");
      }
    }
  }

  /// A template may put one token before the text: bos. Nothing else may be added to it.
  void read_template(const json_fields& part) {
    const auto type = part.get<std::string>("type");
    if (type == "ByteLevel") return;  // Shifts offsets, not ids.
    if (type != "TemplateProcessing") expect_type(part, "TemplateProcessing, ByteLevel");
    const nlohmann::json* single = part.find("single");
    if (single == nullptr || !single->is_array()) part.fail("single", nullptr, "an array");
    std::string shape;
    std::string token;
    for (const auto& piece : *single) {
      const json_fields fields(piece, part.where() + ": single");
      const bool special = fields.find("SpecialToken") != nullptr;
      shape += special ? "token " : "text ";
      if (special) {
        token = json_fields(*fields.find("SpecialToken"), fields.where()).get<std::string>("id");
      }
    }
    if (shape == "token text ") {
      data_.bos = id_of(part, "single", token);
      data_.add_bos = true;
    } else if (shape != "text ") {
      throw format_error(part.where() + ": single is [" + shape +
                         "], expected the text or one token and the text");
    }
  }

  token_t id_of(const json_fields& where, const char* key, const std::string& text) const {
    const auto found = ids_.find(text);
    if (found == ids_.end()) {
      throw format_error(where.where() + ": field " + quote(key) + " names " + quote(text) +
                         ", which is no token");
    }
    return found->second;
  }

  /// A token given as its text or as an object with the text in `content`.
  std::optional<token_t> named_token(const json_fields& fields, const char* key) const {
    const nlohmann::json* node = fields.find(key);
    if (node == nullptr) return std::nullopt;
    const auto text = node->is_object()
                          ? json_fields(*node, fields.where()).get<std::string>("content")
                          : fields.get<std::string>(key);
    return id_of(fields, key, text);
  }

  void read_tokenizer_config(const json_fields& fields) {
    if (const auto bos = named_token(fields, "bos_token"); bos && !data_.bos) data_.bos = bos;
    data_.eos = named_token(fields, "eos_token");
    data_.pad = named_token(fields, "pad_token");
    if (const auto unk = named_token(fields, "unk_token"); unk && !data_.unk) data_.unk = unk;
    data_.add_bos = fields.find<bool>("add_bos_token").value_or(data_.add_bos);
    const nlohmann::json* chat = fields.find("chat_template");
    if (chat == nullptr) return;
    if (!chat->is_array()) {
      data_.chat_template = fields.get<std::string>("chat_template");
      return;
    }
    for (const auto& entry : *chat) {
      const json_fields named(entry, fields.where() + ": chat_template");
      if (named.get<std::string>("name") != "default") continue;
      data_.chat_template = named.get<std::string>("template");
    }
  }

  /// eos_token_id: an id or a list of ids.
  void read_end_tokens(const json_fields& fields) {
    const nlohmann::json* ids = fields.find("eos_token_id");
    if (ids == nullptr) return;
    const auto one = [&](const nlohmann::json& id) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= data_.tokens.size()) {
        fields.fail("eos_token_id", id, "ids below " + std::to_string(data_.tokens.size()));
      }
      data_.end_tokens.push_back(id.get<token_t>());
    };
    if (!ids->is_array()) return one(*ids);
    for (const auto& id : *ids) one(id);
  }

  /// A model may have more rows than the tokenizer has tokens. The rest are named as converters to
  /// GGUF name them, so that what is added later has the same ids by both routes.
  void read_model_config(const json_fields& fields) {
    read_end_tokens(fields);
    const auto rows = fields.find<std::int64_t>("vocab_size");
    if (!rows) return;
    const auto n = static_cast<std::int64_t>(data_.tokens.size());
    constexpr std::int64_t most_padding = 1 << 16;
    if (*rows < n || *rows > n + most_padding) {
      fields.fail("vocab_size", *fields.find("vocab_size"),
                  "the " + std::to_string(n) + " tokens of tokenizer.json or some more");
    }
    for (std::int64_t i = n; i < *rows; ++i) {
      data_.tokens.push_back("[PAD" + std::to_string(i) + "]");
      data_.kinds.push_back(token_kind::unused);
    }
  }

  std::filesystem::path directory_;
  tokenizer_data data_;
  std::map<std::string, token_t> ids_;
};

}  // namespace detail

/// The vocabulary in the files of a Hugging Face model directory: tokenizer.json (byte-level BPE)
/// and, where they exist, tokenizer_config.json (bos, eos, unk, pad, chat template),
/// generation_config.json (end tokens), config.json (rows of the embedding) and
/// chat_template.jinja.
///
/// What would give other ids than the original is refused: an unknown pre-tokenizer pattern, a
/// normaliser other than NFC, byte fallback, word affixes, dropout, single-word tokens, templates
/// that add more than bos. @throws format_error naming file and field; file_error.
inline tokenizer_data read_tokenizer_json(const std::filesystem::path& directory) {
  return detail::tokenizer_json_reader(directory).read();
}

}  // namespace gistkv::io
