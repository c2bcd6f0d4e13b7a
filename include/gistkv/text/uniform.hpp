// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/text/boundary.hpp>

namespace gistkv::text {

namespace detail {

inline index_t checked_max_tokens(std::string_view rule, index_t n) {
  if (n >= 1) return n;
  throw argument_error(std::string(rule) + ": " + std::to_string(n) +
                       " tokens a sentence, want 1 or more");
}

}  // namespace detail

/// Sentences of n tokens whatever the text says (the placement of Activation Beacon).
class uniform {
 public:
  static constexpr std::string_view name = "uniform";

  /// @throws argument_error unless n >= 1.
  explicit uniform(index_t n) : n_(detail::checked_max_tokens(name, n)) {}

  void push(std::string_view, std::vector<boundary>&) {}
  void finish(std::vector<boundary>&) {}
  index_t max_tokens() const { return n_; }

 private:
  index_t n_;
};

/// The sentences of S, cut where they pass n tokens: text without punctuation must not defeat
/// compression. Of two limits the smaller one counts.
template <Segmenter S>
class max_length {
 public:
  static constexpr std::string_view name = "max_length";

  /// @throws argument_error unless n >= 1.
  max_length(S segmenter, index_t n)
      : segmenter_(std::move(segmenter)), n_(detail::checked_max_tokens(name, n)) {
    const index_t inner = segmenter_.max_tokens();
    if (inner > 0 && inner < n_) n_ = inner;
  }

  void push(std::string_view piece, std::vector<boundary>& out) { segmenter_.push(piece, out); }
  void finish(std::vector<boundary>& out) { segmenter_.finish(out); }
  index_t max_tokens() const { return n_; }

 private:
  S segmenter_;
  index_t n_;
};

static_assert(Segmenter<uniform>);
static_assert(Segmenter<max_length<uniform>>);

}  // namespace gistkv::text
