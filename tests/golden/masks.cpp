// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The authors' matrices (golden part C) from the predicate, and the two-span form beside it.

#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/mask/sentence.hpp>

#include "support/data.hpp"
#include "support/golden_arrays.hpp"

namespace {

using namespace gistkv;

std::vector<std::uint8_t> flags(const std::string& digits) {
  std::vector<std::uint8_t> values;
  for (const char c : digits) values.push_back(c == '1' ? 1 : 0);
  return values;
}

TEST_SUITE_BEGIN("golden");

TEST_CASE("C: sentence masks") {
  const auto path = test::golden_dir() / "sag" / "masks.json";
  if (!test::require_file(path)) return;
  const auto goldens = test::read_json(path);
  std::size_t n_spans = 0;
  for (const auto& c : goldens.at("cases")) {
    CAPTURE(c.at("name").get<std::string>());
    const auto special = flags(c.at("special"));
    const auto valid = flags(c.at("valid"));
    const auto n = c.at("len").get<index_t>();
    const auto n_queries = c.at("q_len").get<index_t>();
    const bool sink = c.at("bos_sink");
    // In the goldens a sink column still counts as a gist if it is one, so the structure is built
    // without a sink and the sink is put on top of the predicate.
    const sentence_structure structure(special, {c.at("n_g").get<index_t>(), 0, 0});
    sentence_mask mask = structure.mask(valid.data());
    mask.n_sink = sink ? 1 : 0;

    const auto closest = c.at("closest_idx").get<std::vector<index_t>>();
    for (index_t q = 0; q < n; ++q) {
      const auto sentence = structure.sentence_of()[static_cast<std::size_t>(q)];
      const index_t found =
          sentence == 0 ? 0 : structure.group_ends()[static_cast<std::size_t>(sentence - 1)];
      CHECK(found == closest[static_cast<std::size_t>(q)]);
    }
    bool all_valid = !sink;
    for (const auto v : valid) all_valid = all_valid && v != 0;
    const std::vector<index_t> anchors = structure.anchors();
    for (index_t j = 0; j < n_queries; ++j) {
      const index_t q = n - n_queries + j;
      const std::string row = c.at("visible")[static_cast<std::size_t>(j)];
      std::string found;
      for (index_t k = 0; k < n; ++k) found += mask(q, k) ? '1' : '0';
      // Rows of padded queries are free.
      if (valid[static_cast<std::size_t>(q)] != 0) CHECK(found == row);
      if (!all_valid) continue;
      std::string from_spans(static_cast<std::size_t>(n), '0');
      const visible_spans s = structure.spans(q);
      for (std::int32_t a = 0; a < s.anchors; ++a) {
        from_spans[static_cast<std::size_t>(anchors[static_cast<std::size_t>(a)])] = '1';
      }
      for (std::int32_t k = s.local_begin; k < s.local_end; ++k) {
        CHECK(from_spans[static_cast<std::size_t>(k)] == '0');  // Nothing is read twice.
        from_spans[static_cast<std::size_t>(k)] = '1';
      }
      CHECK(from_spans == row);
      ++n_spans;
    }
  }
  CHECK(n_spans > 0);
}

TEST_SUITE_END();

}  // namespace
