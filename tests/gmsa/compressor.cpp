// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Soft tokens are those of plain loops, however contexts are cut into passes and put into batches;
// a decoder reads vectors as it reads tokens; and what makes no sense is refused.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/gmsa/compressor.hpp>
#include <gistkv/model/session.hpp>

#include "support/random_model.hpp"

namespace {

using namespace gistkv;

using backend = backends::eigen<double>;
using compressor_type = gmsa::compressor<backend, double>;
using rows = test::brute_force::rows;

backend& be() {
  static backend b(1);
  return b;
}

bool causal(index_t q, index_t k) { return k <= q; }

model::host_model base_model() {
  test::random_model_options o;
  o.n_layers = 4;
  o.head_norms = true;
  o.biases = true;
  return test::random_model(o);
}

std::vector<token_t> random_tokens(random_generator& random, index_t n, index_t n_vocab) {
  std::vector<token_t> ids;
  for (index_t i = 0; i < n; ++i) ids.push_back(static_cast<token_t>(random.below(n_vocab)));
  return ids;
}

/// The means of groups, written down.
rows means(const rows& x, index_t rate) {
  rows out;
  for (std::size_t begin = 0; begin < x.size(); begin += static_cast<std::size_t>(rate)) {
    const std::size_t end = std::min(x.size(), begin + static_cast<std::size_t>(rate));
    std::vector<double> sum(x[0].size(), 0.0);
    for (std::size_t i = begin; i < end; ++i) {
      for (std::size_t j = 0; j < sum.size(); ++j) {
        sum[j] += x[i][j] / static_cast<double>(end - begin);
      }
    }
    out.push_back(sum);
  }
  return out;
}

/// Soft tokens by plain loops: a model whose table is the means reads tokens 0, 1, ...
rows expected(const model::host_model& base, index_t encoder_layers, index_t alignment_layers,
              const std::vector<token_t>& tokens, index_t rate) {
  model::host_model encoder = gmsa::first_layers(base, encoder_layers);
  encoder.token_embedding = base.token_embedding;
  encoder.config.tied_head = true;
  const test::brute_force encoded(encoder, {}, tokens, 0, causal);
  const rows merged = means(encoded.hidden, rate);
  std::vector<float> table;
  std::vector<token_t> numbers;
  for (const auto& row : merged) {
    numbers.push_back(static_cast<token_t>(numbers.size()));
    for (const double x : row) table.push_back(static_cast<float>(x));
  }
  model::host_model alignment = gmsa::first_layers(base, alignment_layers);
  alignment.config.tied_head = true;
  alignment.config.n_vocab = static_cast<index_t>(merged.size());
  alignment.token_embedding = {"means", weight_type::f32, alignment.config.n_vocab,
                               base.config.d_model, std::as_bytes(std::span<const float>(table))};
  return test::brute_force(alignment, {}, numbers, 0, causal).hidden;
}

double difference(const model::soft_prompt& found, const rows& want) {
  if (found.size() != static_cast<index_t>(want.size())) return INFINITY;
  double most = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const auto row = found.part(static_cast<index_t>(i), 1);
    for (std::size_t j = 0; j < row.size(); ++j) {
      most = std::max(most, std::abs(static_cast<double>(row[j]) - want[i][j]));
    }
  }
  return most;
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const error& failure) {
    return failure.what();
  }
  return "no error";
}

TEST_CASE("soft tokens are those of plain loops, in any chunks and batches") {
  const auto base = base_model();
  random_generator random(5);
  double worst = 0;
  for (const index_t encoder_layers : {1, 2, 4}) {
    for (const index_t alignment_layers : {1, 2}) {
      const auto parts = gmsa::untrained_parts(base, {encoder_layers, alignment_layers});
      const compressor_type c(be(), gmsa::compressor_of(parts));
      CHECK(c.n_encoder_layers() == encoder_layers);
      CHECK(c.n_alignment_layers() == alignment_layers);
      std::vector<std::vector<token_t>> texts;
      std::vector<std::span<const token_t>> contexts;
      std::vector<index_t> rates;
      std::vector<model::soft_prompt> singles;
      for (const index_t n : {1, 2, 5, 0, 8, 17, 23}) {
        texts.push_back(random_tokens(random, n, base.config.n_vocab));
        rates.push_back(1 + random.below(9));
      }
      for (std::size_t i = 0; i < texts.size(); ++i) {
        contexts.emplace_back(texts[i]);
        singles.push_back(c.compress(texts[i], rates[i]));
        if (texts[i].empty()) {
          CHECK(singles.back().size() == 0);
          continue;
        }
        const double error = difference(
            singles.back(), expected(base, encoder_layers, alignment_layers, texts[i], rates[i]));
        CHECK(error <= 1e-5);  // Soft tokens are float.
        worst = std::max(worst, error);
      }
      for (const index_t chunk : {1, 3, 7, 100}) {
        CAPTURE(chunk);
        const auto batch = c.compress(contexts, rates, {.chunk = chunk});
        REQUIRE(batch.size() == singles.size());
        for (std::size_t i = 0; i < batch.size(); ++i) CHECK(batch[i].rows == singles[i].rows);
      }
    }
  }
  MESSAGE("largest error " << worst);
}

TEST_CASE("a linear alignment is one map of each mean") {
  const auto base = base_model();
  const index_t d = base.config.d_model;
  random_generator random(6);
  std::vector<float> weight;
  std::vector<float> bias;
  for (index_t i = 0; i < d * d; ++i) weight.push_back(static_cast<float>(random.normal()));
  for (index_t i = 0; i < d; ++i) bias.push_back(static_cast<float>(random.normal()));
  auto parts = gmsa::untrained_parts(base, {2, 1});
  parts.alignment = {};
  parts.linear = {{"w", weight_type::f32, d, d, std::as_bytes(std::span<const float>(weight))},
                  {"b", weight_type::f32, 1, d, std::as_bytes(std::span<const float>(bias))}};
  const compressor_type c(be(), gmsa::compressor_of(parts));
  CHECK(c.n_alignment_layers() == 0);
  const auto ids = random_tokens(random, 11, base.config.n_vocab);
  const std::span<const token_t> context = ids;
  const index_t rate = 4;
  const auto merged = c.merge({&context, 1}, {&rate, 1}, {}, [](index_t) {}).front();
  rows want;
  for (index_t i = 0; i < merged.size(); ++i) {
    auto& row = want.emplace_back();
    for (index_t r = 0; r < d; ++r) {
      double sum = static_cast<double>(bias[static_cast<std::size_t>(r)]);
      for (index_t j = 0; j < d; ++j) {
        sum += test::element(parts.linear.weight, r, j) *
               static_cast<double>(merged.part(i, 1)[static_cast<std::size_t>(j)]);
      }
      row.push_back(sum);
    }
  }
  CHECK(difference(c.compress(ids, rate), want) <= 1e-5);
  CHECK(c.compress({}, rate).size() == 0);
}

TEST_CASE("without alignment, the last row of each group is that of the encoder") {
  const auto base = base_model();
  auto parts = gmsa::untrained_parts(base, {2, 0});
  random_generator random(6);
  const auto ids = random_tokens(random, 10, base.config.n_vocab);
  const auto all = compressor_type(be(), gmsa::compressor_of(parts)).compress(ids, 1);
  parts.merging = gmsa::merging::last;
  const compressor_type c(be(), gmsa::compressor_of(parts));
  CHECK(c.n_alignment_layers() == 0);
  for (const index_t chunk : {4, 512}) {
    const auto soft = c.compress(ids, 4, {.chunk = chunk});
    REQUIRE(soft.size() == 3);
    index_t group = 0;
    for (const index_t row : {3, 7, 9}) {
      const auto found = soft.part(group++, 1);
      const auto want = all.part(row, 1);
      for (std::size_t j = 0; j < want.size(); ++j) {
        CHECK(found[j] == doctest::Approx(want[j]).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("soft tokens of slots are the encoder's rows of them behind the context") {
  const auto base = base_model();
  auto parts = gmsa::untrained_parts(base, {2, 0});
  gmsa::add_slots(parts, 6, 9);
  const compressor_type c(be(), gmsa::compressor_of(parts));
  CHECK(c.n_slots() == 6);
  // To plain loops, a slot is a token of its own.
  model::host_model encoder = parts.encoder;
  encoder.config.tied_head = true;
  model::gist_rows slots{parts.slots.rows, {}, {}};
  for (index_t i = 0; i < parts.slots.rows; ++i) {
    for (index_t j = 0; j < parts.slots.cols; ++j) {
      slots.input.push_back(static_cast<float>(test::element(parts.slots, i, j)));
    }
  }
  random_generator random(6);
  std::vector<std::vector<token_t>> texts;
  std::vector<std::span<const token_t>> contexts;
  std::vector<model::soft_prompt> singles;
  const std::vector<index_t> rates = {4, 1, 9, 3, 2};
  for (const index_t n : {11, 6, 4, 0, 12}) {
    texts.push_back(random_tokens(random, n, base.config.n_vocab));
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    contexts.emplace_back(texts[i]);
    singles.push_back(c.compress(texts[i], rates[i]));
    const std::size_t n = texts[i].size();
    const index_t n_soft = gmsa::merged_rows(static_cast<index_t>(n), rates[i]);
    std::vector<token_t> read = texts[i];
    for (index_t j = 0; j < n_soft; ++j) {
      read.push_back(static_cast<token_t>(base.config.n_vocab + j));
    }
    const test::brute_force found(encoder, slots, read, 0, causal);
    CHECK(difference(singles[i], {found.hidden.begin() + static_cast<std::ptrdiff_t>(n),
                                  found.hidden.end()}) <= 1e-5);
  }
  for (const index_t chunk : {1, 3, 7, 100}) {
    CAPTURE(chunk);
    index_t read = 0;
    const auto batch = c.compress(contexts, rates, {.chunk = chunk}, [&](index_t n) { read = n; });
    for (std::size_t i = 0; i < batch.size(); ++i) CHECK(batch[i].rows == singles[i].rows);
    CHECK(read == 33);
  }
  const auto says = [&](const std::function<void()>& f, const std::string& part) {
    const std::string message = error_of(f);
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
  };
  says([&] { c.compress(texts[4], 1); },
       "12 tokens at rate 1 wants 12 slots, the compressor has 6");
  says([&] { gmsa::add_slots(parts, 0, 1); }, "0 slots are asked for");
  auto narrow = gmsa::compressor_of(parts);
  narrow.slots.cols = 4;
  says([&] { compressor_type(be(), narrow); }, "slots have width 4, the encoder 12");
  auto near = gmsa::compressor_of(parts);
  near.encoder.config.n_context = 13;
  says([&] { compressor_type(be(), near).compress(texts[0], 4); },
       "11 tokens and 3 slots, the encoder was trained for 13");
}

TEST_CASE("a decoder reads vectors as it reads tokens") {
  const auto base = base_model();
  const model::transformer<backend, double> m(be(), base);
  random_generator random(7);
  const auto ids = random_tokens(random, 9, base.config.n_vocab);
  model::soft_prompt soft{base.config.d_model, {}};
  for (const token_t t : ids) {
    for (index_t j = 0; j < base.config.d_model; ++j) {
      soft.rows.push_back(static_cast<float>(test::element(base.token_embedding, t, j)));
    }
  }
  const std::vector<token_t> question = {3, 1, 4};
  model::session<backend, double> by_tokens(m, cache::cache_options{});
  by_tokens.read(ids);
  for (const index_t chunk : {1, 4, 100}) {
    model::session<backend, double> by_vectors(m, cache::cache_options{}, {.chunk = chunk});
    by_vectors.read_soft(soft);
    CHECK(std::ranges::equal(by_vectors.logits(), by_tokens.logits()));
    // Two questions on one context do not hear of each other.
    auto first = by_vectors.fork();
    auto second = by_vectors.fork();
    first.read(question);
    second.read(question);
    auto plain = by_tokens.fork();
    plain.read(question);
    CHECK(std::ranges::equal(first.logits(), plain.logits()));
    CHECK(std::ranges::equal(second.logits(), plain.logits()));
  }
}

TEST_CASE("the derivative of merging is its transpose") {
  random_generator random(8);
  constexpr index_t d = 3;
  for (const index_t n : {1, 4, 5, 11}) {
    for (const index_t m : {1, 2, 4, 20}) {
      const index_t n_groups = gmsa::merged_rows(n, m);
      std::vector<double> x;
      std::vector<double> y;
      for (index_t i = 0; i < n * d; ++i) x.push_back(random.normal());
      for (index_t i = 0; i < n_groups * d; ++i) y.push_back(random.normal());
      const buffer<double, backend> from(be(), std::span<const double>(x));
      const buffer<double, backend> d_o(be(), std::span<const double>(y));
      buffer<double, backend> o(be(), n_groups * d);
      buffer<double, backend> dx(be(), n * d);
      workspace<backend> scratch(be(), gmsa::group_merge_workspace_size<backend, double>(m));
      for (const gmsa::merging how : {gmsa::merging::mean, gmsa::merging::last}) {
        gmsa::group_merge<backend, double>(be(), o.view({n_groups, d}), from.view({n, d}), m,
                                           scratch, how);
        gmsa::group_merge_backward<backend, double>(be(), dx.view({n, d}), d_o.view({n_groups, d}),
                                                    m, scratch, how);
        double left = 0;
        double right = 0;
        for (std::size_t i = 0; i < y.size(); ++i) left += o.to_host()[i] * y[i];
        for (std::size_t i = 0; i < x.size(); ++i) right += dx.to_host()[i] * x[i];
        CHECK(left == doctest::Approx(right).epsilon(1e-12));
        CHECK(left != 0);
      }
    }
  }
}

TEST_CASE("what makes no sense is refused, by name") {
  auto base = base_model();
  base.config.n_context = 20;
  const auto parts = gmsa::untrained_parts(base, {2, 1});
  const compressor_type c(be(), gmsa::compressor_of(parts));
  const std::vector<token_t> ids(21, 1);
  const auto few = std::span<const token_t>(ids).first(5);
  const auto says = [](const std::string& message, const std::string& part) {
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
  };
  says(error_of([&] { c.compress(few, 0); }), "the merge size is 0, expected 1 or more");
  says(error_of([&] { c.compress(few, -4); }), "the merge size is -4");
  says(error_of([&] { c.compress(few, 4, {.chunk = 0}); }), "chunk is 0");
  const model::soft_prompt merged{base.config.d_model, std::vector<float>(24, 0.5F)};
  says(error_of([&] { c.align({&merged, 1}, {.chunk = 0}); }), "chunk is 0, expected 1 or more");
  says(error_of([&] { c.compress(ids, 4); }), "21 tokens, the encoder was trained for 20");
  CHECK(c.compress(ids, 4, {.past_context = true}).size() == 6);
  CHECK(c.compress(few, 100).size() == 1);
  CHECK(c.compress(few, index_t{1} << 62).rows == c.compress(few, 5).rows);
  const std::vector<token_t> outside = {0, 30};
  says(error_of([&] { c.compress(outside, 1); }), "token 30 is outside the encoder's table of 30");
  const std::span<const token_t> one = few;
  says(error_of([&] { c.compress({&one, 1}, {}); }), "0 rates for 1 contexts");
  says(error_of([&] {
         gmsa::untrained_parts(base, {9, 1});
       }),
       "9 layers are asked for, the model has 4");
  auto wrong = gmsa::compressor_of(parts);
  wrong.alignment = gmsa::first_layers(test::random_model({.d_model = 8}), 1);
  says(error_of([&] { compressor_type(be(), wrong); }), "alignment layers have width 8");

  // A stack without table and head says so.
  const model::transformer<backend, double> stack(be(), gmsa::first_layers(base, 2));
  model::session<backend, double> s(stack, cache::cache_options{});
  says(error_of([&] { s.read(few); }), "loaded without their table");
  model::soft_prompt soft{base.config.d_model, std::vector<float>(12, 0.5F)};
  says(error_of([&] { s.read_soft(soft); }), "without a head");
  const model::transformer<backend, double> whole(be(), base);
  model::session<backend, double> t(whole, cache::cache_options{});
  says(error_of([&] { t.read_soft({}); }), "no tokens to read");
  says(error_of([&] {
         t.read_soft({6, std::vector<float>(12, 0.5F)});
       }),
       "soft tokens of width 6, the model has 12");
}

}  // namespace
