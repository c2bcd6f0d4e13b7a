// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Masks against tables written from the definitions, not from the code.

#include <cstddef>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/mask/sentence.hpp>

namespace {

using namespace gistkv;

/// visible(q, k) by the sentence of the method: counts groups from scratch for every pair.
bool visible_by_definition(const std::vector<std::uint8_t>& gist, const sentence_rule& rule,
                           index_t q, index_t k) {
  if (k > q) return false;
  if (k < rule.n_sink || rule.n_gist == 0) return true;
  auto groups_before = [&](index_t i) {
    index_t seen = 0;
    for (index_t j = rule.n_sink; j < i; ++j) seen += gist[static_cast<std::size_t>(j)];
    return seen / rule.n_gist;
  };
  if (gist[static_cast<std::size_t>(k)] != 0) return true;
  return groups_before(q) - groups_before(k) <= rule.recent;
}

TEST_CASE("the sentence mask and its two spans are the definition") {
  random_generator random(5);
  for (int i = 0; i < 1000; ++i) {
    // All sentences are recent where there may be more of them than 32 bits can count.
    const index_t recents[] = {0, 1, 2, 3, index_t{1} << 32, std::numeric_limits<index_t>::max()};
    const sentence_rule rule{random.below(9), recents[random.below(6)], random.below(5)};
    const double share = random.uniform(0.05, 0.9);
    std::vector<std::uint8_t> gist;
    for (index_t j = random.below(40); j > 0; --j) gist.push_back(random.uniform() < share ? 1 : 0);
    const sentence_structure structure(gist, rule);
    const sentence_mask mask = structure.mask();
    const auto anchors = structure.anchors();
    const auto n = static_cast<index_t>(gist.size());
    for (index_t q = 0; q < n; ++q) {
      std::vector<int> times(gist.size(), 0);
      const visible_spans s = structure.spans(q);
      REQUIRE(s.anchors <= static_cast<index_t>(anchors.size()));
      for (std::int32_t a = 0; a < s.anchors; ++a) {
        ++times[static_cast<std::size_t>(anchors[static_cast<std::size_t>(a)])];
      }
      for (std::int32_t k = s.local_begin; k < s.local_end; ++k) {
        ++times[static_cast<std::size_t>(k)];
      }
      for (index_t k = 0; k < n; ++k) {
        const bool want = visible_by_definition(gist, rule, q, k);
        CHECK(mask(q, k) == want);
        CHECK(times[static_cast<std::size_t>(k)] == (want ? 1 : 0));
      }
    }
  }
}

TEST_CASE("padding hides a row from all and all from it, but not the sink") {
  const std::vector<std::uint8_t> gist{0, 0, 1, 0, 0};
  const std::vector<std::uint8_t> valid{0, 1, 1, 0, 1};
  const sentence_structure structure(gist, {1, 0, 1});
  const auto mask = structure.mask(valid.data());
  CHECK(mask(4, 0));   // the sink, padded or not
  CHECK(!mask(4, 1));  // another sentence
  CHECK(mask(4, 2));   // a gist
  CHECK(!mask(4, 3));  // padding
  CHECK(!mask(3, 3));
  CHECK(mask(4, 4));
}

TEST_CASE("causal, window and sink masks, and what they make together") {
  const window_mask window{3};
  const sink_mask sink{2};
  const auto streaming = either{sink, window};
  const auto overlap = both{sink, window};
  for (index_t q = 0; q < 8; ++q) {
    for (index_t k = 0; k < 8; ++k) {
      const bool past = k <= q;
      const bool recent = past && q - k < 3;
      const bool first = past && k < 2;
      CHECK(causal_mask{}(q, k) == past);
      CHECK(window(q, k) == recent);
      CHECK(sink(q, k) == first);
      CHECK(streaming(q, k) == (recent || first));
      CHECK(overlap(q, k) == (recent && first));
      CHECK(right_aligned{causal_mask{}, 5}(q, k) == (k <= q + 5));
    }
  }
}

TEST_CASE("rules that make no sense are refused") {
  const std::vector<std::uint8_t> gist{0, 1};
  CHECK_THROWS_AS(sentence_structure(gist, {-1, 0, 0}), argument_error);
  CHECK_THROWS_AS(sentence_structure(gist, {1, -1, 0}), argument_error);
  CHECK_THROWS_AS(sentence_structure(gist, {1, 0, -1}), argument_error);
}

}  // namespace
