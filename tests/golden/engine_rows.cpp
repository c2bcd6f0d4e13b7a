// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// An engine with a KV layout of its own keeps the rows that golden part F names: by the books
// alone, without a model of ours.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "../../examples/06_embed_in_an_engine.hpp"
#include "support/data.hpp"
#include "support/golden_arrays.hpp"

namespace {

using namespace gistkv;

constexpr token_t base_vocabulary = 49152;

foreign::gisted_ids sequence_of(const nlohmann::json& c) {
  return {c.at("n_g").get<index_t>(), c.at("bos_pinned").get<bool>() ? 1 : 0, base_vocabulary,
          c.at("ids").get<std::vector<token_t>>()};
}

foreign::engine engine_for(const foreign::gisted_ids& s) {
  return foreign::engine({.n_gist = s.n_gist, .recent = 0, .n_sink = s.n_sink});
}

/// The rows behind each generated token; the number of counts compared.
std::size_t check_mode(const nlohmann::json& c, const nlohmann::json& golden) {
  if (!golden.at("cache_rows_after_step").contains("evict")) return 0;
  const auto want = golden.at("cache_rows_after_step").at("evict").get<std::vector<index_t>>();
  const auto generated = golden.at("generated").get<std::vector<token_t>>();
  REQUIRE(generated.size() > want.size());
  foreign::gisted_ids sequence = sequence_of(c);
  const std::size_t n_prompt = sequence.ids.size();
  const auto n_steps = static_cast<std::ptrdiff_t>(want.size());
  sequence.ids.insert(sequence.ids.end(), generated.begin(), generated.begin() + n_steps);
  foreign::engine e = engine_for(sequence);
  std::vector<index_t> found;
  const double error =
      foreign::drive(e, sequence, [&](std::size_t i, const foreign::engine::step&) {
        if (i >= n_prompt) found.push_back(static_cast<index_t>(e.rows_in_memory()));
      });
  CHECK(found == want);
  CHECK(error < 1e-5);
  return found.size();
}

TEST_SUITE_BEGIN("golden");

TEST_CASE("F: rows held by an engine with its own layout") {
  const auto path = test::golden_dir() / "sag" / "cache.json";
  if (!test::require_file(path)) return;
  const auto g = test::read_json(path);
  std::size_t n_counts = 0;
  for (const auto& c : g.at("cases")) {
    CAPTURE(c.at("n_g").get<int>());
    CAPTURE(c.at("prompt").get<std::string>());
    const foreign::gisted_ids prompt = sequence_of(c);
    foreign::engine e = engine_for(prompt);
    const double error = foreign::drive(e, prompt, [](std::size_t, const auto&) {});
    CHECK(e.kept_rows() == c.at("kept_rows_evict").get<std::vector<index_t>>());
    CHECK(e.rows_in_memory() == e.kept_rows().size());
    CHECK(error < 1e-5);
    for (const std::string mode : {"model_emitted", "scheduled"}) {
      CAPTURE(mode);
      n_counts += check_mode(c, c.at(mode));
    }
  }
  CHECK(n_counts > 0);
}

TEST_SUITE_END();

}  // namespace
