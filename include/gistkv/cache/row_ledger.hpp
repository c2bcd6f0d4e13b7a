// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/mask/visible_spans.hpp>

namespace gistkv::cache {

/// Which rows a cache keeps, and for how long.
struct cache_rule {
  index_t n_gist = 0;  ///< Gists that close a sentence (N_g); 0: nothing is ever closed.
  index_t recent = 0;  ///< Closed sentences that stay raw (K).
  index_t n_sink = 1;  ///< First rows that stay for ever (S).
  index_t window = 0;  ///< Keep only the last so many rows beside the sink; 0: no limit. With
                       ///< n_gist = 0 this is StreamingLLM (Xiao et al. 2023, arXiv 2309.17453).

  friend bool operator==(const cache_rule&, const cache_rule&) = default;
};

/// @throws argument_error naming the field.
inline void validate(const cache_rule& rule) {
  auto not_negative = [](const char* field, index_t value) {
    if (value < 0) {
      throw argument_error(std::string("cache rule: ") + field + " is " + std::to_string(value) +
                           ", expected 0 or more");
    }
  };
  not_negative("n_gist", rule.n_gist);
  not_negative("recent", rule.recent);
  not_negative("n_sink", rule.n_sink);
  not_negative("window", rule.window);
  if (rule.window > 0 && rule.n_gist > 0) {
    throw argument_error("cache rule: window " + std::to_string(rule.window) + " and n_gist " +
                         std::to_string(rule.n_gist) + " exclude each other");
  }
}

enum class row_kind : std::uint8_t { sink, gist, regular };

/// What the host knows of a row of the cache.
struct row {
  row_kind kind = row_kind::regular;
  std::int32_t sentence = 0;  ///< Complete gist groups before it.
  std::int32_t position = 0;  ///< Its index in the gisted sequence, by which its key is rotated.

  friend bool operator==(const row&, const row&) = default;
};

/// Book-keeping of a gist cache, without any tensor: which rows exist, which of them the next row
/// sees, and which may go. An engine with a KV layout of its own needs this and nothing else of the
/// cache: append every token, attend to what `placement::spans` names, drop what `live_begin` has
/// passed.
///
/// Sink and gist rows are anchors; all rows but the sink are local rows in token order. A gist is
/// both, so that one span serves a query of the open sentence. Local rows have running numbers from
/// 0, which change by `erase`, `keep` and cache::splice only.
class row_ledger {
 public:
  /// Where an appended row belongs and what it sees (itself included).
  struct placement {
    std::int32_t position = 0;
    std::int32_t anchor = -1;  ///< Its index among the anchors, -1 for none.
    std::int32_t local = -1;   ///< Its running number among the local rows, -1 for a sink row.
    visible_spans spans;       ///< Local rows by running number.
    bool closes = false;       ///< It is the last gist of a group: a sentence ends with it.
  };

  /// @throws argument_error as validate.
  explicit row_ledger(cache_rule rule) : rule_(rule) { validate(rule); }

  /// The next row of the sequence. Linear in nothing but the number of calls.
  placement append(bool is_gist) {
    constexpr std::int32_t last = std::numeric_limits<std::int32_t>::max();
    if (next_position_ == last || local_end() == last) {
      throw argument_error("gist cache: position " + std::to_string(next_position_) +
                           ", local row " + std::to_string(local_end()) +
                           ": one of them is the last that fits into 32 bits");
    }
    placement p;
    p.position = next_position_++;
    const auto sentence = static_cast<std::int32_t>(ends_.size());
    if (p.position < rule_.n_sink) {
      p.anchor = add_anchor({row_kind::sink, sentence, p.position});
      ++n_sinks_;
      p.spans = {p.anchor + 1, local_end(), local_end()};
      return p;
    }
    const bool gist = is_gist && rule_.n_gist > 0;
    const row meta{gist ? row_kind::gist : row_kind::regular, sentence, p.position};
    if (gist) p.anchor = add_anchor(meta);
    locals_.push_back(meta);
    p.local = local_end() - 1;
    p.spans = spans_of_open_sentence();
    if (gist && ++n_open_gists_ == rule_.n_gist) {
      p.closes = true;
      n_open_gists_ = 0;
      ends_.push_back({static_cast<std::int32_t>(anchors_.size()), local_end()});
    }
    return p;
  }

  const cache_rule& rule() const { return rule_; }
  /// Position of the next row; counts gists.
  std::int32_t next_position() const { return next_position_; }
  /// Complete gist groups so far.
  index_t n_closed() const { return static_cast<index_t>(ends_.size()); }
  /// Gists of the group that is not complete yet.
  index_t n_open_gists() const { return n_open_gists_; }
  const std::vector<row>& anchors() const { return anchors_; }

  /// Running numbers of the local rows that a later row can still see: [live_begin, local_end).
  std::int32_t live_begin() const {
    if (rule_.window > 0) {
      // The next row is one of its own window.
      return std::max(first_local_, local_end() - static_cast<std::int32_t>(std::min<index_t>(
                                                      rule_.window - 1, local_end())));
    }
    return span_start().local;
  }
  std::int32_t local_end() const {
    return first_local_ + static_cast<std::int32_t>(locals_.size());
  }
  /// Metadata of local row `number`, which must not have been forgotten.
  const row& local(std::int32_t number) const {
    return locals_[static_cast<std::size_t>(number - first_local_)];
  }

  /// Rows a later token may read, each counted once:
  /// S + N_g closed + regular rows of the last min(K, closed) sentences + rows of the open one.
  index_t rows_held() const { return span_start().anchors + local_end() - live_begin(); }

  /// The held rows in the order of the sequence: by sentence, and there by position.
  std::vector<row> rows() const {
    std::vector<row> all;
    auto anchor = anchors_.begin();
    for (std::int32_t i = live_begin(); i < local_end(); ++i) {
      if (local(i).kind == row_kind::gist) continue;
      for (; anchor != anchors_.end() && precedes(*anchor, local(i)); ++anchor) {
        all.push_back(*anchor);
      }
      all.push_back(local(i));
    }
    all.insert(all.end(), anchor, anchors_.end());
    return all;
  }

  /// Forgets the metadata of local rows before live_begin(); the rows themselves are dead already.
  void forget_dead_rows() {
    const auto n = live_begin() - first_local_;
    locals_.erase(locals_.begin(), locals_.begin() + n);
    first_local_ += n;
  }

  /// Says which rows stay when the sentences [first, last) of the text are taken out, and takes
  /// them out of the books: keep-lists of old anchor indices and old running numbers of local rows,
  /// in order. Later positions do not change. The open sentence cannot be erased.
  /// @throws argument_error if the range is not within the closed sentences.
  struct kept_rows {
    std::vector<std::int32_t> anchors;
    std::vector<std::int32_t> locals;
  };
  kept_rows erase(index_t first, index_t last) {
    if (first < 0 || first > last || last > n_closed()) {
      throw argument_error("gist cache: sentences [" + std::to_string(first) + ", " +
                           std::to_string(last) + ") to erase, " + std::to_string(n_closed()) +
                           " are closed");
    }
    forget_dead_rows();
    auto stays = [&](const row& r) {
      return r.kind == row_kind::sink || r.sentence < first || r.sentence >= last;
    };
    kept_rows kept;
    std::vector<row> anchors;
    std::vector<row> locals;
    std::vector<std::int32_t> anchors_before(anchors_.size() + 1, 0);
    std::vector<std::int32_t> locals_before(locals_.size() + 1, 0);
    for (std::size_t i = 0; i < anchors_.size(); ++i) {
      if (stays(anchors_[i])) {
        kept.anchors.push_back(static_cast<std::int32_t>(i));
        anchors.push_back(anchors_[i]);
      }
      anchors_before[i + 1] = static_cast<std::int32_t>(anchors.size());
    }
    for (std::size_t i = 0; i < locals_.size(); ++i) {
      if (stays(locals_[i])) {
        kept.locals.push_back(first_local_ + static_cast<std::int32_t>(i));
        locals.push_back(locals_[i]);
      }
      locals_before[i + 1] = static_cast<std::int32_t>(locals.size());
    }
    for (group_end& e : ends_) {
      e.anchors = anchors_before[static_cast<std::size_t>(e.anchors)];
      const std::int32_t known = std::max(e.local, first_local_) - first_local_;
      e.local = first_local_ + locals_before[static_cast<std::size_t>(known)];
    }
    anchors_ = std::move(anchors);
    locals_ = std::move(locals);
    return kept;
  }

  /// Takes every local row but the listed ones out of the books: eviction by any policy. Running
  /// numbers of the rows that stay, and of later ones, become consecutive; positions do not change.
  /// @param kept  running numbers of live local rows, ascending
  /// @throws argument_error as check_kept.
  void keep(std::span<const std::int32_t> kept) {
    check_kept(kept);
    std::vector<row> stay;
    for (const std::int32_t number : kept) stay.push_back(local(number));
    first_local_ = live_begin();
    locals_ = std::move(stay);
  }
  /// @throws argument_error for other numbers, or under gists, whose sentences `erase` takes out.
  void check_kept(std::span<const std::int32_t> kept) const {
    if (rule_.n_gist > 0) {
      throw argument_error("gist cache: rows to keep under " + std::to_string(rule_.n_gist) +
                           " gists a sentence, expected a cache without gists");
    }
    std::int32_t next = live_begin();
    for (const std::int32_t number : kept) {
      if (number < next || number >= local_end()) {
        throw argument_error("gist cache: row " + std::to_string(number) + " to keep, expected " +
                             std::to_string(next) + " to " + std::to_string(local_end() - 1) +
                             " in ascending order");
      }
      next = number + 1;
    }
  }

  /// A point to go back to after an append that could not be completed.
  struct checkpoint {
    std::size_t n_anchors;
    std::int32_t n_sinks;
    std::size_t n_locals;
    std::size_t n_ends;
    std::int32_t next_position;
    index_t n_open_gists;
  };
  checkpoint mark() const {
    return {anchors_.size(), n_sinks_, locals_.size(), ends_.size(), next_position_, n_open_gists_};
  }
  /// Takes back every append since `c`; nothing may have been forgotten or erased in between.
  void go_back(const checkpoint& c) {
    anchors_.resize(c.n_anchors);
    n_sinks_ = c.n_sinks;
    locals_.resize(c.n_locals);
    ends_.resize(c.n_ends);
    next_position_ = c.next_position;
    n_open_gists_ = c.n_open_gists;
  }

  /// Rows held behind each of the next rows, if they were appended.
  std::vector<index_t> rows_held_behind(std::span<const std::uint8_t> is_gist) {
    std::vector<index_t> held;
    const checkpoint before = mark();
    try {
      for (const std::uint8_t gist : is_gist) {
        append(gist != 0);
        held.push_back(rows_held());
      }
    } catch (...) {
      go_back(before);
      throw;
    }
    go_back(before);
    return held;
  }

  /// Leaves n_skip positions unused, as for padding in front of a sequence; what they would have
  /// been of the sink is not there. @throws argument_error for n_skip < 0 and beyond 32 bits.
  void skip_positions(index_t n_skip) {
    const index_t most = std::numeric_limits<std::int32_t>::max() - next_position_;
    if (n_skip < 0 || n_skip > most) {
      throw argument_error("gist cache: " + std::to_string(n_skip) +
                           " positions to skip, expected 0 to " + std::to_string(most));
    }
    next_position_ += static_cast<std::int32_t>(n_skip);
  }

  /// The state as plain numbers, to save and to build anew.
  struct state {
    cache_rule rule;
    std::int32_t next_position = 0;
    index_t n_open_gists = 0;
    std::int32_t first_local = 0;
    std::vector<row> anchors;
    std::vector<row> locals;
    std::vector<std::pair<std::int32_t, std::int32_t>> ends;
  };
  state save() const {
    state s{rule_, next_position_, n_open_gists_, first_local_, anchors_, locals_, {}};
    for (const group_end& e : ends_) s.ends.emplace_back(e.anchors, e.local);
    return s;
  }
  /// @throws format_error if the numbers contradict each other.
  static row_ledger load(const state& s) {
    row_ledger ledger(s.rule);
    auto check = [](bool holds, const char* what) {
      if (!holds) throw format_error(std::string("gist cache state: ") + what);
    };
    const auto n_anchors = static_cast<std::int32_t>(s.anchors.size());
    const auto local_end =
        static_cast<std::int64_t>(s.first_local) + static_cast<std::int64_t>(s.locals.size());
    check(s.next_position >= 0 && s.first_local >= 0, "negative position");
    check(local_end <= std::numeric_limits<std::int32_t>::max(), "too many rows");
    check(s.n_open_gists == 0 || (s.n_open_gists > 0 && s.n_open_gists < s.rule.n_gist),
          "wrong number of open gists");
    std::pair<std::int32_t, std::int32_t> last{0, 0};
    for (const auto& e : s.ends) {
      check(e.first >= last.first && e.second >= last.second && e.first <= n_anchors &&
                e.second <= local_end,
            "sentence ends out of order or range");
      last = e;
      ledger.ends_.push_back({e.first, e.second});
    }
    auto in_order = [&](const std::vector<row>& rows, row_kind never) {
      const row* previous = nullptr;
      for (const row& r : rows) {
        check(r.kind != never, "a row of the wrong kind");
        check(r.position >= 0 && r.position < s.next_position, "position out of range");
        check(r.sentence >= 0 && r.sentence <= static_cast<std::int32_t>(s.ends.size()),
              "sentence number out of range");
        check(previous == nullptr || precedes(*previous, r), "rows out of order");
        previous = &r;
      }
    };
    in_order(s.anchors, row_kind::regular);
    in_order(s.locals, row_kind::sink);
    ledger.next_position_ = s.next_position;
    ledger.n_open_gists_ = s.n_open_gists;
    ledger.first_local_ = s.first_local;
    ledger.anchors_ = s.anchors;
    const auto is_sink = [](const row& r) { return r.kind == row_kind::sink; };
    check(std::ranges::is_partitioned(s.anchors, is_sink), "a sink row behind others");
    ledger.n_sinks_ = static_cast<std::int32_t>(std::ranges::count_if(s.anchors, is_sink));
    ledger.locals_ = s.locals;
    check(ledger.live_begin() >= s.first_local, "a live row is missing");
    return ledger;
  }

 private:
  /// Anchors, and the running number of local rows, behind the last gist of a group.
  struct group_end {
    std::int32_t anchors;
    std::int32_t local;
  };

  static bool precedes(const row& a, const row& b) {
    return a.sentence != b.sentence ? a.sentence < b.sentence : a.position < b.position;
  }
  std::int32_t add_anchor(const row& meta) {
    anchors_.push_back(meta);
    return static_cast<std::int32_t>(anchors_.size()) - 1;
  }

  /// Where the spans of a row with sentence number ends_.size() begin: one past the last gist of
  /// group c - 1, c = max(0, closed - K); anchors before that point are read from the anchors.
  group_end span_start() const {
    const index_t c = std::max<index_t>(0, n_closed() - rule_.recent);
    if (c > 0) return ends_[static_cast<std::size_t>(c - 1)];
    return {n_sinks_, 0};
  }

  visible_spans spans_of_open_sentence() const {
    const group_end start = span_start();
    if (rule_.window == 0) return {start.anchors, start.local, local_end()};
    const auto width = static_cast<std::int32_t>(std::min<index_t>(rule_.window, local_end()));
    // Rows that were evicted are not there, whatever the window's width.
    return {start.anchors, std::max(first_local_, local_end() - width), local_end()};
  }

  cache_rule rule_;
  std::int32_t next_position_ = 0;
  index_t n_open_gists_ = 0;
  std::int32_t first_local_ = 0;  ///< Running number of locals_[0].
  std::int32_t n_sinks_ = 0;      ///< The first of anchors_.
  std::vector<row> anchors_;
  std::vector<row> locals_;
  std::vector<group_end> ends_;
};

}  // namespace gistkv::cache
