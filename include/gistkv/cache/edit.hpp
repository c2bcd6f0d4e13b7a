// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/cache/splice_plan.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/q8.hpp>

/// Editing of compressed contexts: sentences are put in, replaced, merged, and all of it undone.
/// Together with gist_cache::fork and gist_cache::erase. What is written again are rows that exist;
/// no row is computed anew, so sentences behind an edit still know what was before it when they
/// were read.

namespace gistkv::cache {

namespace detail {

/// Rows of keys turned from their position to `shift` further: R(p + shift) = R(shift) R(p), exact
/// but for the rounding of the row. On the host, in double.
class key_rotation {
 public:
  /// @param frequencies  [head_dim / 2], in radians a position, as the model rotates
  key_rotation(std::span<const float> frequencies, index_t head_dim, double shift)
      : row_(static_cast<std::size_t>(head_dim)) {
    if (static_cast<index_t>(frequencies.size()) != head_dim / 2) {
      throw argument_error("key rotation: " + std::to_string(frequencies.size()) +
                           " frequencies, expected " + std::to_string(head_dim / 2));
    }
    for (const float f : frequencies) {
      cosines_.push_back(std::cos(shift * static_cast<double>(f)));
      sines_.push_back(std::sin(shift * static_cast<double>(f)));
    }
  }
  template <class T>
  void apply(T* row) {
    const auto d = static_cast<index_t>(row_.size());
    decode_row(row, d, row_.data());
    apply_to(row_);
    encode_row(row_.data(), d, row);
  }
  void apply_to(std::vector<double>& x) const {
    const std::size_t half = cosines_.size();
    for (std::size_t j = 0; j < half; ++j) {
      const double a = x[j];
      const double b = x[j + half];
      x[j] = a * cosines_[j] - b * sines_[j];
      x[j + half] = b * cosines_[j] + a * sines_[j];
    }
  }

 private:
  std::vector<double> cosines_;
  std::vector<double> sines_;
  std::vector<double> row_;
};

/// Calls f(row index, row) for the rows of every head of a block, and writes them back.
template <class B, class T, class F>
void edit_rows(B& be, const tensor_view<T, 3, space_of<B>>& x, F&& f) {
  const index_t width = row_width<T>(x.extent(2));
  std::vector<T> rows(static_cast<std::size_t>(x.extent(1) * width));
  for (index_t h = 0; h < x.extent(0) && !rows.empty(); ++h) {
    be.download(rows.data(), x.at(h).data(), rows.size() * sizeof(T));
    for (index_t r = 0; r < x.extent(1); ++r) f(h, r, rows.data() + r * width);
    be.upload(x.at(h).data(), rows.data(), rows.size() * sizeof(T));
  }
}

/// Turns the keys of rows that move.
template <class B, class T>
void move_keys(B& be, kv_segment<B, T>& rows, const cache_shape& shape,
               std::span<const splice_plan::source> sources, std::span<const float> frequencies) {
  std::vector<std::pair<std::int32_t, key_rotation>> rotations;
  std::vector<std::size_t> of_row;
  for (const auto& s : sources) {
    const auto known = std::find_if(rotations.begin(), rotations.end(),
                                    [&s](const auto& r) { return r.first == s.shift; });
    of_row.push_back(static_cast<std::size_t>(known - rotations.begin()));
    if (known != rotations.end()) continue;
    rotations.emplace_back(s.shift, key_rotation(frequencies, shape.head_dim, s.shift));
  }
  if (rotations.empty() || (rotations.size() == 1 && rotations.front().first == 0)) return;
  for (index_t l = 0; l < shape.n_layers; ++l) {
    edit_rows<B, T>(be, rows.keys(l, 0, static_cast<index_t>(sources.size())),
                    [&](index_t, index_t r, T* row) {
                      auto& rotation = rotations[of_row[static_cast<std::size_t>(r)]];
                      if (rotation.first != 0) rotation.second.apply(row);
                    });
  }
}

template <class B, class T>
struct anchors_of {
  const gist_cache<B, T>& cache;
  auto span(index_t layer, index_t begin, index_t count) const {
    return cache.anchor_rows(layer, begin, count);
  }
};
template <class B, class T>
struct locals_of {
  const gist_cache<B, T>& cache;
  auto span(index_t layer, index_t begin, index_t count) const {
    const auto rows = cache.local_rows(layer);
    return kv_span<T, space_of<B>>{rows.k.slice(1, begin, count), rows.v.slice(1, begin, count)};
  }
};

/// Copies anchors and live local rows to rows [at, ...) of a segment; returns the row behind them.
template <class B, class T>
index_t copy_rows(const gist_cache<B, T>& cache, kv_segment<B, T>& to, index_t at) {
  const index_t n_shared = cache.n_shared();
  const index_t n_anchors = cache.n_anchors();
  to.copy_from(anchors_of<B, T>{cache}, 0, at, n_shared);
  to.copy_from(anchors_of<B, T>{cache}, n_shared, at + n_shared, n_anchors - n_shared);
  to.copy_from(locals_of<B, T>{cache}, 0, at + n_anchors, cache.n_local());
  return at + n_anchors + cache.n_local();
}

}  // namespace detail

/// The closed sentences of `other` in the place of closed sentences [first, last) of `cache`: see
/// plan_splice for what becomes of rows and positions. Time and memory are linear in the rows of
/// both; the result has no shared prefix. A budget that drops is kept afterwards.
/// @param frequencies  as model::rope_frequencies gives them, where positions are to follow each
///                     other; empty: rows keep the positions that they were read at
/// @throws argument_error as plan_splice, for caches of different shapes, for more anchors than a
///         budget that refuses, or while an append to `other` is under way; `cache` is then as it
///         was.
template <Storage B, class T>
void splice(gist_cache<B, T>& cache, index_t first, index_t last, const gist_cache<B, T>& other,
            std::span<const float> frequencies = {}) {
  cache.cancel();
  other.expect_whole("a splice");
  const cache_shape shape = cache.shape();
  if (other.shape() != shape) {
    throw argument_error("splice: a cache of " + std::to_string(other.shape().n_layers) +
                         " layers and heads of " + std::to_string(other.shape().head_dim) +
                         ", expected " + std::to_string(shape.n_layers) + " and " +
                         std::to_string(shape.head_dim) + " and as many heads");
  }
  splice_plan plan = plan_splice(cache.ledger(), first, last, other.ledger(), !frequencies.empty());
  const cache_options& options = cache.options();
  const auto n_anchors = static_cast<index_t>(plan.anchors.size());
  if (options.on_overflow == budget_policy::refuse && options.max_anchors > 0 &&
      n_anchors > options.max_anchors) {
    throw argument_error("splice: " + std::to_string(n_anchors) + " anchor rows, the budget is " +
                         std::to_string(options.max_anchors));
  }
  B& be = cache.backend();
  const index_t n_rows = cache.n_anchors() + cache.n_local() + other.n_anchors() + other.n_local();
  kv_segment<B, T> all(be, shape, n_rows);
  detail::copy_rows(other, all, detail::copy_rows(cache, all, 0));
  const auto gather = [&](const std::vector<splice_plan::source>& sources) {
    std::vector<std::int32_t> rows;
    for (const auto& s : sources) rows.push_back(s.row);
    kv_segment<B, T> gathered = all.gathered(rows, static_cast<index_t>(rows.size()));
    if (!frequencies.empty()) detail::move_keys(be, gathered, shape, sources, frequencies);
    return gathered;
  };
  kv_segment<B, T> anchors = gather(plan.anchors);
  kv_segment<B, T> locals = gather(plan.locals);
  cache.assign(std::move(plan.books), std::move(anchors), std::move(locals), 0);
  cache.keep_budget();
}

/// The closed sentences of another document behind those of this one; see splice.
template <Storage B, class T>
void concatenate(gist_cache<B, T>& cache, const gist_cache<B, T>& other,
                 std::span<const float> frequencies = {}) {
  const index_t end = cache.ledger().n_closed();
  splice(cache, end, end, other, frequencies);
}

/// Closed sentences [first, last) become one, the last of them: each of its gists is the mean of
/// the gists in its place, keys turned to its position. An approximation in a fixed number of rows;
/// sentences count alike, merged ones as one.
/// @param frequencies  [head_dim / 2], those of the model's rotary embedding
///                     (model::rope_frequencies); not empty, since every key moves
/// @throws argument_error if the range is not of closed sentences, or names fewer than two that
///         have gists, or for another number of frequencies; on any exception `cache` is as it was.
template <Storage B, class T>
void merge(gist_cache<B, T>& cache, index_t first, index_t last,
           std::span<const float> frequencies) {
  cache.cancel();
  const auto n_gist = static_cast<std::size_t>(cache.options().rule.n_gist);
  const row_ledger& books = cache.ledger();
  if (first < 0 || last > books.n_closed()) {
    throw argument_error("merge: sentences [" + std::to_string(first) + ", " +
                         std::to_string(last) + "), " + std::to_string(books.n_closed()) +
                         " are closed");
  }
  std::vector<std::int32_t> rows;  // Of the gists, n_gist for each sentence that has any.
  std::vector<row> named;
  for (std::size_t i = 0; i < books.anchors().size(); ++i) {
    const row& r = books.anchors()[i];
    if (r.kind == row_kind::sink || r.sentence < first || r.sentence >= last) continue;
    rows.push_back(static_cast<std::int32_t>(i));
    named.push_back(r);
  }
  if (n_gist == 0 || rows.size() < 2 * n_gist) {
    throw argument_error("merge: " + std::to_string(rows.size()) + " gists of sentences [" +
                         std::to_string(first) + ", " + std::to_string(last) + "), expected " +
                         std::to_string(2 * n_gist) + " or more");
  }
  const cache_shape shape = cache.shape();
  const auto d = static_cast<std::size_t>(shape.head_dim);
  const std::size_t target = rows.size() - n_gist;
  std::vector<detail::key_rotation> turns;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const row& to = named[target + i % n_gist];
    turns.emplace_back(frequencies, shape.head_dim, to.position - named[i].position);
  }
  B& be = cache.backend();
  const auto n_anchors = cache.n_anchors();
  kv_segment<B, T> all(be, shape, n_anchors + cache.n_local());
  detail::copy_rows(cache, all, 0);
  // Means [layer][keys, values][head][gist][d].
  std::vector<std::vector<double>> means;
  const double part = static_cast<double>(n_gist) / static_cast<double>(rows.size());
  const auto add_up = [&](const auto& block, bool keys) {
    auto& mean = means.emplace_back(static_cast<std::size_t>(shape.n_kv_heads) * n_gist * d, 0.0);
    std::vector<double> x(d);
    std::size_t next = 0;
    detail::edit_rows<B, T>(be, block, [&](index_t h, index_t r, T* row) {
      if (r == 0) next = 0;
      if (next == rows.size() || r != rows[next]) return;
      decode_row(row, shape.head_dim, x.data());
      if (keys) turns[next].apply_to(x);
      double* sum = mean.data() + (static_cast<std::size_t>(h) * n_gist + next % n_gist) * d;
      for (std::size_t j = 0; j < d; ++j) sum[j] += part * x[j];
      ++next;
    });
  };
  for (index_t l = 0; l < shape.n_layers; ++l) {
    add_up(all.keys(l, 0, n_anchors), true);
    add_up(all.values(l, 0, n_anchors), false);
  }
  // The rows that stay, the means in the place of the last sentence's gists, and then all at once.
  const std::int32_t sentence = named.back().sentence;
  const std::int32_t base = books.live_begin();
  row_ledger after = books;
  row_ledger::kept_rows kept = after.erase(first, sentence);
  for (std::int32_t& r : kept.locals) r += static_cast<std::int32_t>(n_anchors) - base;
  const auto gather = [&](const std::vector<std::int32_t>& from) {
    return all.gathered(from, static_cast<index_t>(from.size()));
  };
  kv_segment<B, T> anchors = gather(kept.anchors);
  kv_segment<B, T> locals = gather(kept.locals);
  const auto put = [&](const auto& block, const auto& row_at, const std::vector<double>& mean) {
    std::size_t next = 0;
    detail::edit_rows<B, T>(be, block, [&](index_t h, index_t r, T* to) {
      if (r == 0) next = 0;
      const row& named_row = row_at(r);
      if (named_row.kind != row_kind::gist || named_row.sentence != sentence) return;
      encode_row(mean.data() + (static_cast<std::size_t>(h) * n_gist + next % n_gist) * d,
                 shape.head_dim, to);
      ++next;
    });
  };
  const auto anchor_at = [&](index_t r) -> const row& {
    return after.anchors()[static_cast<std::size_t>(r)];
  };
  const auto local_at = [&](index_t r) -> const row& {
    return after.local(base + static_cast<std::int32_t>(r));
  };
  const auto n_kept = static_cast<index_t>(kept.anchors.size());
  const auto n_local = static_cast<index_t>(kept.locals.size());
  for (index_t l = 0; l < shape.n_layers; ++l) {
    const auto at = static_cast<std::size_t>(2 * l);
    put(anchors.keys(l, 0, n_kept), anchor_at, means[at]);
    put(anchors.values(l, 0, n_kept), anchor_at, means[at + 1]);
    put(locals.keys(l, 0, n_local), local_at, means[at]);
    put(locals.values(l, 0, n_local), local_at, means[at + 1]);
  }
  cache.assign(std::move(after), std::move(anchors), std::move(locals), base);
}

/// States to go back to. Each is a fork: its anchors are shared with the cache while that keeps
/// them, and only what an edit replaced is held twice.
template <Storage B, class T>
class edit_history {
 public:
  /// @param depth  most states kept; the oldest goes first
  explicit edit_history(std::size_t depth) : depth_(depth) {}

  /// To be called in front of an append or an edit.
  void remember(gist_cache<B, T>& cache) {
    states_.push_back(cache.fork());
    if (states_.size() > depth_) states_.pop_front();
  }
  /// Makes the cache what it was when last remembered; false if nothing is.
  bool undo(gist_cache<B, T>& cache) {
    if (states_.empty()) return false;
    cache = std::move(states_.back());
    states_.pop_back();
    return true;
  }
  std::size_t size() const { return states_.size(); }
  /// Bytes that the states own, beside what they share.
  std::size_t bytes_allocated() const {
    std::size_t n = 0;
    for (const auto& s : states_) n += s.bytes_allocated();
    return n;
  }

 private:
  std::size_t depth_;
  std::deque<gist_cache<B, T>> states_;
};

}  // namespace gistkv::cache
