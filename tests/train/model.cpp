// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/model/transformer.hpp>
#include <gistkv/train/trainable_model.hpp>

#include "support/random_model.hpp"

/// The whole model in double: derivatives against central differences, and what must not depend on
/// how a batch is put together.

namespace gistkv::test {

namespace {

using oracle = backends::eigen<double>;
using model_type = train::trainable_model<oracle>;

oracle& be() {
  static oracle b(1);
  return b;
}

model::gist_rows small_gists(const model::host_model& m, index_t n_gist) {
  return model::untrained_gist_rows(m, n_gist, 5);
}

/// Two documents of sentences of uneven length; some tokens count for nothing.
std::vector<train::sequence> documents(index_t n_vocab, index_t n_gist, bool gist_targets) {
  random_generator random(3);
  std::vector<train::sequence> all;
  for (const std::vector<index_t>& sentences :
       {std::vector<index_t>{3, 1, 4, 2}, std::vector<index_t>{2, 5}}) {
    train::sequence& s = all.emplace_back();
    for (const index_t length : sentences) {
      for (index_t i = 0; i < length; ++i) {
        s.tokens.push_back(static_cast<token_t>(random.below(n_vocab)));
        s.weights.push_back(s.tokens.size() % 5 == 0 ? 0.0F : 0.5F + 0.1F * static_cast<float>(i));
      }
      for (index_t g = 0; g < n_gist; ++g) {
        s.tokens.push_back(static_cast<token_t>(n_vocab + g));
        s.weights.push_back(gist_targets ? 1.0F : 0.0F);
      }
    }
    s.tokens.push_back(static_cast<token_t>(random.below(n_vocab)));
    s.weights.push_back(1.0F);
    s.weights.front() = 0.0F;
  }
  return all;
}

/// LoRA with a B that is not zero, or A would have no derivative.
void fill_lora(model_type& m) {
  random_generator random(17);
  for (std::size_t i = 0; i < train::most_loras; ++i) {
    std::vector<model::low_rank> factors = m.factors(i);
    for (model::low_rank& f : factors) {
      for (float& x : f.b) x = static_cast<float>(0.3 * random.normal());
    }
    m.load(factors, i);
  }
}

/// Compares some elements of every gradient with central differences of `loss`.
template <class Loss>
void check_gradients(model_type& m, Loss&& loss) {
  random_generator random(29);
  auto& set = m.parameters();
  for (std::size_t i = 0; i < set.size(); ++i) {
    auto& p = set[i];
    CAPTURE(p.name);
    double norm = 0;
    for (index_t e = 0; e < p.value.size(); ++e) {
      norm = std::max(norm, std::abs(p.gradient.data()[e]));
    }
    CHECK(norm > 0);
    for (int k = 0; k < 6; ++k) {
      const index_t e = random.below(p.value.size());
      double& x = p.value.data()[e];
      const double before = x;
      constexpr double h = 1e-5;
      x = before + h;
      const double high = loss();
      x = before - h;
      const double low = loss();
      x = before;
      CAPTURE(e);
      CHECK(std::abs((high - low) / (2 * h) - p.gradient.data()[e]) <= 2e-7 * std::max(1.0, norm));
    }
  }
}

struct form {
  const char* name;
  train::trained_weights trained;
  bool gist_rows_only;
  random_model_options shape;
  bool both = false;
};

std::vector<form> forms() {
  using train::trained_weights;
  random_model_options plain;
  random_model_options rich;
  rich.biases = true;
  rich.head_norms = true;
  rich.tied_head = false;
  return {{"gist rows", trained_weights::none, false, plain},
          {"gist rows, untied", trained_weights::none, false, rich},
          {"LoRA on all rows", trained_weights::lora, false, plain},
          {"LoRA on gist rows", trained_weights::lora, true, rich},
          {"LoRA on gist rows and on all", trained_weights::lora, true, rich, true},
          {"all", trained_weights::all, false, plain},
          {"all, biases, head norms, untied", trained_weights::all, false, rich}};
}

train::model_options options_of(const form& f, bool recompute = false) {
  train::lora_options lora;
  lora.rank = 3;
  lora.alpha = 6;
  lora.gist_rows_only = f.gist_rows_only;
  train::model_options options{f.trained, lora, {2, 1, 1}, recompute};
  if (f.both) {
    options.lora_on_all_rows = train::lora_options{
        .rank = 2, .alpha = 3, .targets = {"query", "output", "up"}, .name = "all_rows_lora"};
  }
  return options;
}

}  // namespace

TEST_CASE("gradients of every trained set") {
  for (const form& f : forms()) {
    CAPTURE(std::string(f.name));
    const model::host_model source = random_model(f.shape);
    model_type m(be(), source, small_gists(source, 2), options_of(f));
    if (f.trained == train::trained_weights::lora) fill_lora(m);
    const auto sequences = documents(source.config.n_vocab, 2, true);
    const train::batch<oracle> b(be(), sequences, m.options().rule, source.config.n_vocab);
    const double found = m.forward_backward(b, 0.5, 1);
    CHECK(std::abs(found - m.loss(b, 0.5)) <= 1e-12);
    check_gradients(m, [&] { return m.loss(b, 0.5); });
  }
}

TEST_CASE("gradients with a teacher") {
  for (const std::size_t number : {0U, 3U, 4U}) {
    const form f = forms()[number];
    const model::host_model source = random_model(f.shape);
    for (const train::lesson lesson : {train::lesson{0.7, 0.0}, {0.0, 3.0}, {0.4, 5.0}}) {
      CAPTURE(std::string(f.name));
      CAPTURE(lesson.hidden);
      model_type m(be(), source, small_gists(source, 2), options_of(f));
      model_type again(be(), source, small_gists(source, 2), options_of(f, true));
      if (f.trained == train::trained_weights::lora) {
        fill_lora(m);
        fill_lora(again);
      }
      const index_t n_vocab = source.config.n_vocab;
      const auto sequences = documents(n_vocab, 2, false);
      const train::batch<oracle> b(be(), sequences, m.options().rule, n_vocab);
      const train::teacher<oracle> t(be(), lesson, sequences, m.options().rule, n_vocab);
      REQUIRE(t.target_rows.size() == b.targets.size());
      const double found = m.forward_backward(b, 0.5, 1, &t);
      CHECK(std::abs(found - m.loss(b, 0.5, &t)) <= 1e-12);
      CHECK(again.forward_backward(b, 0.5, 1, &t) == found);
      for (std::size_t i = 0; i < m.parameters().size(); ++i) {
        CHECK(again.parameters()[i].gradient.to_host() == m.parameters()[i].gradient.to_host());
      }
      check_gradients(m, [&] { return m.loss(b, 0.5, &t); });
    }
  }
  const auto with_gists = documents(7, 2, true);
  CHECK_THROWS_AS(train::without_gists(with_gists, 7), argument_error);
  // A token that only gists are in front of, be it of the second text, has nothing to teach.
  std::vector<train::sequence> behind_gists{{{1, 2}, {}}, {{7, 3}, {}}};
  CHECK_THROWS_AS(train::without_gists(behind_gists, 7), argument_error);
  behind_gists[1].weights = {0.0F, 0.0F};
  CHECK(train::without_gists(behind_gists, 7).target_rows == std::vector<std::int32_t>{0});
  behind_gists[1].weights = {0.0F};
  CHECK_THROWS_AS(train::without_gists(behind_gists, 7), shape_error);
  CHECK_THROWS_AS(train::total_weight(behind_gists), shape_error);
}

TEST_CASE("a lesson that makes no sense is refused, and a teacher of another text") {
  const model::host_model source = random_model({});
  const index_t n_vocab = source.config.n_vocab;
  model_type m(be(), source, small_gists(source, 2), options_of(forms()[0]));
  const auto sequences = documents(n_vocab, 2, false);
  const auto teacher_of = [&](train::lesson l, std::span<const train::sequence> of) {
    return train::teacher<oracle>(be(), l, of, m.options().rule, n_vocab);
  };
  const double infinite = std::numeric_limits<double>::infinity();
  for (const train::lesson l : {train::lesson{-0.1, 0.0},
                                {1.1, 0.0},
                                {std::nan(""), 0.0},
                                {0.0, -1.0},
                                {0.0, infinite},
                                {0.0, std::nan("")}}) {
    CHECK_THROWS_AS(teacher_of(l, sequences), argument_error);
  }
  const train::batch<oracle> b(be(), sequences, m.options().rule, n_vocab);
  const auto other = teacher_of({0.5, 1.0}, std::span(sequences).first(1));
  CHECK_THROWS_AS(m.loss(b, 1.0, &other), shape_error);
  CHECK_THROWS_AS(m.forward_backward(b, 1.0, 1, &other), shape_error);
}

TEST_CASE("the distance of hidden states from the full cache's") {
  const form f = forms()[3];
  const model::host_model source = random_model(f.shape);
  model_type m(be(), source, small_gists(source, 2), options_of(f));
  fill_lora(m);
  const index_t n_vocab = source.config.n_vocab;
  const auto loss_of = [&](std::span<const train::sequence> sequences, double hidden) {
    const train::batch<oracle> b(be(), sequences, m.options().rule, n_vocab);
    const train::teacher<oracle> t(be(), {0.0, hidden}, sequences, m.options().rule, n_vocab);
    return m.loss(b, 1.0, &t);
  };
  const auto sequences = documents(n_vocab, 2, false);
  const double none = loss_of(sequences, 0.0);
  const double some = loss_of(sequences, 1.0) - none;
  // Directions lie 2 apart at most, and what a gist stands for is not what it replaced.
  CHECK(some > 1e-3);
  CHECK(some < 4.0 * train::total_weight(sequences));
  CHECK(std::abs(loss_of(sequences, 2.5) - none - 2.5 * some) <= 1e-12);

  // Without gists the teacher is the model.
  const auto plain = train::without_gists(sequences, static_cast<token_t>(n_vocab));
  std::vector<train::sequence> targets = plain.sequences;
  for (train::sequence& s : targets) s.weights.clear();
  CHECK(std::abs(loss_of(targets, 3.0) - loss_of(targets, 0.0)) <= 1e-12);

  // LoRA on all rows it has as that was when it was kept.
  const form everywhere = forms()[4];
  const model::host_model rich = random_model(everywhere.shape);
  model_type reader(be(), rich, small_gists(rich, 2), options_of(everywhere));
  const auto away = [&] {
    const train::batch<oracle> b(be(), targets, reader.options().rule, rich.config.n_vocab);
    const train::teacher<oracle> t(be(), {0.0, 1.0}, targets, reader.options().rule,
                                   rich.config.n_vocab);
    return reader.loss(b, 1.0, &t) - reader.loss(b, 1.0);
  };
  CHECK(std::abs(away()) <= 1e-12);
  const double unread = reader.loss(
      train::batch<oracle>(be(), targets, reader.options().rule, rich.config.n_vocab), 1.0);
  fill_lora(reader);
  const double read = reader.loss(
      train::batch<oracle>(be(), targets, reader.options().rule, rich.config.n_vocab), 1.0);
  CHECK(std::abs(read - unread) > 1e-3);
  CHECK(away() > 1e-6);
  reader.keep_for_teacher();
  CHECK(std::abs(away()) <= 1e-12);
  auto& set = reader.parameters();
  for (std::size_t i = 0; i < set.size(); ++i) {
    if (set[i].kind == train::parameter_kind::second_lora) set[i].value.data()[0] += 0.5;
  }
  CHECK(away() > 1e-6);

  // Rows are those of the same tokens.
  index_t row = 0;
  std::size_t at = 0;
  for (const train::sequence& s : sequences) {
    for (const token_t token : s.tokens) {
      if (token < n_vocab) CHECK(plain.rows[at++] == row);
      ++row;
    }
  }
  CHECK(at == plain.rows.size());
}

TEST_CASE("hidden_distance is what its formula says") {
  const index_t d = 6;
  const std::vector<double> x = {1, -2, 0.5, 3, 1, 1, 9, 9, 9, 9, 9, 9, -1, 0.25, 2, 2, -3, 1};
  const std::vector<double> y = {2, -1, 1, 3, 0, 1, 4, -1, -8, -8, 12, -4};
  const std::vector<std::int32_t> rows = {0, 2};
  const std::vector<std::int32_t> gists = {1};
  std::vector<double> want(3 * d, 0.0);
  double sum = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    const auto row = static_cast<std::size_t>(rows[i]);
    const auto length = [](const double* v) {
      double squares = 0;
      for (index_t j = 0; j < d; ++j) squares += v[j] * v[j];
      return std::sqrt(squares);
    };
    for (std::size_t j = 0; j < d; ++j) {
      const double off = x[row * d + j] / length(&x[row * d]) - y[i * d + j] / length(&y[i * d]);
      sum += off * off;
      want[row * d + j] = off * std::sqrt(static_cast<double>(d));
    }
  }
  train::hidden_distance<oracle, double> distance(be(), d, 0.0);
  workspace<oracle> scratch(be(), distance.workspace_size(3, 1));
  std::vector<double> away(3 * d, 5.0);
  const double found = distance(matrix_view<double>(away.data(), {3, d}),
                                matrix_view<const double>(x.data(), {3, d}),
                                matrix_view<const double>(y.data(), {2, d}),
                                vector_view<const std::int32_t>(rows.data(), {2}),
                                vector_view<const std::int32_t>(gists.data(), {1}), scratch);
  CHECK(std::abs(found - sum) <= 1e-14);
  for (std::size_t e = 0; e < away.size(); ++e) CHECK(std::abs(away[e] - want[e]) <= 1e-14);
}

TEST_CASE("recomputing gives the same gradients, and a batch the sum of its sequences") {
  const form f = forms()[2];
  const model::host_model source = random_model(f.shape);
  model_type kept(be(), source, small_gists(source, 2), options_of(f));
  model_type again(be(), source, small_gists(source, 2), options_of(f, true));
  model_type singles(be(), source, small_gists(source, 2), options_of(f));
  for (model_type* m : {&kept, &again, &singles}) fill_lora(*m);
  const auto sequences = documents(source.config.n_vocab, 2, true);
  const train::batch<oracle> b(be(), sequences, kept.options().rule, source.config.n_vocab);
  const double loss = kept.forward_backward(b, 1.0, 1);
  CHECK(again.forward_backward(b, 1.0, 1) == loss);
  double sum = 0;
  for (const train::sequence& s : sequences) {
    const train::batch<oracle> one(be(), {&s, 1}, kept.options().rule, source.config.n_vocab);
    sum += singles.forward_backward(one, 1.0, 1);
  }
  CHECK(std::abs(sum - loss) <= 1e-12 * loss);
  for (std::size_t i = 0; i < kept.parameters().size(); ++i) {
    const auto want = kept.parameters()[i].gradient.to_host();
    const auto recomputed = again.parameters()[i].gradient.to_host();
    const auto added = singles.parameters()[i].gradient.to_host();
    for (std::size_t e = 0; e < want.size(); ++e) {
      CHECK(recomputed[e] == want[e]);
      CHECK(std::abs(added[e] - want[e]) <= 1e-12);
    }
  }
}

TEST_CASE("sequences of a batch may keep different numbers of recent sentences") {
  const form f = forms()[1];
  const model::host_model source = random_model(f.shape);
  model_type m(be(), source, small_gists(source, 2), options_of(f));
  auto sequences = documents(source.config.n_vocab, 2, true);
  const auto loss_of = [&](std::span<const train::sequence> of, index_t recent) {
    const sentence_rule rule{2, recent, 1};
    return m.loss(train::batch<oracle>(be(), of, rule, source.config.n_vocab), 1.0);
  };
  const std::span<const train::sequence> both(sequences);
  const double apart = loss_of(both.first(1), 0) + loss_of(both.last(1), 3);
  const double alike = loss_of(both, 1);
  CHECK(std::abs(alike - apart) > 1e-4);
  sequences[0].recent = 0;
  sequences[1].recent = 3;
  CHECK(std::abs(loss_of(both, 1) - apart) <= 1e-12 * apart);
}

TEST_CASE("dropout is a function of its seed and off when nothing is trained") {
  form f = forms()[2];
  const model::host_model source = random_model(f.shape);
  train::model_options options = options_of(f);
  options.lora.dropout = 0.5;
  model_type m(be(), source, small_gists(source, 2), options);
  model_type none(be(), source, small_gists(source, 2), options_of(f));
  for (model_type* one : {&m, &none}) fill_lora(*one);
  const auto sequences = documents(source.config.n_vocab, 2, true);
  const train::batch<oracle> b(be(), sequences, m.options().rule, source.config.n_vocab);
  const double first = m.forward_backward(b, 1.0, 1);
  CHECK(m.forward_backward(b, 1.0, 1) == first);
  CHECK(m.forward_backward(b, 1.0, 2) != first);
  CHECK(m.loss(b, 1.0) == none.loss(b, 1.0));
  // With one seed the dropped elements are those of the forward pass.
  m.parameters().clear_gradients();
  m.forward_backward(b, 1.0, 3);
  const auto gradients = [&](std::size_t i) { return m.parameters()[i].gradient.to_host(); };
  std::vector<std::vector<double>> kept;
  for (std::size_t i = 0; i < m.parameters().size(); ++i) kept.push_back(gradients(i));
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}, std::size_t{3}}) {
    auto& p = m.parameters()[i];
    const std::size_t e = kept[i].size() / 2;
    double& x = p.value.data()[e];
    const double before = x;
    x = before + 1e-5;
    const double high = m.forward_backward(b, 1.0, 3);
    x = before - 1e-5;
    const double low = m.forward_backward(b, 1.0, 3);
    x = before;
    CAPTURE(p.name);
    CHECK(std::abs((high - low) / 2e-5 - kept[i][e]) <= 1e-6);
  }
}

TEST_CASE("a model has as many blocks as its config says") {
  model::host_model source = random_model({});
  ++source.config.n_layers;
  CHECK_THROWS_AS(model_type(be(), source, small_gists(source, 2), options_of(forms()[0])),
                  shape_error);
}

TEST_CASE("a matrix has the bytes that its extents ask for, and a vector one row") {
  random_model_options untied;
  untied.tied_head = false;
  const model::host_model source = random_model(untied);
  const auto gists = small_gists(source, 2);
  const auto refuse = [&](const model::host_model& m) {
    CHECK_THROWS_AS(model::transformer<oracle>(be(), m, gists), shape_error);
    CHECK_THROWS_AS(model_type(be(), m, gists, options_of(forms()[0])), shape_error);
  };
  const auto cut = [](host_matrix& m) { m.data = m.data.first(m.data.size() - 1); };
  model::host_model m = source;
  cut(m.token_embedding);
  refuse(m);
  CHECK_THROWS_AS(model::untrained_gist_rows(m, 2, 5), shape_error);
  m = source;
  cut(m.blocks[1].up.weight);
  refuse(m);
  m = source;
  cut(m.final_norm);
  refuse(m);
  m = source;
  m.final_norm.rows = 2;
  refuse(m);
}

TEST_CASE("a batch made for another model is refused, and such a teacher") {
  const model::host_model source = random_model({});
  const index_t n_vocab = source.config.n_vocab;
  model_type m(be(), source, small_gists(source, 2), options_of(forms()[0]));
  const std::vector<train::sequence> text{{{1, 2, 3}, {}}};
  const auto batch_of = [&](index_t vocabulary, index_t n_gist) {
    return train::batch<oracle>(be(), text, {n_gist, 1, 1}, vocabulary);
  };
  const auto fits = batch_of(n_vocab, 2);
  m.loss(fits, 1.0);
  for (const auto& [vocabulary, n_gist] : {std::pair<index_t, index_t>{n_vocab + 1, 2},
                                           {n_vocab - 1, 2},
                                           {n_vocab, 3},
                                           {n_vocab, 1}}) {
    const auto other = batch_of(vocabulary, n_gist);
    CHECK_THROWS_AS(m.loss(other, 1.0), shape_error);
    CHECK_THROWS_AS(m.forward_backward(other, 1.0, 1), shape_error);
    const train::teacher<oracle> t(be(), {0.5, 0.0}, text, {n_gist, 1, 1}, vocabulary);
    CHECK_THROWS_AS(m.loss(fits, 1.0, &t), shape_error);
  }
}

TEST_CASE("LoRA that would train nothing is refused by the name of the field") {
  const model::host_model source = random_model({});
  const double infinite = std::numeric_limits<double>::infinity();
  for (const bool second : {false, true}) {
    const auto message = [&](auto change) {
      train::model_options o = options_of(forms()[4]);
      change(second ? *o.lora_on_all_rows : o.lora);
      try {
        model_type(be(), source, small_gists(source, 2), o);
      } catch (const argument_error& e) {
        return std::string(e.what());
      }
      return std::string("accepted");
    };
    using options = train::lora_options;
    CHECK(message([](options&) {}) == "accepted");
    const auto refused = [&](const char* field, auto change) {
      CHECK(message(change).find(std::string(field) + " is ") != std::string::npos);
    };
    for (const index_t rank : {0, -1}) refused("rank", [&](options& o) { o.rank = rank; });
    for (const double alpha : {0.0, -1.0, infinite, std::nan("")}) {
      refused("alpha", [&](options& o) { o.alpha = alpha; });
    }
    for (const double dropout : {-0.1, 1.0, std::nan("")}) {
      refused("dropout", [&](options& o) { o.dropout = dropout; });
    }
    refused("targets", [](options& o) { o.targets.clear(); });
    refused("target", [](options& o) { o.targets = {"query", "q_proj"}; });
  }
  // What is not trained is not looked at.
  train::model_options none = options_of(forms()[0]);
  none.lora.rank = 0;
  model_type(be(), source, small_gists(source, 2), none);
}

TEST_CASE("moments that found no memory are there at the next call") {
  struct faulty_backend : oracle {
    using oracle::oracle;
    int until_failure = -1;
    void* allocate(std::size_t n_bytes) {
      if (until_failure >= 0 && until_failure-- == 0) throw std::bad_alloc();
      return oracle::allocate(n_bytes);
    }
  };
  faulty_backend faulty(1);
  train::parameter_set<faulty_backend, double> set(faulty);
  const std::vector<float> values(6, 1.0F);
  auto& p = set.add("p", train::parameter_kind::weight, 2, 3, values);
  faulty.until_failure = 1;
  CHECK_THROWS_AS(set.make_moments(), std::bad_alloc);
  faulty.until_failure = -1;
  set.make_moments();
  CHECK(p.first.to_host() == std::vector<double>(6, 0.0));
  CHECK(p.second.to_host() == std::vector<double>(6, 0.0));
}

TEST_CASE("what is frozen stays as it is") {
  const form f = forms()[3];
  const model::host_model source = random_model(f.shape);
  const auto bytes = [&source] {
    std::vector<std::byte> all;
    for (const auto& b : source.blocks) {
      for (const auto* w : {&b.query.weight, &b.down.weight}) {
        all.insert(all.end(), w->data.begin(), w->data.end());
      }
    }
    return all;
  };
  const auto before = bytes();
  train::model_options options = options_of(f);
  options.lora.targets = {"query", "down"};
  model_type m(be(), source, small_gists(source, 2), options);
  // A document without gists never meets LoRA on gist rows: its loss is that of the base model.
  train::sequence plain;
  for (token_t t = 0; t < 9; ++t) plain.tokens.push_back(t);
  const train::batch<oracle> text(be(), {&plain, 1}, m.options().rule, source.config.n_vocab);
  const auto sequences = documents(source.config.n_vocab, 2, true);
  const train::batch<oracle> b(be(), sequences, m.options().rule, source.config.n_vocab);
  const double first = m.loss(b, 1.0);
  for (index_t step = 1; step <= 5; ++step) {
    m.parameters().clear_gradients();
    m.forward_backward(b, 1.0, 1);
    m.parameters().update(
        {}, [](train::parameter_kind k) { return k == train::parameter_kind::lora ? 0.01 : 0.0; },
        1.0, step);
  }
  CHECK(m.loss(b, 1.0) < first);
  CHECK(bytes() == before);
  model_type untrained(be(), source, small_gists(source, 2), options);
  CHECK(m.loss(text, 1.0) == untrained.loss(text, 1.0));
}

}  // namespace gistkv::test
