// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/io/gguf.hpp>

#include <io/gguf_builder.hpp>
#include <support/data.hpp>

namespace {

using namespace gistkv;
using io::gguf_file;
using test::gguf_builder;
namespace code = test::gguf_code;

gguf_builder all_kinds() {
  gguf_builder b;
  b.number<std::uint8_t>("u8", code::uint8, 200);
  b.number<std::int8_t>("i8", code::int8, -100);
  b.number<std::uint16_t>("u16", code::uint16, 60000);
  b.number<std::int16_t>("i16", code::int16, -30000);
  b.number<std::uint32_t>("u32", code::uint32, 4000000000U);
  b.number<std::int32_t>("i32", code::int32, -2000000000);
  b.number<float>("f32", code::float32, 1.5F);
  b.number<std::uint8_t>("yes", code::boolean, 1);
  b.number<std::uint8_t>("no", code::boolean, 0);
  b.string("text", "gr\xc3\xbc\xc3\x9f");
  b.string("empty", "");
  b.number<std::uint64_t>("u64", code::uint64, 18000000000000000000U);
  b.number<std::int64_t>("i64", code::int64, -9000000000000000000);
  b.number<double>("f64", code::float64, 0.1);
  b.strings("words", {"a", "", "ccc"});
  b.numbers<std::int32_t>("ints", code::int32, {1, -2, 3});
  b.numbers<float>("floats", code::float32, {0.5F, -0.25F});
  b.numbers<std::uint8_t>("flags", code::boolean, {1, 0, 1});
  b.numbers<std::uint16_t>("nothing", code::uint16, {});
  return b;
}

TEST_CASE("every metadata type reads back") {
  const auto bytes = all_kinds().bytes();
  const auto file = gguf_file::parse(bytes, "kinds");
  CHECK(file.version() == 3);
  CHECK(file.metadata().size() == 19);
  CHECK(file.metadata()[0].key == "u8");
  CHECK(file.get<std::uint8_t>("u8") == 200);
  CHECK(file.get<std::int8_t>("i8") == -100);
  CHECK(file.get<std::uint16_t>("u16") == 60000);
  CHECK(file.get<std::int16_t>("i16") == -30000);
  CHECK(file.get<std::uint32_t>("u32") == 4000000000U);
  CHECK(file.get<std::int32_t>("i32") == -2000000000);
  CHECK(file.get<float>("f32") == 1.5F);
  CHECK(file.get<bool>("yes"));
  CHECK(!file.get<bool>("no"));
  CHECK(file.get<std::string>("text") == "gr\xc3\xbc\xc3\x9f");
  CHECK(file.get<std::string_view>("empty").empty());
  CHECK(file.get<std::uint64_t>("u64") == 18000000000000000000U);
  CHECK(file.get<std::int64_t>("i64") == -9000000000000000000);
  CHECK(file.get<double>("f64") == 0.1);
  CHECK(file.get<double>("f32") == 1.5);
  CHECK(file.strings("words") == std::vector<std::string_view>{"a", "", "ccc"});
  CHECK(file.get<std::vector<std::int64_t>>("ints") == std::vector<std::int64_t>{1, -2, 3});
  CHECK(file.get<std::vector<float>>("floats") == std::vector<float>{0.5F, -0.25F});
  CHECK(file.get<std::vector<bool>>("flags") == std::vector<bool>{true, false, true});
  CHECK(file.get<std::vector<int>>("nothing").empty());
  CHECK(file.tensors().empty());
  CHECK(file.contains("u8"));
  CHECK(!file.contains("u9"));
  CHECK(!file.find<int>("u9").has_value());
}

TEST_CASE("integers widen and narrow when the value fits, nothing else converts") {
  const auto bytes = all_kinds().bytes();
  const auto file = gguf_file::parse(bytes, "kinds");
  CHECK(file.get<std::int64_t>("u8") == 200);
  CHECK(file.get<index_t>("u32") == 4000000000);
  CHECK(file.get<std::int16_t>("i8") == -100);
  CHECK(file.get<std::uint16_t>("u8") == 200);
  CHECK_THROWS_WITH_AS(file.get<std::int8_t>("u8"),
                       "kinds: key 'u8' is uint8 of value 200, expected a signed 8-bit integer",
                       format_error);
  CHECK_THROWS_WITH_AS(file.get<std::uint64_t>("i8"),
                       "kinds: key 'i8' is int8 of value -100, expected an unsigned 64-bit integer",
                       format_error);
  CHECK_THROWS_AS(file.get<std::int64_t>("u64"), format_error);
  CHECK_THROWS_WITH_AS(file.get<float>("f64"), "kinds: key 'f64' is float64, expected float32",
                       format_error);
  CHECK_THROWS_AS(file.get<int>("yes"), format_error);
  CHECK_THROWS_AS(file.get<bool>("u8"), format_error);
  CHECK_THROWS_AS(file.get<double>("u8"), format_error);
  CHECK_THROWS_AS(file.get<int>("f32"), format_error);
  CHECK_THROWS_AS(file.get<int>("ints"), format_error);
  CHECK_THROWS_AS(file.get<std::string>("words"), format_error);
  CHECK_THROWS_AS(file.get<std::vector<int>>("u8"), format_error);
  CHECK_THROWS_WITH_AS(
      file.get<std::vector<std::uint32_t>>("ints"),
      "kinds: key 'ints' is array of 3 int32, expected an array, each element an unsigned 32-bit "
      "integer",
      format_error);
  CHECK_THROWS_WITH_AS(file.get<std::string>("text2"),
                       "kinds: key 'text2' is missing, expected string", format_error);
  CHECK_THROWS_AS(static_cast<void>(file.find<int>("text")), format_error);
}

TEST_CASE("strings are views into the file's bytes") {
  const auto bytes = all_kinds().bytes();
  const auto file = gguf_file::parse(bytes, "kinds");
  const auto words = file.strings("words");
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  CHECK(words[2].data() > begin);
  CHECK(words[2].data() + words[2].size() <= begin + bytes.size());
}

TEST_CASE("tensors lie where their offsets say, extents outermost first") {
  for (const std::size_t alignment : {8U, 32U, 128U}) {
    CAPTURE(alignment);
    gguf_builder b;
    b.alignment = alignment;
    b.u32("general.alignment", static_cast<std::uint32_t>(alignment));
    b.floats("v", {3}, {1, 2, 3});
    b.floats("m", {2, 3}, {10, 11, 20, 21, 30, 31});
    b.add({"q", {64, 2}, code::q4_1, std::vector<std::byte>(80, std::byte{7})});
    b.add({"h", {2, 1, 2}, code::bf16, std::vector<std::byte>(8, std::byte{1})});
    b.version = alignment == 8 ? 2 : 3;
    const auto bytes = b.bytes();
    const auto file = gguf_file::parse(bytes, "tensors");
    CHECK(file.version() == b.version);
    REQUIRE(file.tensors().size() == 4);
    const auto& m = file.tensor("m");
    CHECK(m.type == weight_type::f32);
    CHECK(m.extents == std::vector<index_t>{3, 2});
    CHECK(io::element_count(m) == 6);
    std::vector<float> values(6);
    dequantize(m.type, m.data.data(), 6, values.data());
    CHECK(values == std::vector<float>{10, 11, 20, 21, 30, 31});
    CHECK((m.data.data() - bytes.data()) % static_cast<std::ptrdiff_t>(alignment) == 0);
    CHECK(file.tensor("v").extents == std::vector<index_t>{3});
    CHECK(file.tensor("q").type == weight_type::q4_1);
    CHECK(file.tensor("q").data.size() == 80);
    CHECK(file.tensor("q").data[79] == std::byte{7});
    CHECK(file.tensor("h").extents == std::vector<index_t>{2, 1, 2});
    CHECK(file.find_tensor("x") == nullptr);
    CHECK_THROWS_WITH_AS(file.tensor("x"), "tensors: tensor 'x' is missing", format_error);
  }
}

TEST_CASE("a copy keeps the mapping alive") {
  test::scratch_directory scratch;
  gguf_builder b;
  b.string("k", "value").floats("v", {3}, {1, 2, 3});
  test::write_bytes(scratch / "a.gguf", b.bytes());
  auto first = std::make_unique<gguf_file>(gguf_file::open(scratch / "a.gguf"));
  const gguf_file second = *first;
  first.reset();
  CHECK(second.get<std::string>("k") == "value");
  CHECK(second.tensor("v").data[3] == std::byte{0x3f});
  CHECK(second.paths().size() == 1);
}

/// Part `i` of `n` of a model with one tensor a part.
std::vector<std::byte> part(std::uint16_t i, std::uint16_t n, std::int32_t n_tensors,
                            const std::string& tensor_name) {
  gguf_builder b;
  if (i == 0) b.string("general.architecture", "llama");
  b.number(std::string_view("split.no"), code::uint16, i);
  b.number(std::string_view("split.count"), code::uint16, n);
  b.number(std::string_view("split.tensors.count"), code::int32, n_tensors);
  b.floats(tensor_name, {2}, {static_cast<float>(i), -1.0F});
  return b.bytes();
}

TEST_CASE("a model in parts opens by its first part") {
  test::scratch_directory scratch;
  const std::vector<std::string> names = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                          "m-00003-of-00003.gguf"};
  for (std::uint16_t i = 0; i < 3; ++i) {
    test::write_bytes(scratch / names[i], part(i, 3, 3, "t" + std::to_string(i)));
  }
  const auto file = gguf_file::open(scratch / names[0]);
  CHECK(file.paths().size() == 3);
  CHECK(file.get<std::string>("general.architecture") == "llama");
  REQUIRE(file.tensors().size() == 3);
  for (int i = 0; i < 3; ++i) {
    float value = -5;
    dequantize(weight_type::f32, file.tensor("t" + std::to_string(i)).data.data(), 1, &value);
    CHECK(value == static_cast<float>(i));
  }

  SUBCASE("another part is refused") {
    CHECK_THROWS_AS(gguf_file::open(scratch / names[1]), format_error);
  }
  SUBCASE("a part in memory is refused") {
    const auto bytes = part(0, 3, 3, "t0");
    CHECK_THROWS_AS(gguf_file::parse(bytes, "part"), format_error);
  }
  SUBCASE("a missing part is named") {
    std::filesystem::remove(scratch / names[2]);
    try {
      gguf_file::open(scratch / names[0]);
      FAIL("opened");
    } catch (const io::file_error& e) {
      CHECK(std::string(e.what()).find(names[2]) != std::string::npos);
    }
  }
  SUBCASE("a part of another model is refused") {
    test::write_bytes(scratch / names[1], part(2, 3, 3, "t1"));
    CHECK_THROWS_AS(gguf_file::open(scratch / names[0]), format_error);
  }
  SUBCASE("a tensor twice is refused") {
    test::write_bytes(scratch / names[1], part(1, 3, 3, "t0"));
    CHECK_THROWS_AS(gguf_file::open(scratch / names[0]), format_error);
  }
  SUBCASE("a wrong total is refused") {
    test::write_bytes(scratch / names[0], part(0, 3, 4, "t0"));
    CHECK_THROWS_AS(gguf_file::open(scratch / names[0]), format_error);
  }
  SUBCASE("a name without part numbers is refused") {
    test::write_bytes(scratch / "other.gguf", part(0, 3, 3, "t0"));
    CHECK_THROWS_AS(gguf_file::open(scratch / "other.gguf"), format_error);
  }
}

TEST_CASE("a real model: facts found by an independent reader") {
  if (!test::require_file(test::model_path())) return;
  const io::mapped_file mapping(test::model_path());
  const auto file = gguf_file::parse(mapping.bytes(), "model");
  CHECK(file.version() == 3);
  CHECK(file.metadata().size() == 33);
  REQUIRE(file.tensors().size() == 272);
  CHECK(file.get<std::string>("general.architecture") == "llama");
  CHECK(file.get<int>("llama.block_count") == 30);
  CHECK(file.get<float>("llama.rope.freq_base") == 100000.0F);
  CHECK(!file.get<bool>("tokenizer.ggml.add_bos_token"));
  CHECK(file.strings("tokenizer.ggml.tokens").size() == 49152);
  CHECK(file.strings("tokenizer.ggml.merges").size() == 48900);
  CHECK(file.get<std::vector<std::int32_t>>("tokenizer.ggml.token_type").size() == 49152);
  const auto& table = file.tensor("token_embd.weight");
  CHECK(table.type == weight_type::q8_0);
  CHECK(table.extents == std::vector<index_t>{49152, 576});
  CHECK(table.data.data() - mapping.bytes().data() == 1785664);
  CHECK(table.data.size() == 30081024);
  const auto& down = file.tensor("blk.0.ffn_down.weight");
  CHECK(down.type == weight_type::q4_1);
  CHECK(down.extents == std::vector<index_t>{576, 1536});
  CHECK(down.data.data() - mapping.bytes().data() == 31868992);
}

TEST_CASE("a real vocabulary without tensors") {
  const auto path = test::data_dir() / "tokenizer" / "ggml-vocab-gpt-2.gguf";
  if (!test::require_file(path)) return;
  const auto file = gguf_file::open(path);
  CHECK(file.tensors().empty());
  CHECK(file.get<std::string>("tokenizer.ggml.pre") == "gpt-2");
  CHECK(file.strings("tokenizer.ggml.tokens").size() == 50257);
}

}  // namespace
