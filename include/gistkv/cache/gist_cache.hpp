// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/cache/cache_options.hpp>
#include <gistkv/cache/kv_prefix.hpp>
#include <gistkv/cache/kv_segment.hpp>
#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/backend.hpp>

namespace gistkv::cache {

/// The KV cache of one sequence, in which only sinks, gists and the raw rows of the open sentence
/// (and of K more) exist.
///
/// Per layer up to three parts: shared anchors of a common prefix (read-only), own anchors
/// (append-only) and local rows in token order. A gist row is written to own anchors and to local.
/// Closing a sentence moves two numbers and copies nothing; local rows go to the front of their
/// block only when it is full. Keys keep the rotation of their original position for ever.
///
/// Writing goes in three steps, so that all layers see the same rows:
///   begin_append(flags)  plans rows, reserves memory, says where rows go and what they see;
///   layer(l)             views to scatter the new rows into and to attend to, layer after layer;
///   commit() / cancel()  makes the rows part of the sequence, or as if nothing had happened.
/// Behind a commit, keep_budget() drops what a budget has no room for.
template <Storage B, class T>
class gist_cache {
 public:
  using space = space_of<B>;

  /// Where the rows of one append go; indices are into layer_views of this append.
  struct append_plan {
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> anchor_rows;  ///< Row of own anchors, -1 for none.
    std::vector<std::int32_t> local_rows;   ///< Row of local, -1 for none.
    std::vector<visible_spans> spans;
    index_t n_keys = 0;  ///< Keys that a query of this append can see at most.
  };

  struct layer_views {
    tensor_view<T, 3, space> anchor_keys;  ///< [n_kv_heads, own anchors, head_dim]
    tensor_view<T, 3, space> anchor_values;
    tensor_view<T, 3, space> local_keys;  ///< [n_kv_heads, local rows, head_dim]
    tensor_view<T, 3, space> local_values;
    kv_spans<T, space> visible;  ///< The same memory and the shared anchors, to read.
  };

  /// @throws argument_error as validate(cache_options); shape_error as validate(cache_shape).
  gist_cache(B& be, cache_shape shape, cache_options options = {})
      : be_(&be),
        shape_(validate(shape)),
        options_(options),
        ledger_(options.rule),
        anchors_(be, shape, 0),
        local_(be, shape, 0) {
    validate(options);
  }

  gist_cache(gist_cache&&) noexcept = default;
  gist_cache& operator=(gist_cache&&) noexcept = default;

  /// A deep copy, except that the shared prefix stays shared. @throws as expect_whole.
  gist_cache copy() const {
    expect_whole("a copy");
    gist_cache twin(*be_, shape_, options_);
    twin.ledger_ = ledger_;
    twin.shared_ = shared_;
    twin.n_shared_ = n_shared_;
    twin.anchors_ = kv_segment<B, T>(*be_, shape_, n_own());
    twin.anchors_.copy_from(anchors_, 0, 0, n_own());
    twin.take_live_rows(*this);
    twin.peak_allocated_ = twin.bytes_allocated();
    return twin;
  }

  /// A sequence that goes on from this one: its anchors become a prefix that both read and none
  /// writes (this cache keeps it too); only the raw rows are copied. Anchors behind a prefix are
  /// copied as well while they are fewer than it, so that the prefix stays the one of all forks.
  gist_cache fork() {
    cancel();
    if (n_own() > n_shared_) freeze();
    return copy();
  }

  const cache_options& options() const { return options_; }
  const cache_shape& shape() const { return shape_; }
  const row_ledger& ledger() const { return ledger_; }
  B& backend() const { return *be_; }
  /// Position of the next row; gists and padding count.
  index_t next_position() const { return ledger_.next_position(); }
  index_t rows_held() const { return ledger_.rows_held(); }
  index_t n_anchors() const { return static_cast<index_t>(ledger_.anchors().size()); }
  index_t n_shared() const { return n_shared_; }
  index_t n_local() const { return ledger_.local_end() - ledger_.live_begin(); }

  /// Bytes of one row of keys and values over all layers.
  std::size_t bytes_per_row() const {
    return 2 * sizeof(T) *
           static_cast<std::size_t>(shape_.n_layers * shape_.n_kv_heads *
                                    row_width<T>(shape_.head_dim));
  }
  /// Bytes of all rows a forward pass may read; rows held twice count twice, shared ones once here.
  std::size_t bytes_held() const {
    return bytes_per_row() * static_cast<std::size_t>(n_anchors() + n_local());
  }
  /// Bytes that this cache owns, used or not; the shared prefix is not its own.
  std::size_t bytes_allocated() const { return anchors_.bytes() + local_.bytes(); }
  /// Bytes of the shared prefix, which lie once in memory for all caches that read it.
  std::size_t bytes_shared() const { return bytes_per_row() * static_cast<std::size_t>(n_shared_); }
  std::size_t peak_bytes_held() const { return peak_held_; }
  std::size_t peak_bytes_allocated() const { return peak_allocated_; }

  /// How many of the next rows one append may take: with a budget, no more than up to the close
  /// after which old sentences must be dropped, so that results do not depend on the chunk size.
  index_t max_append(std::span<const std::uint8_t> is_gist) const {
    const auto n = static_cast<index_t>(is_gist.size());
    if (options_.max_anchors == 0 || options_.rule.n_gist == 0) return n;
    const index_t n_sinks = coming_sinks(n);
    index_t anchors = n_anchors() + n_sinks;
    index_t open = ledger_.n_open_gists();
    for (index_t i = n_sinks; i < n; ++i) {
      if (is_gist[static_cast<std::size_t>(i)] == 0) continue;
      ++anchors;
      if (++open < options_.rule.n_gist) continue;
      open = 0;
      if (anchors > options_.max_anchors) return i + 1;
    }
    return n;
  }

  /// @throws argument_error when the anchors outgrow a budget that refuses.
  append_plan begin_append(std::span<const std::uint8_t> is_gist) {
    cancel();
    refuse_over_budget(is_gist);
    append_plan plan;
    mark_ = ledger_.mark();
    try {
      live_at_append_ = ledger_.live_begin();
      reserve(is_gist);
      const auto n_shared = static_cast<std::int32_t>(n_shared_);
      for (const std::uint8_t gist : is_gist) {
        auto p = ledger_.append(gist != 0);
        plan.positions.push_back(p.position);
        plan.anchor_rows.push_back(p.anchor < 0 ? -1 : p.anchor - n_shared);
        plan.local_rows.push_back(p.local < 0 ? -1 : p.local - local_base_);
        GISTKV_ASSERT(p.spans.local_begin >= std::min(live_at_append_, p.spans.local_end));
        p.spans.local_begin -= local_base_;
        p.spans.local_end -= local_base_;
        plan.spans.push_back(p.spans);
      }
    } catch (...) {
      cancel();
      throw;
    }
    plan.n_keys = n_anchors() + ledger_.local_end() - local_base_;
    return plan;
  }

  /// As row_ledger::rows_held_behind: before a budget drops.
  std::vector<index_t> rows_held_behind(std::span<const std::uint8_t> is_gist) {
    cancel();
    return ledger_.rows_held_behind(is_gist);
  }

  /// Keys and values of layer l as attention takes them, the rows of a pass that has begun
  /// included. The views are good until the next call that may move or drop rows, begin_append for
  /// one.
  layer_views layer(index_t l) {
    const index_t n_local = ledger_.local_end() - local_base_;
    layer_views v{anchors_.keys(l, 0, n_own()),
                  anchors_.values(l, 0, n_own()),
                  local_.keys(l, 0, n_local),
                  local_.values(l, 0, n_local),
                  {}};
    if (n_shared_ > 0) v.visible.shared = shared_->span(l, 0, n_shared_);
    v.visible.own = {v.anchor_keys, v.anchor_values};
    v.visible.local = {v.local_keys, v.local_values};
    return v;
  }

  /// The appended rows stay; raw rows of sentences that closed long enough ago go.
  void commit() noexcept {
    if (!mark_) return;
    const index_t n_rows = n_anchors() + ledger_.local_end() - live_at_append_;
    peak_held_ = std::max(peak_held_, bytes_per_row() * static_cast<std::size_t>(n_rows));
    mark_.reset();
    ledger_.forget_dead_rows();
  }

  void cancel() {
    if (!mark_) return;
    ledger_.go_back(*mark_);
    mark_.reset();
  }

  /// Takes closed sentences [first, last) out of the cache: no later token sees them. Positions of
  /// other rows do not change. @throws argument_error if the range is not within closed sentences.
  void erase(index_t first, index_t last) {
    cancel();
    const std::int32_t base = ledger_.live_begin();
    row_ledger books = ledger_;
    row_ledger::kept_rows kept = books.erase(first, last);
    kv_segment<B, T> all(*be_, shape_, n_anchors());
    if (n_shared_ > 0) all.copy_from(*shared_, 0, 0, n_shared_);
    all.copy_from(anchors_, 0, n_shared_, n_own());
    kv_segment<B, T> anchors =
        all.gathered(kept.anchors, static_cast<index_t>(kept.anchors.size()));
    for (std::int32_t& r : kept.locals) r -= local_base_;
    kv_segment<B, T> local = local_.gathered(kept.locals, static_cast<index_t>(kept.locals.size()));
    assign(std::move(books), std::move(anchors), std::move(local), base);
  }

  /// Takes over other books and their rows: all anchors, and the local rows from running number
  /// `base` on, which is at most live_begin() of the books.
  void assign(row_ledger books, kv_segment<B, T> anchors, kv_segment<B, T> local,
              std::int32_t base) {
    cancel();
    ledger_ = std::move(books);
    anchors_ = std::move(anchors);
    local_ = std::move(local);
    shared_.reset();
    n_shared_ = 0;
    local_base_ = base;
    note_allocation();
  }

  /// Drops the oldest sentences if there are more anchors than the budget allows. Where memory runs
  /// out nothing has changed, and it may be called again.
  void keep_budget() {
    if (options_.max_anchors == 0 || n_anchors() <= options_.max_anchors ||
        ledger_.n_open_gists() > 0) {
      return;
    }
    // Groups already erased have no anchors left, so counting rows finds the oldest survivors.
    index_t excess = n_anchors() - options_.max_anchors;
    index_t last = 0;
    for (const row& r : ledger_.anchors()) {
      if (r.kind == row_kind::sink) continue;
      if (excess <= 0 && r.sentence >= last) break;
      last = r.sentence + 1;
      --excess;
    }
    erase(0, std::min(last, ledger_.n_closed()));
  }

  /// Evicts every local row but the listed ones; see row_ledger::keep. With a list for each layer
  /// and KV head, [n_layers * n_kv_heads] of equal length, heads keep different rows, and the books
  /// name those of the first. @throws argument_error.
  void keep(std::span<const std::vector<std::int32_t>> lists) {
    cancel();
    const auto heads = static_cast<std::size_t>(shape_.n_layers * shape_.n_kv_heads);
    if (lists.size() != 1 && lists.size() != heads) {
      throw argument_error("gist cache: " + std::to_string(lists.size()) +
                           " lists of rows to keep, expected 1 or " + std::to_string(heads));
    }
    std::vector<std::vector<std::int32_t>> rows(lists.begin(), lists.end());
    for (auto& list : rows) {
      ledger_.check_kept(list);
      if (list.size() != rows.front().size()) {
        throw argument_error("gist cache: a head is to keep " + std::to_string(list.size()) +
                             " rows, expected " + std::to_string(rows.front().size()) +
                             " as the first");
      }
      for (std::int32_t& number : list) number -= local_base_;
    }
    kv_segment<B, T> local = local_.gathered(rows, static_cast<index_t>(rows.front().size()));
    ledger_.keep(lists.front());
    local_ = std::move(local);
    local_base_ = ledger_.live_begin();
    note_allocation();
  }

  /// As row_ledger::skip_positions. @throws argument_error, also while an append is under way.
  void skip_positions(index_t n) {
    expect_whole("positions to skip");
    ledger_.skip_positions(n);
  }
  /// @throws argument_error naming `what` while an append is under way: its rows hold nothing yet.
  void expect_whole(const char* what) const { detail::expect_whole(!mark_, what); }

  /// Rows [begin, begin + count) of the anchors, none or all of them shared; the live local rows.
  kv_span<T, space> anchor_rows(index_t layer, index_t begin, index_t count) const {
    return begin < n_shared_ ? shared_->span(layer, begin, count)
                             : anchors_.span(layer, begin - n_shared_, count);
  }
  kv_span<T, space> local_rows(index_t layer) const {
    return local_.span(layer, ledger_.live_begin() - local_base_, n_local());
  }

  /// A cache with these books, whose rows the caller then writes through layer().
  /// @param prefix  the first anchors, which are there already; may be null
  static gist_cache restore(B& be, cache_shape shape, cache_options options, row_ledger books,
                            std::shared_ptr<const kv_prefix<B, T>> prefix = {}) {
    gist_cache cache(be, shape, options);
    cache.ledger_ = std::move(books);
    cache.ledger_.forget_dead_rows();
    cache.local_base_ = cache.ledger_.live_begin();
    cache.n_shared_ = prefix ? prefix->rows() : 0;
    cache.shared_ = std::move(prefix);
    cache.anchors_ = kv_segment<B, T>(be, shape, cache.n_own());
    cache.local_ = kv_segment<B, T>(be, shape, cache.n_local());
    cache.note_allocation();
    return cache;
  }

 private:
  index_t n_own() const { return n_anchors() - n_shared_; }

  void note_allocation() { peak_allocated_ = std::max(peak_allocated_, bytes_allocated()); }

  /// How many of the next n rows are of the sink: the first ones.
  index_t coming_sinks(index_t n) const {
    return std::clamp<index_t>(options_.rule.n_sink - next_position(), 0, n);
  }
  /// How many of the next rows are anchors.
  index_t coming_anchors(std::span<const std::uint8_t> is_gist) const {
    const index_t n_sinks = coming_sinks(static_cast<index_t>(is_gist.size()));
    if (options_.rule.n_gist == 0) return n_sinks;
    const auto others = is_gist.subspan(static_cast<std::size_t>(n_sinks));
    return n_sinks + std::ranges::count_if(others, [](std::uint8_t gist) { return gist != 0; });
  }

  /// Room for the rows of the next append.
  void reserve(std::span<const std::uint8_t> is_gist) {
    const index_t n_new = static_cast<index_t>(is_gist.size());
    const index_t own = n_own() + coming_anchors(is_gist);
    if (own > anchors_.capacity()) anchors_.resize(grown(own), 0, n_own());

    const index_t dead = ledger_.live_begin() - local_base_;
    const index_t live = n_local();
    const index_t need = live + n_new - coming_sinks(n_new);
    const index_t capacity = local_.capacity();
    if (dead + need <= capacity && capacity <= 4 * need + 64) return;
    // The rows that stay go to the front, also where memory runs out on the way.
    local_base_ = ledger_.live_begin();
    // Moving within the block pays if the gap is wide: it goes in pieces of the gap's width.
    if (need <= capacity && capacity <= 4 * need + 64 && dead >= live / 4 + 1) {
      local_.move_to_front(dead, live);
    } else {
      local_.resize(grown(need), dead, live);
    }
    note_allocation();
  }
  /// A quarter more than needed: appends cost O(1) and less than twice the rows is ever allocated.
  static index_t grown(index_t need) { return need + need / 4 + 4; }

  void refuse_over_budget(std::span<const std::uint8_t> is_gist) const {
    if (options_.max_anchors == 0 || options_.on_overflow != budget_policy::refuse) return;
    const index_t n = n_anchors() + coming_anchors(is_gist);
    if (n > options_.max_anchors) {
      throw argument_error("gist cache: " + std::to_string(n) + " anchor rows, the budget is " +
                           std::to_string(options_.max_anchors));
    }
  }
  /// Makes all anchors one shared block.
  void freeze() {
    if (n_own() == 0) return;
    kv_segment<B, T> block(*be_, shape_, n_anchors());
    if (n_shared_ > 0) block.copy_from(*shared_, 0, 0, n_shared_);
    block.copy_from(anchors_, 0, n_shared_, n_own());
    auto prefix = std::make_shared<kv_prefix<B, T>>(std::move(block), shape_, n_anchors());
    anchors_ = kv_segment<B, T>(*be_, shape_, 0);
    n_shared_ = n_anchors();
    shared_ = std::move(prefix);
  }

  void take_live_rows(const gist_cache& other) {
    ledger_.forget_dead_rows();
    local_base_ = ledger_.live_begin();
    local_ = kv_segment<B, T>(*be_, shape_, n_local());
    local_.copy_from(other.local_, other.ledger_.live_begin() - other.local_base_, 0, n_local());
  }

  B* be_;
  cache_shape shape_;
  cache_options options_;
  row_ledger ledger_;
  std::shared_ptr<const kv_prefix<B, T>> shared_;
  index_t n_shared_ = 0;
  kv_segment<B, T> anchors_;
  kv_segment<B, T> local_;
  std::int32_t local_base_ = 0;                 ///< Running number of row 0 of the local block.
  std::optional<row_ledger::checkpoint> mark_;  ///< Set while an append is under way.
  std::int32_t live_at_append_ = 0;
  std::size_t peak_held_ = 0;
  std::size_t peak_allocated_ = 0;
};

}  // namespace gistkv::cache
