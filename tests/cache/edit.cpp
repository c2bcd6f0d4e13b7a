// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Random edits of caches against a list of sentences that is edited beside them: which rows the
// next token sees, at which positions, and what is in them. A row has a number, from which its key
// before rotation and its value follow.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/cache/edit.hpp>
#include <gistkv/cache/snapshot.hpp>

#include "support/memory_backend.hpp"

namespace gistkv {
namespace {

using test::memory_backend;
constexpr cache::cache_shape shape{2, 2, 6};
const std::vector<float> frequencies = {1.0F, 0.3F, 0.01F};

/// Element j of a row before rotation.
double element(int id, bool value, index_t layer, index_t head, index_t j) {
  return std::sin(1.7 * id + 0.9 * static_cast<double>(j) + 3.1 * static_cast<double>(layer) +
                  5.3 * static_cast<double>(head) + (value ? 2.2 : 0.0));
}
double rotated(int id, index_t layer, index_t head, index_t j, std::int32_t position) {
  const index_t half = shape.head_dim / 2;
  const double angle =
      position * static_cast<double>(frequencies[static_cast<std::size_t>(j % half)]);
  const double a = element(id, false, layer, head, j % half);
  const double b = element(id, false, layer, head, j % half + half);
  return j < half ? a * std::cos(angle) - b * std::sin(angle)
                  : b * std::cos(angle) + a * std::sin(angle);
}

struct plain_row {
  cache::row_kind kind;
  std::int32_t position;
  int id;
};
using rows = std::vector<plain_row>;

/// A cache as a list of sentences, each with all rows that it still has.
struct plain_cache {
  cache::cache_rule rule;
  rows sinks;
  std::vector<rows> closed;
  rows open;
  std::int32_t next = 0;

  static rows gists(const rows& all) {
    rows result;
    std::copy_if(all.begin(), all.end(), std::back_inserter(result),
                 [](const plain_row& r) { return r.kind == cache::row_kind::gist; });
    return result;
  }
  void append(bool gist, int id) {
    if (next < rule.n_sink) {
      sinks.push_back({cache::row_kind::sink, next++, id});
      return;
    }
    open.push_back({gist ? cache::row_kind::gist : cache::row_kind::regular, next++, id});
    if (gist && static_cast<index_t>(gists(open).size()) == rule.n_gist) {
      closed.push_back(std::exchange(open, {}));
      forget();
    }
  }
  /// Sentences that are not recent are left with their gists.
  void forget() {
    for (std::size_t i = 0; i + static_cast<std::size_t>(rule.recent) < closed.size(); ++i) {
      closed[i] = gists(closed[i]);
    }
  }
  std::int32_t end_before(std::size_t sentence) const {
    auto end = static_cast<std::int32_t>(rule.n_sink);
    for (std::size_t i = 0; i < sentence; ++i) {
      for (const plain_row& r : closed[i]) end = std::max(end, r.position + 1);
    }
    return end;
  }
  /// Whether rows of this sentence or later have positions before those of earlier ones.
  bool out_of_order(std::size_t sentence) const {
    auto before = [end = end_before(sentence)](const plain_row& r) { return r.position < end; };
    for (std::size_t i = sentence; i < closed.size(); ++i) {
      if (std::any_of(closed[i].begin(), closed[i].end(), before)) return true;
    }
    return std::any_of(open.begin(), open.end(), before);
  }
  void splice(std::size_t first, std::size_t last, const plain_cache& other, bool rebase) {
    const std::int32_t length =
        other.end_before(other.closed.size()) - static_cast<std::int32_t>(rule.n_sink);
    const std::int32_t from = end_before(first);
    const std::int32_t later = rebase ? from + length - end_before(last) : 0;
    auto moved = [](rows all, std::int32_t shift) {
      for (plain_row& r : all) r.position += shift;
      return all;
    };
    std::vector<rows> result(closed.begin(), closed.begin() + static_cast<std::ptrdiff_t>(first));
    for (const rows& s : other.closed) {
      result.push_back(moved(s, rebase ? from - static_cast<std::int32_t>(rule.n_sink) : 0));
    }
    for (std::size_t i = last; i < closed.size(); ++i) result.push_back(moved(closed[i], later));
    open = moved(open, later);
    next = rebase ? next + later : std::max(next, length + static_cast<std::int32_t>(rule.n_sink));
    closed = std::move(result);
    forget();
  }
  void erase(std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) closed[i].clear();
  }
  /// Every row that the next token sees, once.
  rows visible() const {
    rows all = sinks;
    for (const rows& s : closed) all.insert(all.end(), s.begin(), s.end());
    all.insert(all.end(), open.begin(), open.end());
    return all;
  }
};

template <class T>
using cache_of = cache::gist_cache<memory_backend, T>;

template <class T>
void append(cache_of<T>& c, bool gist, int id) {
  const std::uint8_t flag = gist ? 1 : 0;
  const auto plan = c.begin_append({&flag, 1});
  std::vector<double> row(static_cast<std::size_t>(shape.head_dim));
  for (index_t l = 0; l < shape.n_layers; ++l) {
    const auto v = c.layer(l);
    for (index_t h = 0; h < shape.n_kv_heads; ++h) {
      for (const bool value : {false, true}) {
        for (index_t j = 0; j < shape.head_dim; ++j) {
          row[static_cast<std::size_t>(j)] =
              value ? element(id, true, l, h, j) : rotated(id, l, h, j, plan.positions[0]);
        }
        const auto put = [&](const auto& block, std::int32_t at) {
          if (at < 0) return;
          encode_row(row.data(), shape.head_dim, block.at(h).data() + at * block.stride(1));
        };
        put(value ? v.anchor_values : v.anchor_keys, plan.anchor_rows[0]);
        put(value ? v.local_values : v.local_keys, plan.local_rows[0]);
      }
    }
  }
  c.commit();
}

/// What is wrong with the rows that the next token sees, or nothing.
template <class T>
std::optional<std::string> fault(cache_of<T>& c, const plain_cache& want, double tolerance) {
  const rows all = want.visible();
  const auto books = c.ledger().rows();
  if (c.next_position() != want.next) return "next position";
  if (books.size() != all.size()) return "number of rows";
  if (c.rows_held() != static_cast<index_t>(all.size())) return "rows held";
  if (c.ledger().n_closed() != static_cast<index_t>(want.closed.size())) return "closed sentences";
  const std::uint8_t flag = 0;
  const auto plan = c.begin_append({&flag, 1});
  std::optional<std::string> wrong;
  for (index_t l = 0; l < shape.n_layers && !wrong; ++l) {
    const auto v = c.layer(l).visible;
    // Rows by number: gists of recent sentences lie in both places, and are read from one.
    std::vector<std::pair<const kv_span<T, host_space>*, index_t>> seen;
    for (index_t i = 0; i < plan.spans[0].anchors; ++i) {
      const bool shared = i < v.shared.rows();
      seen.emplace_back(shared ? &v.shared : &v.own, shared ? i : i - v.shared.rows());
    }
    for (index_t i = plan.spans[0].local_begin; i + 1 < plan.spans[0].local_end; ++i) {
      seen.emplace_back(&v.local, i);
    }
    if (want.next < want.rule.n_sink) seen.resize(all.size());  // The next row is a sink itself.
    if (seen.size() != all.size()) {
      wrong = "rows seen";
      break;
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (books[i].position != all[i].position || books[i].kind != all[i].kind) wrong = "books";
      for (index_t h = 0; h < shape.n_kv_heads; ++h) {
        std::vector<double> found(static_cast<std::size_t>(shape.head_dim));
        for (const bool value : {false, true}) {
          const auto& block = value ? seen[i].first->v : seen[i].first->k;
          decode_row(block.at(h).data() + seen[i].second * block.stride(1), shape.head_dim,
                     found.data());
          for (index_t j = 0; j < shape.head_dim; ++j) {
            const double x = value ? element(all[i].id, true, l, h, j)
                                   : rotated(all[i].id, l, h, j, all[i].position);
            if (!(std::abs(found[static_cast<std::size_t>(j)] - x) <= tolerance)) {
              wrong = value ? "a value" : "a key";
            }
          }
        }
      }
    }
  }
  c.cancel();
  return wrong;
}

/// Rows of what loading a saved cache gives.
template <class T>
cache_of<T> saved_and_loaded(memory_backend& be, const cache_of<T>& c) {
  return std::move(cache::load_snapshot<T>(be, cache::save_snapshot(c, {}), "saved").cache);
}

struct counts {
  int append = 0, erase = 0, splice = 0, rebase = 0, fork = 0, undo = 0, restored = 0, refused = 0;
};

template <class T>
void random_edits(std::uint64_t seed, double tolerance, counts& n) {
  memory_backend be;
  random_generator random(seed);
  const cache::cache_rule rule{1 + random.below(3), random.below(4), random.below(3), 0};
  int next_id = 1;
  struct pair {
    cache_of<T> real;
    plain_cache plain;
  };
  const auto fresh = [&] { return pair{cache_of<T>(be, shape, {rule}), {rule, {}, {}, {}, 0}}; };
  const auto read = [&](pair& p, index_t n_rows) {
    for (index_t i = 0; i < n_rows; ++i) {
      const bool gist = random.below(3) == 0;
      append(p.real, gist, next_id);
      p.plain.append(gist, next_id++);
    }
  };
  std::vector<pair> all;
  all.push_back(fresh());
  read(all.front(), 12);
  cache::edit_history<memory_backend, T> history(3);
  std::deque<plain_cache> past;
  for (int step = 0; step < 40; ++step) {
    pair& p = all[static_cast<std::size_t>(random.below(static_cast<index_t>(all.size())))];
    const index_t closed = p.real.ledger().n_closed();
    const bool first = &p == &all.front();
    if (first && random.below(2) == 0) {
      history.remember(p.real);
      past.push_back(p.plain);
      if (past.size() > 3) past.pop_front();
    } else if (first) {
      past.clear();
      history = cache::edit_history<memory_backend, T>(3);
    }
    const index_t from = random.below(closed + 1);
    const index_t to = from + random.below(closed - from + 1);
    switch (random.below(6)) {
      case 0:
        read(p, 1 + random.below(12));
        ++n.append;
        break;
      case 1:
        p.real.erase(from, to);
        p.plain.erase(static_cast<std::size_t>(from), static_cast<std::size_t>(to));
        ++n.erase;
        break;
      case 2: {
        pair other = fresh();
        read(other, random.below(20));
        const bool rebase = random.below(2) == 0;
        if (rebase && p.plain.out_of_order(static_cast<std::size_t>(to))) {
          CHECK_THROWS_AS(
              cache::splice(p.real, from, to, other.real, std::span<const float>(frequencies)),
              argument_error);
          ++n.refused;
          break;
        }
        cache::splice(p.real, from, to, other.real,
                      rebase ? std::span<const float>(frequencies) : std::span<const float>());
        p.plain.splice(static_cast<std::size_t>(from), static_cast<std::size_t>(to), other.plain,
                       rebase);
        ++(rebase ? n.rebase : n.splice);
        break;
      }
      case 3:
        if (all.size() < 4) {
          pair twin{p.real.fork(), p.plain};
          all.push_back(std::move(twin));
          ++n.fork;
        }
        break;
      case 4:
        if (first && !past.empty()) {
          CHECK(history.undo(p.real));
          p.plain = past.back();
          past.pop_back();
          ++n.undo;
        }
        break;
      default:
        p.real = saved_and_loaded(be, p.real);
        ++n.restored;
    }
    for (pair& each : all) {
      const auto wrong = fault(each.real, each.plain, tolerance);
      CAPTURE(seed);
      CAPTURE(step);
      REQUIRE_MESSAGE(!wrong, *wrong);
    }
  }
}

TEST_CASE("random edits leave the rows that a list of sentences has") {
  counts n;
  // Keys are rounded each time they are turned.
  for (std::uint64_t seed = 0; seed < 150; ++seed) random_edits<float>(seed, 1e-5, n);
  for (std::uint64_t seed = 150; seed < 180; ++seed) random_edits<double>(seed, 1e-12, n);
  for (const int each :
       {n.append, n.erase, n.splice, n.rebase, n.fork, n.undo, n.restored, n.refused}) {
    CHECK(each > 50);
  }
}

/// Sentences of three tokens and two gists, and a token more.
template <class T>
cache_of<T> document(memory_backend& be, int first_id, int n_sentences,
                     cache::cache_options options = {{2, 0, 1, 0}}) {
  cache_of<T> c(be, shape, options);
  append(c, false, first_id++);
  for (int s = 0; s < n_sentences; ++s) {
    for (int i = 0; i < 5; ++i) append(c, i > 2, first_id++);
  }
  append(c, false, first_id);
  return c;
}

TEST_CASE("documents that were compressed apart stand behind each other, as if read so") {
  memory_backend be;
  // The same rows read in one go: positions follow each other, and so does every key.
  const auto whole = document<double>(be, 0, 5);
  auto head = document<double>(be, 0, 2);
  cache_of<double> tail(be, shape, {{2, 0, 1, 0}});
  append(tail, false, 999);  // A sink of its own, which goes.
  for (int i = 11; i < 26; ++i) append(tail, (i - 11) % 5 > 2, i);
  cache::concatenate(head, tail, std::span<const float>(frequencies));
  CHECK(head.ledger().n_closed() == 5);
  const auto found = head.anchor_rows(1, 0, head.n_anchors());
  const auto want = whole.anchor_rows(1, 0, whole.n_anchors());
  REQUIRE(head.n_anchors() == whole.n_anchors());
  for (index_t i = 0; i < head.n_anchors(); ++i) {
    CHECK(head.ledger().anchors()[static_cast<std::size_t>(i)] ==
          whole.ledger().anchors()[static_cast<std::size_t>(i)]);
    for (index_t j = 0; j < shape.head_dim; ++j) {
      CHECK(found.k(1, i, j) == doctest::Approx(want.k(1, i, j)).epsilon(1e-12));
      CHECK(found.v(1, i, j) == want.v(1, i, j));
    }
  }
  CHECK(head.next_position() == whole.next_position());
}

TEST_CASE("two sequences on one prefix hold it once") {
  memory_backend be;
  auto context = document<float>(be, 0, 50);
  auto one = context.fork();
  auto two = context.fork();
  const std::size_t prefix =
      context.bytes_per_row() * static_cast<std::size_t>(context.n_anchors());
  for (const auto* c : {&context, &one, &two}) {
    CHECK(c->bytes_shared() == prefix);
    CHECK(c->bytes_allocated() <= context.bytes_per_row() * 8);
  }
  CHECK(one.anchor_rows(0, 0, 1).k.data() == two.anchor_rows(0, 0, 1).k.data());
  MESSAGE("a prefix of " << context.n_anchors() << " rows: " << prefix
                         << " bytes, held once; the two sequences on it own "
                         << one.bytes_allocated() << " and " << two.bytes_allocated() << " bytes");
  // Also when they were forked again behind more text.
  for (int i = 0; i < 10; ++i) append(one, i % 5 > 2, 1000 + i);
  auto three = one.fork();
  CHECK(three.bytes_shared() == prefix);
  CHECK(three.anchor_rows(0, 0, 1).k.data() == context.anchor_rows(0, 0, 1).k.data());
  CHECK(three.ledger().rows() == one.ledger().rows());
}

TEST_CASE_TEMPLATE("merged sentences are the mean of their gists, at the place of the last", T,
                   float, bf16, q8) {
  memory_backend be;
  for (const index_t recent : {0, 2}) {
    auto c = document<T>(be, 0, 6, {{2, recent, 1, 0}});
    const auto before = c.ledger().anchors();
    cache::merge(c, 1, 5, frequencies);
    CHECK(c.n_anchors() == 1 + 2 * 3);
    // Sentence s has its gists in rows 1 + 5 s + 3 and 1 + 5 s + 4.
    std::vector<double> found(static_cast<std::size_t>(shape.head_dim));
    for (index_t g = 0; g < 2; ++g) {
      const auto last = static_cast<std::int32_t>(1 + 5 * 4 + 3 + g);
      const std::size_t at = static_cast<std::size_t>(3 + g);
      CHECK(c.ledger().anchors()[at].position == last);
      const auto all = c.anchor_rows(1, 0, c.n_anchors());
      for (const bool value : {false, true}) {
        const auto& block = value ? all.v : all.k;
        decode_row(block.at(1).data() + static_cast<index_t>(at) * block.stride(1), shape.head_dim,
                   found.data());
        for (index_t j = 0; j < shape.head_dim; ++j) {
          double mean = 0;
          for (int s = 1; s < 5; ++s) {
            const int id = 1 + 5 * s + 3 + static_cast<int>(g);
            mean += 0.25 * (value ? element(id, true, 1, 1, j) : rotated(id, 1, 1, j, last));
          }
          CHECK(std::abs(found[static_cast<std::size_t>(j)] - mean) <
                (std::is_same_v<T, float> ? 1e-5 : 0.02));
        }
      }
      if (recent == 0) continue;
      // The copy among the local rows is the same.
      const auto local = c.local_rows(1);
      for (std::int32_t i = c.ledger().live_begin(); i < c.ledger().local_end(); ++i) {
        if (c.ledger().local(i).position != last) continue;
        decode_row(local.v.at(1).data() + (i - c.ledger().live_begin()) * local.v.stride(1),
                   shape.head_dim, found.data());
        std::vector<double> anchor(found.size());
        decode_row(all.v.at(1).data() + static_cast<index_t>(at) * all.v.stride(1), shape.head_dim,
                   anchor.data());
        CHECK(found == anchor);
      }
    }
    CHECK_THROWS_AS(cache::merge(c, 1, 4, frequencies), argument_error);
    CHECK_THROWS_AS(cache::merge(c, 0, 9, frequencies), argument_error);
  }
}

/// Memory of which a call fails: one that allocates, or one that copies from or to it.
struct faulty_memory : memory_backend {
  int until_failure = -1;
  void count() {
    if (until_failure >= 0 && until_failure-- == 0) throw backend_error("injected failure");
  }
  void* allocate(std::size_t n_bytes) {
    count();
    return memory_backend::allocate(n_bytes);
  }
  void upload(void* to, const void* from, std::size_t n_bytes) {
    count();
    memory_backend::upload(to, from, n_bytes);
  }
  void download(void* to, const void* from, std::size_t n_bytes) {
    count();
    memory_backend::download(to, from, n_bytes);
  }
};

TEST_CASE("sentences whose merge fails are as they were") {
  faulty_memory be;
  random_generator random(7);
  cache::gist_cache<faulty_memory, float> c(be, shape, {{2, 1, 1, 0}});
  std::vector<std::uint8_t> flags{0};
  for (int i = 0; i < 20; ++i) flags.push_back(i % 5 > 2 ? 1 : 0);
  test::append_random(c, flags, random);
  const auto before = cache::save_snapshot(c, {});
  int n_failures = 0;
  for (int failing_call = 0;; ++failing_call) {
    be.until_failure = failing_call;
    bool failed = false;
    try {
      cache::merge(c, 1, 4, frequencies);
    } catch (const backend_error&) {
      failed = true;
    }
    be.until_failure = -1;
    if (!failed) break;
    ++n_failures;
    REQUIRE(cache::save_snapshot(c, {}) == before);
  }
  CHECK(n_failures > 8);
  CHECK(c.n_anchors() == 1 + 2 * 2);
}

TEST_CASE("a budget holds after an edit, and one that refuses leaves the cache as it was") {
  memory_backend be;
  const auto other = document<float>(be, 500, 4);
  auto drops = document<float>(be, 0, 3, {{2, 0, 1, 0}, 9});
  cache::concatenate(drops, other);
  CHECK(drops.n_anchors() == 9);
  auto refuses = document<float>(be, 0, 3, {{2, 0, 1, 0}, 9, cache::budget_policy::refuse});
  const auto before = refuses.ledger().rows();
  CHECK_THROWS_WITH_AS(cache::concatenate(refuses, other),
                       "splice: 15 anchor rows, the budget is 9", argument_error);
  CHECK(refuses.ledger().rows() == before);
}

TEST_CASE("edits that make no sense are refused") {
  memory_backend be;
  auto c = document<float>(be, 0, 3);
  const auto other = document<float>(be, 0, 2);
  CHECK_THROWS_AS(cache::splice(c, 2, 1, other), argument_error);
  CHECK_THROWS_AS(cache::splice(c, 0, 4, other), argument_error);
  CHECK_THROWS_AS(cache::splice(c, 0, 1, document<float>(be, 0, 2, {{1, 0, 1, 0}})),
                  argument_error);
  CHECK_THROWS_AS(cache::splice(c, 0, 1, cache_of<float>(be, {2, 1, 6}, {{2, 0, 1, 0}})),
                  argument_error);
  cache_of<float> empty(be, shape, {{2, 0, 1, 0}});
  CHECK_THROWS_AS(cache::concatenate(empty, other), argument_error);
  const std::vector<float> too_few = {1.0F};
  CHECK_THROWS_AS(cache::concatenate(c, other, std::span<const float>(too_few)), argument_error);
  auto unfinished = document<float>(be, 0, 2);
  const std::uint8_t flag = 0;
  unfinished.begin_append({&flag, 1});
  CHECK_THROWS_AS(cache::concatenate(c, unfinished), argument_error);
  cache::edit_history<memory_backend, float> history(2);
  CHECK_FALSE(history.undo(c));
}

TEST_CASE("a window reaches no further back than the rows that were kept") {
  cache::row_ledger books({0, 0, 1, 6});
  for (int i = 0; i < 12; ++i) books.append(false);
  books.forget_dead_rows();
  const std::vector<std::int32_t> kept = {books.local_end() - 3, books.local_end() - 1};
  books.keep(kept);
  const auto p = books.append(false);
  CHECK(p.spans.local_end - p.spans.local_begin == 3);
}

}  // namespace
}  // namespace gistkv
