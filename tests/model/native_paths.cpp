// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Optional paths of a backend as the model uses them: fused calls, caches of q8, steps that are
// made again. A backend of the tests has them all, by composition of the reference's primitives.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/cache/snapshot.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/model/session.hpp>

#include "support/fused_backend.hpp"
#include "support/random_model.hpp"

namespace gistkv {
namespace {

using test::fused;
using test::plain;

const test::random_model_options small{
    .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .d_model = 24, .d_ff = 40};

struct text {
  model::host_model source;
  model::gist_rows gists;
  std::vector<token_t> ids;

  explicit text(const test::random_model_options& options, index_t n_sentences = 40)
      : source(test::random_model(options)), gists(model::untrained_gist_rows(source, 2, 3)) {
    random_generator random(5);
    for (index_t s = 0; s < n_sentences; ++s) {
      for (index_t i = 3 + random.below(6); i > 0; --i) {
        ids.push_back(static_cast<token_t>(random.below(source.config.n_vocab)));
      }
      for (index_t g = 0; g < 2; ++g) {
        ids.push_back(static_cast<token_t>(source.config.n_vocab + g));
      }
    }
  }
};
constexpr cache::cache_options books{.rule = {.n_gist = 2, .recent = 1, .n_sink = 1}};

/// Logits behind each step, where gists are read in one step with the token before them and the
/// first 20 tokens at once.
template <class B, class KV>
std::vector<std::vector<float>> read(B& be, const text& t, int fork_at = -1) {
  const model::transformer<B, float, KV> m(be, t.source, t.gists);
  model::session<B, float, KV> s(m, cache::gist_cache<B, KV>(be, m.cache_shape(), books),
                                 {.past_context = true});
  std::vector<std::vector<float>> all;
  for (std::size_t i = 0; i < t.ids.size();) {
    std::size_t n = i == 0 ? 20 : 1;
    while (i + n < t.ids.size() && m.is_gist(t.ids[i + n])) ++n;
    if (static_cast<int>(all.size()) == fork_at) s = s.fork();
    s.read(std::span(t.ids).subspan(i, n));
    all.emplace_back(s.logits().begin(), s.logits().end());
    i += n;
  }
  return all;
}

TEST_CASE("fused and repeated steps give what single calls give") {
  for (const bool special : {false, true}) {
    CAPTURE(special);
    auto options = small;
    options.biases = special;
    options.head_norms = special;
    const text t(options);
    plain reference(1);
    fused be(1);
    const auto want = read<plain, float>(reference, t, 30);
    const auto found = read<fused, float>(be, t, 30);
    CHECK(found == want);
    const auto n_steps = static_cast<int>(want.size());
    CHECK(be.n_recorded + be.n_replayed == n_steps - 1);  // The first reads too many rows.
    CHECK(be.n_replayed > 2 * n_steps / 3);
    CHECK(be.n_gated == 2 * be.n_recorded);
    // Heads that are normed by themselves are not what the fused call does.
    CHECK(be.n_projected == (special ? 0 : 2 * be.n_recorded));
  }
}

TEST_CASE("a cache of q8 is near one of floats, in a third of its bytes") {
  const text t(small);
  plain reference(1);
  fused be(1);
  const auto want = read<plain, float>(reference, t);
  const auto found = read<fused, q8>(be, t, 30);
  REQUIRE(found.size() == want.size());
  double squares = 0.0, differences = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    for (std::size_t j = 0; j < want[i].size(); ++j) {
      squares += std::pow(want[i][j], 2);
      differences += std::pow(double{found[i][j]} - double{want[i][j]}, 2);
    }
  }
  CHECK(differences > 0.0);
  // A level is 1/127 of the greatest: an error of about 1/400 a number, less behind the sums.
  CHECK(std::sqrt(differences / squares) < 0.01);
  const cache::cache_shape shape{2, 2, 8};
  CHECK(cache::gist_cache<fused, q8>(be, shape).bytes_per_row() == 2 * 2 * 2 * (8 + 4));
  CHECK(cache::gist_cache<plain, float>(reference, shape).bytes_per_row() == 2 * 2 * 2 * 8 * 4);
}

TEST_CASE("rows of q8 keep their scale where a cache is copied, cut and saved") {
  using cache_type = cache::gist_cache<fused, q8>;
  const text t(small, 12);
  fused be(1);
  const model::transformer<fused, float, q8> m(be, t.source, t.gists);
  const auto session_of = [&](cache_type&& c) {
    return model::session<fused, float, q8>(m, std::move(c), {.past_context = true});
  };
  auto first = session_of(cache_type(be, m.cache_shape(), books));
  first.read(t.ids);
  const auto next = [&](cache_type&& c) {
    auto s = session_of(std::move(c));
    s.read(std::vector<token_t>{1});
    return std::vector<float>(s.logits().begin(), s.logits().end());
  };
  const auto want = next(first.cache().copy());
  CHECK(next(first.cache().fork()) == want);
  const auto bytes = cache::save_snapshot(first.cache(), {});
  const auto loaded = next(std::move(cache::load_snapshot<q8>(be, bytes, "test").cache));
  CHECK(loaded == want);
  // Sentences 2 to 5 are gone for both.
  auto cut = first.cache().copy();
  cut.erase(2, 5);
  auto cut_too = first.cache().fork();
  cut_too.erase(2, 5);
  const auto without = next(std::move(cut));
  CHECK(next(std::move(cut_too)) == without);
  CHECK(without != want);
}

TEST_CASE_TEMPLATE("what was saved goes on to the bit, also from rows that it only borrows", KV,
                   float, bf16, q8) {
  using cache_type = cache::gist_cache<plain, KV>;
  const text t(small, 12);
  plain be(1);
  const model::transformer<plain, float, KV> m(be, t.source, t.gists);
  const auto half = std::span(t.ids).first(t.ids.size() / 2);
  const auto rest = std::span(t.ids).subspan(t.ids.size() / 2);
  const auto go_on = [&](cache_type&& c) {
    model::session<plain, float, KV> s(m, std::move(c), {.past_context = true});
    s.read(rest);
    return std::vector<float>(s.logits().begin(), s.logits().end());
  };
  model::session<plain, float, KV> s(m, cache_type(be, m.cache_shape(), books),
                                     {.past_context = true});
  s.read(half);
  // An owner of the bytes, as a mapped file is one, whose memory begins at a multiple of 64.
  const auto saved = cache::save_snapshot(s.cache(), {});
  const auto owner =
      std::make_shared<const buffer<std::byte, plain>>(be, std::span<const std::byte>(saved));
  const std::span<const std::byte> bytes(owner->data(), saved.size());
  auto borrowed = cache::load_snapshot<KV>(be, bytes, "borrowed", owner);
  CHECK(borrowed.cache.n_shared() == s.cache().n_anchors());
  auto copied = cache::load_snapshot<KV>(be, saved, "copied");
  CHECK(copied.cache.n_shared() == 0);
  CHECK(go_on(std::move(copied.cache)) == go_on(s.cache().copy()));
  // A prefix is a part of its own, whose sums are added to those of the rows behind it.
  CHECK(go_on(std::move(borrowed.cache)) == go_on(s.cache().fork()));
}

TEST_CASE("the reference reads narrow caches as composed from their numbers") {
  const text t(small);
  plain reference(1);
  fused be(1);
  CHECK(read<plain, q8>(reference, t, 30) == read<fused, q8>(be, t, 30));
}

}  // namespace
}  // namespace gistkv
