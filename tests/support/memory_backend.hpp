// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/host_storage.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/random.hpp>

namespace gistkv::test {

/// Host memory and nothing that computes: all that a cache needs to be written, edited and saved.
struct memory_backend : host_storage {
  static constexpr std::string_view name = "memory";

  template <class U>
  void gather_rows(matrix_view<U> o, matrix_view<const U> x, vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < o.extent(0); ++i) {
      std::copy_n(x.data() + rows(i) * x.stride(0), o.extent(1), o.data() + i * o.stride(0));
    }
  }
};
static_assert(Storage<memory_backend>);

/// Appends rows of random numbers, as a model would write them.
template <class B, class T>
void append_random(cache::gist_cache<B, T>& cache, std::span<const std::uint8_t> is_gist,
                   random_generator& random) {
  const auto plan = cache.begin_append(is_gist);
  const auto d = cache.shape().head_dim;
  std::vector<float> row(static_cast<std::size_t>(d));
  for (index_t l = 0; l < cache.shape().n_layers; ++l) {
    const auto v = cache.layer(l);
    for (index_t h = 0; h < cache.shape().n_kv_heads; ++h) {
      for (std::size_t i = 0; i < is_gist.size(); ++i) {
        for (const bool values : {false, true}) {
          for (float& x : row) x = static_cast<float>(random.normal());
          const auto put = [&](const auto& block, std::int32_t at) {
            if (at >= 0) encode_row(row.data(), d, block.at(h).data() + at * block.stride(1));
          };
          put(values ? v.anchor_values : v.anchor_keys, plan.anchor_rows[i]);
          put(values ? v.local_values : v.local_keys, plan.local_rows[i]);
        }
      }
    }
  }
  cache.commit();
}

}  // namespace gistkv::test
