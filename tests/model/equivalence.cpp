// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// However a gisted sequence is read (one masked pass, sentence by sentence, in any chunks, token by
// token, behind a shared prefix, in a batch), keys, values, logits and the rows that stay are those
// of plain loops over the visibility predicate.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/transformer.hpp>

#include "support/random_model.hpp"

namespace {

using namespace gistkv;

constexpr index_t n_gists[] = {1, 2, 3, 4, 8};
constexpr index_t recents[] = {0, 1, 3};
constexpr index_t sinks[] = {0, 1, 4};

/// Sentences with their gists, some of them stray, missing or cut off.
std::vector<token_t> random_sequence(random_generator& random, index_t n_vocab, index_t n_gist) {
  std::vector<token_t> ids;
  const index_t n_sentences = random.below(6);
  auto gist = [&](index_t i) { ids.push_back(static_cast<token_t>(n_vocab + i)); };
  auto regular = [&] { ids.push_back(static_cast<token_t>(random.below(n_vocab))); };
  for (index_t s = 0; s < n_sentences; ++s) {
    for (index_t i = random.below(7); i > 0; --i) regular();
    const index_t n = random.below(8) == 0 ? random.below(n_gist + 1) : n_gist;
    for (index_t i = 0; i < n; ++i) {
      gist(i);
      if (random.below(12) == 0) regular();
    }
    if (random.below(10) == 0) gist(random.below(n_gist));
  }
  for (index_t i = 1 + random.below(6); i > 0; --i) regular();
  return ids;
}

template <class T>
struct world {
  backends::eigen<T> be{1};
  std::map<index_t, model::host_model> sources;
  std::map<index_t, model::gist_rows> gists;
  std::map<index_t, model::transformer<backends::eigen<T>, T>> models;

  world() {
    for (const index_t n : n_gists) {
      // Every variant of the block takes part.
      test::random_model_options o;
      o.seed = static_cast<std::uint64_t>(n);
      o.biases = n % 2 == 0;
      o.head_norms = n % 4 == 3 || n == 8;
      o.tied_head = n < 4;
      sources.emplace(n, test::random_model(o));
      gists.emplace(n, model::untrained_gist_rows(sources.at(n), n, 7));
      models.emplace(std::piecewise_construct, std::forward_as_tuple(n),
                     std::forward_as_tuple(be, sources.at(n), gists.at(n)));
    }
  }
};

struct expected {
  std::vector<token_t> ids;
  sentence_structure structure;
  test::brute_force truth;
  std::vector<index_t> held;  ///< Positions that a further regular row would see.
};

template <class T>
expected make_expected(world<T>& w, std::vector<token_t> ids, sentence_rule rule) {
  const auto& m = w.sources.at(rule.n_gist);
  std::vector<std::uint8_t> flags;
  for (const token_t t : ids) flags.push_back(t >= m.config.n_vocab ? 1 : 0);
  flags.push_back(0);
  sentence_structure structure(flags, rule);
  const auto mask = structure.mask();
  std::vector<index_t> held;
  const auto n = static_cast<index_t>(ids.size());
  for (index_t k = 0; k < n; ++k) {
    if (mask(n, k)) held.push_back(k);
  }
  test::brute_force truth(m, w.gists.at(rule.n_gist), ids, 0, mask);
  return {std::move(ids), std::move(structure), std::move(truth), std::move(held)};
}

template <class T>
double difference(const T* found, const std::vector<double>& want) {
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(found[i]) - want[i]));
  }
  return worst;
}

/// Rows, keys and values of a cache against the truth.
template <class T>
double check_cache(const cache::gist_cache<backends::eigen<T>, T>& c, const expected& e) {
  std::vector<index_t> held;
  for (const auto& r : c.ledger().rows()) held.push_back(r.position);
  CHECK(held == e.held);
  CHECK(c.rows_held() == static_cast<index_t>(e.held.size()));
  double worst = 0;
  const index_t d = c.shape().head_dim;
  auto compare = [&](auto&& span, index_t row, index_t position, index_t layer) {
    for (index_t h = 0; h < c.shape().n_kv_heads; ++h) {
      const auto l = static_cast<std::size_t>(layer);
      const auto p = static_cast<std::size_t>(position);
      for (index_t j = 0; j < d; ++j) {
        const auto at = static_cast<std::size_t>(h * d + j);
        worst = std::max(worst,
                         std::abs(static_cast<double>(span.k(h, row, j)) - e.truth.keys[l][p][at]));
        worst = std::max(
            worst, std::abs(static_cast<double>(span.v(h, row, j)) - e.truth.values[l][p][at]));
      }
    }
  };
  for (index_t l = 0; l < c.shape().n_layers; ++l) {
    for (index_t i = 0; i < c.n_anchors(); ++i) {
      compare(c.anchor_rows(l, i, 1), 0, c.ledger().anchors()[static_cast<std::size_t>(i)].position,
              l);
    }
    const auto local = c.local_rows(l);
    for (index_t i = 0; i < c.n_local(); ++i) {
      const auto number = static_cast<std::int32_t>(c.ledger().live_begin() + i);
      compare(local, i, c.ledger().local(number).position, l);
    }
  }
  return worst;
}

/// Reads e.ids[from...] in the given chunks; the largest difference of hidden states and logits.
template <class T>
double read(world<T>& w, cache::gist_cache<backends::eigen<T>, T>& c, const expected& e,
            std::size_t from, const std::vector<std::size_t>& chunks) {
  using backend = backends::eigen<T>;
  const auto& m = w.models.at(e.structure.rule().n_gist);
  double worst = 0;
  for (const std::size_t n : chunks) {
    const model::sequence_step<backend, T> step{&c, std::span(e.ids).subspan(from, n), {}};
    workspace<backend> scratch(w.be, m.workspace_size({&step, 1}));
    buffer<T, backend> hidden(w.be, static_cast<index_t>(n) * m.config().d_model);
    buffer<T, backend> logits(w.be, static_cast<index_t>(n) * m.n_vocab());
    const auto rows = static_cast<index_t>(n);
    m.forward({&step, 1}, hidden.view({rows, m.config().d_model}), scratch);
    m.logits(logits.view({rows, m.n_vocab()}), hidden.view({rows, m.config().d_model}));
    for (std::size_t i = 0; i < n; ++i) {
      worst = std::max(worst, difference(logits.data() + i * static_cast<std::size_t>(m.n_vocab()),
                                         e.truth.logits[from + i]));
    }
    from += n;
  }
  return worst;
}

std::vector<std::size_t> random_chunks(random_generator& random, std::size_t n, index_t most) {
  std::vector<std::size_t> chunks;
  while (n > 0) {
    chunks.push_back(std::min(n, static_cast<std::size_t>(1 + random.below(most))));
    n -= chunks.back();
  }
  return chunks;
}

/// The lengths of the stretches that end behind a complete gist group.
std::vector<std::size_t> sentence_chunks(const expected& e) {
  std::vector<std::size_t> chunks;
  std::size_t begin = 0;
  for (const index_t end : e.structure.group_ends()) {
    chunks.push_back(static_cast<std::size_t>(end) + 1 - begin);
    begin = static_cast<std::size_t>(end) + 1;
  }
  if (begin < e.ids.size()) chunks.push_back(e.ids.size() - begin);
  return chunks;
}

template <class T>
void run_cases(double tolerance, int n_cases) {
  using backend = backends::eigen<T>;
  world<T> w;
  random_generator random(20261122);
  double worst = 0;
  for (int i = 0; i < n_cases; ++i) {
    sentence_rule rule;
    rule.n_gist = n_gists[random.below(5)];
    rule.recent = recents[random.below(3)];
    rule.n_sink = sinks[random.below(3)];
    CAPTURE(i);
    CAPTURE(rule.n_gist);
    CAPTURE(rule.recent);
    CAPTURE(rule.n_sink);
    const auto& m = w.models.at(rule.n_gist);
    const expected e =
        make_expected(w, random_sequence(random, m.config().n_vocab, rule.n_gist), rule);
    const std::size_t n = e.ids.size();
    const cache::cache_options options{{rule.n_gist, rule.recent, rule.n_sink, 0}};
    auto fresh = [&] { return cache::gist_cache<backend, T>(w.be, m.cache_shape(), options); };
    const std::vector<std::vector<std::size_t>> ways{
        {n}, sentence_chunks(e), random_chunks(random, n, 9), std::vector<std::size_t>(n, 1)};
    for (const auto& chunks : ways) {
      auto c = fresh();
      double error = read(w, c, e, 0, chunks);
      error = std::max(error, check_cache(c, e));
      CHECK(error < tolerance);
      worst = std::max(worst, error);
    }
    // A shared prefix: two sequences go on from one, a deep copy from a third point.
    const auto cut = static_cast<std::size_t>(random.below(static_cast<index_t>(n) + 1));
    auto parent = fresh();
    double error = read(w, parent, e, 0, random_chunks(random, cut, 9));
    auto child = parent.fork();
    error = std::max(error, read(w, child, e, cut, random_chunks(random, n - cut, 5)));
    auto copied = parent.copy();
    error = std::max(error, read(w, parent, e, cut, random_chunks(random, n - cut, 5)));
    error = std::max(error, read(w, copied, e, cut, random_chunks(random, n - cut, 5)));
    for (const auto* c : {&parent, &child, &copied}) {
      error = std::max(error, check_cache(*c, e));
    }
    CHECK(error < tolerance);
    worst = std::max(worst, error);
  }
  MESSAGE("largest difference of " << n_cases << " cases: " << worst);
}

TEST_CASE("every way of reading gives the same keys, values, logits and rows: double") {
  run_cases<double>(1e-10, 600);
}

TEST_CASE("every way of reading gives the same keys, values, logits and rows: float") {
  run_cases<float>(1e-4, 200);
}

TEST_CASE("a batch of sequences gives the bits of the sequences one by one") {
  using backend = backends::eigen<float>;
  world<float> w;
  random_generator random(3);
  for (int i = 0; i < 60; ++i) {
    const index_t n_gist = n_gists[random.below(5)];
    const auto& m = w.models.at(n_gist);
    const cache::cache_options options{{n_gist, recents[random.below(3)], 1, 0}};
    std::vector<std::vector<token_t>> ids;
    for (index_t s = 1 + random.below(4); s > 0; --s) {
      ids.push_back(random_sequence(random, m.config().n_vocab, n_gist));
    }
    std::vector<cache::gist_cache<backend, float>> caches;
    std::vector<model::sequence_step<backend, float>> steps;
    index_t n_rows = 0;
    for (const auto& s : ids) {
      caches.emplace_back(w.be, m.cache_shape(), options);
      n_rows += static_cast<index_t>(s.size());
    }
    for (std::size_t s = 0; s < ids.size(); ++s) steps.push_back({&caches[s], ids[s], {}});
    const index_t d = m.config().d_model;
    workspace<backend> scratch(w.be, m.workspace_size(steps));
    buffer<float, backend> hidden(w.be, n_rows * d);
    m.forward(steps, hidden.view({n_rows, d}), scratch);
    const std::vector<float> batch = hidden.to_host();
    std::size_t begin = 0;
    for (std::size_t s = 0; s < ids.size(); ++s) {
      cache::gist_cache<backend, float> alone(w.be, m.cache_shape(), options);
      const model::sequence_step<backend, float> step{&alone, ids[s], {}};
      const auto n = static_cast<index_t>(ids[s].size());
      buffer<float, backend> single(w.be, n * d);
      m.forward({&step, 1}, single.view({n, d}), scratch);
      const std::vector<float> want = single.to_host();
      CHECK(std::equal(want.begin(), want.end(), batch.begin() + static_cast<index_t>(begin)));
      begin += want.size();
      CHECK(alone.ledger().rows() == caches[s].ledger().rows());
      for (index_t l = 0; l < m.config().n_layers; ++l) {
        const auto a = alone.local_rows(l);
        const auto b = caches[s].local_rows(l);
        for (index_t h = 0; h < m.config().n_kv_heads; ++h) {
          for (index_t r = 0; r < a.rows(); ++r) {
            for (index_t j = 0; j < m.config().head_dim; ++j) {
              CHECK(a.k(h, r, j) == b.k(h, r, j));
              CHECK(a.v(h, r, j) == b.v(h, r, j));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("without a boundary the result has the bits of the full cache") {
  using backend = backends::eigen<float>;
  world<float> w;
  random_generator random(4);
  const auto& m = w.models.at(4);
  model::transformer<backend> plain(w.be, w.sources.at(4));
  std::vector<token_t> ids;
  for (int i = 0; i < 50; ++i) ids.push_back(static_cast<token_t>(random.below(30)));
  model::session<backend> gisted(m, cache::cache_options{{4, 0, 1, 0}}, {.chunk = 16});
  model::session<backend> full(plain, cache::cache_options{{0, 0, 1, 0}}, {.chunk = 16});
  gisted.read(ids);
  full.read(ids);
  CHECK(gisted.cache().rows_held() == 50);
  CHECK(full.cache().rows_held() == 50);
  const auto a = gisted.logits().first(30);
  const auto b = full.logits();
  CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()));
}

}  // namespace
