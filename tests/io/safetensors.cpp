// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/io/safetensors_set.hpp>
#include <gistkv/io/safetensors_writer.hpp>
#include <gistkv/io/token_file.hpp>

#include <io/gguf_builder.hpp>
#include <support/data.hpp>

namespace {

using namespace gistkv;
using io::safetensors_file;
using io::safetensors_tensor;
using io::safetensors_type;

/// A file from its header text and data.
std::vector<std::byte> file_of(std::string_view header, std::string_view data) {
  test::byte_builder b;
  b.text(header).raw(data);
  return b.bytes();
}

TEST_CASE("tokens are mapped where they are aligned, and refused elsewhere") {
  const test::scratch_directory scratch;
  const auto path = scratch / "tokens.safetensors";
  std::string header = R"({"stream":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})";
  header.append((4 - header.size() % 4) % 4, ' ');
  test::write_bytes(path, file_of(header, std::string_view("\1\0\0\0\2\0\0\0", 8)));
  const io::token_file tokens(path);
  CHECK(tokens.stream()[1] == 2);
  test::write_bytes(path, file_of(header + " ", std::string_view("\1\0\0\0\2\0\0\0", 8)));
  CHECK_THROWS_AS(io::token_file{path}, format_error);
}

TEST_CASE("a file written by hand reads back") {
  const auto bytes = file_of(R"({"__metadata__":{"format":"pt","k":""},)"
                             R"("b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]},)"
                             R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                             R"("none":{"dtype":"I64","shape":[0,3],"data_offsets":[12,12]},)"
                             R"("one":{"dtype":"F16","shape":[],"data_offsets":[12,14]}}   )",
                             std::string_view("\0\0\x80\x3f\0\0\0\xc0\1\2\3\4\0\x3c", 14));
  const auto file = safetensors_file::parse(bytes, "hand");
  CHECK(file.metadata().size() == 2);
  CHECK(file.metadata().at("format") == "pt");
  REQUIRE(file.tensors().size() == 4);
  CHECK(file.tensors()[0].name == "a");
  CHECK(file.tensors()[3].name == "one");
  const auto& a = file.tensor("a");
  CHECK(a.type == safetensors_type::f32);
  CHECK(a.extents == std::vector<index_t>{2, 1});
  const auto weight = io::as_weight(a, "hand");
  std::array<float, 2> values{};
  dequantize(weight.type, weight.data.data(), 2, values.data());
  CHECK(values == std::array<float, 2>{1, -2});
  CHECK(file.tensor("b").data[3] == std::byte{4});
  CHECK(file.tensor("none").data.empty());
  CHECK(file.tensor("one").extents.empty());
  CHECK(file.find_tensor("c") == nullptr);
  CHECK_THROWS_WITH_AS(file.tensor("c"), "hand: tensor 'c' is missing", format_error);
  CHECK_THROWS_WITH_AS(io::as_weight(file.tensor("b"), "hand"),
                       "hand: tensor 'b' has type U8, expected F32, F16 or BF16 for a weight",
                       format_error);
}

TEST_CASE("a file without tensors") {
  CHECK(safetensors_file::parse(file_of("{}", ""), "empty").tensors().empty());
}

TEST_CASE("what is written reads back, the same bytes for any order of the input") {
  test::scratch_directory scratch;
  const std::array<float, 6> matrix = {1, 2, 3, 4, 5, 6};
  const std::array<std::uint16_t, 3> halves = {0x3c00, 0x4000, 0x4200};
  const std::array<std::int64_t, 1> number = {-7};
  const std::array<std::uint8_t, 5> small = {1, 2, 3, 4, 5};
  std::vector<safetensors_tensor> tensors = {
      {"z.bytes", safetensors_type::u8, {5}, std::as_bytes(std::span(small))},
      {"m", safetensors_type::f32, {2, 3}, std::as_bytes(std::span(matrix))},
      {"\xc3\xa9 \"quoted\" \n", safetensors_type::f16, {3}, std::as_bytes(std::span(halves))},
      {"n", safetensors_type::i64, {}, std::as_bytes(std::span(number))},
      {"nothing", safetensors_type::bf16, {0, 9}, {}},
  };
  const std::map<std::string, std::string, std::less<>> metadata = {{"made by", "a test"}};
  io::write_safetensors(scratch / "a.safetensors", tensors, metadata);
  std::swap(tensors[0], tensors[3]);
  std::swap(tensors[1], tensors[2]);
  io::write_safetensors(scratch / "b.safetensors", tensors, metadata);
  CHECK(io::read_text_file(scratch / "a.safetensors") ==
        io::read_text_file(scratch / "b.safetensors"));

  const auto file = safetensors_file::open(scratch / "a.safetensors");
  CHECK(file.metadata() == metadata);
  REQUIRE(file.tensors().size() == tensors.size());
  for (const auto& expected : tensors) {
    const auto& actual = file.tensor(expected.name);
    CHECK(actual.type == expected.type);
    CHECK(actual.extents == expected.extents);
    CHECK(std::ranges::equal(actual.data, expected.data));
    const auto address = reinterpret_cast<std::uintptr_t>(actual.data.data());
    CHECK(address % io::element_size(actual.type) == 0);
  }
}

TEST_CASE("the writer refuses what no reader would take") {
  test::scratch_directory scratch;
  const auto path = scratch / "x.safetensors";
  const std::array<float, 2> v = {1, 2};
  const auto data = std::as_bytes(std::span(v));
  auto write = [&](std::vector<safetensors_tensor> tensors) {
    io::write_safetensors(path, tensors);
  };
  const safetensors_tensor good = {"a", safetensors_type::f32, {2}, data};
  CHECK_THROWS_AS(write({good, good}), argument_error);
  CHECK_THROWS_AS(write({{"__metadata__", safetensors_type::f32, {2}, data}}), argument_error);
  CHECK_THROWS_AS(write({{"a", safetensors_type::f32, {3}, data}}), shape_error);
  CHECK_THROWS_AS(write({{"a", safetensors_type::f16, {2}, data}}), shape_error);
  CHECK_THROWS_AS(write({{"a", safetensors_type::f32, {-2}, data}}), shape_error);
  const index_t large = std::numeric_limits<index_t>::max();
  CHECK_THROWS_AS(write({{"a", safetensors_type::f32, {large, large}, data}}), shape_error);
  CHECK_THROWS_AS(write({{"\xff", safetensors_type::f32, {2}, data}}), argument_error);
  CHECK(!std::filesystem::exists(path));
  write({good});
  CHECK(safetensors_file::open(path).tensors().size() == 1);
}

class sharded {
 public:
  sharded() {
    write("model-00001-of-00002.safetensors", {"a", "b"});
    write("model-00002-of-00002.safetensors", {"c"});
    index(R"({"a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors",)"
          R"("c":"model-00002-of-00002.safetensors"})");
  }

  void write(const std::string& name, const std::vector<std::string>& tensors) const {
    static constexpr std::array<float, 2> v = {1, 2};
    std::vector<safetensors_tensor> list;
    for (const auto& tensor : tensors) {
      list.push_back({tensor, safetensors_type::f32, {2}, std::as_bytes(std::span(v))});
    }
    io::write_safetensors(scratch / name, list);
  }
  void index(const std::string& weight_map) const {
    test::write_text(scratch / "model.safetensors.index.json",
                     R"({"metadata":{"total_size":24},"weight_map":)" + weight_map + "}");
  }
  io::safetensors_set open() const { return io::safetensors_set::open(scratch.path()); }

  test::scratch_directory scratch;
};

TEST_CASE("a checkpoint in several files") {
  const sharded s;
  const auto set = s.open();
  REQUIRE(set.files().size() == 2);
  CHECK(set.files()[0].tensors().size() + set.files()[1].tensors().size() == 3);
  CHECK(set.paths()[1].filename() == "model-00002-of-00002.safetensors");
  const auto by_index = io::safetensors_set::open(s.scratch / "model.safetensors.index.json");
  CHECK(by_index.files().size() == 2);
  const auto one = io::safetensors_set::open(s.scratch / "model-00001-of-00002.safetensors");
  CHECK(one.files().size() == 1);
}

TEST_CASE("a sharded checkpoint must be exactly what its index says") {
  const sharded s;
  SUBCASE("a tensor in no file") {
    s.write("model-00002-of-00002.safetensors", {"d"});
    CHECK_THROWS_AS(s.open(), format_error);
  }
  SUBCASE("a tensor that the index does not name") {
    s.write("model-00002-of-00002.safetensors", {"c", "d"});
    CHECK_THROWS_AS(s.open(), format_error);
  }
  SUBCASE("a file that is not there") {
    std::filesystem::remove(s.scratch / "model-00002-of-00002.safetensors");
    CHECK_THROWS_AS(s.open(), io::file_error);
  }
  SUBCASE("a way out of the directory") {
    s.index(R"({"a":"../model-00001-of-00002.safetensors"})");
    CHECK_THROWS_AS(s.open(), format_error);
  }
  SUBCASE("a file of another kind") {
    s.index(R"({"a":"model.bin"})");
    CHECK_THROWS_AS(s.open(), format_error);
  }
  SUBCASE("a file name that is a number") {
    s.index(R"({"a":1})");
    CHECK_THROWS_AS(s.open(), format_error);
  }
  SUBCASE("no weight_map") {
    test::write_text(s.scratch / "model.safetensors.index.json", "{}");
    CHECK_THROWS_AS(s.open(), format_error);
  }
}

TEST_CASE("which file of a directory is the model") {
  const sharded s;
  s.write("model.safetensors", {"whole"});
  CHECK(s.open().files()[0].tensors()[0].name == "whole");
  std::filesystem::remove(s.scratch / "model.safetensors");
  std::filesystem::remove(s.scratch / "model.safetensors.index.json");
  CHECK_THROWS_AS(s.open(), format_error);
  std::filesystem::remove(s.scratch / "model-00001-of-00002.safetensors");
  CHECK(s.open().files()[0].tensors()[0].name == "c");
  std::filesystem::remove(s.scratch / "model-00002-of-00002.safetensors");
  CHECK_THROWS_AS(s.open(), format_error);
  CHECK_THROWS_AS(io::safetensors_set::open(s.scratch / "absent"), io::file_error);
}

TEST_CASE("files of an independent writer") {
  const auto directory = test::golden_dir() / "gmsa" / "tiny";
  if (!test::require_file(directory)) return;
  const auto f32 = safetensors_file::open(directory / "llama_tied" / "model.safetensors");
  CHECK(f32.tensor("decoder.model.layers.0.self_attn.k_proj.weight").extents ==
        std::vector<index_t>{16, 32});
  CHECK(f32.tensor("decoder.model.norm.weight").type == safetensors_type::f32);
  const auto bf16 = safetensors_file::open(directory / "qwen3_tied_bf16" / "model.safetensors");
  CHECK(bf16.tensor("semantic_alignment_layer.weight").type == safetensors_type::bf16);
  CHECK(bf16.tensor("semantic_alignment_layer.bias").extents == std::vector<index_t>{32});
}

}  // namespace
