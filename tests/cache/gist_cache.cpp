// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// What a gist cache does beyond being read: erasing, budgets, windows, failure, memory, snapshots.
// Truth is always plain loops over a predicate that is written here.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/cache/edit.hpp>
#include <gistkv/cache/snapshot.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/model/session.hpp>

#include "support/random_model.hpp"

namespace {

using namespace gistkv;
using backend = backends::eigen<double>;
using model_type = model::transformer<backend, double>;
using session_type = model::session<backend, double>;

struct world {
  backend be{1};
  index_t n_gist;
  model::host_model source;
  model::gist_rows gists;
  model_type m;

  explicit world(index_t n)
      : n_gist(n),
        source(test::random_model({})),
        gists(model::untrained_gist_rows(source, n, 3)),
        m(be, source, gists) {}

  /// Sentences of 1 to 8 tokens, each closed by its gists, and an open one. The first is longer
  /// than any sink, so that no gist falls into it.
  std::vector<token_t> sentences(random_generator& random, index_t n_sentences) const {
    std::vector<token_t> ids;
    for (index_t s = 0; s <= n_sentences; ++s) {
      for (index_t i = (s == 0 ? 3 : 1) + random.below(6); i > 0; --i) {
        ids.push_back(static_cast<token_t>(random.below(source.config.n_vocab)));
      }
      for (index_t g = 0; g < n_gist && s < n_sentences; ++g) {
        ids.push_back(static_cast<token_t>(source.config.n_vocab + g));
      }
    }
    return ids;
  }
  sentence_structure structure(const std::vector<token_t>& ids, sentence_rule rule) const {
    std::vector<std::uint8_t> flags;
    for (const token_t t : ids) flags.push_back(m.is_gist(t) ? 1 : 0);
    return {flags, rule};
  }
};

double logit_error(const session_type& s, const test::brute_force& truth) {
  double worst = 0;
  const auto found = s.logits();
  for (std::size_t i = 0; i < found.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(found[i]) - truth.logits.back()[i]));
  }
  return worst;
}
/// Logits leave a session as float.
constexpr double logit_tolerance = 1e-5;

TEST_CASE("erased sentences are invisible to what comes later, and to nothing else") {
  random_generator random(11);
  for (const index_t n_gist : {1, 2, 4}) {
    const world w(n_gist);
    for (int i = 0; i < 60; ++i) {
      const sentence_rule rule{n_gist, random.below(4), random.below(3)};
      const index_t n_closed = 1 + random.below(6);
      auto ids = w.sentences(random, n_closed);
      const auto cut = static_cast<index_t>(ids.size());
      const index_t first = random.below(n_closed + 1);
      const index_t last = first + random.below(n_closed - first + 1);
      const auto more = w.sentences(random, random.below(3));
      ids.insert(ids.end(), more.begin(), more.end());
      const auto structure = w.structure(ids, rule);
      const auto mask = structure.mask();
      const auto visible = [&](index_t q, index_t k) {
        const auto s = structure.sentence_of()[static_cast<std::size_t>(k)];
        const bool erased = q >= cut && k >= rule.n_sink && k < cut && s >= first && s < last;
        return mask(q, k) && !erased;
      };
      const test::brute_force truth(w.source, w.gists, ids, 0, visible);
      session_type s(w.m, cache::cache_options{{n_gist, rule.recent, rule.n_sink, 0}},
                     {.chunk = 1 + random.below(7)});
      s.read(std::span(ids).first(static_cast<std::size_t>(cut)));
      auto other = s.fork();
      s.cache().erase(first, last);
      s.read(std::span(ids).subspan(static_cast<std::size_t>(cut)));
      CHECK(logit_error(s, truth) < logit_tolerance);
      // A fork has a shared prefix, which erasing must not touch for the others.
      auto third = other.fork();
      other.cache().erase(first, last);
      other.read(std::span(ids).subspan(static_cast<std::size_t>(cut)));
      CHECK(logit_error(other, truth) < logit_tolerance);
      third.read(std::span(ids).subspan(static_cast<std::size_t>(cut)));
      CHECK(logit_error(third, test::brute_force(w.source, w.gists, ids, 0, mask)) <
            logit_tolerance);
    }
  }
  const world w(2);
  session_type s(w.m, cache::cache_options{{2, 0, 1, 0}});
  s.read(w.sentences(random, 3));
  CHECK_THROWS_AS(s.cache().erase(2, 4), argument_error);
  CHECK_THROWS_AS(s.cache().erase(-1, 1), argument_error);
  CHECK_THROWS_AS(s.cache().erase(2, 1), argument_error);
}

TEST_CASE("a budget drops the oldest sentences at a close, whatever the chunks") {
  random_generator random(12);
  const world w(2);
  for (int i = 0; i < 60; ++i) {
    const sentence_rule rule{2, random.below(3), random.below(2)};
    const auto ids = w.sentences(random, 4 + random.below(5));
    const index_t budget = rule.n_sink + 2 * (1 + random.below(4));
    const auto structure = w.structure(ids, rule);
    const auto mask = structure.mask();
    // After close c there are S + 2 (c - dropped) anchors, at most `budget`.
    auto dropped_before = [&](index_t q) {
      const index_t closed = structure.sentence_of()[static_cast<std::size_t>(q)];
      return std::max<index_t>(0, closed - (budget - rule.n_sink) / 2);
    };
    const auto visible = [&](index_t q, index_t k) {
      const auto s = structure.sentence_of()[static_cast<std::size_t>(k)];
      return mask(q, k) && (k < rule.n_sink || s >= dropped_before(q));
    };
    const test::brute_force truth(w.source, w.gists, ids, 0, visible);
    for (const index_t chunk : {1, 3, 8, 100}) {
      session_type s(w.m, cache::cache_options{{2, rule.recent, rule.n_sink, 0}, budget},
                     {.chunk = chunk});
      std::vector<index_t> rows_after;
      s.read(ids, &rows_after);
      CHECK(logit_error(s, truth) < logit_tolerance);
      CHECK(s.cache().n_anchors() <= budget);
      // What the next row sees but for itself, of every row.
      REQUIRE(rows_after.size() == ids.size());
      CHECK(rows_after.back() == s.cache().rows_held());
      for (index_t q = 1; q < static_cast<index_t>(ids.size()); ++q) {
        index_t seen = 0;
        for (index_t k = 0; k < q; ++k) seen += visible(q, k) ? 1 : 0;
        CHECK(rows_after[static_cast<std::size_t>(q - 1)] == seen);
      }
    }
  }
}

TEST_CASE("a budget that refuses throws and changes nothing") {
  random_generator random(13);
  const world w(2);
  const auto ids = w.sentences(random, 3);
  const cache::cache_options options{{2, 0, 1, 0}, 5, cache::budget_policy::refuse};
  session_type s(w.m, options);
  session_type twin(w.m, options);
  const std::vector<token_t> head(ids.begin(), ids.begin() + 3);
  s.read(head);
  twin.read(head);
  CHECK_THROWS_AS(s.read(ids), argument_error);
  CHECK(s.cache().ledger().rows() == twin.cache().ledger().rows());
  const token_t next = 1;
  s.read({&next, 1});
  twin.read({&next, 1});
  CHECK(std::equal(s.logits().begin(), s.logits().end(), twin.logits().begin()));
}

TEST_CASE("a budget that refuses counts the anchors that there will be") {
  backend be(1);
  const auto append = [&](cache::cache_rule rule, index_t budget, std::vector<std::uint8_t> flags) {
    cache::gist_cache<backend, double> c(be, {1, 1, 2},
                                         {rule, budget, cache::budget_policy::refuse});
    c.begin_append(flags);
    c.commit();
    return c.n_anchors();
  };
  // Three sinks and two gists.
  CHECK_THROWS_AS(append({1, 0, 3, 0}, 4, {0, 0, 0, 0, 1, 0, 1}), argument_error);
  CHECK(append({1, 0, 3, 0}, 5, {0, 0, 0, 0, 1, 0, 1}) == 5);
  // What lies in the sink is no gist, and without gists nothing is.
  CHECK(append({1, 0, 3, 0}, 4, {0, 1, 1, 0, 1}) == 4);
  CHECK(append({0, 0, 1, 0}, 1, {0, 1, 1, 1}) == 1);
  const std::vector<std::uint8_t> flags{0, 1, 1, 1};
  CHECK(cache::gist_cache<backend, double>(be, {1, 1, 2}, {{0, 0, 1, 0}, 1}).max_append(flags) ==
        4);
}

TEST_CASE("sink and window keep what StreamingLLM keeps") {
  random_generator random(14);
  const world w(2);
  for (int i = 0; i < 60; ++i) {
    const index_t n_sink = random.below(4);
    const index_t window = 1 + random.below(9);
    std::vector<token_t> ids;
    for (index_t j = 1 + random.below(40); j > 0; --j) {
      ids.push_back(static_cast<token_t>(random.below(30)));
    }
    const auto visible = [&](index_t q, index_t k) {
      return k <= q && (k < n_sink || q - k < window);
    };
    const test::brute_force truth(w.source, w.gists, ids, 0, visible);
    for (const index_t chunk : {1, 4, 100}) {
      session_type s(w.m, cache::cache_options{{0, 0, n_sink, window}}, {.chunk = chunk});
      s.read(ids);
      CHECK(logit_error(s, truth) < logit_tolerance);
      std::vector<index_t> held;
      const auto n = static_cast<index_t>(ids.size());
      for (index_t k = 0; k < n; ++k) {
        if (k < n_sink || n - k < window) held.push_back(k);
      }
      std::vector<index_t> found;
      for (const auto& r : s.cache().ledger().rows()) found.push_back(r.position);
      CHECK(found == held);
    }
  }
}

TEST_CASE("rows held are S + N_g closed + recent regular rows + the open sentence") {
  random_generator random(15);
  for (int i = 0; i < 200; ++i) {
    const cache::cache_rule rule{1 + random.below(5), random.below(4), random.below(5), 0};
    cache::row_ledger ledger(rule);
    std::vector<index_t> regular_of{0};  // regular rows of each sentence, the last one open
    index_t open_gists = 0;
    for (index_t n = 0; n < 120; ++n) {
      const bool gist = random.below(4) == 0;
      const auto p = ledger.append(gist);
      if (n >= rule.n_sink) {
        if (!gist) {
          ++regular_of.back();
        } else if (++open_gists == rule.n_gist) {
          CHECK(p.closes);
          open_gists = 0;
          regular_of.push_back(0);
        }
      }
      const auto closed = static_cast<index_t>(regular_of.size()) - 1;
      index_t want = std::min(n + 1, rule.n_sink) + rule.n_gist * closed + open_gists;
      for (index_t s = std::max<index_t>(0, closed - rule.recent); s <= closed; ++s) {
        want += regular_of[static_cast<std::size_t>(s)];
      }
      CHECK(ledger.rows_held() == want);
      CHECK(static_cast<index_t>(ledger.rows().size()) == want);
      if (random.below(3) == 0) ledger.forget_dead_rows();
    }
  }
}

TEST_CASE("without a sink row behind padding, no gist is read twice") {
  cache::row_ledger ledger({2, 0, 2, 0});
  ledger.skip_positions(3);
  ledger.append(false);
  const auto first = ledger.append(true);
  CHECK(first.spans.anchors == 0);
  CHECK(first.spans.local_begin == 0);
  CHECK(first.spans.local_end == 2);
  CHECK(ledger.rows_held() == 2);
  CHECK(ledger.append(true).closes);
  CHECK(ledger.append(false).spans.anchors == 2);
  // Behind less padding a part of the sink is there, also once it was taken back or saved.
  cache::row_ledger partial({2, 0, 2, 0});
  partial.skip_positions(1);
  const auto mark = partial.mark();
  partial.append(false);
  partial.go_back(mark);
  partial.append(false);
  partial.append(true);
  CHECK(partial.append(false).spans.anchors == 1);
  CHECK(cache::row_ledger::load(partial.save()).append(false).spans.anchors == 1);
}

TEST_CASE("rows that are planned and hold nothing yet are neither copied nor saved") {
  const world w(2);
  cache::gist_cache<backend, double> c(w.m.backend(), w.m.cache_shape());
  const std::uint8_t flag = 0;
  c.begin_append({&flag, 1});
  CHECK_THROWS_WITH_AS(c.copy(), "gist cache: a copy while an append is under way", argument_error);
  CHECK_THROWS_AS(cache::save_snapshot(c, {}, {}), argument_error);
  c.cancel();
  CHECK(c.copy().next_position() == 0);
}

TEST_CASE("positions are skipped within 32 bits, and not in the middle of an append") {
  constexpr index_t most = std::numeric_limits<std::int32_t>::max();
  cache::row_ledger ledger({2, 0, 1, 0});
  CHECK_THROWS_AS(ledger.skip_positions(-1), argument_error);
  CHECK_THROWS_AS(ledger.skip_positions(most + 1), argument_error);
  ledger.skip_positions(most - 1);
  ledger.append(false);
  CHECK_THROWS_AS(ledger.skip_positions(1), argument_error);
  CHECK(ledger.next_position() == most);
  // Nor does the running number of a local row pass them, whatever a file says it begins at.
  cache::row_ledger::state far{{2, 0, 1, 0}, 5, 0, static_cast<std::int32_t>(most), {}, {}, {}};
  far.anchors = {
      {cache::row_kind::sink, 0, 0}, {cache::row_kind::gist, 0, 3}, {cache::row_kind::gist, 0, 4}};
  far.ends = {{3, static_cast<std::int32_t>(most)}};
  cache::row_ledger late = cache::row_ledger::load(far);
  CHECK_THROWS_AS(late.append(false), argument_error);
  CHECK(late.save().locals.empty());
  CHECK(late.next_position() == 5);
  // Nor is a sink taken from the least number there is, which a sanitizer would see.
  CHECK_THROWS_AS(
      cache::validate(cache::cache_options{{2, 0, 1, 0}, std::numeric_limits<index_t>::min()}),
      argument_error);
  const world w(2);
  cache::gist_cache<backend, double> c(w.m.backend(), w.m.cache_shape());
  CHECK_THROWS_AS(c.skip_positions(index_t{1} << 32), argument_error);
  const std::uint8_t flag = 0;
  c.begin_append({&flag, 1});
  CHECK_THROWS_AS(c.skip_positions(1), argument_error);
  c.cancel();
  c.skip_positions(1);
  CHECK(c.next_position() == 1);
}

TEST_CASE("memory stays under twice the rows held") {
  random_generator random(16);
  const world w(4);
  const auto ids = w.sentences(random, 120);
  for (const index_t chunk : {1, 7, 64}) {
    session_type s(w.m, cache::cache_options{{4, 0, 1, 0}}, {.chunk = chunk});
    std::size_t largest = 0;
    for (std::size_t begin = 0; begin < ids.size(); begin += 50) {
      s.read(std::span(ids).subspan(begin, std::min<std::size_t>(50, ids.size() - begin)));
      largest = std::max(largest, s.cache().peak_bytes_held());
      CHECK(s.cache().bytes_allocated() < 2 * std::max(largest, s.cache().bytes_per_row() * 16));
    }
    CHECK(s.cache().peak_bytes_allocated() < 2 * s.cache().peak_bytes_held());
    CHECK(s.cache().rows_held() == 1 + 4 * 120 + static_cast<index_t>(ids.size()) -
                                       (s.cache().ledger().anchors().back().position + 1));
  }
}

/// A backend that can be told to fail, and that counts allocations.
struct faulty_backend : backend {
  using backend::backend;
  int until_failure = -1;
  int until_allocation_fails = -1;
  int n_allocations = 0;
  void* allocate(std::size_t n_bytes) {
    ++n_allocations;
    if (until_allocation_fails >= 0 && until_allocation_fails-- == 0) throw std::bad_alloc();
    return backend::allocate(n_bytes);
  }
  template <class... Args>
  void rope(Args&&... args) {
    if (until_failure >= 0 && until_failure-- == 0) throw backend_error("injected failure");
    backend::rope(std::forward<Args>(args)...);
  }
};

TEST_CASE("a forward that fails leaves the cache as it was") {
  random_generator random(17);
  const auto source = test::random_model({});
  const auto gists = model::untrained_gist_rows(source, 2, 3);
  faulty_backend be(1);
  const model::transformer<faulty_backend, double> m(be, source, gists);
  const world w(2);
  const auto ids = w.sentences(random, 5);
  const auto head = std::span(ids).first(ids.size() / 2);
  const auto tail = std::span(ids).subspan(ids.size() / 2);
  model::session<faulty_backend, double> s(m, cache::cache_options{{2, 1, 1, 0}});
  model::session<faulty_backend, double> twin(m, cache::cache_options{{2, 1, 1, 0}});
  s.read(head);
  twin.read(head);
  for (int failing_call = 0; failing_call < 4; ++failing_call) {
    be.until_failure = failing_call;
    std::vector<index_t> rows_after;
    CHECK_THROWS_AS(s.read(tail, &rows_after), backend_error);
    CHECK(s.cache().ledger().rows() == twin.cache().ledger().rows());
    // Nothing was read: no rows behind it, and no logits of what was read before.
    CHECK(rows_after.empty());
    CHECK_THROWS_AS(s.logits(), argument_error);
  }
  be.until_failure = -1;
  s.read(tail);
  twin.read(tail);
  CHECK(std::equal(s.logits().begin(), s.logits().end(), twin.logits().begin()));
}

TEST_CASE("a cache that finds no memory to grow is as it was") {
  random_generator random(21);
  const auto source = test::random_model({});
  const auto gists = model::untrained_gist_rows(source, 2, 3);
  faulty_backend be(1);
  const model::transformer<faulty_backend, double> m(be, source, gists);
  const world w(2);
  const auto ids = w.sentences(random, 12);
  int n_failures = 0;
  for (const std::size_t n_head : {ids.size() / 4, ids.size() / 2}) {
    const auto head = std::span(ids).first(n_head);
    const auto tail = std::span(ids).subspan(n_head);
    model::session<faulty_backend, double> twin(m, cache::cache_options{{2, 1, 1, 0}});
    twin.read(head);
    twin.read(tail);
    // The call that fails comes later each time, until none is left to fail.
    for (int failing_call = 0;; ++failing_call) {
      model::session<faulty_backend, double> s(m, cache::cache_options{{2, 1, 1, 0}});
      s.read(head);
      const auto rows = s.cache().ledger().rows();
      be.until_allocation_fails = failing_call;
      bool failed = false;
      try {
        s.read(tail);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      be.until_allocation_fails = -1;
      if (!failed) break;
      ++n_failures;
      CHECK(s.cache().ledger().rows() == rows);
      s.read(tail);
      CHECK(std::equal(s.logits().begin(), s.logits().end(), twin.logits().begin()));
    }
  }
  CHECK(n_failures > 8);
}

TEST_CASE("a budget that finds no memory to drop in leaves all caches of a pass with their rows") {
  const auto source = test::random_model({});
  const auto gists = model::untrained_gist_rows(source, 2, 3);
  faulty_backend be(1);
  using transformer_type = model::transformer<faulty_backend, double>;
  using cache_type = cache::gist_cache<faulty_backend, double>;
  const transformer_type m(be, source, gists);
  const cache::cache_options options{{2, 0, 1, 0}, 5};
  // Two sentences fill the budget, the last token of the third exceeds it.
  const std::vector<token_t> head{1, 2, 30, 31, 3, 4, 30, 31, 5, 6, 30};
  const token_t last = 31;
  int n_failures = 0;
  // The call that fails comes later each time, until none is left to fail.
  for (int failing_call = 0;; ++failing_call) {
    std::vector<cache_type> caches;
    for (int i = 0; i < 2; ++i) caches.emplace_back(be, m.cache_shape(), options);
    for (cache_type& c : caches) {
      model::session<faulty_backend, double> s(m, std::move(c));
      s.read(head);
      c = std::move(s.cache());
    }
    std::vector<transformer_type::step> steps;
    for (cache_type& c : caches) steps.push_back({&c, {&last, 1}, {}});
    workspace<faulty_backend> scratch(be, m.workspace_size(steps));
    buffer<double, faulty_backend> hidden(be, 2 * m.config().d_model);
    be.until_allocation_fails = failing_call;
    bool failed = false;
    try {
      m.forward(steps, hidden.view({2, m.config().d_model}), scratch);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    be.until_allocation_fails = -1;
    // Both went on by a row, or neither did.
    CHECK(caches[0].next_position() == caches[1].next_position());
    if (failed && caches[0].next_position() == 12) {
      ++n_failures;
      CHECK(std::max(caches[0].n_anchors(), caches[1].n_anchors()) == 7);
      // The next pass drops.
      const token_t next = 7;
      for (auto& s : steps) s.tokens = {&next, 1};
      m.forward(steps, hidden.view({2, m.config().d_model}), scratch);
    }
    if (caches[0].next_position() > 11) {
      for (const cache_type& c : caches) CHECK(c.n_anchors() == 5);
    }
    if (!failed) break;
  }
  CHECK(n_failures > 8);
}

TEST_CASE("a pass wants a cache for each step, and dense rows for embeddings") {
  const world w(2);
  cache::gist_cache<backend, double> c(w.m.backend(), w.m.cache_shape());
  const index_t d = w.m.config().d_model;
  const token_t token = 1;
  workspace<backend> scratch(w.m.backend(), 1 << 20);
  buffer<double, backend> hidden(w.m.backend(), 4 * d);
  const auto run = [&](std::vector<model_type::step> steps, matrix_view<double> o) {
    w.m.forward(steps, o, scratch);
  };
  CHECK_THROWS_AS(run({{nullptr, {&token, 1}, {}}}, hidden.view({1, d})), argument_error);
  CHECK_THROWS_AS(run({{&c, {&token, 1}, {}}, {&c, {&token, 1}, {}}}, hidden.view({2, d})),
                  argument_error);
  const std::vector<model_type::step> none{{nullptr, {&token, 1}, {}}};
  CHECK_THROWS_AS(w.m.workspace_size(none), argument_error);
  const std::vector<float> vectors(static_cast<std::size_t>(2 * d), 0.5F);
  const auto wide = hidden.view({2, 2 * d}).slice(1, 0, d);
  CHECK_THROWS_AS(run({{&c, {}, vectors}}, wide), shape_error);
  CHECK(c.next_position() == 0);
  run({{&c, {}, vectors}}, hidden.view({2, d}));
  CHECK(c.next_position() == 2);
}

TEST_CASE("decoding allocates only when the cache grows") {
  const auto source = test::random_model({});
  const auto gists = model::untrained_gist_rows(source, 2, 3);
  faulty_backend be(1);
  const model::transformer<faulty_backend, double> m(be, source, gists);
  model::session<faulty_backend, double> s(m, cache::cache_options{{2, 0, 1, 0}});
  // Sentences of nine tokens and two gists: 100 anchors grow by a quarter at a time.
  int n_steps_that_allocate = 0;
  for (int i = 0; i < 550; ++i) {
    const token_t t = i % 11 < 9 ? 5 : m.first_gist() + i % 11 - 9;
    const int before = be.n_allocations;
    s.read({&t, 1});
    if (be.n_allocations != before) ++n_steps_that_allocate;
  }
  CHECK(n_steps_that_allocate < 40);
}

TEST_CASE("a snapshot goes on as the cache would have, to the bit") {
  random_generator random(18);
  const world w(2);
  world fresh(2);
  const auto ids = w.sentences(random, 3);
  const auto more = w.sentences(random, 2);
  for (const bool forked : {false, true}) {
    session_type s(w.m, cache::cache_options{{2, 1, 1, 0}});
    s.read(ids);
    if (forked) {
      s = s.fork();
      s.read(more);
    }
    const auto bytes = cache::save_snapshot(s.cache(), {});
    auto loaded = cache::load_snapshot<double>(fresh.be, bytes, "test");
    CHECK(loaded.cache.ledger().rows() == s.cache().ledger().rows());
    session_type t(fresh.m, std::move(loaded.cache));
    s.read(more);
    t.read(more);
    CHECK(std::equal(s.logits().begin(), s.logits().end(), t.logits().begin()));
  }
}

TEST_CASE("sentences spliced in answer as those that were read there") {
  random_generator random(19);
  const world w(2);
  const auto ids = w.sentences(random, 4);
  session_type s(w.m, cache::cache_options{{2, 0, 1, 0}});
  s.read(ids);
  auto original = s.fork();
  // Sentences 1 and 2 as a cache of their own, put back in the place of 0 to 2.
  cache::gist_cache<backend, double> piece = s.cache().copy();
  piece.erase(3, 4);
  piece.erase(0, 1);
  s.cache().erase(1, 3);
  cache::splice(s.cache(), 0, 3, piece);
  original.cache().erase(0, 1);
  const token_t next = 3;
  s.read({&next, 1});
  original.read({&next, 1});
  CHECK(std::equal(s.logits().begin(), s.logits().end(), original.logits().begin()));
}

TEST_CASE("rules and options that make no sense are refused") {
  const world w(2);
  CHECK_THROWS_AS(cache::row_ledger({-1, 0, 0, 0}), argument_error);
  CHECK_THROWS_AS(cache::row_ledger({2, 0, 0, 5}), argument_error);
  CHECK_THROWS_AS(session_type(w.m, cache::cache_options{{2, 0, 1, 0}, -1}), argument_error);
  CHECK_THROWS_AS(session_type(w.m, cache::cache_options{{2, 0, 1, 0}, 2}), argument_error);
  session_type(w.m, cache::cache_options{{2, 0, 1, 0}, 3});
  CHECK_THROWS_AS(session_type(w.m, cache::cache_options{{3, 0, 1, 0}}), argument_error);
  CHECK_THROWS_AS(session_type(w.m, cache::cache_options{}, {.chunk = 0}), argument_error);
  session_type s(w.m, cache::cache_options{});
  CHECK_THROWS_AS(s.logits(), argument_error);
  CHECK_THROWS_AS(s.read({}), argument_error);
  const token_t outside = 32;
  CHECK_THROWS_AS(s.read({&outside, 1}), argument_error);
  const token_t negative = -1;
  CHECK_THROWS_AS(s.read({&negative, 1}), argument_error);
  const auto d = w.m.config().d_model;
  const model::soft_prompt torn{d, std::vector<float>(static_cast<std::size_t>(d + 1), 0.5F)};
  CHECK_THROWS_AS(s.read_soft(torn), shape_error);
  CHECK_THROWS_AS(cache::save_snapshot(s.cache(), {}, torn), shape_error);
  for (const cache::cache_shape& shape :
       {cache::cache_shape{0, 2, 8}, cache::cache_shape{2, 0, 8}, cache::cache_shape{2, 2, 0}}) {
    CHECK_THROWS_AS((cache::gist_cache<backend, double>(w.m.backend(), shape)), shape_error);
  }
}

TEST_CASE("positions behind the trained context are an error unless asked for") {
  auto source = test::random_model({});
  source.config.n_context = 10;
  backend be(1);
  const model_type m(be, source);
  const std::vector<token_t> ids(11, 1);
  session_type strict(m, cache::cache_options{});
  CHECK_THROWS_AS(strict.read(ids), argument_error);
  strict.read(std::span(ids).first(10));
  CHECK_THROWS_AS(strict.read(std::span(ids).first(1)), argument_error);
  session_type bold(m, cache::cache_options{}, {.past_context = true});
  bold.read(ids);
  CHECK(bold.cache().next_position() == 11);
}

}  // namespace
