// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/eval/reader.hpp>

#include "support/random_model.hpp"

namespace gistkv {

namespace {

using backend = backends::eigen<double>;
using model_type = model::transformer<backend>;

std::vector<token_t> random_ids(index_t n, index_t n_vocab, std::uint64_t seed) {
  random_generator random(seed);
  std::vector<token_t> ids;
  for (index_t i = 0; i < n; ++i) ids.push_back(static_cast<token_t>(random.below(n_vocab)));
  return ids;
}

/// The token behind each row.
std::vector<token_t> next_tokens(const std::vector<token_t>& ids) {
  std::vector<token_t> targets(ids.begin() + 1, ids.end());
  targets.push_back(-1);
  return targets;
}

std::vector<eval::token_score> read(const model_type& m, const eval::policy& p,
                                    const std::vector<token_t>& ids, index_t chunk,
                                    const std::vector<std::uint8_t>& marked = {}) {
  cache::gist_cache<backend, double> cache(m.backend(), m.cache_shape(), {.rule = p.rule});
  eval::reader<backend> reader(m, cache, p, {.chunk = chunk});
  std::vector<eval::token_score> scores;
  const std::vector<token_t> targets = next_tokens(ids);
  reader.read({ids, marked, targets}, scores);
  return scores;
}

double nll_of(const std::vector<double>& logits, std::size_t n, token_t target) {
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) total += std::exp(logits[i]);
  return std::log(total) - logits[static_cast<std::size_t>(target)];
}

struct fixture {
  backend be;
  model::host_model host = test::random_model({.n_layers = 3, .n_vocab = 40});
  model::gist_rows gists = model::untrained_gist_rows(host, 2, 7);
  model_type m{be, host, gists};
  std::vector<token_t> ids = random_ids(60, 40, 5);
};

const cache::cache_rule plain{.n_gist = 0, .recent = 0, .n_sink = 0, .window = 0};

eval::policy evicting(eval::eviction kind, index_t rows, index_t block) {
  eval::policy p;
  p.rule = plain;
  p.rule.n_sink = 2;
  p.eviction = kind;
  p.rows = rows;
  p.block = block;
  p.observation = 3;
  return p;
}

TEST_CASE_FIXTURE(fixture, "scores are those of plain loops") {
  std::vector<token_t> gisted;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    gisted.push_back(ids[i]);
    if (i % 7 == 6) gisted.insert(gisted.end(), {40, 41});
  }
  eval::policy p;
  p.rule = {.n_gist = 2, .recent = 1, .n_sink = 1, .window = 0};
  const auto scores = read(m, p, gisted, 16);
  cache::row_ledger books(p.rule);
  std::vector<std::vector<std::uint8_t>> sees;
  // Sentence by sentence, from the definition of the mask.
  std::vector<int> sentence;
  int closed = 0;
  int open = 0;
  for (const token_t t : gisted) {
    sentence.push_back(closed);
    if (t >= 40 && ++open == 2) {
      open = 0;
      ++closed;
    }
  }
  const test::brute_force truth(host, gists, gisted, 0, [&](index_t q, index_t k) {
    const auto i = static_cast<std::size_t>(q);
    const auto j = static_cast<std::size_t>(k);
    return k <= q && (k == 0 || gisted[j] >= 40 || sentence[i] - sentence[j] <= 1);
  });
  REQUIRE(scores.size() == gisted.size() - 1);
  double worst = 0;
  for (const eval::token_score& s : scores) {
    const auto i = static_cast<std::size_t>(s.row);
    CHECK(s.target == gisted[i + 1]);
    worst = std::max(worst, std::abs(s.nll_with_gists() - nll_of(truth.logits[i], 42, s.target)));
    if (s.target >= 40) continue;
    worst = std::max(worst, std::abs(s.nll() - nll_of(truth.logits[i], 40, s.target)));
  }
  CHECK(worst < 2e-5);  // Scores are taken in float.
}

TEST_CASE_FIXTURE(fixture, "what keeps everything scores as the full cache, to the digit") {
  const auto full = read(m, {.rule = plain}, ids, 256);
  std::vector<eval::policy> all;
  eval::policy window{.rule = plain};
  window.rule.window = 60;
  all.push_back(window);
  window.rule.n_sink = 4;
  all.push_back(window);
  for (const auto kind : {eval::eviction::separators, eval::eviction::heavy_hitters,
                          eval::eviction::observed, eval::eviction::newest}) {
    all.push_back(evicting(kind, 58, 8));
  }
  for (const eval::policy& p : all) {
    const auto found = read(m, p, ids, 256);
    REQUIRE(found.size() == full.size());
    for (std::size_t i = 0; i < full.size(); ++i) CHECK(found[i].nll() == full[i].nll());
  }
  // And one that does not keep everything does not.
  for (eval::policy& p : all) {
    if (p.eviction == eval::eviction::none) p.rule.window = 9;
    p.rows = 9;
    const auto found = read(m, p, ids, 256);
    bool differs = false;
    for (std::size_t i = 0; i < full.size(); ++i)
      differs = differs || found[i].nll() != full[i].nll();
    CHECK(differs);
  }
}

TEST_CASE_FIXTURE(fixture, "results do not depend on the chunk") {
  for (const auto kind : {eval::eviction::separators, eval::eviction::heavy_hitters,
                          eval::eviction::observed, eval::eviction::newest}) {
    const eval::policy p = evicting(kind, 12, 8);
    const auto one = read(m, p, ids, 1);
    const auto many = read(m, p, ids, 64);
    REQUIRE(one.size() == many.size());
    for (std::size_t i = 0; i < one.size(); ++i) {
      CHECK(one[i].nll() == doctest::Approx(many[i].nll()).epsilon(1e-5));
    }
  }
}

TEST_CASE_FIXTURE(fixture, "separators: what stays is what the policy says") {
  std::vector<std::uint8_t> marked;
  for (const token_t t : ids) marked.push_back(t % 5 == 0 ? 1 : 0);
  eval::policy p = evicting(eval::eviction::separators, 10, 8);
  p.recent = 0.4;
  const auto scores = read(m, p, ids, 256, marked);
  // Behind every 8 tokens: the last 4, then separators, then others, newest first, 10 in all.
  std::vector<std::vector<index_t>> seen;
  std::vector<index_t> held;
  for (index_t i = 0; i < 60; ++i) {
    if (i >= 2) held.push_back(i);
    seen.push_back(held);
    if (i % 8 != 7 || held.size() <= 10) continue;
    std::vector<index_t> kept(held.end() - 4, held.end());
    for (const int want : {1, 0}) {
      for (auto k = held.end() - 4; k != held.begin() && kept.size() < 10;) {
        --k;
        if (marked[static_cast<std::size_t>(*k)] == want) kept.push_back(*k);
      }
    }
    std::sort(kept.begin(), kept.end());
    held = kept;
  }
  const test::brute_force truth(host, gists, ids, 0, [&](index_t q, index_t k) {
    const auto& rows = seen[static_cast<std::size_t>(q)];
    return (k < 2 && k <= q) || std::find(rows.begin(), rows.end(), k) != rows.end();
  });
  double worst = 0;
  for (const eval::token_score& s : scores) {
    const auto i = static_cast<std::size_t>(s.row);
    worst = std::max(worst, std::abs(s.nll() - nll_of(truth.logits[i], 40, s.target)));
  }
  CHECK(worst < 2e-5);
}

TEST_CASE_FIXTURE(fixture, "sentences: tokens read the raw rows that a sentence mask leaves") {
  std::vector<std::uint8_t> ends;
  std::vector<index_t> sentence;
  for (index_t i = 0; i < 60; ++i) {
    sentence.push_back(std::count(ends.begin(), ends.end(), 1));
    ends.push_back(i % 7 == 4 || i % 11 == 5 ? 1 : 0);
  }
  for (const index_t k_closed : {0, 2}) {
    eval::policy p = evicting(eval::eviction::sentences, 0, 8);
    p.sentences = k_closed;
    const test::brute_force truth(host, gists, ids, 0, [&](index_t q, index_t k) {
      const auto i = static_cast<std::size_t>(q);
      const auto j = static_cast<std::size_t>(k);
      return k <= q && (k < 2 || sentence[i] - sentence[j] <= k_closed);
    });
    for (const index_t chunk : {1, 5, 256}) {
      double worst = 0;
      const auto scores = read(m, p, ids, chunk, ends);
      REQUIRE(scores.size() == ids.size() - 1);
      for (const eval::token_score& s : scores) {
        const auto i = static_cast<std::size_t>(s.row);
        worst = std::max(worst, std::abs(s.nll() - nll_of(truth.logits[i], 40, s.target)));
      }
      CHECK(worst < 2e-5);
    }
  }
  CHECK_THROWS_AS(read(m, evicting(eval::eviction::sentences, 0, 8), ids, 8), argument_error);
}

/// What queries look at, as the library says and as plain loops say.
struct collector {
  const model_type& m;
  std::vector<std::vector<float>> found;
  std::vector<std::vector<double>> want;
  void operator()(index_t, matrix_view<const double, host_space>) const {}
  void queries(index_t, const auto& s, tensor_view<const double, 3, host_space> q, double scale) {
    const auto n_local = static_cast<std::size_t>(s.visible.local.rows());
    std::vector<std::vector<float>> received(2, std::vector<float>(n_local, 0.0F));
    eval::add_attention_received<backend, double, double>(m.backend(), q, s.visible, s.spans, scale,
                                                          received);
    for (index_t kv = 0; kv < 2; ++kv) {
      std::vector<double> sums(n_local, 0.0);
      for (index_t h = 2 * kv; h < 2 * kv + 2; ++h) {
        for (index_t i = 0; i < q.extent(0); ++i) {
          auto weight = [&](const auto& k, index_t j) {
            double dot = 0;
            for (index_t e = 0; e < q.extent(2); ++e) dot += q(i, h, e) * k(kv, j, e);
            return std::exp(scale * dot);
          };
          const visible_spans see = s.spans.host[static_cast<std::size_t>(i)];
          double all = 0;
          for (index_t j = 0; j < see.anchors; ++j) all += weight(s.visible.own.k, j);
          for (index_t j = see.local_begin; j < see.local_end; ++j) {
            all += weight(s.visible.local.k, j);
          }
          for (index_t j = see.local_begin; j < see.local_end; ++j) {
            sums[static_cast<std::size_t>(j)] += weight(s.visible.local.k, j) / all;
          }
        }
      }
      want.push_back(sums);
      found.push_back(received[static_cast<std::size_t>(kv)]);
    }
  }
};

TEST_CASE_FIXTURE(fixture, "attention received is the sum of plain loops") {
  cache::gist_cache<backend, double> cache(be, m.cache_shape(), {.rule = {0, 0, 2, 0}});
  collector c{m, {}, {}};
  for (const auto piece : {std::span(ids).first(20), std::span(ids).subspan(20, 37)}) {
    const model::sequence_step<backend, double> step{&cache, piece, {}};
    workspace<backend> scratch(be, m.workspace_size({&step, 1}));
    buffer<double, backend> hidden(be, static_cast<index_t>(piece.size()) * m.config().d_model);
    m.forward({&step, 1}, hidden.view({static_cast<index_t>(piece.size()), m.config().d_model}),
              scratch, c);
  }
  REQUIRE(c.found.size() == 2 * 3 * 2);
  for (std::size_t i = 0; i < c.want.size(); ++i) {
    for (std::size_t j = 0; j < c.want[i].size(); ++j) {
      CHECK(static_cast<double>(c.found[i][j]) == doctest::Approx(c.want[i][j]).epsilon(1e-5));
    }
  }
}

TEST_CASE_FIXTURE(fixture, "each head keeps rows of its own") {
  cache::gist_cache<backend, double> cache(be, m.cache_shape(), {.rule = {0, 0, 2, 0}});
  const eval::policy everything{.rule = {0, 0, 2, 0}};
  eval::reader<backend> reader(m, cache, everything);
  std::vector<eval::token_score> none;
  reader.read({.ids = std::span(ids).first(12)}, none);
  std::vector<std::vector<std::int32_t>> lists;
  for (std::int32_t i = 0; i < 6; ++i) lists.push_back({i % 3, 4 + i % 2, 9});
  const auto before = cache.copy();
  CHECK_THROWS_AS(cache.keep(std::vector(2, lists[0])), argument_error);
  auto wrong = lists;
  wrong[3] = {0, 1};
  CHECK_THROWS_AS(cache.keep(wrong), argument_error);
  wrong[3] = {1, 1, 2};
  CHECK_THROWS_AS(cache.keep(wrong), argument_error);
  wrong[3] = {1, 2, 10};
  CHECK_THROWS_AS(cache.keep(wrong), argument_error);
  CHECK(cache.n_local() == 10);
  cache.keep(lists);
  CHECK(cache.n_local() == 3);
  CHECK(cache.n_anchors() == 2);
  CHECK(cache.next_position() == 12);
  for (index_t l = 0; l < 3; ++l) {
    const auto old = before.local_rows(l);
    const auto now = cache.local_rows(l);
    for (index_t h = 0; h < 2; ++h) {
      const auto& list = lists[static_cast<std::size_t>(2 * l + h)];
      for (index_t r = 0; r < 3; ++r) {
        for (index_t e = 0; e < m.config().head_dim; ++e) {
          CHECK(now.k(h, r, e) == old.k(h, list[static_cast<std::size_t>(r)], e));
          CHECK(now.v(h, r, e) == old.v(h, list[static_cast<std::size_t>(r)], e));
        }
      }
    }
  }
}

TEST_CASE_FIXTURE(fixture, "what a reader refuses") {
  cache::gist_cache<backend, double> cache(be, m.cache_shape(), {.rule = plain});
  CHECK_THROWS_AS((eval::reader<backend>(m, cache, {})), argument_error);
  eval::reader<backend> reader(m, cache, {.rule = plain});
  std::vector<eval::token_score> scores;
  CHECK_THROWS_AS(reader.read({}, scores), argument_error);
  const std::vector<token_t> few(3, 1);
  CHECK_THROWS_AS(reader.read({ids, {}, few}, scores), argument_error);
  eval::policy p = evicting(eval::eviction::separators, 0, 8);
  CHECK_THROWS_AS((eval::reader<backend>(m, cache, p)), argument_error);
}

}  // namespace

}  // namespace gistkv
