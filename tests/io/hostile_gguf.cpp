// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/resource.h>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/mapped_file.hpp>

#include <io/gguf_builder.hpp>
#include <io/small_model.hpp>
#include <support/data.hpp>

namespace {

using namespace gistkv;
using io::gguf_file;
using test::gguf_builder;
namespace code = test::gguf_code;

constexpr std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();

/// What became of a hostile file. Anything but these two, be it another exception, a crash or a
/// report of a sanitizer, fails the test program.
enum class outcome { read, refused };

/// Opens, touches every byte that the file promises, and builds the model.
outcome use(std::span<const std::byte> bytes, std::string* message = nullptr) {
  // A copy of the exact size, so that a sanitizer sees a read past the end.
  const std::vector<std::byte> copy(bytes.begin(), bytes.end());
  try {
    const auto file = gguf_file::parse(copy, "hostile");
    std::uint64_t sum = 0;
    for (const auto& entry : file.metadata()) {
      for (const char c : entry.key) sum += static_cast<unsigned char>(c);
      sum += entry.value.as<std::int64_t>().value_or(0) != 0;
      sum += static_cast<std::uint64_t>(entry.value.as<double>().value_or(0) > 0);
      if (const auto words = entry.value.as<std::vector<std::string_view>>()) {
        for (const auto word : *words) sum += word.size() + (word.empty() ? 0U : word[0] != 0);
      }
      sum +=
          entry.value.as<std::vector<std::int64_t>>().value_or(std::vector<std::int64_t>{}).size();
    }
    for (const auto& tensor : file.tensors()) {
      for (const std::byte b : tensor.data) sum += std::to_integer<std::uint64_t>(b);
      std::vector<float> row(static_cast<std::size_t>(tensor.extents.back()));
      dequantize(tensor.type, tensor.data.data(), tensor.extents.back(), row.data());
    }
    const auto model = io::assemble_model(file);
    CHECK(static_cast<index_t>(model.blocks.size()) == model.config.n_layers);
    CHECK(sum > 0);
    return outcome::read;
  } catch (const format_error& e) {
    const std::string what = e.what();
    CHECK(what.starts_with("hostile: "));
    // Whatever bytes a name has, a message is one printable line of bounded length.
    CHECK(what.size() < 1000);
    CHECK(std::ranges::all_of(what, [](char c) { return c >= 0x20 && c < 0x7f; }));
    if (message != nullptr) *message = what;
    return outcome::refused;
  }
}

long peak_kilobytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST_CASE("a file cut at any byte is refused") {
  const auto bytes = test::small_gguf().bytes();
  REQUIRE(use(bytes) == outcome::read);
  // The last tensor ends before the padding of the file does.
  const auto whole = gguf_file::parse(bytes, "whole");
  std::size_t needed = 0;
  for (const auto& tensor : whole.tensors()) {
    needed = std::max(
        needed, static_cast<std::size_t>(tensor.data.data() - bytes.data()) + tensor.data.size());
  }
  for (std::size_t n = 0; n < needed; ++n) {
    CAPTURE(n);
    REQUIRE(use(std::span(bytes).first(n)) == outcome::refused);
  }
  CHECK(use(std::span(bytes).first(needed)) == outcome::read);
}

TEST_CASE("a name that is no UTF-8 becomes some, so that it can be written into other files") {
  const test::scratch_directory scratch;
  const auto path = scratch / "name.gguf";
  test::write_bytes(path, test::small_gguf({.name = "caf\xe9 \xc3"}).bytes());
  CHECK(io::gguf_model_config(io::gguf_file::open(path)).name == "caf\xEF\xBF\xBD \xEF\xBF\xBD");
}

TEST_CASE("every single bit of the header: an error or a model") {
  std::size_t header_size = 0;
  auto bytes = test::small_gguf().build(&header_size).bytes();
  REQUIRE(header_size > 1000);
  std::size_t n_read = 0;
  std::size_t n_refused = 0;
  for (std::size_t i = 0; i < header_size; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::byte>(1 << bit);
      CAPTURE(i);
      CAPTURE(bit);
      ++(use(bytes) == outcome::read ? n_read : n_refused);
      bytes[i] ^= static_cast<std::byte>(1 << bit);
    }
  }
  MESSAGE(n_refused << " refused, " << n_read << " harmless of " << 8 * header_size);
  // Free text and a few numbers (epsilon, rotary base, context length) may change; names, types,
  // extents and offsets may not.
  CHECK(n_refused > 4 * n_read);
  CHECK(n_read > 0);
}

TEST_CASE("every field set to extreme values: an error or a model, and no memory") {
  auto builder = test::small_gguf();
  auto bytes = builder.bytes();
  const auto marks = builder.marks();
  const long before = peak_kilobytes();
  std::size_t n = 0;
  for (const std::size_t at : marks) {
    for (const std::size_t width : {1U, 2U, 4U, 8U}) {
      if (at + width > bytes.size()) continue;
      for (const std::uint64_t value :
           {std::uint64_t{0}, huge, huge >> 1, huge << 63, std::uint64_t{1} << 32, huge - 31,
            std::uint64_t{0x7fffffff}, std::uint64_t{1} << 61, std::uint64_t{0x4000000000000001}}) {
        auto changed = bytes;
        std::memcpy(changed.data() + at, &value, width);
        use(changed);
        ++n;
      }
    }
  }
  CHECK(n > 1000);
  // A sanitizer keeps freed memory for a while, so this cannot be tight; a count that is believed
  // costs gigabytes.
  CHECK(peak_kilobytes() - before < 400'000);
}

struct broken_file {
  std::string_view name;
  std::string_view expected;  ///< Part of the message.
  std::function<void(gguf_builder&)> change;
  std::string omit = {};  ///< A key that `change` sets itself.
};

gguf_builder::tensor& named(gguf_builder& b, std::string_view name) {
  for (auto& tensor : b.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw argument_error("no tensor " + std::string(name));
}

void remove(gguf_builder& b, std::string_view name) {
  std::erase_if(b.tensors, [&](const auto& tensor) { return tensor.name == name; });
}

TEST_CASE("broken files are refused with the reason") {
  const std::vector<broken_file> cases = {
      {"version 1", "GGUF version 1, expected 2 or 3", [](auto& b) { b.version = 1; }},
      {"version 4", "GGUF version 4, expected 2 or 3", [](auto& b) { b.version = 4; }},
      {"big-endian", "big-endian", [](auto& b) { b.version = 0x03000000; }},
      {"key twice", "key 'llama.block_count' stands twice",
       [](auto& b) { b.u32("llama.block_count", 2); }},
      {"empty key", "a metadata key of 0 bytes", [](auto& b) { b.u32("", 2); }},
      {"long key", "a metadata key of 65536 bytes",
       [](auto& b) { b.u32(std::string(65536, 'k'), 2); }},
      {"value type 13", "key 'x' has value type 13",
       [](auto& b) { b.number(std::string_view("x"), 13, std::uint32_t{0}); }},
      {"bool of 2", "a bool of value 2",
       [](auto& b) { b.number(std::string_view("x"), code::boolean, std::uint8_t{2}); }},
      {"bool of 2 in an array", "a bool of value 2",
       [](auto& b) {
         b.template numbers<std::uint8_t>("x", code::boolean, {1, 2});
       }},
      {"array of arrays", "an array of arrays",
       [](auto& b) {
         b.template numbers<std::uint32_t>("x", code::array, {0, 0, 0});
       }},
      {"alignment 0", "'general.alignment' is uint32 of value 0",
       [](auto& b) { b.u32("general.alignment", 0); }},
      {"alignment 48", "of value 48, expected an unsigned power of two",
       [](auto& b) { b.u32("general.alignment", 48); }},
      {"alignment of text", "'general.alignment' is string",
       [](auto& b) { b.string("general.alignment", "32"); }},
      {"alignment larger than the file", "of the data, which has 0 bytes",
       [](auto& b) { b.u32("general.alignment", 1U << 31); }},
      {"offset off the alignment", "expected a multiple of 64",
       [](auto& b) { b.u32("general.alignment", 64); }},
      {"tensor twice", "tensor 'output_norm.weight' stands twice",
       [](auto& b) { b.add(named(b, "output_norm.weight")); }},
      {"tensor without a name", "tensor name ''",
       [](auto& b) {
         b.floats("", {2}, {1, 2});
       }},
      {"tensor name of 65 bytes", "of 65 bytes, expected 1 to 64",
       [](auto& b) {
         b.floats(std::string(65, 'n'), {2}, {1, 2});
       }},
      {"rank 0", "has 0 extents", [](auto& b) { b.floats("x", {}, {1}); }},
      {"rank 5", "has 5 extents",
       [](auto& b) {
         b.floats("x", {1, 1, 1, 1, 1}, {1});
       }},
      {"extent 0", "has an extent of 0",
       [](auto& b) {
         b.floats("x", {2, 0}, {});
       }},
      {"extent 2^63", "has an extent of 9223372036854775808",
       [](auto& b) { b.floats("x", {1ULL << 63}, {1}); }},
      {"product overflow", "is larger than 2^63 - 1",
       [](auto& b) {
         b.floats("x", {1ULL << 32, 1ULL << 31}, {1});
       }},
      {"product overflow of rows", "is larger than 2^63 - 1",
       [](auto& b) {
         b.floats("x", {1, 1ULL << 32, 1ULL << 32}, {1});
       }},
      {"byte count overflow", "is larger than 2^63 - 1",
       [](auto& b) {
         b.floats("x", {1ULL << 31, 1ULL << 31}, {1});
       }},
      {"larger than the file", "of the data, which has",
       [](auto& b) { b.floats("x", {1ULL << 20}, {1}); }},
      {"type q5_0", "has type q5_0 (6), supported: f32",
       [](auto& b) { named(b, "blk.0.attn_q.weight").type = code::q5_0; }},
      {"type i32", "has type i32 (26)", [](auto& b) { named(b, "blk.0.attn_q.weight").type = 26; }},
      {"type 4, withdrawn", "has type unknown (4)",
       [](auto& b) { named(b, "blk.0.attn_q.weight").type = 4; }},
      {"type 1000", "has type unknown (1000)",
       [](auto& b) { named(b, "blk.0.attn_q.weight").type = 1000; }},
      {"part of a block", "has rows of 8 elements of type q4_0, expected a multiple of 32",
       [](auto& b) { named(b, "blk.0.attn_q.weight").type = code::q4_0; }},
      {"overlap", "inside",
       [](auto& b) {
         // Offsets are laid out by the data, so less data than the extents say makes an overlap.
         named(b, "blk.0.ffn_up.weight").data.resize(32);
       }},
      {"unknown tensor", "tensor 'blk.0.extra.weight' is not part of a llama model",
       [](auto& b) {
         b.floats("blk.0.extra.weight", {2}, {1, 2});
       }},
      {"tensor of a layer too many", "tensor 'blk.2.attn_norm.weight' is not part of",
       [](auto& b) { b.floats("blk.2.attn_norm.weight", {8}, std::vector<float>(8)); }},
      {"two unknown tensors", "and 1 more are not part of",
       [](auto& b) { b.floats("x", {1}, {1}).floats("y", {1}, {1}); }},
      {"missing tensor",
       "tensor 'blk.1.ffn_gate.weight' is missing, expected one with extents [12, 8]",
       [](auto& b) { remove(b, "blk.1.ffn_gate.weight"); }},
      {"missing table", "tensor 'token_embd.weight' is missing",
       [](auto& b) { remove(b, "token_embd.weight"); }},
      {"wrong extents", "tensor 'blk.0.attn_k.weight' has extents [2, 16], expected [4, 8]",
       [](auto& b) {
         named(b, "blk.0.attn_k.weight").extents = {16, 2};
       }},
      {"wrong rank", "tensor 'output_norm.weight' has extents [1, 8], expected [8]",
       [](auto& b) {
         named(b, "output_norm.weight").extents = {8, 1};
       }},
      {"bias in one block only", "has no counterpart 'blk.0.attn_q.bias'",
       [](auto& b) { b.floats("blk.1.attn_q.bias", {8}, std::vector<float>(8)); }},
      {"bias in the first block only", "tensor 'blk.1.attn_q.bias' is missing",
       [](auto& b) { b.floats("blk.0.attn_q.bias", {8}, std::vector<float>(8)); }},
      {"frequency divisors of another length", "'rope_freqs.weight' has extents [3], expected [2]",
       [](auto& b) {
         b.floats("rope_freqs.weight", {3}, {1, 1, 1});
       }},
      {"frequency divisor 0", "'rope_freqs.weight' holds 0.000000",
       [](auto& b) {
         b.floats("rope_freqs.weight", {2}, {1, 0});
       }},
      {"a name that spoils messages", "'\\x1b[2J\\x0a\\xff' is not part of",
       [](auto& b) { b.floats("\x1b[2J\n\xff", {1}, {1}); }},
      {"experts", "key 'llama.expert_count' is 8, which is not supported, expected 0",
       [](auto& b) { b.u32("llama.expert_count", 8); }},
      {"sliding window", "'llama.attention.sliding_window' is 4096",
       [](auto& b) { b.u32("llama.attention.sliding_window", 4096); }},
      {"soft cap", "'llama.attn_logit_softcapping' is 50",
       [](auto& b) { b.f32("llama.attn_logit_softcapping", 50); }},
      {"final soft cap", "'llama.final_logit_softcapping' is 30",
       [](auto& b) { b.f32("llama.final_logit_softcapping", 30); }},
      {"logit scale", "'llama.logit_scale' is 0.5",
       [](auto& b) { b.f32("llama.logit_scale", 0.5F); }},
      {"not causal", "'llama.attention.causal' is 0",
       [](auto& b) {
         b.number(std::string_view("llama.attention.causal"), code::boolean, std::uint8_t{0});
       }},
      {"partial rotation", "'llama.rope.dimension_count' is 2, which is not supported, expected 4",
       [](auto& b) { b.u32("llama.rope.dimension_count", 2); }},
      {"other value width", "'llama.attention.value_length' is 8",
       [](auto& b) { b.u32("llama.attention.value_length", 8); }},
      {"key nobody knows", "key 'llama.new_thing' is not known and might change the computation",
       [](auto& b) { b.u32("llama.new_thing", 1); }},
      {"rotary scaling nobody knows", "rotary scaling type 'longrope' is not supported",
       [](auto& b) { b.string("llama.rope.scaling.type", "longrope"); }},
      {"negative rotary factor", "the rotary scaling factor is -2",
       [](auto& b) { b.f32("llama.rope.scaling.factor", -2); }},
      {"rotary factor that is no number", "the rotary scaling factor is nan",
       [](auto& b) {
         b.f32("llama.rope.scaling.factor", std::numeric_limits<float>::quiet_NaN());
       }},
      {"rotary base 0", "the rotary base is 0", [](auto& b) { b.f32("llama.rope.freq_base", 0); }},
      {"temperature without yarn", "rope.scaling.attn_factor is 2",
       [](auto& b) { b.f32("llama.rope.scaling.attn_factor", 2); }},
      {"heads as an array", "'llama.attention.head_count_kv' is array of 2 uint32",
       [](auto& b) {
         b.template numbers<std::uint32_t>("llama.attention.head_count_kv", code::uint32, {1, 1});
       },
       "llama.attention.head_count_kv"},
      {"heads of a negative number", "the number of key-value heads is -1",
       [](auto& b) {
         b.number(std::string_view("llama.attention.head_count_kv"), code::int32, std::int32_t{-1});
       },
       "llama.attention.head_count_kv"},
      {"heads that do not divide", "the number of heads is 2, expected a multiple of the 3",
       [](auto& b) { b.u32("llama.attention.head_count_kv", 3); }, "llama.attention.head_count_kv"},
      {"odd head width", "the head width is 3, expected an even number",
       [](auto& b) { b.u32("llama.attention.key_length", 3); }},
      {"huge head width", "the head width is 4294967295",
       [](auto& b) { b.u32("llama.attention.key_length", 0xffffffffU); }},
      {"vocabulary of another size", "tensor 'token_embd.weight' has extents [10, 8]",
       [](auto& b) {
         b.strings("tokenizer.ggml.tokens", {"a", "b"});
       }},
      {"part of a split model", "is one of 2 parts of a model",
       [](auto& b) { b.number(std::string_view("split.count"), code::uint16, std::uint16_t{2}); }},
  };
  std::set<std::string_view> names;
  for (const broken_file& item : cases) {
    CAPTURE(item.name);
    CHECK(names.insert(item.name).second);
    auto builder = test::small_gguf({.omit = item.omit});
    item.change(builder);
    std::string message;
    REQUIRE(use(builder.bytes(), &message) == outcome::refused);
    CHECK_MESSAGE(message.find(item.expected) != std::string::npos, message);
  }
  CHECK(cases.size() >= 60);
}

TEST_CASE("missing and wrong keys are named") {
  const std::vector<std::string> required = {
      "general.architecture",       "llama.block_count",
      "llama.embedding_length",     "llama.feed_forward_length",
      "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"};
  for (const std::string& key : required) {
    CAPTURE(key);
    std::string message;
    REQUIRE(use(test::small_gguf({.omit = key}).bytes(), &message) == outcome::refused);
    CHECK_MESSAGE(message.find("key '" + key + "' is missing") != std::string::npos, message);
  }
  std::string message;
  CHECK(use(test::small_gguf({.architecture = "gpt2"}).bytes(), &message) == outcome::refused);
  CHECK(message == "hostile: architecture 'gpt2' is not supported, expected llama, qwen2 or qwen3");
  for (const std::uint32_t n_layers : {0U, 1U, 3U, 0xffffffffU}) {
    CAPTURE(n_layers);
    CHECK(use(test::small_gguf({.n_layers_key = n_layers}).bytes()) == outcome::refused);
  }
}

TEST_CASE("counts that the file cannot hold end at its end") {
  for (const std::uint64_t count :
       {huge, huge >> 1, std::uint64_t{1} << 40, std::uint64_t{1} << 17}) {
    test::byte_builder tensors;
    tensors.raw("GGUF").put<std::uint32_t>(3).put(count).put<std::uint64_t>(0);
    CHECK(use(tensors.bytes()) == outcome::refused);
    test::byte_builder entries;
    entries.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put(count);
    CHECK(use(entries.bytes()) == outcome::refused);
    for (const std::uint32_t type : {code::uint8, code::uint32, code::float64, code::string}) {
      test::byte_builder array;
      array.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put<std::uint64_t>(1);
      array.text("k").put(code::array).put(type).put(count).zeros(64);
      CHECK(use(array.bytes()) == outcome::refused);
    }
    test::byte_builder text;
    text.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put<std::uint64_t>(1);
    text.text("k").put(code::string).put(count).zeros(64);
    CHECK(use(text.bytes()) == outcome::refused);
    test::byte_builder key;
    key.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put<std::uint64_t>(1).put(count);
    CHECK(use(key.zeros(64).bytes()) == outcome::refused);
  }
}

TEST_CASE("random bytes and random splices are refused or read") {
  random_generator random(20240607);
  const auto good = test::small_gguf().bytes();
  std::size_t n_refused = 0;
  for (int round = 0; round < 300; ++round) {
    auto bytes = good;
    const auto n_changes = 1 + random.below(8);
    for (index_t i = 0; i < n_changes; ++i) {
      const auto at = static_cast<std::size_t>(random.below(static_cast<index_t>(bytes.size())));
      const auto n = static_cast<std::size_t>(1 + random.below(16));
      for (std::size_t j = at; j < std::min(at + n, bytes.size()); ++j) {
        bytes[j] = static_cast<std::byte>(random.below(256));
      }
    }
    n_refused += use(bytes) == outcome::refused ? 1U : 0U;
    std::vector<std::byte> noise(static_cast<std::size_t>(1 + random.below(200)));
    for (std::byte& b : noise) b = static_cast<std::byte>(random.below(256));
    std::memcpy(noise.data(), "GGUF\3\0\0\0", std::min<std::size_t>(noise.size(), 8));
    CHECK(use(noise) == outcome::refused);
  }
  CHECK(n_refused > 100);
}

TEST_CASE("a real model cut short is refused") {
  if (!test::require_file(test::model_path())) return;
  const io::mapped_file mapping(test::model_path());
  const auto bytes = mapping.bytes();
  const auto n_cuts = 60U;
  for (unsigned i = 0; i < n_cuts; ++i) {
    // The last bytes are padding or data of the last tensor; no cut of 1 % leaves the model whole.
    const std::size_t n = bytes.size() / 100 * 99 / n_cuts * i;
    CAPTURE(n);
    CHECK_THROWS_AS(gguf_file::parse(bytes.first(n), "cut"), format_error);
  }
}

}  // namespace
