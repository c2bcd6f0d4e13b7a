// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/chat_template.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_json.hpp>
#include <io/gguf_builder.hpp>
#include <io/small_tokenizer.hpp>

using namespace gistkv;
using nlohmann::json;

namespace {

constexpr const char* llama_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+"
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* qwen_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

json byte_level(bool use_regex, bool prefix = false) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"use_regex", use_regex}};
}

json sequence(const char* key, json parts) {
  return {{"type", "Sequence"}, {key, std::move(parts)}};
}

json split(const std::string& pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

json split_sequence(const std::string& pattern) {
  return sequence("pretokenizers", json::array({split(pattern), byte_level(false)}));
}

/// The small vocabulary as a tokenizer.json: added tokens outside the model's vocabulary.
json document() {
  const auto data = test::small_tokenizer_data();
  json vocab = json::object();
  json added = json::array();
  for (std::size_t i = 0; i < data.tokens.size(); ++i) {
    if (data.kinds[i] == io::token_kind::normal) {
      vocab[data.tokens[i]] = i;
    } else {
      added.push_back({{"id", i},
                       {"content", data.tokens[i]},
                       {"special", data.kinds[i] != io::token_kind::user_defined}});
    }
  }
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level(true)},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", data.merges}}}};
}

struct model_directory {
  test::scratch_directory folder;

  explicit model_directory(const json& tokenizer = document()) { put("tokenizer.json", tokenizer); }
  void put(const char* name, const json& content) const {
    test::write_text(folder / name, content.dump());
  }
  io::tokenizer_data read() const { return io::read_tokenizer_json(folder.path()); }
};

/// The message that a tokenizer.json earns, without the directory.
std::string refusal(const json& tokenizer) {
  const model_directory directory(tokenizer);
  try {
    const io::tokenizer t(directory.read());
  } catch (const format_error& e) {
    std::string what = e.what();
    const auto at = what.find("tokenizer.json");
    return at == std::string::npos ? what : what.substr(at);
  }
  return "accepted";
}

}  // namespace

TEST_CASE("tokenizer.json: the same tokenizer as from its data") {
  const io::tokenizer t(model_directory().read());
  auto data = test::small_tokenizer_data();
  // tokenizer.json knows no unknown and unused kinds.
  for (auto& kind : data.kinds) {
    if (kind == io::token_kind::unknown || kind == io::token_kind::unused) {
      kind = io::token_kind::control;
    }
  }
  CHECK(t.fingerprint() == io::tokenizer(data).fingerprint());
  CHECK(t.decode(t.encode("the <|end|> then<tab>")) == "the <|end|> then<tab>");
  CHECK_FALSE(t.bos());
  CHECK_FALSE(t.eos());
}

TEST_CASE("tokenizer.json: merges as strings or pairs") {
  json pairs = document();
  for (auto& m : pairs["model"]["merges"]) {
    const auto text = m.get<std::string>();
    m = json::array({text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)});
  }
  CHECK(io::tokenizer(model_directory(pairs).read()).fingerprint() ==
        io::tokenizer(model_directory().read()).fingerprint());
}

TEST_CASE("tokenizer.json: pre-tokenizers by their structure") {
  const auto pre = [](const json& node) {
    json d = document();
    d["pre_tokenizer"] = node;
    return model_directory(d).read().pre;
  };
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  CHECK(pre(byte_level(true)) == "gpt-2");
  CHECK(pre({{"type", "ByteLevel"}, {"add_prefix_space", false}}) == "gpt-2");
  CHECK(pre(sequence("pretokenizers", json::array({digits, byte_level(true)}))) == "smollm");
  CHECK(pre(split_sequence(llama_pattern)) == "llama-bpe");
  CHECK(pre(split_sequence(qwen_pattern)) == "qwen2");

  const auto refused = [](const json& node) {
    json d = document();
    d["pre_tokenizer"] = node;
    return refusal(d);
  };
  CHECK(refused(split_sequence("\\w+")) ==
        "tokenizer.json: pre_tokenizer: Split with the pattern '\\w+', expected that of gpt-2, "
        "llama-bpe or qwen2");
  CHECK(refused({{"type", "Whitespace"}}) ==
        "tokenizer.json: pre_tokenizer is [Whitespace], expected [ByteLevel], [Digits, ByteLevel] "
        "or [Split, ByteLevel]");
  CHECK(refused(nullptr).starts_with("tokenizer.json: pre_tokenizer is []"));
  CHECK(refused(byte_level(false)).ends_with("use_regex false, expected true"));
  json doubled = split_sequence(llama_pattern);
  doubled["pretokenizers"][1]["use_regex"] = true;
  CHECK(refused(doubled).ends_with("use_regex true, expected false"));
  json removed = split_sequence(llama_pattern);
  removed["pretokenizers"][0]["behavior"] = "Removed";
  CHECK(refused(removed).find("'Removed'") != std::string::npos);
  json inverted = split_sequence(llama_pattern);
  inverted["pretokenizers"][0]["invert"] = true;
  CHECK(refused(inverted) != "accepted");
  json together = sequence("pretokenizers", json::array({digits, byte_level(true)}));
  together["pretokenizers"][0]["individual_digits"] = false;
  CHECK(refused(together).find("individual_digits") != std::string::npos);
  json no_pattern = split_sequence(llama_pattern);
  no_pattern["pretokenizers"][0].erase("pattern");
  CHECK(refused(no_pattern) != "accepted");
}

TEST_CASE("tokenizer.json: what would change ids is refused") {
  const auto refused = [](const char* key, const json& value) {
    json d = document();
    d["model"][key] = value;
    return refusal(d);
  };
  CHECK(refused("type", "Unigram").find("'Unigram', expected 'BPE'") != std::string::npos);
  CHECK(refused("dropout", 0.1) != "accepted");
  CHECK(refused("byte_fallback", true) != "accepted");
  CHECK(refused("continuing_subword_prefix", "##") != "accepted");
  CHECK(refused("end_of_word_suffix", "</w>") != "accepted");
  CHECK(refused("continuing_subword_prefix", "") == "accepted");
  CHECK(refused("unk_token", "none such").ends_with("names 'none such', which is no token"));
  CHECK(refused("merges", "t h") != "accepted");
  CHECK(refused("merges", json::array({json::array({"t"})})) != "accepted");
  CHECK(refused("vocab", json::array()) != "accepted");

  json d = document();
  d["normalizer"] = {{"type", "Lowercase"}};
  CHECK(refusal(d) == "tokenizer.json: normalizer is 'Lowercase', expected NFC or null");
  d = document();
  d["decoder"] = {{"type", "WordPiece"}};
  CHECK(refusal(d) != "accepted");
  d = document();
  d["added_tokens"][0]["single_word"] = true;
  CHECK(refusal(d).find("'<|end|>'") != std::string::npos);
  d = document();
  d.erase("model");
  CHECK(refusal(d) != "accepted");
}

TEST_CASE("tokenizer.json: ids fill the vocabulary, once each") {
  json d = document();
  d["model"]["vocab"]["!"] = 1 << 30;
  CHECK(refusal(d).starts_with("tokenizer.json: token '!' has id 1073741824, expected 0 to "));
  d = document();
  d["model"]["vocab"]["!"] = 1;
  CHECK(refusal(d).ends_with("both have id 1"));
  d = document();
  d["model"]["vocab"]["!"] = -1;
  CHECK(refusal(d) != "accepted");
  d = document();
  d["model"]["vocab"]["!"] = "0";
  CHECK(refusal(d) != "accepted");
  d = document();
  d["added_tokens"].push_back(d["added_tokens"][0]);
  CHECK(refusal(d).find("without gaps") != std::string::npos);
  d = document();
  d["added_tokens"][0].erase("id");
  CHECK(refusal(d) != "accepted");
  d = document();
  d["added_tokens"].push_back({{"id", 5}, {"content", "!"}, {"special", true}});
  CHECK(refusal(d).find("expected 0, as in the vocabulary") != std::string::npos);
}

TEST_CASE("tokenizer.json: added tokens of the vocabulary, strips, NFC, unk") {
  json d = document();
  d["added_tokens"].push_back(
      {{"id", 0}, {"content", "!"}, {"special", true}, {"rstrip", true}, {"lstrip", true}});
  d["normalizer"] = sequence("normalizers", json::array({{{"type", "NFC"}}}));
  d["model"]["unk_token"] = "!";
  d["model"]["fuse_unk"] = true;
  d["model"]["ignore_merges"] = true;
  const auto data = model_directory(d).read();
  CHECK(data.kinds[0] == io::token_kind::control);
  CHECK(data.strip_left == std::vector<token_t>{0});
  CHECK(data.strip_right == std::vector<token_t>{0});
  CHECK(data.compose);
  CHECK(data.unk_for_missing);
  CHECK(data.fuse_unk);
  CHECK(data.ignore_merges);
  CHECK(data.unk == 0);
  const io::tokenizer t(data);
  CHECK(t.decode(t.encode("a ! e\u0301")) == "a!\u00e9");
}

TEST_CASE("tokenizer.json: bos by template, and nothing else") {
  const auto text = json{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const auto token = [](const char* name) {
    return json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  const auto with = [&](json single) {
    json d = document();
    d["post_processor"] =
        sequence("processors",
                 json::array({byte_level(true),
                              {{"type", "TemplateProcessing"}, {"single", std::move(single)}}}));
    return d;
  };
  const auto data = model_directory(with(json::array({token("<|end|>"), text}))).read();
  CHECK(data.add_bos);
  CHECK(data.tokens[static_cast<std::size_t>(data.bos.value())] == "<|end|>");
  CHECK_FALSE(model_directory(with(json::array({text}))).read().add_bos);
  CHECK(
      refusal(with(json::array({token("<|end|>"), text, token("<|end|>")})))
          .ends_with("single is [token text token ], expected the text or one token and the text"));
  CHECK(refusal(with(json::array({token("<|gone|>"), text}))).ends_with("which is no token"));
}

TEST_CASE("tokenizer.json: the files beside it") {
  const model_directory directory;
  directory.put(
      "tokenizer_config.json",
      {{"bos_token", nullptr},
       {"eos_token", {{"content", "<|end|>"}, {"lstrip", false}}},
       {"pad_token", "<tab>"},
       {"unk_token", "<unk>"},
       {"add_bos_token", false},
       {"chat_template",
        {{{"name", "tool_use"}, {"template", "no"}}, {{"name", "default"}, {"template", "yes"}}}}});
  directory.put("generation_config.json", {{"eos_token_id", {3, 4}}});
  const auto n = directory.read().tokens.size();
  directory.put("config.json", {{"vocab_size", n + 3}, {"eos_token_id", 5}});
  const auto data = directory.read();
  CHECK(data.tokens.size() == n + 3);
  CHECK(data.tokens.back() == "[PAD" + std::to_string(n + 2) + "]");
  CHECK(data.kinds.back() == io::token_kind::unused);
  CHECK(data.chat_template == "yes");
  CHECK_FALSE(data.bos);
  CHECK(data.unk == io::tokenizer(data).find("<unk>"));
  CHECK_FALSE(data.unk_for_missing);
  const io::tokenizer t(data);
  CHECK(t.eos() == t.find("<|end|>"));
  CHECK(t.pad() == t.find("<tab>"));
  CHECK(t.end_tokens().size() == 4);
  CHECK(t.with_gists(1).find("<end_of_sentence_0>") == static_cast<token_t>(n + 3));

  test::write_text(directory.folder / "chat_template.jinja", "from a file\n");
  CHECK(directory.read().chat_template == "from a file\n");

  directory.put("config.json", {{"vocab_size", n - 1}});
  CHECK_THROWS_AS(directory.read(), format_error);
  directory.put("config.json", {{"vocab_size", 1 << 30}});
  CHECK_THROWS_AS(directory.read(), format_error);
  directory.put("config.json", {{"eos_token_id", n}});
  CHECK_THROWS_AS(directory.read(), format_error);
  directory.put("config.json", json::object());
  directory.put("tokenizer_config.json", {{"eos_token", "<|gone|>"}});
  CHECK_THROWS_AS(directory.read(), format_error);
  directory.put("tokenizer_config.json", {{"eos_token", 7}});
  CHECK_THROWS_AS(directory.read(), format_error);
}

TEST_CASE("tokenizer.json: eos from the generation config alone") {
  const model_directory directory;
  directory.put("generation_config.json", {{"eos_token_id", 9}});
  CHECK(directory.read().eos == 9);
}

TEST_CASE("tokenizer.json: a file that is none") {
  const test::scratch_directory empty;
  CHECK_THROWS_AS(io::read_tokenizer_json(empty.path()), io::file_error);
  const model_directory directory;
  const std::string whole = document().dump();
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
    test::write_text(directory.folder / "tokenizer.json", std::string_view(whole).substr(0, n));
    CHECK_THROWS_AS(directory.read(), format_error);
  }
  for (const char* text : {"[]", "null", "7", "{}"}) {
    test::write_text(directory.folder / "tokenizer.json", text);
    CHECK_THROWS_AS(directory.read(), format_error);
  }
}

TEST_CASE("chat template: of a tokenizer, its markers must be special tokens") {
  auto data = test::small_tokenizer_data();
  CHECK_THROWS_WITH_AS(io::chat_template::recognize(io::tokenizer(data)),
                       "chat template: the file has none", format_error);
  data.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
      "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  CHECK_THROWS_WITH_AS(io::chat_template::recognize(io::tokenizer(data)),
                       "chat template: uses '<|im_start|>', which is no special token of the "
                       "vocabulary",
                       format_error);
  const std::string names[] = {"<|im_start|>", "<|im_end|>"};
  const auto t = io::chat_template::recognize(io::tokenizer(data).with_special(names));
  CHECK(t.user_opening() == "<|im_start|>user\n");
}
