// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
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

namespace detail {

/// Drops boundaries of out[begin, ...) that follow the last one kept by fewer than n bytes.
/// @param last  offset of that one, 0 at the beginning of a text
inline void join_short_sentences(std::vector<boundary>& out, std::size_t begin, index_t n,
                                 index_t& last) {
  std::size_t kept = begin;
  for (std::size_t i = begin; i < out.size(); ++i) {
    if (out[i].offset - last < n) continue;
    last = out[i].offset;
    out[kept++] = out[i];
  }
  out.resize(kept);
}

inline index_t checked_min_bytes(index_t n) {
  if (n >= 1) return n;
  throw argument_error("min_bytes: " + std::to_string(n) + " bytes a sentence, want 1 or more");
}

}  // namespace detail

/// The sentences of S, of which those that are shorter than n bytes go on into the next: dialogue
/// must not cost more gists than it has tokens. What is left at the end of a text stays open.
template <Segmenter S>
class min_bytes {
 public:
  static constexpr std::string_view name = "min_bytes";

  /// @throws argument_error unless n >= 1.
  min_bytes(S segmenter, index_t n)
      : segmenter_(std::move(segmenter)), n_(detail::checked_min_bytes(n)) {}

  void push(std::string_view piece, std::vector<boundary>& out) {
    const std::size_t begin = out.size();
    segmenter_.push(piece, out);
    detail::join_short_sentences(out, begin, n_, last_);
  }
  void finish(std::vector<boundary>& out) {
    const std::size_t begin = out.size();
    segmenter_.finish(out);
    detail::join_short_sentences(out, begin, n_, last_);
    last_ = 0;
  }
  index_t max_tokens() const { return segmenter_.max_tokens(); }

 private:
  S segmenter_;
  index_t n_;
  index_t last_ = 0;
};

static_assert(Segmenter<uniform>);
static_assert(Segmenter<min_bytes<uniform>>);
static_assert(Segmenter<max_length<uniform>>);

}  // namespace gistkv::text
