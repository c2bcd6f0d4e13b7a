// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>

namespace gistkv::eval {

enum class needle_value { number, words };

struct haystack_options {
  index_t n_lines = 32;
  double depth = 0.5;  ///< Where the first line that is asked for lies: 0 first, 1 last.
  index_t n_keys = 1;  ///< Lines asked for, the further ones anywhere.
  needle_value value = needle_value::number;
};

/// The synthetic key-value haystack of SAG (arXiv 2511.08128, section 4, after RULER): lines
///   One of the special magic {kind}s for {key} is: {value}.
/// whose keys are three words joined by '-', values an integer of 1 to 10^6 or three words.
struct haystack {
  std::vector<std::string> lines;
  std::vector<std::size_t> asked;  ///< Indices of lines, that of the depth first.
  std::vector<std::string> keys;   ///< Of the asked lines.
  std::vector<std::string> values;
  std::string kind;

  std::string text() const {
    std::string all;
    for (const std::string& line : lines) all += (all.empty() ? "" : "\n") + line;
    return all;
  }
  /// The question, which ends where the value of the first key follows.
  std::string question() const {
    std::string all;
    for (const std::string& key : keys) all += (all.empty() ? "" : ", ") + key;
    const bool one = keys.size() == 1;
    const std::string what = "special magic " + kind + (one ? "" : "s") + " for " + all;
    return "What " + std::string(one ? "is" : "are") + " the " + what +
           " mentioned in the text? The " + what + (one ? " is:" : " are:");
  }
};

namespace detail {

inline constexpr std::array<std::string_view, 64> needle_words = {
    "amber",  "anchor",  "apple",  "arrow",   "badge",   "basket", "beacon", "bottle",
    "branch", "bridge",  "bronze", "butter",  "candle",  "canvas", "carpet", "castle",
    "cedar",  "cherry",  "cloud",  "copper",  "coral",   "cotton", "crane",  "desert",
    "dragon", "eagle",   "ember",  "falcon",  "feather", "forest", "garden", "garnet",
    "ginger", "glacier", "hammer", "harbor",  "hazel",   "island", "ivory",  "jacket",
    "jungle", "kettle",  "ladder", "lantern", "lemon",   "marble", "meadow", "mirror",
    "needle", "ocean",   "olive",  "orchid",  "pebble",  "pepper", "planet", "pocket",
    "quartz", "ribbon",  "river",  "saddle",  "silver",  "temple", "tunnel", "walnut"};

inline std::string three_words(random_generator& random) {
  std::string joined;
  for (int i = 0; i < 3; ++i) {
    if (i > 0) joined += '-';
    joined += needle_words[static_cast<std::size_t>(random.below(needle_words.size()))];
  }
  return joined;
}

}  // namespace detail

/// The same seed gives the same haystack; one with fewer lines is not the beginning of a longer.
/// @throws argument_error for more keys than lines, or a depth outside [0, 1].
inline haystack make_haystack(const haystack_options& o, std::uint64_t seed) {
  if (o.n_keys < 1 || o.n_keys > o.n_lines) {
    throw argument_error("haystack: " + std::to_string(o.n_keys) + " keys to ask for of " +
                         std::to_string(o.n_lines) + " lines, expected 1 to all of them");
  }
  if (!(o.depth >= 0 && o.depth <= 1)) {
    throw argument_error("haystack: the depth is " + std::to_string(o.depth) + ", expected 0 to 1");
  }
  constexpr index_t n_keys_there_are = 64 * 64 * 64;
  if (o.n_lines > n_keys_there_are / 2) {
    throw argument_error("haystack: " + std::to_string(o.n_lines) + " lines, expected at most " +
                         std::to_string(n_keys_there_are / 2));
  }
  random_generator random(splitmix64(seed));
  haystack h;
  h.kind = o.value == needle_value::number ? "number" : "word";
  std::set<std::string> used;
  std::vector<std::pair<std::string, std::string>> pairs;
  while (static_cast<index_t>(pairs.size()) < o.n_lines) {
    std::string key = detail::three_words(random);
    if (!used.insert(key).second) continue;
    std::string value = o.value == needle_value::number
                            ? std::to_string(1 + random.below(1'000'000))
                            : detail::three_words(random);
    h.lines.push_back("One of the special magic " + h.kind + "s for " + key + " is: " + value +
                      ".");
    pairs.emplace_back(std::move(key), std::move(value));
  }
  const auto last = static_cast<double>(o.n_lines - 1);
  h.asked.push_back(static_cast<std::size_t>(o.depth * last + 0.5));
  while (static_cast<index_t>(h.asked.size()) < o.n_keys) {
    const auto line = static_cast<std::size_t>(random.below(o.n_lines));
    if (std::find(h.asked.begin(), h.asked.end(), line) == h.asked.end()) h.asked.push_back(line);
  }
  for (const std::size_t line : h.asked) {
    h.keys.push_back(pairs[line].first);
    h.values.push_back(pairs[line].second);
  }
  return h;
}

}  // namespace gistkv::eval
