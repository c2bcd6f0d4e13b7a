// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The onednn backend on a real model: in float it meets the goldens as the reference does; with
// factors of bf16 it stays close to float on every kind of weight that is meant for speed.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/core/quantize.hpp>

#include "golden/cache_checks.hpp"
#include "golden/forward_checks.hpp"

namespace gistkv::test {
namespace {

using exact = backends::onednn<float>;
using fast = backends::onednn<float, bf16>;

/// The model with the matrices of its linear maps stored anew.
model::host_model stored_as(const model::host_model& m, weight_type type) {
  model::host_model copy = m;
  const auto convert = [&](host_matrix& w) {
    const std::size_t stride = row_bytes(type, w.cols);
    auto bytes =
        std::make_shared<std::vector<std::byte>>(stride * static_cast<std::size_t>(w.rows));
    std::vector<float> row(static_cast<std::size_t>(w.cols));
    for (index_t r = 0; r < w.rows; ++r) {
      dequantize_row(w, r, row.data());
      quantize(type, row.data(), w.cols, bytes->data() + static_cast<std::size_t>(r) * stride);
    }
    w.type = type;
    w.data = *bytes;
    copy.storage.push_back(bytes);
  };
  convert(copy.token_embedding);
  for (model::host_block& b : copy.blocks) {
    for (auto* linear : {&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down}) {
      convert(linear->weight);
    }
  }
  return copy;
}

struct reading {
  std::vector<float> logits;  ///< Of all positions.
  double mean_nll = 0;
  std::vector<index_t> rows;  ///< Positions that the cache holds behind the text.
};

template <class KV, class B>
reading read(B& be, const model::host_model& weights, std::span<const token_t> ids, index_t n_g,
             index_t chunk) {
  using T = element_t<B>;
  const auto gists = n_g > 0 ? golden_gists(n_g, weights.config.d_model) : model::gist_rows{};
  const model::transformer<B, T, KV> m(be, weights, gists);
  cache::gist_cache<B, KV> cache(be, m.cache_shape(), {{n_g, 0, 0, 0}});
  reading out;
  for (std::size_t begin = 0; begin < ids.size(); begin += static_cast<std::size_t>(chunk)) {
    const auto piece =
        ids.subspan(begin, std::min(static_cast<std::size_t>(chunk), ids.size() - begin));
    const auto hidden = read_all(m, cache, piece, [](index_t, matrix_view<const T>) {});
    for_each_row(m, hidden, [&](index_t i, const T* row, double lse) {
      out.logits.insert(out.logits.end(), row, row + m.n_vocab());
      const std::size_t next = begin + static_cast<std::size_t>(i) + 1;
      if (next < ids.size()) out.mean_nll += lse - static_cast<double>(row[ids[next]]);
    });
  }
  out.mean_nll /= static_cast<double>(ids.size() - 1);
  for (const cache::row& r : cache.ledger().rows()) out.rows.push_back(r.position);
  return out;
}

/// Cosines between the logits of each position, the smallest first.
std::vector<double> cosines(const reading& a, const reading& b, std::size_t n) {
  const std::size_t n_vocab = a.logits.size() / n;
  std::vector<double> all;
  for (std::size_t i = 0; i < n; ++i) {
    double ab = 0;
    double aa = 0;
    double bb = 0;
    for (std::size_t j = i * n_vocab; j < (i + 1) * n_vocab; ++j) {
      const double x = static_cast<double>(a.logits[j]);
      const double y = static_cast<double>(b.logits[j]);
      ab += x * y;
      aa += x * x;
      bb += y * y;
    }
    all.push_back(ab / std::sqrt(aa * bb));
  }
  std::sort(all.begin(), all.end());
  return all;
}

TEST_SUITE_BEGIN("golden");

TEST_CASE("onednn in float: parts D, E and F") {
  check_causal_forward<exact>();
  check_book<exact>();
  check_greedy<exact>();
  check_sentence_runs<exact>(false);
  check_compaction<exact>();
}

TEST_CASE("onednn with factors of bf16 reads a book as float does, on every kind of weight") {
  if (!goldens_are_there("base.json") || !goldens_are_there("sentence.json")) return;
  const golden_arrays g(golden_dir() / "sag" / "base.json");
  auto ids = g.ints("pg19.ids");
  ids.resize(std::min<std::size_t>(ids.size(), 1024));
  const golden_arrays sentences(golden_dir() / "sag" / "sentence.json");
  const auto gisted = sentences.ints("run3.ids");
  for (const weight_type type : {weight_type::q4_1, weight_type::q8_0, weight_type::bf16}) {
    CAPTURE(to_string(type));
    const model::host_model weights =
        type == weight_type::q4_1 ? smollm2() : stored_as(smollm2(), type);
    const reading want = read<float>(backend<exact>(), weights, ids, 0, 512);
    const reading found = read<bf16>(backend<fast>(), weights, ids, 0, 512);
    const std::vector<double> at_once = cosines(want, found, ids.size());
    const double ratio = std::exp(found.mean_nll - want.mean_nll);
    CHECK(std::abs(ratio - 1) <= 0.01);
    CHECK(at_once.front() >= 0.999);

    // Token by token codes are multiplied as they are.
    const auto few = std::span<const token_t>(ids).first(64);
    const reading one_by_one = read<bf16>(backend<fast>(), weights, few, 0, 1);
    const reading exactly = read<float>(backend<exact>(), weights, few, 0, 64);
    const double smallest = cosines(exactly, one_by_one, few.size()).front();
    CHECK(smallest >= 0.999);
    MESSAGE(to_string(type) << ": perplexity " << std::exp(want.mean_nll) << " in float, times "
                            << ratio << "; cosine of a position at least " << at_once.front()
                            << "; token by token " << smallest);

    const reading same_rows = read<float>(backend<exact>(), weights, gisted, 2, 512);
    CHECK(read<bf16>(backend<fast>(), weights, gisted, 2, 100).rows == same_rows.rows);
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
