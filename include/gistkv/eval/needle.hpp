// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <span>
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
  /// Where lines that are asked for lie, one each: 0 first, 1 last; where one is taken, behind it.
  std::vector<double> depths = {0.5};
  index_t n_keys = 1;  ///< Lines asked for at once, the further ones anywhere.
  needle_value value = needle_value::number;
};

/// The synthetic key-value haystack of SAG (arXiv 2511.08128, section 4, after RULER): lines
///   One of the special magic {kind}s for {key} is: {value}.
/// whose keys are three words joined by '-', values an integer of 1 to 10^6 or three words; or such
/// lines among those of a text.
struct haystack {
  std::vector<std::string> lines;
  std::vector<std::size_t> asked;  ///< Indices of lines, those of the depths first.
  std::vector<std::string> keys;   ///< Of the asked lines.
  std::vector<std::string> values;
  std::size_t n_depths = 0;
  std::string kind;

  std::string text() const {
    std::string all;
    for (const std::string& line : lines) all += (all.empty() ? "" : "\n") + line;
    return all;
  }
  /// The asked lines of question `depth`: its own, and the further ones.
  std::vector<std::size_t> together(std::size_t depth) const {
    std::vector<std::size_t> which = {depth};
    for (std::size_t k = n_depths; k < asked.size(); ++k) which.push_back(k);
    return which;
  }
  /// The question for them, which ends where the value of the first key follows.
  std::string question(std::size_t depth) const {
    const std::vector<std::size_t> which = together(depth);
    std::string all;
    for (const std::size_t k : which) all += (all.empty() ? "" : ", ") + keys[k];
    const bool one = which.size() == 1;
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
/// @param filler  other lines, which keep their order; those with keys lie among them at random,
///                but for those at the depths
/// @throws argument_error for more asked lines than there are, no depth, or one outside [0, 1].
inline haystack make_haystack(const haystack_options& o, std::uint64_t seed,
                              std::span<const std::string> filler = {}) {
  const auto n_asked = static_cast<index_t>(o.depths.size()) + o.n_keys - 1;
  if (o.depths.empty() || o.n_keys < 1 || n_asked > o.n_lines) {
    throw argument_error("haystack: " + std::to_string(n_asked) + " keys to ask for of " +
                         std::to_string(o.n_lines) + " lines, expected 1 to all of them");
  }
  for (const double depth : o.depths) {
    if (depth >= 0 && depth <= 1) continue;
    throw argument_error("haystack: a depth is " + std::to_string(depth) + ", expected 0 to 1");
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
    pairs.emplace_back(std::move(key), std::move(value));
  }
  const std::size_t n_lines = pairs.size() + filler.size();
  std::map<std::size_t, std::size_t> pair_of_line;
  for (const double depth : o.depths) {
    auto line = static_cast<std::size_t>(depth * static_cast<double>(n_lines - 1) + 0.5);
    while (!pair_of_line.emplace(line, h.asked.size()).second) line = (line + 1) % n_lines;
    h.asked.push_back(line);
  }
  h.n_depths = h.asked.size();
  while (pair_of_line.size() < pairs.size()) {
    pair_of_line.emplace(static_cast<std::size_t>(random.below(static_cast<index_t>(n_lines))),
                         pair_of_line.size());
  }
  for (auto next = filler.begin(); h.lines.size() < n_lines;) {
    const auto found = pair_of_line.find(h.lines.size());
    if (found == pair_of_line.end()) {
      h.lines.push_back(*next++);
      continue;
    }
    const auto& [key, value] = pairs[found->second];
    h.lines.push_back("One of the special magic " + h.kind + "s for " + key + " is: " + value +
                      ".");
  }
  while (static_cast<index_t>(h.asked.size()) < n_asked) {
    auto any = pair_of_line.begin();
    std::advance(any, random.below(o.n_lines));
    if (std::find(h.asked.begin(), h.asked.end(), any->first) == h.asked.end()) {
      h.asked.push_back(any->first);
    }
  }
  for (const std::size_t line : h.asked) {
    h.keys.push_back(pairs[pair_of_line.at(line)].first);
    h.values.push_back(pairs[pair_of_line.at(line)].second);
  }
  return h;
}

}  // namespace gistkv::eval
