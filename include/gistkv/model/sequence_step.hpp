// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::model {

/// The next rows of one sequence: tokens, or vectors in place of token embeddings (soft tokens).
template <Storage B, class KV>
struct sequence_step {
  cache::gist_cache<B, KV>* cache = nullptr;
  std::span<const token_t> tokens = {};
  std::span<const float> embeddings = {};  ///< [n, d_model]; then `tokens` is empty.
};

/// @throws argument_error unless each step of a pass has a cache of its own.
template <Storage B, class KV>
void expect_caches(std::span<const sequence_step<B, KV>> steps) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].cache == nullptr) {
      throw argument_error("forward: step " + std::to_string(i) + " has no cache");
    }
    const auto same = [&](const auto& s) { return s.cache == steps[i].cache; };
    if (std::ranges::any_of(steps.first(i), same)) {
      throw argument_error("forward: step " + std::to_string(i) +
                           " has the cache of one before it, expected its own");
    }
  }
}

}  // namespace gistkv::model
