// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::model {

/// Embeddings of the gist tokens; token n_vocab + i of a model is gist i.
struct gist_rows {
  index_t n_gist = 0;
  std::vector<float> input;  ///< [n_gist, d_model], looked up when a gist is read.
  std::vector<float> head;   ///< [n_gist, d_model], gives the gist's logit; empty: as `input`.
};

/// @throws shape_error unless the rows fit the model.
inline void validate(const gist_rows& gists, const model_config& config) {
  const auto want = static_cast<std::size_t>(gists.n_gist * config.d_model);
  auto check = [want](const char* name, std::size_t found) {
    if (found == want) return;
    throw shape_error(std::string("gist rows: ") + name + " has " + std::to_string(found) +
                      " elements, expected " + std::to_string(want));
  };
  check("input", gists.input.size());
  if (!gists.head.empty()) check("head", gists.head.size());
}

/// Gist rows before any training: drawn from N(mean, cov) of the rows of the embedding table (and
/// of the head where it is not tied). With z ~ N(0, 1) and V rows e_v,
///   g = mean + V^(-1/2) sum_v z_v (e_v - mean)
/// has exactly that distribution and needs no matrix square root.
/// @throws shape_error for a table with fewer bytes than its extents need.
inline gist_rows untrained_gist_rows(const host_model& model, index_t n_gist, std::uint64_t seed) {
  auto draw = [n_gist](const host_matrix& table, std::uint64_t stream) {
    const auto d = static_cast<std::size_t>(table.cols);
    const auto n = static_cast<std::size_t>(n_gist);
    const auto count = static_cast<double>(table.rows);
    std::vector<float> row(d);
    std::vector<double> mean(d, 0.0);
    std::vector<double> sums(n * d, 0.0);
    std::vector<double> weights(n, 0.0);
    random_generator random(stream);
    for (index_t v = 0; v < table.rows; ++v) {
      dequantize_row(table, v, row.data());
      for (std::size_t j = 0; j < d; ++j) mean[j] += static_cast<double>(row[j]) / count;
      for (std::size_t i = 0; i < n; ++i) {
        const double z = random.normal();
        weights[i] += z;
        for (std::size_t j = 0; j < d; ++j) sums[i * d + j] += z * static_cast<double>(row[j]);
      }
    }
    std::vector<float> rows;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < d; ++j) {
        const double deviation = (sums[i * d + j] - weights[i] * mean[j]) / std::sqrt(count);
        rows.push_back(static_cast<float>(mean[j] + deviation));
      }
    }
    return rows;
  };
  gist_rows gists{n_gist, draw(model.token_embedding, seed), {}};
  if (!model.config.tied_head) gists.head = draw(model.head.weight, splitmix64(seed));
  return gists;
}

}  // namespace gistkv::model
