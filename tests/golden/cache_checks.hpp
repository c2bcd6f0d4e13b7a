// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/mask/sentence.hpp>
#include <gistkv/model/sampler.hpp>
#include <gistkv/model/session.hpp>

#include "golden/support.hpp"

/// Compaction and decode with the sentence cache (golden part F), on any backend.

namespace gistkv::test {

template <class B>
std::vector<index_t> positions(const cache::gist_cache<B, float>& c) {
  std::vector<index_t> rows;
  for (const cache::row& r : c.ledger().rows()) rows.push_back(r.position);
  return rows;
}

/// Rows that the reference's own policy keeps after the prompt: what the last row sees.
inline std::vector<index_t> kept_by_authors(const std::vector<token_t>& ids, token_t first_gist,
                                            sentence_rule rule) {
  std::vector<std::uint8_t> flags;
  for (const token_t t : ids) flags.push_back(t >= first_gist ? 1 : 0);
  const sentence_structure structure(flags, rule);
  std::vector<index_t> rows;
  for (index_t k = 0; k < structure.size(); ++k) {
    if (structure.mask()(structure.size() - 1, k)) rows.push_back(k);
  }
  return rows;
}

/// All policies give the same ids, since they differ only in invisible rows; so one run serves all,
/// and the row counts of the other two follow from it.
template <class B>
void run_mode(const nlohmann::json& c, const std::string& mode) {
  const auto& golden = c.at(mode);
  const auto n_g = c.at("n_g").get<index_t>();
  const index_t n_sink = c.at("bos_pinned").get<bool>() ? 1 : 0;
  const auto& m = gisted_smollm2<B>(n_g);
  model::session<B> s(m, cache::cache_options{{n_g, 0, n_sink, 0}});
  const auto ids = c.at("ids").get<std::vector<token_t>>();
  std::vector<index_t> rows_after;
  s.read(ids, &rows_after);
  CHECK(rows_after.size() == ids.size());
  CHECK(rows_after.back() == s.cache().rows_held());
  CHECK(positions(s.cache()) == c.at("kept_rows_evict").get<std::vector<index_t>>());
  const auto authors = kept_by_authors(ids, m.first_gist(), {n_g, 0, n_sink});
  CHECK(authors == c.at("kept_rows_authors").get<std::vector<index_t>>());

  const auto want = golden.at("generated").get<std::vector<token_t>>();
  std::vector<index_t> scheduled;
  if (mode == "scheduled") scheduled = c.at("scheduled_gist0_at").get<std::vector<index_t>>();
  auto margin_before = [&](std::size_t i) {
    const auto& value = i == 0 ? c.at("first_margin") : golden.at("margins")[i - 1];
    return value.is_null() ? 1.0 : value.get<double>();
  };
  model::sampler greedy;
  std::map<std::string, std::vector<index_t>> held;
  token_t last = -1;
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    if (margin_before(i) < 1e-2) break;
    token_t t = greedy(s.logits());
    const index_t gist = last - m.first_gist();
    const bool forced =
        std::find(scheduled.begin(), scheduled.end(), static_cast<index_t>(i)) != scheduled.end();
    if (last >= 0 && gist >= 0 && gist < n_g - 1) {
      t = last + 1;
    } else if (forced) {
      t = m.first_gist();
    }
    REQUIRE(t == want[i]);
    if (i + 1 == want.size()) break;
    s.read({&t, 1});
    held["evict"].push_back(s.cache().rows_held());
    held["full"].push_back(s.cache().next_position());
    held["authors"].push_back(static_cast<index_t>(authors.size() + i + 1));
    last = t;
  }
  for (const auto& entry : golden.at("cache_rows_after_step").items()) {
    const std::string policy = entry.key();
    CAPTURE(policy);
    const auto expected = entry.value().get<std::vector<index_t>>();
    const auto& found = held[policy];
    REQUIRE(found.size() <= expected.size());
    CHECK(std::equal(found.begin(), found.end(), expected.begin()));
  }
}

/// All of part F.
template <class B>
void check_compaction() {
  if (!require_file(golden_dir() / "sag" / "cache.json") || !require_file(model_path())) {
    return;
  }
  const auto g = read_json(golden_dir() / "sag" / "cache.json");
  for (const auto& c : g.at("cases")) {
    CAPTURE(c.at("n_g").get<int>());
    CAPTURE(c.at("prompt").get<std::string>());
    for (const std::string mode : {"model_emitted", "scheduled"}) {
      CAPTURE(mode);
      run_mode<B>(c, mode);
    }
  }
}

}  // namespace gistkv::test
