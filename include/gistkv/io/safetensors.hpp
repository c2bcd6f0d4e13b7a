// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/stored_tensor.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::io {

/// Element types of a safetensors file that are read; the integers only as data, never as weights.
enum class safetensors_type { f32, f16, bf16, i64, i32, u8 };

struct safetensors_tensor {
  std::string name;
  safetensors_type type = safetensors_type::f32;
  std::vector<index_t> extents;  ///< Outermost first; empty for a scalar.
  std::span<const std::byte> data = {};
};

/// As the file spells it: "F32", "BF16" ...
constexpr std::string_view to_string(safetensors_type type) {
  switch (type) {
    case safetensors_type::f32:
      return "F32";
    case safetensors_type::f16:
      return "F16";
    case safetensors_type::bf16:
      return "BF16";
    case safetensors_type::i64:
      return "I64";
    case safetensors_type::i32:
      return "I32";
    case safetensors_type::u8:
      return "U8";
  }
  return "unknown";
}

constexpr std::size_t element_size(safetensors_type type) {
  switch (type) {
    case safetensors_type::i64:
      return 8;
    case safetensors_type::f32:
    case safetensors_type::i32:
      return 4;
    case safetensors_type::f16:
    case safetensors_type::bf16:
      return 2;
    case safetensors_type::u8:
      return 1;
  }
  return 0;
}

/// A safetensors file, mapped: named tensors and a map of strings.
///
/// Layout: u64 header length, header in JSON, data. Reading is strict: the header is at most 100 MB
/// of valid JSON without duplicate keys and with no field but dtype, shape and data_offsets; the
/// tensors cover the data from its first byte to its last without a hole or an overlap; every
/// product is checked against overflow and every size against shape and type.
///
/// Copies share the mapping. The views live as long as any copy, or as `storage()` is kept.
class safetensors_file {
 public:
  /// @throws file_error if the file cannot be read; format_error naming file, tensor and numbers.
  static safetensors_file open(const std::filesystem::path& path) {
    auto mapping = std::make_shared<const mapped_file>(path);
    safetensors_file file = parse(mapping->bytes(), path.string());
    file.storage_ = std::move(mapping);
    return file;
  }

  /// Reads a file that is in memory already, borrowed; `name` is for messages.
  static safetensors_file parse(std::span<const std::byte> bytes, std::string name) {
    safetensors_file file;
    file.name_ = std::move(name);
    file.read(bytes);
    return file;
  }

  const std::string& name() const { return name_; }

  /// The free text that `__metadata__` holds.
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }

  /// In the order of the data.
  std::span<const safetensors_tensor> tensors() const { return tensors_; }

  /// Null if there is none of this name. The pointer lives as long as this object.
  const safetensors_tensor* find_tensor(std::string_view tensor_name) const {
    const auto at = index_.find(tensor_name);
    return at == index_.end() ? nullptr : &tensors_[at->second];
  }

  /// @throws format_error if there is none of this name.
  const safetensors_tensor& tensor(std::string_view tensor_name) const {
    const safetensors_tensor* found = find_tensor(tensor_name);
    if (found == nullptr) {
      throw format_error(name_ + ": tensor " + quote(tensor_name) + " is missing");
    }
    return *found;
  }

  /// What keeps the views alive; null if parsed from memory.
  const std::shared_ptr<const void>& storage() const { return storage_; }

 private:
  safetensors_file() = default;

  void read(std::span<const std::byte> bytes) {
    constexpr std::uint64_t longest_header = 100'000'000;
    byte_reader reader(bytes, name_);
    const auto length = reader.read<std::uint64_t>("the header length");
    if (length > longest_header) {
      reader.fail("the header length is " + std::to_string(length) + ", expected at most " +
                  std::to_string(longest_header));
    }
    const auto header = reader.take(length, "the header");
    const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
    const nlohmann::json json = parse_strict_json(text, name_);
    const auto data = bytes.subspan(static_cast<std::size_t>(reader.position()));
    std::vector<std::pair<std::uint64_t, safetensors_tensor>> found;  // With the first offset.
    for (const auto& [key, value] : json_fields(json, name_ + ": the header").object().items()) {
      if (key == "__metadata__") {
        read_metadata(value);
      } else {
        found.push_back(read_tensor(key, value, data));
      }
    }
    // An empty tensor shares its offset with its successor and has to come first.
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      return std::pair(a.first, a.second.data.size()) < std::pair(b.first, b.second.data.size());
    });
    std::uint64_t end = 0;
    for (auto& [begin, tensor] : found) {
      if (begin != end) {
        fail(tensor.name, "begins at offset " + std::to_string(begin) +
                              " of the data, expected the end of the one before, " +
                              std::to_string(end));
      }
      end += tensor.data.size();
      index_.emplace(tensor.name, tensors_.size());
      tensors_.push_back(std::move(tensor));
    }
    if (end != data.size()) {
      throw format_error(name_ + ": the tensors end at offset " + std::to_string(end) +
                         " of the data, expected its end, " + std::to_string(data.size()));
    }
  }

  void read_metadata(const nlohmann::json& value) {
    const json_fields fields(value, name_ + ": '__metadata__'");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fields.fail(key, text, "a string");
      metadata_.emplace(key, text.get<std::string>());
    }
  }

  std::pair<std::uint64_t, safetensors_tensor> read_tensor(const std::string& name,
                                                           const nlohmann::json& value,
                                                           std::span<const std::byte> data) const {
    const json_fields fields(value, name_ + ": tensor " + quote(name));
    for (const auto& [key, field] : value.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        throw format_error(fields.where() + ": field " + quote(key) +
                           " is unknown, expected dtype, shape and data_offsets");
      }
    }
    safetensors_tensor tensor;
    tensor.name = name;
    tensor.type = read_type(name, fields.get<std::string>("dtype"));
    const auto extents = read_numbers(fields, "shape");
    // Of the product of the positive extents, so that a zero does not hide an overflow.
    std::uint64_t n_bytes = element_size(tensor.type);
    bool is_empty = false;
    for (const std::uint64_t extent : extents) {
      is_empty = is_empty || extent == 0;
      if (extent > largest || (extent != 0 && n_bytes > largest / extent)) {
        fail(name, "with its shape is larger than 2^63 - 1 bytes");
      }
      if (extent != 0) n_bytes *= extent;
      tensor.extents.push_back(static_cast<index_t>(extent));
    }
    if (is_empty) n_bytes = 0;
    const auto offsets = read_numbers(fields, "data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data.size()) {
      fail(name, "has data_offsets " + numbers_text(offsets) +
                     ", expected a begin and an end inside the " + std::to_string(data.size()) +
                     " bytes of data");
    }
    if (offsets[1] - offsets[0] != n_bytes) {
      fail(name, "of type " + std::string(to_string(tensor.type)) + " and shape " +
                     extents_text(tensor.extents) + " has " +
                     std::to_string(offsets[1] - offsets[0]) + " bytes, expected " +
                     std::to_string(n_bytes));
    }
    tensor.data =
        data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(n_bytes));
    return {offsets[0], std::move(tensor)};
  }

  safetensors_type read_type(const std::string& name, const std::string& text) const {
    using enum safetensors_type;
    for (const safetensors_type type : {f32, f16, bf16, i64, i32, u8}) {
      if (text == to_string(type)) return type;
    }
    fail(name, "has dtype " + quote(text) + ", supported: F32 F16 BF16 I64 I32 U8");
  }

  static std::vector<std::uint64_t> read_numbers(const json_fields& fields,
                                                 const std::string& key) {
    const nlohmann::json* array = fields.find(key);
    constexpr std::size_t most = 8;
    if (array == nullptr || !array->is_array() || array->size() > most) {
      throw format_error(fields.where() + ": field " + quote(key) +
                         " is missing or not an array of at most " + std::to_string(most) +
                         " numbers");
    }
    std::vector<std::uint64_t> numbers;
    for (const nlohmann::json& number : *array) {
      if (!number.is_number_unsigned()) fields.fail(key, number, "numbers that are no less than 0");
      numbers.push_back(number.get<std::uint64_t>());
    }
    return numbers;
  }

  static std::string numbers_text(std::span<const std::uint64_t> numbers) {
    std::string text;
    for (const std::uint64_t number : numbers) {
      text += (text.empty() ? "[" : ", ") + std::to_string(number);
    }
    return text.empty() ? "[]" : text + "]";
  }

  [[noreturn]] void fail(std::string_view tensor_name, const std::string& what) const {
    throw format_error(name_ + ": tensor " + quote(tensor_name) + " " + what);
  }

  static constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());

  std::string name_;
  std::map<std::string, std::string, std::less<>> metadata_;
  std::vector<safetensors_tensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::shared_ptr<const void> storage_;
};

/// A tensor as a model's weight. @throws format_error for an integer type, naming `file`.
inline stored_tensor as_weight(const safetensors_tensor& tensor, std::string_view file) {
  const auto type = [&]() -> std::optional<weight_type> {
    switch (tensor.type) {
      case safetensors_type::f32:
        return weight_type::f32;
      case safetensors_type::f16:
        return weight_type::f16;
      case safetensors_type::bf16:
        return weight_type::bf16;
      case safetensors_type::i64:
      case safetensors_type::i32:
      case safetensors_type::u8:
        break;
    }
    return std::nullopt;
  }();
  if (!type) {
    throw format_error(std::string(file) + ": tensor " + quote(tensor.name) + " has type " +
                       std::string(to_string(tensor.type)) +
                       ", expected F32, F16 or BF16 for a weight");
  }
  return {tensor.name, *type, tensor.extents, tensor.data};
}

}  // namespace gistkv::io
