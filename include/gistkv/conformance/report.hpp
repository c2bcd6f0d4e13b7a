// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/conformance/tolerance.hpp>

namespace gistkv::conformance {

/// Outcome of one case.
struct result {
  std::string op;
  std::string dtype;
  std::string path;  ///< "native" or "composed".
  std::string case_text;
  std::uint64_t seed = 0;
  comparison worst = {};
  std::string failure = {};      ///< Why it failed; empty if it passed.
  std::string skip_reason = {};  ///< Why it did not run; empty if it did.

  bool skipped() const { return !skip_reason.empty(); }
  bool passed() const { return failure.empty() && !skipped(); }
  /// The first failure stands: later ones follow from it.
  void fail(std::string why) {
    if (failure.empty()) failure = std::move(why);
  }
};

/// All outcomes on one backend. Printing is the caller's affair: `format` makes the text.
class report {
 public:
  void add(result r) { results_.push_back(std::move(r)); }

  const std::vector<result>& results() const { return results_; }
  std::size_t n_run() const { return results_.size() - n_skipped(); }
  std::size_t n_failed() const {
    return count([](const result& r) { return !r.passed() && !r.skipped(); });
  }
  std::size_t n_skipped() const {
    return count([](const result& r) { return r.skipped(); });
  }
  /// A backend that ran nothing did not pass.
  bool passed() const { return n_run() > 0 && n_failed() == 0; }

 private:
  template <class F>
  std::size_t count(F&& f) const {
    return static_cast<std::size_t>(std::count_if(results_.begin(), results_.end(), f));
  }
  std::vector<result> results_;
};

namespace detail {

inline std::string scientific(double x, int digits = 2) {
  char text[40];
  std::snprintf(text, sizeof text, "%.*e", digits, x);
  return text;
}

inline std::string padded(std::string_view text, std::size_t width) {
  std::string cell(text);
  if (cell.size() < width) cell.append(width - cell.size(), ' ');
  return cell;
}

}  // namespace detail

/// "linear f32 native [n=3 ...] seed 7: why"
inline std::string to_string(const result& r) {
  std::string text = r.op + " " + r.dtype + " " + r.path + " [" + r.case_text + "] seed " +
                     std::to_string(r.seed) + ": ";
  if (r.skipped()) return text + "skipped, " + r.skip_reason;
  if (!r.passed()) return text + r.failure;
  return text + "error " + detail::scientific(r.worst.error) + ", budget " +
         detail::scientific(r.worst.budget);
}

/// One line for each operation, element type and path: cases, failures and the element that came
/// closest to its budget. Then every failure, every skip with its reason, and the verdict.
inline std::string format(const report& all) {
  struct line {
    const result* first;
    std::size_t cases = 0;
    std::size_t failed = 0;
    comparison worst = {};
  };
  std::vector<line> lines;
  for (const result& r : all.results()) {
    if (r.skipped()) continue;
    auto at = std::find_if(lines.begin(), lines.end(), [&](const line& l) {
      return l.first->op == r.op && l.first->dtype == r.dtype && l.first->path == r.path;
    });
    if (at == lines.end()) at = lines.insert(lines.end(), line{&r});
    at->cases += 1;
    at->failed += r.passed() ? 0U : 1U;
    if (at->cases == 1 || r.worst.ratio > at->worst.ratio) at->worst = r.worst;
  }
  using detail::padded;
  std::string text = padded("operation", 16) + padded("type", 6) + padded("path", 12) +
                     padded("cases", 7) + padded("failed", 8) + "max error / budget\n";
  for (const line& l : lines) {
    text += padded(l.first->op, 16) + padded(l.first->dtype, 6) + padded(l.first->path, 12) +
            padded(std::to_string(l.cases), 7) + padded(std::to_string(l.failed), 8) +
            detail::scientific(l.worst.error) + " / " + detail::scientific(l.worst.budget) + "\n";
  }
  for (const result& r : all.results()) {
    if (!r.passed() && !r.skipped()) text += "FAILED " + to_string(r) + "\n";
  }
  for (const result& r : all.results()) {
    if (r.skipped()) text += "skipped " + r.op + " " + r.dtype + ": " + r.skip_reason + "\n";
  }
  return text + std::to_string(all.n_run()) + " cases, " + std::to_string(all.n_failed()) +
         " failed, " + std::to_string(all.n_skipped()) +
         " skipped: " + (all.passed() ? "passed" : "FAILED") + "\n";
}

}  // namespace gistkv::conformance
