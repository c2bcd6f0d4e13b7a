// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// New rows into caches: the kernel's source on the host, against encode_row.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <cuda/emulation.hpp>
#include <gistkv/backends/cuda/append_rows.hpp>
#include <gistkv/core/random.hpp>

namespace gistkv {
namespace {

using namespace emulation;

/// Two sequences' keys and values, their caches, and where each token goes.
template <class T, class KV>
struct appended {
  index_t d, width;
  int n_heads;
  std::vector<int> counts{3, 5};
  index_t capacity = 9;
  std::vector<T> k, v;
  std::vector<std::vector<std::int32_t>> rows;    // Anchors, local of each sequence.
  std::vector<std::vector<KV>> k_cache, v_cache;  // The same.
  append_batch<T, KV> batch;

  appended(index_t head_dim, int heads, std::uint64_t seed)
      : d(head_dim), width(row_width<KV>(head_dim)), n_heads(heads) {
    random_generator random(seed);
    for (index_t i = 0; i < 8 * n_heads * d; ++i) {
      k.push_back(T(static_cast<float>(random.normal())));
      v.push_back(T(static_cast<float>(random.normal())));
    }
    rows = {{-1, 2, -1}, {0, 1, 2}, {7, -1, 3, -1, -1}, {4, 5, 6, 7, 8}};
    for (int i = 0; i < 4; ++i) {
      KV filler{};
      std::memset(static_cast<void*>(&filler), 0x5b, sizeof filler);
      k_cache.emplace_back(static_cast<std::size_t>(n_heads * capacity * width), filler);
      v_cache.push_back(k_cache.back());
    }
    batch.k = k.data();
    batch.v = v.data();
    batch.k_token = batch.v_token = n_heads * d;
    batch.k_head = batch.v_head = d;
    batch.n_kv_heads = n_heads;
    batch.head_dim = static_cast<std::int32_t>(d);
    int first = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      append_sequence<KV>& s = batch.sequences[batch.n_sequences++];
      s.anchors = target(2 * i);
      s.local = target(2 * i + 1);
      s.first_token = first;
      s.n_tokens = counts[i];
      first += counts[i];
    }
  }
  append_target<KV> target(std::size_t i) {
    const index_t head = capacity * width;
    return {k_cache[i].data(), v_cache[i].data(), head, width, head, width, rows[i].data(), 1};
  }
  void run(fault planted = fault::none) {
    const int n = append_items(batch);
    run_block(4, 64, 1, planted, [&](group<32>& w) {
      for (int i = w.index(); i < n; i += 4) append_row(w, batch, i);
    });
  }
  /// Bytes in which caches differ from what encode_row gives in the rows named, and from what they
  /// held in all others.
  int n_wrong() {
    appended twin = fresh();
    int wrong = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const int first = i < 2 ? 0 : counts[0];
      for (std::size_t t = 0; t < rows[i].size(); ++t) {
        if (rows[i][t] < 0) continue;
        for (int h = 0; h < n_heads; ++h) {
          const index_t from = ((first + static_cast<index_t>(t)) * n_heads + h) * d;
          const index_t to = (h * capacity + rows[i][t]) * width;
          encode_row(k.data() + from, d, twin.k_cache[i].data() + to);
          encode_row(v.data() + from, d, twin.v_cache[i].data() + to);
        }
      }
      const auto differ = [](const std::vector<KV>& a, const std::vector<KV>& b) {
        int n = 0;
        for (std::size_t x = 0; x < a.size(); ++x) n += std::memcmp(&a[x], &b[x], sizeof(KV)) != 0;
        return n;
      };
      wrong += differ(k_cache[i], twin.k_cache[i]) + differ(v_cache[i], twin.v_cache[i]);
    }
    return wrong;
  }

 private:
  appended fresh() const { return appended(d, n_heads, 0); }
};

TEST_CASE("all heads of all sequences go to their rows") {
  for (const index_t d : {64, 128, 80, 5}) {
    for (const int heads : {1, 3}) {
      CAPTURE(d);
      CAPTURE(heads);
      appended<bf16, q8> narrow(d, heads, 7);
      CHECK(narrow.n_wrong() > 0);
      narrow.run();
      CHECK(narrow.n_wrong() == 0);
      appended<bf16, bf16> same(d, heads, 8);
      CHECK(same.n_wrong() > 0);
      same.run();
      CHECK(same.n_wrong() == 0);
    }
  }
}

TEST_CASE("a scale of one lane's elements is seen") {
  appended<bf16, q8> narrow(64, 2, 7);
  narrow.run(fault::bounds_of_first_lane);
  CHECK(narrow.n_wrong() > 0);
}

TEST_CASE("a row that is not finite is NaN in a cache of q8, and its neighbours are not") {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    appended<bf16, q8> narrow(64, 2, 7);
    narrow.k[64 + 5] = bf16(bad);  // Token 0, head 1: row 0 of local.
    narrow.run();
    CHECK(narrow.n_wrong() == 0);
    std::vector<float> row(64);
    decode_row(narrow.k_cache[1].data() + narrow.capacity * narrow.width, 64, row.data());
    CHECK(std::all_of(row.begin(), row.end(), [](float x) { return std::isnan(x); }));
    decode_row(narrow.k_cache[1].data(), 64, row.data());
    CHECK(std::none_of(row.begin(), row.end(), [](float x) { return std::isnan(x); }));
  }
}

}  // namespace
}  // namespace gistkv
