// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/error.hpp>

namespace gistkv::cache {

/// Which rows a cache has after closed sentences of another were put in the place of some of its
/// own, and where they come from. Books only: an engine with rows of its own needs no more.
struct splice_plan {
  /// A row of [own anchors | own live local rows | other's anchors | other's live local rows], and
  /// how far its position moves.
  struct source {
    std::int32_t row = 0;
    std::int32_t shift = 0;
  };
  row_ledger books;
  std::vector<source> anchors;
  std::vector<source> locals;
};

namespace detail {

/// One of the two that are spliced.
struct spliced_books {
  row_ledger::state state;
  std::int32_t at;  ///< Of its first anchor among all rows.
  std::size_t n_sinks = 0;

  spliced_books(row_ledger ledger, std::int32_t begin) : at(begin) {
    ledger.forget_dead_rows();
    state = ledger.save();
    while (n_sinks < state.anchors.size() && state.anchors[n_sinks].kind == row_kind::sink) {
      ++n_sinks;
    }
  }
  std::int32_t n_closed() const { return static_cast<std::int32_t>(state.ends.size()); }
  /// Closed sentences from this one on have their rows among the local ones.
  index_t first_raw() const { return std::max<index_t>(0, n_closed() - state.rule.recent); }
  std::int32_t n_rows() const {
    return static_cast<std::int32_t>(state.anchors.size() + state.locals.size());
  }
  /// Position behind the rows of sentences before `sentence`, no less than `least`.
  std::int32_t end_before(std::int32_t sentence, std::int32_t least) const {
    for (const auto* rows : {&state.anchors, &state.locals}) {
      for (const row& r : *rows) {
        if (r.kind == row_kind::sink || r.sentence < sentence) {
          least = std::max(least, r.position + 1);
        }
      }
    }
    return least;
  }
  /// Least position of the rows of `sentence` and later ones, `most` if there are none.
  std::int32_t begin_from(std::int32_t sentence, std::int32_t most) const {
    for (const auto* rows : {&state.anchors, &state.locals}) {
      for (const row& r : *rows) {
        if (r.kind != row_kind::sink && r.sentence >= sentence) most = std::min(most, r.position);
      }
    }
    return most;
  }
  /// Rows of a sentence among the anchors or the local rows.
  std::pair<std::size_t, std::size_t> range(const std::vector<row>& rows,
                                            std::int32_t sentence) const {
    const auto begin =
        rows.begin() + static_cast<std::ptrdiff_t>(&rows == &state.anchors ? n_sinks : 0);
    const auto before = [](const row& r, std::int32_t s) { return r.sentence < s; };
    const auto first = std::lower_bound(begin, rows.end(), sentence, before);
    const auto last = std::lower_bound(first, rows.end(), sentence + 1, before);
    return {static_cast<std::size_t>(first - rows.begin()),
            static_cast<std::size_t>(last - rows.begin())};
  }
};

}  // namespace detail

/// Closed sentences [first, last) of `own` go, and the closed sentences of `other` come in their
/// place, without its sink and its open sentence; later sentences are counted anew. With first ==
/// last this inserts, and at the end it concatenates.
///
/// Positions: unless `rebase`, every row keeps its own, as documents that were compressed each from
/// position 0 on then share positions; the next row comes behind all of them. With `rebase` the new
/// rows begin behind those before them and later rows follow, as if the text had been read so;
/// later rows must be behind the earlier ones then.
///
/// Of the last `recent` sentences those keep their raw rows that still had them; the others are
/// seen through their gists.
/// @throws argument_error for other rules, a range that is not of closed sentences, a cache without
///         its sink, positions out of order or beyond 32 bits.
inline splice_plan plan_splice(const row_ledger& own, index_t first, index_t last,
                               const row_ledger& other, bool rebase) {
  const cache_rule& rule = own.rule();
  if (rule.n_gist == 0 || other.rule() != rule) {
    throw argument_error("splice: the caches have " + std::to_string(rule.n_gist) + " and " +
                         std::to_string(other.rule().n_gist) +
                         " gists a sentence, expected equal rules with gists");
  }
  if (first < 0 || first > last || last > own.n_closed()) {
    throw argument_error("splice: sentences [" + std::to_string(first) + ", " +
                         std::to_string(last) + ") to replace, " + std::to_string(own.n_closed()) +
                         " are closed");
  }
  if (own.next_position() < rule.n_sink) {
    throw argument_error("splice: into " + std::to_string(own.next_position()) +
                         " positions, the sink needs " + std::to_string(rule.n_sink));
  }
  const detail::spliced_books a(own, 0);
  const detail::spliced_books b(other, a.n_rows());
  const auto begin = static_cast<std::int32_t>(first);
  const auto end = static_cast<std::int32_t>(last);
  const auto sink = static_cast<std::int32_t>(rule.n_sink);
  const std::int32_t b_end = b.end_before(b.n_closed(), sink);
  std::int64_t new_shift = 0;
  std::int64_t later_shift = 0;
  std::int64_t next = std::max(a.state.next_position, b_end);
  if (rebase) {
    const std::int64_t from = a.end_before(begin, sink);
    const std::int32_t until = a.end_before(end, sink);
    const std::int32_t later = a.begin_from(end, a.state.next_position);
    if (later < until) {
      throw argument_error("splice: later rows begin at position " + std::to_string(later) +
                           ", expected " + std::to_string(until) +
                           " or more, where positions are to follow each other");
    }
    new_shift = from - sink;
    later_shift = from + (b_end - sink) - until;
    next = a.state.next_position + later_shift;
  }
  if (next > std::numeric_limits<std::int32_t>::max()) {
    throw argument_error("splice: position " + std::to_string(next) + " does not fit into 32 bits");
  }

  row_ledger::state s;
  s.rule = rule;
  s.next_position = static_cast<std::int32_t>(next);
  s.n_open_gists = a.state.n_open_gists;
  splice_plan plan{row_ledger(rule), {}, {}};
  const std::int32_t n_closed = a.n_closed() - (end - begin) + b.n_closed();
  const index_t first_raw = std::max<index_t>(0, n_closed - rule.recent);
  for (std::size_t i = 0; i < a.n_sinks; ++i) {
    s.anchors.push_back(a.state.anchors[i]);
    plan.anchors.push_back({static_cast<std::int32_t>(i), 0});
  }
  const auto take = [&](const detail::spliced_books& from, std::int32_t sentence,
                        std::int64_t shift) {
    const auto number = static_cast<std::int32_t>(s.ends.size());
    const auto move = static_cast<std::int32_t>(shift);
    const auto copy = [&](const std::vector<row>& rows, std::int32_t rows_at,
                          std::vector<row>& books, std::vector<splice_plan::source>& sources) {
      const auto [first_row, last_row] = from.range(rows, sentence);
      for (std::size_t i = first_row; i < last_row; ++i) {
        books.push_back({rows[i].kind, number, rows[i].position + move});
        sources.push_back({rows_at + static_cast<std::int32_t>(i), move});
      }
    };
    const auto& anchors = from.state.anchors;
    const auto locals_at = from.at + static_cast<std::int32_t>(anchors.size());
    copy(anchors, from.at, s.anchors, plan.anchors);
    if (number < first_raw) return;
    if (sentence >= from.first_raw()) {
      copy(from.state.locals, locals_at, s.locals, plan.locals);
    } else {
      copy(anchors, from.at, s.locals, plan.locals);
    }
  };
  const auto close = [&] {
    s.ends.emplace_back(static_cast<std::int32_t>(s.anchors.size()),
                        static_cast<std::int32_t>(s.locals.size()));
  };
  for (std::int32_t i = 0; i < begin; ++i, close()) take(a, i, 0);
  for (std::int32_t i = 0; i < b.n_closed(); ++i, close()) take(b, i, new_shift);
  for (std::int32_t i = end; i < a.n_closed(); ++i, close()) take(a, i, later_shift);
  take(a, a.n_closed(), later_shift);
  plan.books = row_ledger::load(s);
  return plan;
}

}  // namespace gistkv::cache
