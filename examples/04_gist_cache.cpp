// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The life of a gist cache: read a text, watch sentences close, ask two questions of one context,
// erase a sentence, save and load. The model is random: the rows mean nothing, the counts do.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/cache/snapshot.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/transformer.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>

#include "random_weights.hpp"

using gistkv::index_t;
using gistkv::token_t;
using backend = gistkv::backends::eigen<float>;

static bool equal(std::span<const float> a, std::span<const float> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

static bool check(bool holds, const char* what) {
  if (!holds) std::printf("WRONG: %s\n", what);
  return holds;
}

int main() {
  constexpr index_t n_vocab = 60;
  constexpr index_t n_gist = 2;
  bool right = true;

  // A model, with gist rows as they are before training.
  backend be;
  const auto weights = random_model(2, n_vocab);
  const auto gists = gistkv::model::untrained_gist_rows(weights, n_gist, 1);
  const gistkv::model::transformer<backend> model(be, weights, gists);

  // A text with gists behind its sentences.
  std::map<std::string, token_t> vocabulary;
  auto tokenize = [&](std::string_view text, std::vector<token_t>& ids) {
    std::istringstream words{std::string(text)};
    for (std::string w; words >> w;) {
      const auto next = static_cast<token_t>(vocabulary.size());
      ids.push_back(vocabulary.emplace(w, next).first->second);
    }
  };
  const auto rows = gistkv::text::lay_out(
      "The ferry leaves at nine in the morning. Tickets are sold on the quay by a man in a red "
      "cap. Bicycles travel free. The crossing takes two hours when the sea is calm",
      gistkv::text::paper{}, n_gist, model.first_gist(), tokenize);

  // Read it: rows are held until their sentence closes.
  gistkv::model::session<backend> context(model, {.rule = {.n_gist = n_gist, .n_sink = 1}});
  std::vector<index_t> held;
  context.read(rows.ids, &held);
  std::printf("rows held behind each token:");
  for (const index_t n : held) std::printf(" %d", static_cast<int>(n));
  auto& cache = context.cache();
  const index_t n_open = 10;  // "The crossing ... calm"
  std::printf("\n%d tokens and %d gists read, %d rows held, %d bytes\n",
              static_cast<int>(rows.n_regular), static_cast<int>(rows.n_gist),
              static_cast<int>(cache.rows_held()), static_cast<int>(cache.bytes_held()));
  right &= check(cache.rows_held() == 1 + n_gist * 3 + n_open, "sink, gists and the open sentence");

  // Two questions: each continues a fork; the anchors are shared, not copied.
  std::vector<token_t> when;
  std::vector<token_t> who;
  tokenize("When does the ferry leave", when);
  tokenize("Who sells tickets", who);
  auto first = context.fork();
  auto second = context.fork();
  first.read(when);
  second.read(who);
  std::printf(
      "two forks hold %d and %d rows, own %d and %d bytes; the context still holds %d\n",
      static_cast<int>(first.cache().rows_held()), static_cast<int>(second.cache().rows_held()),
      static_cast<int>(first.cache().bytes_allocated()),
      static_cast<int>(second.cache().bytes_allocated()), static_cast<int>(cache.rows_held()));
  right &= check(!equal(first.logits(), second.logits()), "the questions differ");

  // A snapshot goes on as the original does, to the bit.
  const auto bytes = gistkv::cache::save_snapshot(cache, {.entries = {{"about", "ferry"}}});
  auto loaded = gistkv::cache::load_snapshot<float>(be, bytes, "snapshot");
  gistkv::model::session<backend> resumed(model, std::move(loaded.cache));
  resumed.read(when);
  std::printf("a snapshot of %d bytes about the %s\n", static_cast<int>(bytes.size()),
              loaded.info.find("about")->c_str());
  right &= check(equal(resumed.logits(), first.logits()), "the snapshot answers as the fork");

  // Take the second sentence out: its gists go, the others stay where they are.
  context.cache().erase(1, 2);
  std::printf("without its second sentence the context holds %d rows\n",
              static_cast<int>(cache.rows_held()));
  right &= check(cache.rows_held() == 1 + n_gist * 2 + n_open, "two gists fewer");
  context.read(when);
  right &= check(!equal(context.logits(), first.logits()), "what was erased is not seen");
  return right ? 0 : 1;
}
