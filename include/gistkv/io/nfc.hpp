// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/io/nfc_classes.hpp>
#include <gistkv/io/nfc_decompositions.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::io {

namespace detail {

/// Combining class, or 255: see nfc_classes.
inline std::uint8_t nfc_class(std::uint32_t c) {
  if (c < 0x300) return 0;
  return static_cast<std::uint8_t>(
      *(std::upper_bound(std::begin(nfc_classes), std::end(nfc_classes), c << 8 | 0xFFU) - 1));
}

inline std::uint8_t combining_class(std::uint32_t c) {
  const std::uint8_t value = nfc_class(c);
  return value == 255 ? 0 : value;
}

/// Index of `c` among the keys of a table of runs, -1 if it is none.
inline std::ptrdiff_t nfc_index(std::span<const std::uint32_t> run_table, std::uint32_t c) {
  constexpr std::uint32_t index_mask = 0x7FF;
  const auto after = std::upper_bound(run_table.begin(), run_table.end(), c << 11 | index_mask);
  if (after == run_table.begin() || after == run_table.end()) return -1;
  const std::uint32_t run = *(after - 1);
  const std::uint32_t index = (run & index_mask) + (c - (run >> 11));
  return index < (*after & index_mask) ? static_cast<std::ptrdiff_t>(index) : -1;
}

/// The code point whose pair has this index; the inverse of nfc_index.
inline std::uint32_t nfc_pair_key(std::uint32_t index) {
  const auto after =
      std::upper_bound(std::begin(nfc_pair_runs), std::end(nfc_pair_runs), index,
                       [](std::uint32_t i, std::uint32_t run) { return i < (run & 0x7FFU); });
  const std::uint32_t run = *(after - 1);
  return (run >> 11) + (index - (run & 0x7FFU));
}

// Hangul syllables are arithmetic (The Unicode Standard 17, section 3.12): a leading consonant, a
// vowel and perhaps a trailing consonant.
inline constexpr std::uint32_t hangul = 0xAC00;
inline constexpr std::uint32_t jamo_l = 0x1100;
inline constexpr std::uint32_t jamo_v = 0x1161;
inline constexpr std::uint32_t jamo_t = 0x11A7;  ///< No consonant; the first one follows.
inline constexpr std::uint32_t n_l = 19;
inline constexpr std::uint32_t n_v = 21;
inline constexpr std::uint32_t n_t = 28;

inline void decompose(std::uint32_t c, std::vector<std::uint32_t>& out) {
  if (c - hangul < n_l * n_v * n_t && c >= hangul) {
    const std::uint32_t s = c - hangul;
    out.push_back(jamo_l + s / (n_v * n_t));
    out.push_back(jamo_v + s / n_t % n_v);
    if (s % n_t != 0) out.push_back(jamo_t + s % n_t);
  } else if (const auto single = nfc_index(nfc_single_runs, c); single >= 0) {
    decompose(nfc_single_values[single], out);
  } else if (const auto pair = nfc_index(nfc_pair_runs, c); pair >= 0) {
    decompose(nfc_pair_values[2 * pair], out);
    decompose(nfc_pair_values[2 * pair + 1], out);
  } else {
    out.push_back(c);
  }
}

/// The character that a and b make together; 0 if they make none.
inline std::uint32_t composition(std::uint32_t a, std::uint32_t b) {
  if (a >= jamo_l && a < jamo_l + n_l && b >= jamo_v && b < jamo_v + n_v) {
    return hangul + ((a - jamo_l) * n_v + (b - jamo_v)) * n_t;
  }
  if (a >= hangul && a < hangul + n_l * n_v * n_t && (a - hangul) % n_t == 0 && b > jamo_t &&
      b < jamo_t + n_t) {
    return a + (b - jamo_t);
  }
  const auto pair = [](std::uint16_t i) {
    return std::pair(nfc_pair_values[2 * i], nfc_pair_values[2 * i + 1]);
  };
  const auto found =
      std::lower_bound(std::begin(nfc_compositions), std::end(nfc_compositions), std::pair(a, b),
                       [&](std::uint16_t i, const auto& wanted) { return pair(i) < wanted; });
  if (found == std::end(nfc_compositions) || pair(*found) != std::pair(a, b)) return 0;
  return nfc_pair_key(*found);
}

/// Bytes that are no UTF-8 travel as values above all code points.
inline constexpr std::uint32_t raw_byte = text::invalid_code_point;

inline void append_utf8(std::uint32_t c, std::string& out) {
  const auto tail = [&out](std::uint32_t bits) {
    out.push_back(static_cast<char>(0x80U | (bits & 0x3FU)));
  };
  if (c >= raw_byte) {
    out.push_back(static_cast<char>(c - raw_byte));
  } else if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xC0U | c >> 6));
    tail(c);
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xE0U | c >> 12));
    tail(c >> 6);
    tail(c);
  } else {
    out.push_back(static_cast<char>(0xF0U | c >> 18));
    tail(c >> 12);
    tail(c >> 6);
    tail(c);
  }
}

}  // namespace detail

/// Quick check: whether `s` is surely in normalisation form NFC. True for text whose characters are
/// all starters that never change and never join their predecessor, such as all of Latin-1.
inline bool is_composed(std::string_view s) {
  for (std::size_t at = 0; at < s.size();) {
    if (static_cast<unsigned char>(s[at]) < 0xCC) {  // U+0300 begins with this byte.
      ++at;
      continue;
    }
    const text::decoded unit = text::decode_utf8(s.substr(at, 4));
    if (unit.code_point < detail::raw_byte && detail::nfc_class(unit.code_point) != 0) return false;
    at += static_cast<std::size_t>(unit.length);
  }
  return true;
}

/// `s` in normalisation form NFC (UAX #15), Unicode 17: decomposed, marks put in canonical order,
/// composed. A byte that is no UTF-8 stays and nothing is joined across it.
inline std::string compose(std::string_view s) {
  std::vector<std::uint32_t> c;
  c.reserve(s.size());
  while (!s.empty()) {
    const text::decoded unit = text::decode_utf8(s.substr(0, 4));
    if (unit.code_point == text::invalid_code_point) {
      c.push_back(detail::raw_byte + static_cast<unsigned char>(s.front()));
    } else {
      detail::decompose(unit.code_point, c);
    }
    s.remove_prefix(static_cast<std::size_t>(unit.length));
  }
  const auto starts = [](std::uint32_t v) { return detail::combining_class(v) == 0; };
  for (auto at = c.begin(); at != c.end();) {
    const auto marks = std::find_if_not(at, c.end(), starts);
    at = std::find_if(marks, c.end(), starts);
    std::stable_sort(marks, at, [](std::uint32_t a, std::uint32_t b) {
      return detail::combining_class(a) < detail::combining_class(b);
    });
  }
  // A mark joins the last starter unless a character of its class or higher lies between.
  std::size_t size = 0;
  std::size_t starter = 0;
  std::uint8_t last_class = 0;
  for (const std::uint32_t v : c) {
    const std::uint8_t v_class = detail::combining_class(v);
    const bool next_to_it = size == starter + 1;
    if (size > starter && (next_to_it || last_class < v_class)) {
      if (const std::uint32_t whole = detail::composition(c[starter], v); whole != 0) {
        c[starter] = whole;
        continue;
      }
    }
    if (v_class == 0) starter = size;
    last_class = v_class;
    c[size++] = v;
  }
  std::string out;
  for (std::size_t i = 0; i < size; ++i) detail::append_utf8(c[i], out);
  return out;
}

}  // namespace gistkv::io
