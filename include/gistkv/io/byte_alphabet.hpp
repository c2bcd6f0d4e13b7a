// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <gistkv/text/unicode.hpp>

namespace gistkv::io {

namespace detail {

/// Bytes that print as themselves in Latin-1: 33..126, 161..172, 174..255.
constexpr bool prints(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
}

constexpr auto byte_code_points() {
  std::array<std::uint16_t, 256> code_points{};
  unsigned next = 256;
  for (unsigned b = 0; b < 256; ++b) {
    code_points[b] = static_cast<std::uint16_t>(prints(b) ? b : next++);
  }
  return code_points;
}
inline constexpr auto byte_code_point = byte_code_points();

/// The other way round; -1 for a code point below 324 that stands for no byte.
constexpr auto code_point_bytes() {
  std::array<std::int16_t, 324> bytes{};
  for (auto& b : bytes) b = -1;
  for (unsigned b = 0; b < 256; ++b) bytes[byte_code_point[b]] = static_cast<std::int16_t>(b);
  return bytes;
}
inline constexpr auto code_point_byte = code_point_bytes();

}  // namespace detail

/// Writes bytes in the alphabet in which vocabularies of byte-level BPE are stored: bytes that
/// print in Latin-1 stand for themselves, the other 68 are U+0100.. in order (GPT-2, Radford et al.
/// 2019).
inline std::string to_byte_alphabet(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    const unsigned code_point = detail::byte_code_point[static_cast<unsigned char>(c)];
    if (code_point < 0x80) {
      out.push_back(static_cast<char>(code_point));
    } else {
      out.push_back(static_cast<char>(0xC0U | (code_point >> 6)));
      out.push_back(static_cast<char>(0x80U | (code_point & 0x3FU)));
    }
  }
  return out;
}

/// The bytes that `stored` stands for; nothing if it holds a character outside the alphabet.
inline std::optional<std::string> from_byte_alphabet(std::string_view stored) {
  std::string out;
  while (!stored.empty()) {
    const text::decoded unit = text::decode_utf8(stored);
    const auto code_point = static_cast<std::size_t>(unit.code_point);
    if (code_point >= detail::code_point_byte.size()) return std::nullopt;
    const std::int16_t byte = detail::code_point_byte[code_point];
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
    stored.remove_prefix(static_cast<std::size_t>(unit.length));
  }
  return out;
}

}  // namespace gistkv::io
