// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::io {

/// Text from a file made fit for an error message: unprintable bytes, quotes and backslashes as
/// \xNN, cut after `limit` bytes.
inline std::string printable(std::string_view text, std::size_t limit) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string result;
  for (const char c : text.substr(0, limit)) {
    const auto u = static_cast<unsigned char>(c);
    if (u >= 0x20 && u < 0x7f && c != '\\' && c != '\'') {
      result += c;
    } else {
      result += {'\\', 'x', digits[u >> 4], digits[u & 15U]};
    }
  }
  if (text.size() > limit) result += "...";
  return result;
}

/// A name from a file for an error message, in single quotes.
inline std::string quote(std::string_view text) {
  std::string quoted(1, '\'');  // "'" + ... is a wrong warning of g++ 12 (GCC bug 105651).
  return quoted.append(printable(text, 96)).append(1, '\'');
}

/// Extents as "[a, b]" for messages.
inline std::string extents_text(std::span<const index_t> extents) {
  std::string result = "[";
  for (std::size_t i = 0; i < extents.size(); ++i) {
    result += (i == 0 ? "" : ", ") + std::to_string(extents[i]);
  }
  return result + "]";
}

/// Cursor over little-endian fields that never leaves its bytes.
///
/// Tensor data is used in place, so a host of another byte order could not run on it anyway and is
/// refused at compile time.
class byte_reader {
  static_assert(std::endian::native == std::endian::little,
                "model files are little-endian and are used in place");

 public:
  byte_reader(std::span<const std::byte> bytes, std::string_view file)
      : bytes_(bytes), file_(file) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }
  std::string_view file() const { return file_; }

  /// The next `n` bytes. @throws format_error naming `field` and both numbers if fewer are left.
  std::span<const std::byte> take(std::uint64_t n, std::string_view field) {
    if (n > remaining()) {
      fail(std::string(field) + " needs " + std::to_string(n) + " bytes, " +
           std::to_string(remaining()) + " are left in the file");
    }
    const auto result =
        bytes_.subspan(static_cast<std::size_t>(position_), static_cast<std::size_t>(n));
    position_ += n;
    return result;
  }

  template <class Number>
  Number read(std::string_view field) {
    static_assert(std::is_trivially_copyable_v<Number>);
    Number value;
    std::memcpy(&value, take(sizeof value, field).data(), sizeof value);
    return value;
  }

  /// @throws format_error "FILE: byte POSITION: WHAT".
  [[noreturn]] void fail(const std::string& what) const {
    throw format_error(std::string(file_) + ": byte " + std::to_string(position_) + ": " + what);
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::uint64_t position_ = 0;
};

}  // namespace gistkv::io
