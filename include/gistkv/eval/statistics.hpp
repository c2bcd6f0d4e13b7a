// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/core/random.hpp>

namespace gistkv::eval {

/// A figure with its 95 % interval.
struct estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

/// Percentile bootstrap (Efron 1979) of a statistic over n items that are drawn together, such as
/// documents or questions: `statistic(items)` gets indices into them, each as often as it was
/// drawn. A difference or ratio of two methods computed inside is paired: both see the same draw.
///
/// The same seed gives the same draws on every platform. With one item the interval is the value.
/// @throws argument_error for no items.
template <class Statistic>
estimate bootstrap(std::size_t n, Statistic&& statistic, std::uint64_t seed = 0,
                   int n_draws = 2000) {
  if (n == 0) throw argument_error("bootstrap: no items");
  std::vector<std::size_t> items(n);
  std::iota(items.begin(), items.end(), std::size_t{0});
  estimate e;
  e.value = statistic(std::span<const std::size_t>(items));
  random_generator random(seed);
  std::vector<double> drawn;
  for (int i = 0; i < n_draws; ++i) {
    for (std::size_t& item : items) {
      item = static_cast<std::size_t>(random.below(static_cast<index_t>(n)));
    }
    drawn.push_back(statistic(std::span<const std::size_t>(items)));
  }
  std::sort(drawn.begin(), drawn.end());
  auto quantile = [&drawn](double q) {
    const double at = q * static_cast<double>(drawn.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, drawn.size() - 1);
    const double part = at - static_cast<double>(below);
    return drawn[below] + part * (drawn[above] - drawn[below]);
  };
  e.low = quantile(0.025);
  e.high = quantile(0.975);
  return e;
}

/// The same where items come in groups that are alike, such as several texts of one book: `sizes`
/// of consecutive groups, which are drawn whole (cluster bootstrap: Davison and Hinkley 1997,
/// section 3.8). Items drawn by themselves would have intervals that are too narrow.
template <class Statistic>
estimate grouped_bootstrap(std::span<const std::size_t> sizes, Statistic&& statistic,
                           std::uint64_t seed = 0, int n_draws = 2000) {
  std::vector<std::size_t> begin;
  std::size_t n = 0;
  for (const std::size_t size : sizes) {
    begin.push_back(n);
    n += size;
  }
  std::vector<std::size_t> items;
  return bootstrap(
      sizes.size(),
      [&](std::span<const std::size_t> groups) {
        items.clear();
        for (const std::size_t g : groups) {
          for (std::size_t i = 0; i < sizes[g]; ++i) items.push_back(begin[g] + i);
        }
        return statistic(std::span<const std::size_t>(items));
      },
      seed, n_draws);
}

/// sum of `over` / sum of `under` over the drawn items.
inline double ratio_of_sums(std::span<const double> over, std::span<const double> under,
                            std::span<const std::size_t> items) {
  double a = 0;
  double b = 0;
  for (const std::size_t i : items) {
    a += over[i];
    b += under[i];
  }
  return a / b;
}

inline double mean_of(std::span<const double> values, std::span<const std::size_t> items) {
  double sum = 0;
  for (const std::size_t i : items) sum += values[i];
  return sum / static_cast<double>(items.size());
}

/// `limit` of the items, chosen and ordered by the hash of their names and the seed: a sample that
/// does not depend on the order of a file, and of which a smaller one is the beginning. 0: all.
inline std::vector<std::size_t> sampled(std::span<const std::string> names, index_t limit,
                                        std::uint64_t seed) {
  std::vector<std::pair<std::uint64_t, std::size_t>> order;
  for (std::size_t i = 0; i < names.size(); ++i) {
    order.emplace_back(xxh64(seed).update(std::string_view(names[i])).digest(), i);
  }
  std::sort(order.begin(), order.end());
  if (limit > 0 && static_cast<std::size_t>(limit) < order.size()) {
    order.resize(static_cast<std::size_t>(limit));
  }
  std::vector<std::size_t> chosen;
  for (const auto& [hash, i] : order) chosen.push_back(i);
  return chosen;
}

}  // namespace gistkv::eval
