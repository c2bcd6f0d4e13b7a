// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// One transformer layer on a gist cache, without the rest of a model: plan rows, run the block on
// them, commit. Read at once or sentence by sentence, the outputs have the same bits; only the
// second way needs no more memory than one sentence and the anchors.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/model/block.hpp>
#include <gistkv/model/rope_frequencies.hpp>

#include "random_weights.hpp"

using gistkv::index_t;
using backend = gistkv::backends::eigen<float>;
using cache_type = gistkv::cache::gist_cache<backend, float>;
using block = gistkv::model::block<backend, float>;

/// x <- block(x): the rows that follow what the cache has already read.
static void read_rows(backend& be, const block& layer, const gistkv::model::model_config& config,
                      cache_type& cache, gistkv::matrix_view<float> x,
                      std::span<const std::uint8_t> is_gist) {
  const auto n = x.extent(0);
  const auto angles = gistkv::model::rope_frequencies(config.rope, config.head_dim);
  const auto plan = cache.begin_append(is_gist);  // Where rows go, and what each of them sees.
  const auto views = cache.layer(0);
  gistkv::model::sequence_kv<float, gistkv::host_space> rows;
  rows.count = n;
  rows.anchor_keys = views.anchor_keys;
  rows.anchor_values = views.anchor_values;
  rows.local_keys = views.local_keys;
  rows.local_values = views.local_values;
  rows.anchor_rows = {plan.anchor_rows.data(), {n}};
  rows.local_rows = {plan.local_rows.data(), {n}};
  rows.visible = views.visible;
  rows.spans = {plan.spans, plan.spans.data()};
  gistkv::workspace<backend> scratch(be, block::workspace_size(config, n, plan.n_keys));
  layer.forward(be, config, x, {plan.positions.data(), {n}}, {angles.data(), {config.head_dim / 2}},
                {}, {&rows, 1}, scratch);
  cache.commit();  // Closed sentences lose their raw rows now.
}

int main() {
  backend be(1);
  const auto weights = random_model(1, 10);
  const auto& config = weights.config;
  const block layer(be, config, weights.blocks[0]);

  // Five rows and two gists, four rows and two gists, three rows; row 0 is the sink.
  const std::vector<std::uint8_t> is_gist{0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0};
  const auto n = static_cast<index_t>(is_gist.size());
  gistkv::random_generator random(1);
  std::vector<float> input;
  for (index_t i = 0; i < n * config.d_model; ++i) {
    input.push_back(static_cast<float>(random.normal()));
  }
  const gistkv::cache::cache_shape shape{1, config.n_kv_heads, config.head_dim};
  const gistkv::cache::cache_options options{.rule = {.n_gist = 2, .recent = 0, .n_sink = 1}};

  std::vector<float> at_once = input;
  cache_type whole(be, shape, options);
  read_rows(be, layer, config, whole, {at_once.data(), {n, config.d_model}}, is_gist);
  std::printf("in one pass: %2d rows read, %2d held\n", static_cast<int>(n),
              static_cast<int>(whole.rows_held()));

  std::vector<float> in_parts = input;
  cache_type parts(be, shape, options);
  index_t begin = 0;
  for (const index_t count : {7, 6, 3}) {
    const gistkv::matrix_view<float> all(in_parts.data(), {n, config.d_model});
    read_rows(be, layer, config, parts, all.rows(begin, count),
              std::span(is_gist).subspan(static_cast<std::size_t>(begin),
                                         static_cast<std::size_t>(count)));
    begin += count;
    std::printf("in parts:    %2d rows read, %2d held\n", static_cast<int>(begin),
                static_cast<int>(parts.rows_held()));
  }

  const bool same_bits =
      std::memcmp(at_once.data(), in_parts.data(), at_once.size() * sizeof(float)) == 0;
  const bool changed = std::memcmp(at_once.data(), input.data(), input.size() * sizeof(float)) != 0;
  std::printf("outputs have %s bits\n", same_bits ? "the same" : "different");
  // 1 sink + 2 gists x 2 sentences + 3 rows of the open sentence.
  return same_bits && changed && parts.rows_held() == 8 && whole.rows_held() == 8 ? 0 : 1;
}
