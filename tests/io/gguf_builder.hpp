// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <unistd.h>

namespace gistkv::test {

/// A directory of its own for a test, removed at the end.
class scratch_directory {
 public:
  scratch_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "gistkv-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;
  ~scratch_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_bytes(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
}

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  write_bytes(path, std::as_bytes(std::span(text)));
}

/// Appends little-endian fields and remembers where each begins.
class byte_builder {
 public:
  template <class Number>
  byte_builder& put(Number value) {
    static_assert(std::is_arithmetic_v<Number>);
    marks_.push_back(bytes_.size());
    append(&value, sizeof value);
    return *this;
  }
  /// Length and characters, as GGUF has strings.
  byte_builder& text(std::string_view value) {
    put<std::uint64_t>(value.size());
    return raw(value);
  }
  byte_builder& raw(std::string_view value) {
    marks_.push_back(bytes_.size());
    append(value.data(), value.size());
    return *this;
  }
  byte_builder& zeros(std::size_t n) {
    marks_.push_back(bytes_.size());
    bytes_.resize(bytes_.size() + n);
    return *this;
  }
  byte_builder& align(std::size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    return *this;
  }

  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte>& bytes() { return bytes_; }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  const std::vector<std::size_t>& marks() const { return marks_; }

 private:
  void append(const void* data, std::size_t n) {
    const auto* at = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), at, at + n);
  }

  std::vector<std::byte> bytes_;
  std::vector<std::size_t> marks_;
};

/// Numbers of types in a GGUF file.
namespace gguf_code {
constexpr std::uint32_t uint8 = 0, int8 = 1, uint16 = 2, int16 = 3, uint32 = 4, int32 = 5,
                        float32 = 6, boolean = 7, string = 8, array = 9, uint64 = 10, int64 = 11,
                        float64 = 12;
constexpr std::uint32_t f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q5_0 = 6, q8_0 = 8, q4_k = 12,
                        q6_k = 14, bf16 = 30;
}  // namespace gguf_code

/// Writes GGUF files, whole and broken, from entries and tensors; knows nothing of the reader.
class gguf_builder {
 public:
  struct tensor {
    std::string name;
    std::vector<std::uint64_t> extents;  ///< Innermost first, as the file has them.
    std::uint32_t type = gguf_code::f32;
    std::vector<std::byte> data;
  };

  std::uint32_t version = 3;
  std::size_t alignment = 32;

  template <class Number>
  gguf_builder& number(std::string_view key, std::uint32_t type, Number value) {
    entries_.text(key).put(type).put(value);
    ++n_entries_;
    return *this;
  }
  gguf_builder& u32(std::string_view key, std::uint32_t value) {
    return number(key, gguf_code::uint32, value);
  }
  gguf_builder& f32(std::string_view key, float value) {
    return number(key, gguf_code::float32, value);
  }
  gguf_builder& string(std::string_view key, std::string_view value) {
    entries_.text(key).put(gguf_code::string).text(value);
    ++n_entries_;
    return *this;
  }
  template <class Number>
  gguf_builder& numbers(std::string_view key, std::uint32_t type,
                        const std::vector<Number>& values) {
    entries_.text(key).put(gguf_code::array).put(type).put<std::uint64_t>(values.size());
    for (const Number value : values) entries_.put(value);
    ++n_entries_;
    return *this;
  }
  gguf_builder& strings(std::string_view key, const std::vector<std::string>& values) {
    entries_.text(key).put(gguf_code::array).put(gguf_code::string);
    entries_.put<std::uint64_t>(values.size());
    for (const std::string& value : values) entries_.text(value);
    ++n_entries_;
    return *this;
  }
  gguf_builder& add(tensor t) {
    tensors.push_back(std::move(t));
    return *this;
  }
  gguf_builder& floats(std::string name, std::vector<std::uint64_t> extents,
                       const std::vector<float>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    return add({std::move(name), std::move(extents), gguf_code::f32, {bytes.begin(), bytes.end()}});
  }

  /// The whole file; `header_size` returns where the padding before the data begins.
  byte_builder build(std::size_t* header_size = nullptr) const {
    byte_builder file;
    file.raw("GGUF").put(version).put<std::uint64_t>(tensors.size());
    file.put<std::uint64_t>(n_entries_);
    const std::size_t shift = file.size();
    std::vector<std::size_t> marks = file.marks();
    file.raw({reinterpret_cast<const char*>(entries_.bytes().data()), entries_.size()});
    for (const std::size_t mark : entries_.marks()) marks.push_back(shift + mark);
    const std::size_t n_before = file.marks().size();
    std::size_t offset = 0;
    for (const tensor& t : tensors) {
      file.text(t.name).put(static_cast<std::uint32_t>(t.extents.size()));
      for (const std::uint64_t extent : t.extents) file.put(extent);
      file.put(t.type).put<std::uint64_t>(offset);
      offset += (t.data.size() + alignment - 1) / alignment * alignment;
    }
    if (header_size != nullptr) *header_size = file.size();
    marks.insert(marks.end(), file.marks().begin() + static_cast<std::ptrdiff_t>(n_before),
                 file.marks().end());
    file.align(alignment);
    for (const tensor& t : tensors) {
      marks.push_back(file.size());
      file.raw({reinterpret_cast<const char*>(t.data.data()), t.data.size()}).align(alignment);
    }
    marks_ = std::move(marks);
    return file;
  }

  std::vector<std::byte> bytes() const { return build().bytes(); }

  /// Begin of every field of the file that was built last.
  const std::vector<std::size_t>& marks() const { return marks_; }

  std::vector<tensor> tensors;

 private:
  byte_builder entries_;
  std::uint64_t n_entries_ = 0;
  mutable std::vector<std::size_t> marks_;
};

}  // namespace gistkv::test
