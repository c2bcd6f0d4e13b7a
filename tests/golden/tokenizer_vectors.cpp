// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <golden/sag_tokenizer.hpp>

using namespace gistkv;

namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string> records(std::string_view text, std::string_view separator) {
  std::vector<std::string> found;
  for (;;) {
    const auto at = text.find(separator);
    found.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return found;
    text.remove_prefix(at + separator.size());
  }
}

/// Strings and ids of one vocabulary; the vocabulary itself is `gguf`.
void check_vectors(const std::string& name, const std::filesystem::path& gguf) {
  const auto stem = test::data_dir() / "tokenizer" / ("ggml-vocab-" + name + ".gguf");
  const auto texts_path = stem.string() + ".inp";
  const auto ids_path = stem.string() + ".out";
  if (!test::require_file(texts_path) || !test::require_file(ids_path) ||
      !test::require_file(gguf)) {
    return;
  }
  const auto texts = records(contents(texts_path), "\n__ggml_vocab_test__\n");
  auto lines = records(contents(ids_path), "\n");
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  const io::tokenizer t(io::read_tokenizer(io::gguf_file::open(gguf)));
  REQUIRE(texts.size() > 1);
  // A separator that ends the file may or may not be followed by one more, empty record.
  REQUIRE(texts.size() - lines.size() <= 1);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::istringstream line(i < lines.size() ? lines[i] : "");
    const std::vector<token_t> expected{std::istream_iterator<token_t>(line), {}};
    INFO(name, " record ", i, ": ", texts[i]);
    CHECK(t.encode(texts[i], io::special_tokens::as_text) == expected);
  }
}

}  // namespace

TEST_SUITE("golden") {
  TEST_CASE("vectors of the gpt-2 vocabulary") {
    check_vectors("gpt-2", test::data_dir() / "tokenizer/ggml-vocab-gpt-2.gguf");
  }
  TEST_CASE("vectors of the smollm vocabulary") { check_vectors("smollm", test::model_path()); }
  TEST_CASE("vectors of the llama-bpe vocabulary") {
    check_vectors("llama-bpe", test::data_dir() / "tokenizer/ggml-vocab-llama-bpe.gguf");
  }
  TEST_CASE("vectors of the qwen2 vocabulary") {
    check_vectors("qwen2", test::data_dir() / "tokenizer/ggml-vocab-qwen2.gguf");
  }
}
