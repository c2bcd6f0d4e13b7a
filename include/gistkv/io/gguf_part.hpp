// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/gguf_value.hpp>
#include <gistkv/io/stored_tensor.hpp>

namespace gistkv::io::detail {

/// What one GGUF file holds; views into its bytes.
struct gguf_part {
  std::uint32_t version = 0;
  std::vector<gguf_entry> metadata;
  std::vector<stored_tensor> tensors;
};

/// Tensor types by their number in the file; empty for the numbers never given out or withdrawn.
inline std::string_view gguf_tensor_type_name(std::uint32_t number) {
  constexpr std::array<std::string_view, 42> names = {
      "f32",     "f16",   "q4_0",   "q4_1",  "",      "",       "q5_0", "q5_1",    "q8_0",
      "q8_1",    "q2_k",  "q3_k",   "q4_k",  "q5_k",  "q6_k",   "q8_k", "iq2_xxs", "iq2_xs",
      "iq3_xxs", "iq1_s", "iq4_nl", "iq3_s", "iq2_s", "iq4_xs", "i8",   "i16",     "i32",
      "i64",     "f64",   "iq1_m",  "bf16",  "",      "",       "",     "tq1_0",   "tq2_0",
      "",        "",      "",       "mxfp4", "nvfp4", "q1_0"};
  return number < names.size() ? names[number] : std::string_view();
}

inline std::optional<weight_type> gguf_weight_type(std::uint32_t number) {
  switch (number) {
    case 0:
      return weight_type::f32;
    case 1:
      return weight_type::f16;
    case 2:
      return weight_type::q4_0;
    case 3:
      return weight_type::q4_1;
    case 8:
      return weight_type::q8_0;
    case 12:
      return weight_type::q4_k;
    case 13:
      return weight_type::q5_k;
    case 14:
      return weight_type::q6_k;
    case 30:
      return weight_type::bf16;
    default:
      return std::nullopt;
  }
}

class gguf_parser {
 public:
  gguf_parser(std::span<const std::byte> bytes, std::string_view file)
      : bytes_(bytes), reader_(bytes, file) {}

  gguf_part parse() {
    read_version();
    const std::uint64_t n_tensors = read_count("the tensor count");
    const std::uint64_t n_entries = read_count("the metadata count");
    for (std::uint64_t i = 0; i < n_entries; ++i) read_entry();
    for (std::uint64_t i = 0; i < n_tensors; ++i) read_tensor();
    place_tensors();
    return std::move(part_);
  }

 private:
  struct placement {
    std::uint64_t offset = 0;  ///< From the start of the data section.
    std::uint64_t n_bytes = 0;
  };

  void read_version() {
    const auto magic = reader_.read<std::array<char, 4>>("the magic");
    if (std::string_view(magic.data(), magic.size()) != "GGUF") {
      reader_.fail("the file begins with " + quote({magic.data(), magic.size()}) +
                   ", expected 'GGUF'");
    }
    part_.version = reader_.read<std::uint32_t>("the version");
    if (part_.version == 2 || part_.version == 3) return;
    if (part_.version == 0x02000000U || part_.version == 0x03000000U) {
      reader_.fail("the file is big-endian, expected little-endian");
    }
    reader_.fail("GGUF version " + std::to_string(part_.version) + ", expected 2 or 3");
  }

  /// A few hundred is usual. Nothing is reserved for a count, and each thing counted takes bytes,
  /// so the end of the file stops a wrong one; the bound keeps a large file of tiny entries from
  /// becoming a much larger index in memory.
  std::uint64_t read_count(std::string_view field) {
    constexpr std::uint64_t most = 1U << 17;
    const auto count = reader_.read<std::uint64_t>(field);
    if (count > most) {
      reader_.fail(std::string(field) + " is " + std::to_string(count) + ", expected at most " +
                   std::to_string(most));
    }
    return count;
  }

  std::string_view read_string(std::string_view field) {
    const auto length = reader_.read<std::uint64_t>(field);
    const auto bytes = reader_.take(length, field);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  gguf_type read_type(std::string_view key) {
    const auto number = reader_.read<std::uint32_t>("a value type");
    if (number > static_cast<std::uint32_t>(gguf_type::float64)) {
      reader_.fail("key " + quote(key) + " has value type " + std::to_string(number) +
                   ", expected 0 to 12");
    }
    return static_cast<gguf_type>(number);
  }

  void read_entry() {
    constexpr std::size_t longest_key = 65535;
    const std::string_view key = read_string("a metadata key");
    if (key.empty() || key.size() > longest_key) {
      reader_.fail("a metadata key of " + std::to_string(key.size()) + " bytes, expected 1 to " +
                   std::to_string(longest_key));
    }
    if (!keys_.insert(key).second) reader_.fail("key " + quote(key) + " stands twice");
    gguf_value value;
    value.type = read_type(key);
    if (value.type == gguf_type::array) {
      read_array(key, value);
    } else if (value.type == gguf_type::string) {
      const std::string_view text = read_string("a metadata string");
      value.data = std::as_bytes(std::span(text));
    } else {
      value.data = reader_.take(fixed_size(value.type), "a metadata value");
      if (value.type == gguf_type::boolean) check_booleans(key, value.data);
    }
    if (key == "general.alignment") set_alignment(value);
    part_.metadata.push_back({key, value});
  }

  void read_array(std::string_view key, gguf_value& value) {
    value.element_type = read_type(key);
    value.count = reader_.read<std::uint64_t>("an array length");
    if (value.element_type == gguf_type::array) {
      reader_.fail("key " + quote(key) + " is an array of arrays, which is not supported");
    }
    const std::uint64_t begin = reader_.position();
    if (value.element_type == gguf_type::string) {
      for (std::uint64_t i = 0; i < value.count; ++i) read_string("an element of a string array");
    } else {
      const std::uint64_t size = fixed_size(value.element_type);
      if (value.count > reader_.remaining() / size) {
        reader_.fail("key " + quote(key) + " is an array of " + std::to_string(value.count) + " " +
                     std::string(to_string(value.element_type)) + ", but " +
                     std::to_string(reader_.remaining()) + " bytes are left in the file");
      }
      reader_.take(value.count * size, "an array");
    }
    value.data = bytes_.subspan(static_cast<std::size_t>(begin),
                                static_cast<std::size_t>(reader_.position() - begin));
    if (value.element_type == gguf_type::boolean) check_booleans(key, value.data);
  }

  void check_booleans(std::string_view key, std::span<const std::byte> values) const {
    for (const std::byte b : values) {
      if (b > std::byte{1}) {
        reader_.fail("key " + quote(key) + " holds a bool of value " +
                     std::to_string(std::to_integer<int>(b)) + ", expected 0 or 1");
      }
    }
  }

  void set_alignment(const gguf_value& value) {
    const auto alignment = value.as<std::uint32_t>();
    if (!alignment || !std::has_single_bit(*alignment)) {
      reader_.fail("key 'general.alignment' is " + value.type_text() +
                   (alignment ? " of value " + std::to_string(*alignment) : std::string()) +
                   ", expected an unsigned power of two");
    }
    alignment_ = *alignment;
  }

  void read_tensor() {
    constexpr std::size_t longest_name = 64;
    constexpr std::uint32_t most_extents = 4;
    stored_tensor tensor;
    tensor.name = read_string("a tensor name");
    if (tensor.name.empty() || tensor.name.size() > longest_name) {
      reader_.fail("tensor name " + quote(tensor.name) + " of " +
                   std::to_string(tensor.name.size()) + " bytes, expected 1 to " +
                   std::to_string(longest_name));
    }
    if (!names_.insert(tensor.name).second) {
      reader_.fail("tensor " + quote(tensor.name) + " stands twice");
    }
    const auto n_extents = reader_.read<std::uint32_t>("a tensor rank");
    if (n_extents < 1 || n_extents > most_extents) {
      fail(tensor, "has " + std::to_string(n_extents) + " extents, expected 1 to 4");
    }
    std::uint64_t n_rows = 1;
    for (std::uint32_t i = 0; i < n_extents; ++i) {
      const auto extent = reader_.read<std::uint64_t>("a tensor extent");
      if (extent < 1 || extent > static_cast<std::uint64_t>(largest)) {
        fail(tensor, "has an extent of " + std::to_string(extent) + ", expected 1 to 2^63 - 1");
      }
      // The file begins with the innermost extent.
      tensor.extents.insert(tensor.extents.begin(), static_cast<index_t>(extent));
      if (i > 0) n_rows = product(tensor, n_rows, extent);
    }
    const auto type_number = reader_.read<std::uint32_t>("a tensor type");
    const auto type = gguf_weight_type(type_number);
    if (!type) {
      const std::string_view name = gguf_tensor_type_name(type_number);
      fail(tensor, "has type " + std::string(name.empty() ? "unknown" : name) + " (" +
                       std::to_string(type_number) +
                       "), supported: f32 f16 bf16 q8_0 q4_0 q4_1 q4_k q5_k q6_k");
    }
    tensor.type = *type;
    const index_t n_columns = tensor.extents.back();
    if (n_columns % block_length(*type) != 0) {
      fail(tensor, "has rows of " + std::to_string(n_columns) + " elements of type " +
                       std::string(to_string(*type)) + ", expected a multiple of " +
                       std::to_string(block_length(*type)));
    }
    product(tensor, n_rows, static_cast<std::uint64_t>(n_columns));  // Element counts fit index_t.
    const block_format format = format_of(*type);
    const auto blocks_a_row = static_cast<std::uint64_t>(n_columns / format.length);
    placement place;
    place.n_bytes = product(tensor, product(tensor, n_rows, blocks_a_row), format.bytes);
    place.offset = reader_.read<std::uint64_t>("a tensor offset");
    part_.tensors.push_back(std::move(tensor));
    placements_.push_back(place);
  }

  /// Finds the bytes of every tensor once the start of the data section is known.
  void place_tensors() {
    const std::uint64_t rest = reader_.position() % alignment_;
    const std::uint64_t begin = reader_.position() + (rest == 0 ? 0 : alignment_ - rest);
    std::vector<std::pair<placement, std::size_t>> order;
    for (std::size_t i = 0; i < placements_.size(); ++i) {
      const auto [offset, n_bytes] = placements_[i];
      stored_tensor& tensor = part_.tensors[i];
      if (offset % alignment_ != 0) {
        fail(tensor, "begins at offset " + std::to_string(offset) + ", expected a multiple of " +
                         std::to_string(alignment_));
      }
      const std::uint64_t available = begin < bytes_.size() ? bytes_.size() - begin : 0;
      if (offset > available || n_bytes > available - offset) {
        fail(tensor, "needs " + std::to_string(n_bytes) + " bytes at offset " +
                         std::to_string(offset) + " of the data, which has " +
                         std::to_string(available) + " bytes");
      }
      tensor.data = bytes_.subspan(static_cast<std::size_t>(begin + offset),
                                   static_cast<std::size_t>(n_bytes));
      order.push_back({placements_[i], i});
    }
    std::sort(order.begin(), order.end(),
              [](const auto& a, const auto& b) { return a.first.offset < b.first.offset; });
    for (std::size_t i = 1; i < order.size(); ++i) {
      const auto& [before, before_index] = order[i - 1];
      const auto& [place, index] = order[i];
      if (before.offset + before.n_bytes > place.offset) {
        fail(part_.tensors[index], "begins at offset " + std::to_string(place.offset) +
                                       ", inside " + quote(part_.tensors[before_index].name) +
                                       ", which ends at " +
                                       std::to_string(before.offset + before.n_bytes));
      }
    }
  }

  std::uint64_t product(const stored_tensor& tensor, std::uint64_t a, std::uint64_t b) const {
    if (b != 0 && a > static_cast<std::uint64_t>(largest) / b) {
      fail(tensor, "with extents " + extents_text(tensor.extents) + " is larger than 2^63 - 1");
    }
    return a * b;
  }

  [[noreturn]] void fail(const stored_tensor& tensor, const std::string& what) const {
    reader_.fail("tensor " + quote(tensor.name) + " " + what);
  }

  static constexpr index_t largest = std::numeric_limits<index_t>::max();

  std::span<const std::byte> bytes_;
  byte_reader reader_;
  gguf_part part_;
  std::uint64_t alignment_ = 32;
  std::vector<placement> placements_;
  std::set<std::string_view> keys_;
  std::set<std::string, std::less<>> names_;
};

inline gguf_part parse_gguf_part(std::span<const std::byte> bytes, std::string_view file) {
  return gguf_parser(bytes, file).parse();
}

}  // namespace gistkv::io::detail
