// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace gistkv::io {

/// Type of a metadata value; the numbers are those of the file.
enum class gguf_type : std::uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

constexpr std::string_view to_string(gguf_type type) {
  constexpr std::array<std::string_view, 13> names = {
      "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
      "bool",  "string", "array",  "uint64", "int64",  "float64"};
  const auto index = static_cast<std::size_t>(type);
  return index < names.size() ? names[index] : std::string_view("unknown");
}

/// Bytes of a value of fixed size; 0 for string and array.
constexpr std::size_t fixed_size(gguf_type type) {
  switch (type) {
    case gguf_type::uint8:
    case gguf_type::int8:
    case gguf_type::boolean:
      return 1;
    case gguf_type::uint16:
    case gguf_type::int16:
      return 2;
    case gguf_type::uint32:
    case gguf_type::int32:
    case gguf_type::float32:
      return 4;
    case gguf_type::uint64:
    case gguf_type::int64:
    case gguf_type::float64:
      return 8;
    case gguf_type::string:
    case gguf_type::array:
      break;
  }
  return 0;
}

/// One metadata value in the file's own bytes, already checked against the file's bounds. Views
/// into the file; arrays hold numbers, booleans or strings, never arrays.
///
/// `as<T>` gives a value if the stored type is convertible without loss of meaning, else nothing:
/// - any integer type from any stored integer that fits (a bool is no integer),
/// - double from float32 and float64, float from float32,
/// - bool; std::string_view and std::string,
/// - std::vector<E> of those from an array whose elements all convert.
struct gguf_value {
  gguf_type type = gguf_type::uint8;
  gguf_type element_type = gguf_type::uint8;  ///< Of an array.
  std::uint64_t count = 1;                    ///< Elements of an array.
  std::span<const std::byte> data = {};       ///< Payload; a string without its length.

  template <class T>
  std::optional<T> as() const {
    if constexpr (is_vector<T>::value) {
      return elements<typename T::value_type>();
    } else {
      return scalar<T>(type, data);
    }
  }

  /// "uint32", "string", "array of 3 float32".
  std::string type_text() const {
    if (type != gguf_type::array) return std::string(to_string(type));
    return "array of " + std::to_string(count) + " " + std::string(to_string(element_type));
  }

 private:
  template <class T>
  struct is_vector : std::false_type {};
  template <class E>
  struct is_vector<std::vector<E>> : std::true_type {};

  template <class Stored>
  static Stored load(std::span<const std::byte> at) {
    Stored value;
    std::memcpy(&value, at.data(), sizeof value);
    return value;
  }

  template <class T, class Stored>
  static std::optional<T> narrowed(std::span<const std::byte> at) {
    const auto value = load<Stored>(at);
    if (!std::in_range<T>(value)) return std::nullopt;
    return static_cast<T>(value);
  }

  template <class T>
  static std::optional<T> scalar(gguf_type type, std::span<const std::byte> at) {
    if constexpr (std::same_as<T, bool>) {
      if (type == gguf_type::boolean) return load<std::uint8_t>(at) != 0;
    } else if constexpr (std::integral<T>) {
      switch (type) {
        case gguf_type::uint8:
          return narrowed<T, std::uint8_t>(at);
        case gguf_type::int8:
          return narrowed<T, std::int8_t>(at);
        case gguf_type::uint16:
          return narrowed<T, std::uint16_t>(at);
        case gguf_type::int16:
          return narrowed<T, std::int16_t>(at);
        case gguf_type::uint32:
          return narrowed<T, std::uint32_t>(at);
        case gguf_type::int32:
          return narrowed<T, std::int32_t>(at);
        case gguf_type::uint64:
          return narrowed<T, std::uint64_t>(at);
        case gguf_type::int64:
          return narrowed<T, std::int64_t>(at);
        default:
          break;
      }
    } else if constexpr (std::floating_point<T>) {
      if (type == gguf_type::float32) return static_cast<T>(load<float>(at));
      if constexpr (std::same_as<T, double>) {
        if (type == gguf_type::float64) return load<double>(at);
      }
    } else {
      static_assert(std::same_as<T, std::string_view> || std::same_as<T, std::string>,
                    "metadata reads as bool, integer, float, double, string or a vector of these");
      if (type == gguf_type::string) {
        return T(reinterpret_cast<const char*>(at.data()), at.size());
      }
    }
    return std::nullopt;
  }

  template <class E>
  std::optional<std::vector<E>> elements() const {
    if (type != gguf_type::array) return std::nullopt;
    std::vector<E> result;
    auto rest = data;
    for (std::uint64_t i = 0; i < count; ++i) {
      std::size_t size = fixed_size(element_type);
      if (element_type == gguf_type::string) {
        size = static_cast<std::size_t>(load<std::uint64_t>(rest));
        rest = rest.subspan(sizeof(std::uint64_t));
      }
      const auto element = scalar<E>(element_type, rest.first(size));
      if (!element) return std::nullopt;
      if (i == 0)
        result.reserve(static_cast<std::size_t>(count));  // No more than the file's bytes.
      result.push_back(*element);
      rest = rest.subspan(size);
    }
    return result;
  }
};

/// A metadata key and its value, in the order of the file.
struct gguf_entry {
  std::string_view key;
  gguf_value value;
};

/// Wanted type for messages: "string", "an unsigned 32-bit integer" ...
template <class T>
std::string wanted_type_text() {
  if constexpr (std::same_as<T, bool>) {
    return "bool";
  } else if constexpr (std::integral<T>) {
    return std::string(std::signed_integral<T> ? "a signed " : "an unsigned ") +
           std::to_string(8 * sizeof(T)) + "-bit integer";
  } else if constexpr (std::floating_point<T>) {
    return sizeof(T) == 4 ? "float32" : "float32 or float64";
  } else if constexpr (std::convertible_to<T, std::string_view>) {
    return "string";
  } else {
    return "an array, each element " + wanted_type_text<typename T::value_type>();
  }
}

}  // namespace gistkv::io
