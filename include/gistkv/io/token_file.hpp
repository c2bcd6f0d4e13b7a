// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include <gistkv/core/error.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/io/safetensors_writer.hpp>

namespace gistkv::io {

/// Texts that were tokenised once, as a safetensors file with one tensor `stream` of int32
/// (train/token_stream.hpp says what its numbers mean). Mapped: what is not read costs no memory.
class token_file {
 public:
  /// @throws format_error, file_error.
  explicit token_file(const std::filesystem::path& path) : file_(safetensors_file::open(path)) {
    const safetensors_tensor& t = file_.tensor("stream");
    if (t.type != safetensors_type::i32 || t.extents.size() != 1) {
      throw format_error(file_.name() + ": tensor 'stream' is " + std::string(to_string(t.type)) +
                         " " + extents_text(t.extents) + ", expected I32 of one dimension");
    }
    if (reinterpret_cast<std::uintptr_t>(t.data.data()) % alignof(std::int32_t) != 0) {
      throw format_error(file_.name() +
                         ": tensor 'stream' does not begin at a multiple of 4 bytes");
    }
    stream_ = {reinterpret_cast<const std::int32_t*>(t.data.data()),
               static_cast<std::size_t>(t.extents[0])};
  }

  std::span<const std::int32_t> stream() const { return stream_; }
  const string_map& metadata() const { return file_.metadata(); }

  /// Atomically. @throws file_error.
  static void write(const std::filesystem::path& path, std::span<const std::int32_t> stream,
                    const string_map& metadata) {
    const safetensors_tensor t{"stream",
                               safetensors_type::i32,
                               {static_cast<index_t>(stream.size())},
                               std::as_bytes(stream)};
    write_safetensors(path, {&t, 1}, metadata);
  }

 private:
  safetensors_file file_;
  std::span<const std::int32_t> stream_;
};

}  // namespace gistkv::io
