// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <io/gguf_builder.hpp>
#include <io/small_tokenizer.hpp>

using namespace gistkv;

namespace {

std::vector<int> kinds_of(const io::tokenizer_data& data) {
  std::vector<int> kinds;
  for (const auto kind : data.kinds) kinds.push_back(static_cast<int>(kind));
  return kinds;
}

/// The keys that each vocabulary has.
test::gguf_builder builder(const io::tokenizer_data& data, const std::string& pre = "gpt-2") {
  test::gguf_builder b;
  b.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
  b.strings("tokenizer.ggml.tokens", data.tokens).strings("tokenizer.ggml.merges", data.merges);
  return b;
}

io::tokenizer_data read(const test::gguf_builder& b) {
  const auto bytes = b.bytes();
  return io::read_tokenizer(io::gguf_file::parse(bytes, "vocab.gguf"));
}

template <class Change>
std::string refusal(Change change) {
  test::gguf_builder b;
  change(b);
  try {
    const io::tokenizer t(read(b));
  } catch (const format_error& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("gguf tokenizer: all keys arrive") {
  const auto data = test::small_tokenizer_data();
  auto b = builder(data);
  b.numbers("tokenizer.ggml.token_type", test::gguf_code::int32, kinds_of(data));
  b.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  b.u32("tokenizer.ggml.unknown_token_id", 3).u32("tokenizer.ggml.padding_token_id", 4);
  b.u32("tokenizer.ggml.eot_token_id", 5).u32("tokenizer.ggml.eom_token_id", 6);
  b.number<std::uint8_t>("tokenizer.ggml.add_bos_token", test::gguf_code::boolean, 1);
  b.number<std::uint8_t>("tokenizer.ggml.add_space_prefix", test::gguf_code::boolean, 1);
  b.string("tokenizer.chat_template", "{{ x }}");
  const auto found = read(b);
  CHECK(found.source == "vocab.gguf");
  CHECK(found.tokens == data.tokens);
  CHECK(found.kinds == data.kinds);
  CHECK(found.merges == data.merges);
  CHECK(found.bos == 1);
  CHECK(found.eos == 2);
  CHECK(found.unk == 3);
  CHECK(found.pad == 4);
  CHECK(found.end_tokens == std::vector<token_t>{5, 6});
  CHECK(found.add_bos);
  CHECK(found.add_prefix_space);
  CHECK_FALSE(found.ignore_merges);
  CHECK_FALSE(found.compose);
  CHECK_FALSE(found.unk_for_missing);
  CHECK(found.chat_template == "{{ x }}");
}

TEST_CASE("gguf tokenizer: what the rule's name implies") {
  const auto data = test::small_tokenizer_data();
  const auto plain = read(builder(data));
  CHECK_FALSE(plain.add_bos);
  CHECK(io::tokenizer(plain).encode("the").size() == 1);
  auto llama = builder(data, "llama-bpe");
  CHECK(read(llama).ignore_merges);
  CHECK_FALSE(read(llama).add_bos);
  llama.u32("tokenizer.ggml.bos_token_id", 1);
  CHECK(read(llama).add_bos);
  llama.number<std::uint8_t>("tokenizer.ggml.add_bos_token", test::gguf_code::boolean, 0);
  CHECK_FALSE(read(llama).add_bos);
  CHECK(read(builder(data, "qwen2")).compose);
}

TEST_CASE("gguf tokenizer: refused by name") {
  const auto data = test::small_tokenizer_data();
  CHECK(refusal([](auto& b) { b.string("tokenizer.ggml.model", "llama"); }) ==
        "vocab.gguf: key 'tokenizer.ggml.model' is 'llama', expected 'gpt2' (byte-level BPE)");
  CHECK(refusal([](auto&) {}).starts_with("vocab.gguf: key 'tokenizer.ggml.model' is missing"));
  CHECK(refusal([](auto& b) {
          b.string("tokenizer.ggml.model", "gpt2");
        }).starts_with("vocab.gguf: key 'tokenizer.ggml.pre' is missing"));
  CHECK(refusal([&](auto& b) { b = builder(data, "mpt"); }).find("'mpt'") != std::string::npos);
  const auto with_kinds = [&](std::vector<int> kinds) {
    return refusal([&](auto& b) {
      b = builder(data);
      b.numbers("tokenizer.ggml.token_type", test::gguf_code::int32, kinds);
    });
  };
  auto kinds = kinds_of(data);
  CHECK(with_kinds(kinds) == "accepted");
  kinds[3] = 7;
  CHECK(with_kinds(kinds) ==
        "vocab.gguf: key 'tokenizer.ggml.token_type' holds 7, expected 1 to 6");
  kinds[3] = 0;
  CHECK(with_kinds(kinds) != "accepted");
  kinds[3] = 1;
  kinds.pop_back();
  CHECK(with_kinds(kinds).starts_with("vocab.gguf: " + std::to_string(kinds.size()) +
                                      " token types"));
  CHECK(refusal([&](auto& b) {
          b = builder(data);
          b.string("tokenizer.ggml.bos_token_id", "1");
        }).find("bos_token_id") != std::string::npos);
  CHECK(refusal([&](auto& b) {
          b = builder(data);
          b.u32("tokenizer.ggml.eos_token_id", 0xFFFFFFFF);
        }).find("eos_token_id") != std::string::npos);
  CHECK(refusal([&](auto& b) {
          b = builder(data);
          b.u32("tokenizer.ggml.eot_token_id", 99999);
        }).find("end token 99999") != std::string::npos);
}
