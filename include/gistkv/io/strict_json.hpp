// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>

namespace gistkv::io {

/// Bounds that keep a hostile document from costing much more than its own size. Parsing itself
/// does not recurse; the depth bound protects what walks the result.
struct json_limits {
  std::size_t depth = 64;
  std::size_t n_values = 4'000'000;
};

/// Parses RFC 8259 JSON and nothing more: no comments, no duplicate keys, no bytes behind the
/// value, valid UTF-8. @throws format_error naming file and place.
inline nlohmann::json parse_strict_json(std::string_view text, std::string_view file,
                                        json_limits limits = {}) {
  using event = nlohmann::json::parse_event_t;
  const std::string prefix = std::string(file) + ": JSON: ";
  // The parser takes a zero byte for the end of the text and would not see what follows it.
  if (const auto at = text.find('\0'); at != std::string_view::npos) {
    throw format_error(prefix + "zero byte at byte " + std::to_string(at));
  }
  std::vector<std::set<std::string>> keys;  // Of the objects that are open, outermost first.
  std::size_t depth = 0;
  std::size_t n_values = 0;
  auto enter = [&] {
    if (++depth > limits.depth) {
      throw format_error(prefix + "nested deeper than " + std::to_string(limits.depth) +
                         " levels, the most that is read");
    }
  };
  auto check = [&](int, event what, nlohmann::json& parsed) {
    switch (what) {
      case event::object_start:
        enter();
        keys.emplace_back();
        break;
      case event::array_start:
        enter();
        break;
      case event::object_end:
        keys.pop_back();
        --depth;
        break;
      case event::array_end:
        --depth;
        break;
      case event::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys.back().insert(key).second) {
          throw format_error(prefix + "key " + quote(key) + " stands twice in one object");
        }
        break;
      }
      case event::value:
        break;
    }
    if (++n_values > limits.n_values) {
      throw format_error(prefix + "more than " + std::to_string(limits.n_values) +
                         " values, the most that is read");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::exception& failure) {
    throw format_error(prefix + printable(failure.what(), 300));  // It may quote a long token.
  }
}

/// Typed access to the fields of a JSON object. A null counts as absent. Errors name file, field,
/// found and wanted type.
class json_fields {
 public:
  /// Borrows `object`. `where` names it in messages: "config.json", "config.json: rope_scaling".
  /// @throws format_error if it is no object.
  json_fields(const nlohmann::json& object, std::string where)
      : object_(&object), where_(std::move(where)) {
    if (!object.is_object()) {
      throw format_error(where_ + " is " + kind(object) + ", expected an object");
    }
  }

  const std::string& where() const { return where_; }
  const nlohmann::json& object() const { return *object_; }

  /// Null if the field is absent or null.
  const nlohmann::json* find(const std::string& key) const {
    const auto at = object_->find(key);
    return at == object_->end() || at->is_null() ? nullptr : &*at;
  }

  /// T: bool, std::int64_t, double (integers too), std::string.
  template <class T>
  std::optional<T> find(const std::string& key) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if constexpr (std::same_as<T, bool>) {
      if (value->is_boolean()) return value->get<bool>();
      fail(key, *value, "true or false");
    } else if constexpr (std::same_as<T, std::int64_t>) {
      if (value->is_number_unsigned() && std::in_range<T>(value->get<std::uint64_t>())) {
        return value->get<T>();
      }
      if (value->is_number_integer() && !value->is_number_unsigned()) return value->get<T>();
      fail(key, *value, "an integer");
    } else if constexpr (std::same_as<T, double>) {
      if (value->is_number()) return value->get<double>();
      fail(key, *value, "a number");
    } else {
      static_assert(std::same_as<T, std::string>);
      if (value->is_string()) return value->get<std::string>();
      fail(key, *value, "a string");
    }
  }

  template <class T>
  T get(const std::string& key) const {
    if (auto value = find<T>(key)) return *std::move(value);
    throw format_error(where_ + ": field " + quote(key) + " is missing");
  }

  [[noreturn]] void fail(const std::string& key, const nlohmann::json& found,
                         const std::string& wanted) const {
    throw format_error(where_ + ": field " + quote(key) + " is " + kind(found) + ", expected " +
                       wanted);
  }

 private:
  /// The value itself if it is short, else its kind.
  static std::string kind(const nlohmann::json& value) {
    if (value.is_string()) return "the string " + quote(value.get_ref<const std::string&>());
    if (value.is_primitive()) return value.dump();
    return value.is_array() ? "an array" : "an object";
  }

  const nlohmann::json* object_;
  std::string where_;
};

}  // namespace gistkv::io
