// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
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
#include <gistkv/io/gguf_part.hpp>
#include <gistkv/io/gguf_value.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/stored_tensor.hpp>

namespace gistkv::io {

/// A model file in GGUF, version 2 or 3, little-endian: typed metadata and named tensors, both
/// views into the mapped file (specification: ggml-org/ggml, docs/gguf.md).
///
/// Reading is strict. Every count, length, extent, offset and product is checked against the bytes
/// there are before it is used, so memory stays in proportion to the file; names and keys are
/// unique; tensors are aligned and do not overlap. Arrays of arrays, tensor types other than
/// weight_type's and versions other than 2 and 3 are refused by name.
///
/// A model split into parts NAME-00001-of-0000N.gguf opens by its first part; the metadata is that
/// of the first part, the tensors are those of all.
///
/// Copies share the mapping. The views live as long as any copy, or as `storage()` is kept.
class gguf_file {
 public:
  /// @throws file_error if a file cannot be read; format_error naming file, byte and field.
  static gguf_file open(const std::filesystem::path& path) {
    gguf_file file;
    file.name_ = path.string();
    file.add(file.map(path), file.name_);
    const auto n_parts = file.find<std::uint16_t>("split.count").value_or(1);
    if (n_parts > 1) file.add_parts(path, n_parts);
    return file;
  }

  /// Reads a file that is in memory already, borrowed; `name` is for messages.
  /// @throws format_error; also for a part of a split model, whose other parts are not at hand.
  static gguf_file parse(std::span<const std::byte> bytes, std::string name) {
    gguf_file file;
    file.name_ = std::move(name);
    file.add(detail::parse_gguf_part(bytes, file.name_), file.name_);
    if (const auto n = file.find<std::uint16_t>("split.count").value_or(1); n > 1) {
      throw format_error(file.name_ + ": is one of " + std::to_string(n) +
                         " parts of a model, expected a whole one (open the first part by path)");
    }
    return file;
  }

  const std::string& name() const { return name_; }
  std::uint32_t version() const { return version_; }

  /// Files that make up the model, in order; empty if parsed from memory.
  const std::vector<std::filesystem::path>& paths() const { return paths_; }

  /// What keeps the views alive.
  const std::vector<std::shared_ptr<const void>>& storage() const { return storage_; }

  std::span<const gguf_entry> metadata() const { return metadata_; }
  bool contains(std::string_view key) const { return key_index_.contains(key); }

  /// The value of `key` as T, see gguf_value::as; nothing if the key is absent.
  /// @throws format_error naming file, key, found and wanted type if it is there but is no T.
  template <class T>
  std::optional<T> find(std::string_view key) const {
    const auto at = key_index_.find(key);
    if (at == key_index_.end()) return std::nullopt;
    const gguf_value& value = metadata_[at->second].value;
    std::optional<T> result = value.as<T>();
    if (!result) {
      throw format_error(name_ + ": key " + quote(key) + " is " + value.type_text() +
                         out_of_range_text<T>(value) + ", expected " + wanted_type_text<T>());
    }
    return result;
  }

  /// As `find`. @throws format_error if the key is absent.
  template <class T>
  T get(std::string_view key) const {
    std::optional<T> result = find<T>(key);
    if (!result) {
      throw format_error(name_ + ": key " + quote(key) + " is missing, expected " +
                         wanted_type_text<T>());
    }
    return *std::move(result);
  }

  /// Elements of an array of strings as views into the file, the shape that a vocabulary needs.
  std::vector<std::string_view> strings(std::string_view key) const {
    return get<std::vector<std::string_view>>(key);
  }

  std::span<const stored_tensor> tensors() const { return tensors_; }

  /// Null if there is none of this name. The pointer lives as long as this object.
  const stored_tensor* find_tensor(std::string_view tensor_name) const {
    const auto at = tensor_index_.find(tensor_name);
    return at == tensor_index_.end() ? nullptr : &tensors_[at->second];
  }

  /// @throws format_error if there is none of this name.
  const stored_tensor& tensor(std::string_view tensor_name) const {
    const stored_tensor* found = find_tensor(tensor_name);
    if (found == nullptr) {
      throw format_error(name_ + ": tensor " + quote(tensor_name) + " is missing");
    }
    return *found;
  }

 private:
  gguf_file() = default;

  detail::gguf_part map(const std::filesystem::path& path) {
    auto mapping = std::make_shared<const mapped_file>(path);
    const auto bytes = mapping->bytes();
    storage_.push_back(std::move(mapping));
    paths_.push_back(path);
    return detail::parse_gguf_part(bytes, path.string());
  }

  /// Takes over the tensors of a part, and the metadata of the first.
  void add(detail::gguf_part part, const std::string& part_name) {
    if (metadata_.empty() && tensors_.empty()) {
      version_ = part.version;
      metadata_ = std::move(part.metadata);
      for (std::size_t i = 0; i < metadata_.size(); ++i) key_index_.emplace(metadata_[i].key, i);
    }
    for (stored_tensor& tensor : part.tensors) {
      if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
        throw format_error(part_name + ": tensor " + quote(tensor.name) +
                           " was already in an earlier part");
      }
      tensors_.push_back(std::move(tensor));
    }
  }

  void add_parts(const std::filesystem::path& first, unsigned n_parts) {
    const auto part_number = get<std::uint16_t>("split.no");
    if (part_number != 0) {
      throw format_error(name_ + ": is part " + std::to_string(part_number + 1) + " of " +
                         std::to_string(n_parts) + ", expected the first part");
    }
    auto five_digits = [](unsigned number) {
      const std::string digits = std::to_string(number);
      return std::string(5 - digits.size(), '0') + digits;  // 16-bit numbers have five at most.
    };
    auto suffix = [&](unsigned i) {
      return "-" + five_digits(i + 1) + "-of-" + five_digits(n_parts) + ".gguf";
    };
    const std::string file_name = first.filename().string();
    if (!file_name.ends_with(suffix(0))) {
      throw format_error(name_ + ": is the first of " + std::to_string(n_parts) +
                         " parts, expected a file name that ends in '" + suffix(0) + "'");
    }
    const std::string stem = file_name.substr(0, file_name.size() - suffix(0).size());
    for (unsigned i = 1; i < n_parts; ++i) {
      const auto path = first.parent_path() / (stem + suffix(i));
      detail::gguf_part part = map(path);
      expect_part_key(part, path.string(), "split.no", i);
      expect_part_key(part, path.string(), "split.count", n_parts);
      add(std::move(part), path.string());
    }
    const auto n_tensors = get<std::uint64_t>("split.tensors.count");
    if (n_tensors != tensors_.size()) {
      throw format_error(name_ + ": key 'split.tensors.count' is " + std::to_string(n_tensors) +
                         ", the parts hold " + std::to_string(tensors_.size()) + " tensors");
    }
  }

  static void expect_part_key(const detail::gguf_part& part, const std::string& part_name,
                              std::string_view key, unsigned expected) {
    for (const gguf_entry& entry : part.metadata) {
      if (entry.key == key && entry.value.as<std::uint16_t>() == expected) return;
    }
    throw format_error(part_name + ": key " + quote(key) + " is missing or wrong, expected " +
                       std::to_string(expected));
  }

  /// ", value 70000" where the type is an integer and only the range is wrong.
  template <class T>
  static std::string out_of_range_text(const gguf_value& value) {
    if constexpr (std::integral<T> && !std::same_as<T, bool>) {
      if (const auto i = value.as<std::int64_t>()) return " of value " + std::to_string(*i);
      if (const auto u = value.as<std::uint64_t>()) return " of value " + std::to_string(*u);
    }
    return {};
  }

  std::string name_;
  std::uint32_t version_ = 0;
  std::vector<std::filesystem::path> paths_;
  std::vector<std::shared_ptr<const void>> storage_;
  std::vector<gguf_entry> metadata_;
  std::vector<stored_tensor> tensors_;
  // Ordered maps: no choice of names in a hostile file makes them slow.
  std::map<std::string_view, std::size_t> key_index_;
  std::map<std::string, std::size_t, std::less<>> tensor_index_;
};

}  // namespace gistkv::io
