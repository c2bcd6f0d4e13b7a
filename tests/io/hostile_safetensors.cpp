// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/io/strict_json.hpp>

#include <io/gguf_builder.hpp>

namespace {

using namespace gistkv;
using io::safetensors_file;

enum class outcome { read, refused };

outcome use(std::span<const std::byte> bytes, std::string* message = nullptr) {
  const std::vector<std::byte> copy(bytes.begin(), bytes.end());
  try {
    const auto file = safetensors_file::parse(copy, "hostile");
    std::size_t n_bytes = 0;
    for (const auto& tensor : file.tensors()) {
      index_t n = 1;
      for (const index_t extent : tensor.extents) n *= extent;
      CHECK(tensor.data.size() == static_cast<std::size_t>(n) * io::element_size(tensor.type));
      n_bytes += tensor.data.size();
      std::uint64_t sum = 0;
      for (const std::byte b : tensor.data) sum += std::to_integer<std::uint64_t>(b);
      CHECK(sum <= 255 * tensor.data.size());
      CHECK(file.find_tensor(tensor.name) == &tensor);
    }
    // Strictness itself: every byte of the data belongs to one tensor.
    std::uint64_t header = 0;
    std::memcpy(&header, copy.data(), sizeof header);
    CHECK(n_bytes == copy.size() - 8 - header);
    return outcome::read;
  } catch (const format_error& e) {
    const std::string what = e.what();
    CHECK(what.starts_with("hostile: "));
    CHECK(what.size() < 1000);
    CHECK(std::ranges::all_of(what, [](char c) { return c >= 0x20 && c < 0x7f; }));
    if (message != nullptr) *message = what;
    return outcome::refused;
  }
}

std::vector<std::byte> file_of(std::string_view header, std::size_t n_data) {
  test::byte_builder b;
  b.text(header).zeros(n_data);
  return b.bytes();
}

constexpr std::string_view good_header =
    R"({"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("y":{"dtype":"BF16","shape":[5],"data_offsets":[24,34]},)"
    R"("z":{"dtype":"I32","shape":[],"data_offsets":[34,38]}})";
constexpr std::size_t good_data = 38;

TEST_CASE("a file cut or lengthened at any byte is refused") {
  auto bytes = file_of(good_header, good_data);
  REQUIRE(use(bytes) == outcome::read);
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    CAPTURE(n);
    REQUIRE(use(std::span(bytes).first(n)) == outcome::refused);
  }
  for (const std::size_t n : {1U, 4U, 1000U}) {
    auto longer = bytes;
    longer.resize(bytes.size() + n);
    CHECK(use(longer) == outcome::refused);
  }
}

TEST_CASE("every single bit of length and header: an error or a file that adds up") {
  auto bytes = file_of(good_header, good_data);
  std::size_t n_read = 0;
  std::size_t n_refused = 0;
  for (std::size_t i = 0; i < bytes.size() - good_data; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::byte>(1 << bit);
      CAPTURE(i);
      CAPTURE(bit);
      ++(use(bytes) == outcome::read ? n_read : n_refused);
      bytes[i] ^= static_cast<std::byte>(1 << bit);
    }
  }
  MESSAGE(n_refused << " refused, " << n_read << " harmless");
  CHECK(n_refused > 10 * n_read);
  CHECK(n_read > 0);  // Letters of names and of free text.
}

TEST_CASE("header lengths") {
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{100'000'001},
        std::numeric_limits<std::uint64_t>::max(), std::uint64_t{1} << 63,
        std::numeric_limits<std::uint64_t>::max() - 7}) {
    auto bytes = file_of(good_header, good_data);
    std::memcpy(bytes.data(), &length, sizeof length);
    CAPTURE(length);
    CHECK(use(bytes) == outcome::refused);
  }
}

struct broken_header {
  std::string_view expected;
  std::string header;
  std::size_t n_data = 0;
};

std::string tensor(std::string_view fields) { return "{\"x\":{" + std::string(fields) + "}}"; }

TEST_CASE("broken headers are refused with the reason") {
  const std::vector<broken_header> cases = {
      {"JSON: ", ""},
      {"JSON: ", "{"},
      {"JSON: ", "{}}"},
      {"JSON: ", "{} {}"},
      {"JSON: ", "{'x':1}"},
      {"JSON: ", "{\"x\":1,}"},
      {"JSON: ", "/**/{}"},
      {"JSON: ", "{\"\xff\":{}}"},
      {"JSON: ", "{\"x\":NaN}"},
      {"JSON: ", "{\"" + std::string(5000, 'n') + "\n\":1}"},
      {"JSON: ", "{\"x\":1e999}"},
      {"JSON: zero byte at byte 2", std::string("{}\0garbage", 10)},
      {"JSON: zero byte", std::string("\0{}", 3)},
      {"the header is an array, expected an object", "[]"},
      {"the header is null, expected an object", "null"},
      {"the header is 1, expected an object", "1"},
      {"the header is the string 'x'", "\"x\""},
      {"key 'x' stands twice in one object",
       R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       1},
      {"key 'shape' stands twice", tensor(R"("dtype":"U8","shape":[1],"shape":[1])"), 1},
      {"'__metadata__' is an array", R"({"__metadata__":[]})"},
      {"field 'a' is 1, expected a string", R"({"__metadata__":{"a":1}})"},
      {"field 'a' is an object, expected a string", R"({"__metadata__":{"a":{}}})"},
      {"tensor 'x' is 5, expected an object", R"({"x":5})"},
      {"field 'dtype' is missing", tensor(R"("shape":[1],"data_offsets":[0,1])"), 1},
      {"field 'shape' is missing", tensor(R"("dtype":"U8","data_offsets":[0,1])"), 1},
      {"field 'data_offsets' is missing", tensor(R"("dtype":"U8","shape":[1])"), 1},
      {"field 'size' is unknown",
       tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"size":1)"), 1},
      {"has dtype 'F64', supported: F32 F16 BF16 I64 I32 U8",
       tensor(R"("dtype":"F64","shape":[1],"data_offsets":[0,8])"), 8},
      {"has dtype 'f32'", tensor(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), 4},
      {"has dtype ''", tensor(R"("dtype":"","shape":[1],"data_offsets":[0,4])"), 4},
      {"field 'dtype' is 3", tensor(R"("dtype":3,"shape":[1],"data_offsets":[0,4])"), 4},
      {"field 'shape' is missing or not an array",
       tensor(R"("dtype":"U8","shape":1,"data_offsets":[0,1])"), 1},
      {"field 'shape' is -1", tensor(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), 1},
      {"field 'shape' is 1.0", tensor(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])"), 1},
      {"field 'shape' is true", tensor(R"("dtype":"U8","shape":[true],"data_offsets":[0,1])"), 1},
      {"field 'shape' is the string '1'",
       tensor(R"("dtype":"U8","shape":["1"],"data_offsets":[0,1])"), 1},
      {"field 'shape' is an array", tensor(R"("dtype":"U8","shape":[[1]],"data_offsets":[0,1])"),
       1},
      {"not an array of at most 8",
       tensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"), 1},
      {"larger than 2^63 - 1 bytes",
       tensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1])"), 1},
      {"larger than 2^63 - 1 bytes",
       tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0},
      {"larger than 2^63 - 1 bytes",
       tensor(R"("dtype":"F32","shape":[2305843009213693952],"data_offsets":[0,0])"), 0},
      {"larger than 2^63 - 1 bytes",
       tensor(R"("dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"), 0},
      {"field 'shape' is",
       tensor(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1])"), 1},
      {"has data_offsets [1, 0]", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])"), 1},
      {"has data_offsets [0]", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0])"), 1},
      {"has data_offsets [0, 1, 1]", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,1])"),
       1},
      {"has data_offsets []", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[])"), 1},
      {"inside the 1 bytes of data", tensor(R"("dtype":"U8","shape":[2],"data_offsets":[0,2])"), 1},
      {"has data_offsets [18446744073709551615, 18446744073709551615]",
       tensor(
           R"("dtype":"U8","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615])"),
       1},
      {"field 'data_offsets' is -1", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[-1,0])"),
       1},
      {"of type F32 and shape [2] has 7 bytes, expected 8",
       tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,7])"), 7},
      {"of type BF16 and shape [] has 4 bytes, expected 2",
       tensor(R"("dtype":"BF16","shape":[],"data_offsets":[0,4])"), 4},
      {"has 1 bytes, expected 0", tensor(R"("dtype":"U8","shape":[0],"data_offsets":[0,1])"), 1},
      {"begins at offset 1 of the data, expected the end of the one before, 0",
       tensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])"), 2},
      {"the tensors end at offset 1 of the data, expected its end, 2",
       tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"), 2},
      {"the tensors end at offset 0", "{}", 1},
      {"begins at offset 3 of the data, expected the end of the one before, 2",
       R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
       4},
      {"begins at offset 1 of the data, expected the end of the one before, 2",
       R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})",
       4},
      {"expected the end of the one before, 4",
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4},
  };
  for (const broken_header& item : cases) {
    CAPTURE(item.header);
    std::string message;
    REQUIRE(use(file_of(item.header, item.n_data), &message) == outcome::refused);
    CHECK_MESSAGE(message.find(item.expected) != std::string::npos, message);
  }
  CHECK(cases.size() >= 55);
}

TEST_CASE("deep and wide JSON costs neither the stack nor the memory") {
  for (const std::size_t depth : {65U, 1000U, 1000000U}) {
    for (const std::string_view open : {"[", "{\"a\":"}) {
      std::string text;
      for (std::size_t i = 0; i < depth; ++i) text += open;
      CHECK_THROWS_AS(io::parse_strict_json(text, "deep"), format_error);
      if (open == "[") {
        CHECK_THROWS_WITH_AS(io::parse_strict_json(text + std::string(depth, ']'), "deep"),
                             "deep: JSON: nested deeper than 64 levels, the most that is read",
                             format_error);
      }
    }
  }
  std::string deepest = std::string(64, '[') + std::string(64, ']');
  CHECK(io::parse_strict_json(deepest, "deep").is_array());
  // Without the bound the parser itself does not recurse either.
  const std::string very_deep = std::string(300'000, '[') + std::string(300'000, ']');
  CHECK(io::parse_strict_json(very_deep, "deep", {.depth = 1'000'000}).is_array());

  std::string wide = "[0";
  for (int i = 0; i < 1000; ++i) wide += ",0";
  wide += "]";
  CHECK(io::parse_strict_json(wide, "wide", {.n_values = 1100}).size() == 1001);
  CHECK_THROWS_AS(io::parse_strict_json(wide, "wide", {.n_values = 500}), format_error);
}

TEST_CASE("random changes are refused or read") {
  random_generator random(5);
  const auto good = file_of(good_header, good_data);
  constexpr std::string_view alphabet = "{}[]\":,0123456789-.eEFUBI tfn\\u\x80";
  std::size_t n_refused = 0;
  for (int round = 0; round < 3000; ++round) {
    auto bytes = good;
    const auto n_changes = 1 + random.below(4);
    for (index_t i = 0; i < n_changes; ++i) {
      const auto at = static_cast<std::size_t>(random.below(static_cast<index_t>(bytes.size())));
      const auto letter = random.below(static_cast<index_t>(alphabet.size()));
      bytes[at] = static_cast<std::byte>(alphabet[static_cast<std::size_t>(letter)]);
    }
    n_refused += use(bytes) == outcome::refused ? 1U : 0U;
  }
  CHECK(n_refused > 1500);
}

}  // namespace
