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
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

/// Keep-lists of eviction policies: metadata and scores in, indices out. No tensors; gist_cache::
/// keep applies a list, and so can an engine with a layout of its own.
///
/// Rows are counted from 0 among those that may be evicted, oldest first; sinks are not among them.
/// Every list is ascending; under a budget it has min(n, rows) entries.

namespace gistkv::cache {

/// How many rows stay behind an eviction.
struct eviction_budget {
  index_t rows = 0;    ///< In all.
  index_t recent = 0;  ///< Of them the newest, whatever their marks and scores.
};

/// @throws argument_error unless 0 <= recent <= rows.
inline void validate(const eviction_budget& budget) {
  if (budget.recent >= 0 && budget.recent <= budget.rows) return;
  throw argument_error("eviction: " + std::to_string(budget.recent) + " recent rows of " +
                       std::to_string(budget.rows) + ", expected 0 to all of them");
}

namespace detail {

/// The best rows in front of the recent ones, by `before(a, b)`: a is kept rather than b.
template <class Before>
std::vector<std::int32_t> keep_best(std::size_t n, const eviction_budget& budget, Before&& before) {
  validate(budget);
  std::vector<std::int32_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0);
  const auto n_rows = static_cast<std::size_t>(budget.rows);
  if (n <= n_rows) return rows;
  const auto recent = static_cast<std::size_t>(budget.recent);
  const auto older = rows.end() - static_cast<std::ptrdiff_t>(recent);
  const auto last = rows.begin() + static_cast<std::ptrdiff_t>(n_rows - recent);
  std::nth_element(rows.begin(), last, older, before);
  std::sort(rows.begin(), last);
  std::copy(older, rows.end(), last);
  rows.resize(n_rows);
  return rows;
}

}  // namespace detail

/// The recent rows, then the newest marked ones, then the newest others. With marks on separators
/// this is the streaming form of SepLLM (Chen et al. 2024, arXiv 2412.12094, section 3.3), except
/// that room which separators do not need goes to the local window.
inline std::vector<std::int32_t> keep_marked(std::span<const std::uint8_t> marked,
                                             const eviction_budget& budget) {
  return detail::keep_best(marked.size(), budget, [marked](std::int32_t a, std::int32_t b) {
    const bool a_marked = marked[static_cast<std::size_t>(a)] != 0;
    const bool b_marked = marked[static_cast<std::size_t>(b)] != 0;
    return a_marked != b_marked ? a_marked : a > b;
  });
}

/// The recent rows, then those with the greatest scores; of equal ones the newer, and NaN last.
/// With the sums of attention that all queries paid to a row this is H2O (Zhang et al. 2023, arXiv
/// 2306.14048, algorithm 1).
inline std::vector<std::int32_t> keep_scored(std::span<const float> scores,
                                             const eviction_budget& budget) {
  return detail::keep_best(scores.size(), budget, [scores](std::int32_t a, std::int32_t b) {
    const auto score = [scores](std::int32_t row) {
      const float s = scores[static_cast<std::size_t>(row)];
      return std::isnan(s) ? -std::numeric_limits<float>::infinity() : s;
    };
    const float x = score(a);
    const float y = score(b);
    return x != y ? x > y : a > b;
  });
}

/// The last `n_closed` sentences that are closed, and the open one, of rows whose marked ones end a
/// sentence each: what a sentence mask leaves raw, without gists.
inline std::vector<std::int32_t> keep_sentences(std::span<const std::uint8_t> ends,
                                                index_t n_closed) {
  std::size_t first = ends.size();
  for (; first > 0; --first) {
    if (ends[first - 1] != 0 && n_closed-- == 0) break;
  }
  std::vector<std::int32_t> rows(ends.size() - first);
  std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(first));
  return rows;
}

/// y[i] = max of x[j], |i - j| <= width / 2: neighbours of a row that is looked at stay with it
/// (SnapKV, Li et al. 2024, arXiv 2404.14469, section 4). Width 1 changes nothing.
inline std::vector<float> max_pooled(std::span<const float> x, index_t width) {
  const auto half = static_cast<std::size_t>(std::max<index_t>(width, 1) / 2);
  std::vector<float> pooled;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t begin = i > half ? i - half : 0;
    const std::size_t end = std::min(x.size(), i + half + 1);
    pooled.push_back(*std::max_element(x.begin() + static_cast<std::ptrdiff_t>(begin),
                                       x.begin() + static_cast<std::ptrdiff_t>(end)));
  }
  return pooled;
}

}  // namespace gistkv::cache
