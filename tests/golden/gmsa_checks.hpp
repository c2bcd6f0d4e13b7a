// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <utility>

#include "golden/forward_checks.hpp"
#include "golden/gmsa_support.hpp"

/// The GMSA goldens on SmolLM2, on any backend that computes on float. Bounds are the goldens' own.

namespace gistkv::test {

/// Compressor, decoder and contexts of the goldens.
template <class B>
struct gmsa_world {
  gmsa_goldens goldens;
  nlohmann::json contexts = goldens.json("contexts.json");
  gmsa::host_compressor weights = gmsa::compressor_of(golden_parts(smollm2()));
  gmsa::compressor<B> compressor{backend<B>(), weights};
  const model::transformer<B>& decoder = gisted_smollm2<B>(0);
  token_t eos = contexts.at("eos_id");

  static const gmsa_world& get() {
    static const gmsa_world w;
    return w;
  }

  std::vector<token_t> ids(const std::string& context) const {
    for (const auto& c : contexts.at("contexts")) {
      if (c.at("name") == context) return c.at("ids");
    }
    throw std::runtime_error("no golden context " + context);
  }
};

/// Largest errors seen, for the report.
struct gmsa_errors {
  double encoder = 0;
  double pooled = 0;
  double soft = 0;
  double logit = 0;
  double lse = 0;
  double loss = 0;
  index_t n_cases = 0;
  index_t n_greedy = 0;

  void report() const {
    MESSAGE(n_cases << " cases, " << n_greedy << " greedy steps; largest errors: encoder "
                    << encoder << ", pooled " << pooled << ", soft " << soft << ", logits " << logit
                    << ", lse " << lse << ", loss " << loss);
  }
};

/// Greedy continuations of a case, with and without a penalty: what a row of the decoder picks when
/// it has read the golden tokens before. Tiny checkpoints and the official generation write theirs
/// step by step.
/// @return how many steps were compared
template <class B>
index_t check_greedy_rows(soft_reader<B>& soft, const nlohmann::json& c, token_t eos) {
  const model::transformer<B>& m = soft.model();
  index_t n_steps = 0;
  if (!c.contains("greedy")) return 0;
  for (const auto& run : c.at("greedy")) {
    const double penalty = run.at("penalty");
    CAPTURE(penalty);
    const auto want = run.at("ids").get<std::vector<token_t>>();
    const auto margins = run.at("margin").get<std::vector<double>>();
    auto tokens = c.at("prompt_ids").get<std::vector<token_t>>();
    tokens.insert(tokens.end(), want.begin(), want.end() - 1);
    const auto hidden = soft.behind(tokens);
    model::sampler greedy({.repeat_penalty = penalty});
    const auto n_vocab = static_cast<std::size_t>(m.n_vocab());
    const index_t first = hidden.size() / m.config().d_model - static_cast<index_t>(want.size());
    bool ended = false;
    const auto check_row = [&](index_t row, const float* logits, double) {
      const auto i = static_cast<std::size_t>(row - first);
      CAPTURE(i);
      ended = ended || margins[i] < 5e-3;
      if (ended) return;
      REQUIRE(greedy({logits, n_vocab}, std::span<const token_t>(want).first(i)) == want[i]);
      ++n_steps;
      ended = want[i] == eos;
    };
    for_each_row(m, hidden, check_row, first);
  }
  return n_steps;
}

/// Logits, log-sum-exp and loss of one case behind its soft tokens.
template <class B>
void check_answer(const gmsa_world<B>& w, soft_reader<B>& soft, const nlohmann::json& c,
                  gmsa_errors& worst) {
  const std::string name = c.at("name");
  CAPTURE(name);
  const auto labels = c.at("labels").get<std::vector<token_t>>();
  const auto n = static_cast<index_t>(labels.size());
  const auto hidden = soft.behind(input_tokens(c));
  const index_t n_rows = hidden.size() / w.decoder.config().d_model;
  const auto top_ids = w.goldens.ints(name + ".top_ids");
  const auto top_logits = w.goldens.floats(name + ".top_logits");
  const auto lse = w.goldens.floats(name + ".lse");
  const auto label_logit = w.goldens.floats(name + ".label_logit");
  constexpr index_t n_top = 32;
  double loss = 0;
  const auto check_row = [&](index_t row, const float* logits, double found_lse) {
    const index_t i = row - (n_rows - n);
    const auto at = static_cast<std::size_t>(i);
    const auto e = compare_row(logits, found_lse, top_ids.data() + i * n_top,
                               top_logits.data() + i * n_top, n_top, static_cast<double>(lse[at]));
    const double label = static_cast<double>(logits[labels[at]]);
    const double logit = std::max(e.top, difference(label, label_logit[at]));
    CHECK(logit <= 3e-3);
    CHECK(e.logsumexp <= 1e-3);
    CHECK(top_is_complete(logits, w.decoder.n_vocab(), top_ids.data() + i * n_top,
                          top_logits.data() + i * n_top, n_top, 3e-3));
    worst.logit = std::max(worst.logit, logit);
    worst.lse = std::max(worst.lse, e.logsumexp);
    loss += found_lse - label;
  };
  for_each_row(w.decoder, hidden, check_row, n_rows - n);
  const double error = std::abs(loss / static_cast<double>(n) - c.at("loss").get<double>());
  CHECK(error <= 2e-4);
  worst.loss = std::max(worst.loss, error);
  worst.n_greedy += check_greedy_rows(soft, c, w.eos);
  ++worst.n_cases;
}

inline void note(double& worst, double found, double limit) {
  CHECK(found <= limit);
  worst = std::max(worst, found);
}

/// Means of groups of rows.
template <class B>
model::soft_prompt merged_groups(const model::soft_prompt& rows, index_t rate) {
  B& be = backend<B>();
  const index_t d = rows.d_model;
  const index_t n = gmsa::merged_rows(rows.size(), rate);
  const buffer<float, B> x(be, std::span<const float>(rows.rows));
  buffer<float, B> o(be, n * d);
  workspace<B> scratch(be, gmsa::group_merge_workspace_size<B, float>(rate));
  gmsa::group_merge<B, float>(be, o.view({n, d}), x.view({rows.size(), d}), rate, scratch);
  return {d, o.to_host()};
}

/// forward.json: encoder, merging, alignment and what the decoder answers.
template <class B>
void check_gmsa_forward() {
  if (!require_file(golden_dir() / "gmsa") || !require_file(model_path())) return;
  const gmsa_world<B>& w = gmsa_world<B>::get();
  const nlohmann::json forward = w.goldens.json("forward.json");
  gmsa_errors worst;
  for (const auto& e : forward.at("encoder")) {
    const std::string context = e.at("context");
    CAPTURE(context);
    REQUIRE(e.at("rows") == "all");
    const auto ids = w.ids(context);
    const gmsa::compressor<B>* c = &w.compressor;
    const std::span<const token_t> tokens = ids;
    const index_t one = 1;
    const auto rows = c->merge({&tokens, 1}, {&one, 1}, {}, [](index_t) {}).front();
    note(worst.encoder, largest_difference(rows.rows, w.goldens.floats(context + ".encoder")),
         1e-3);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      double squares = 0;
      double sum = 0;
      for (const float x : rows.part(static_cast<index_t>(i), 1)) {
        squares += static_cast<double>(x) * static_cast<double>(x);
        sum += static_cast<double>(x);
      }
      CHECK(std::abs(std::sqrt(squares) - e.at("row_norms")[i].get<double>()) <= 1e-3);
      CHECK(std::abs(sum - e.at("row_sums")[i].get<double>()) <= 1e-2);
    }
    // However contexts are cut into passes.
    const auto sizes = forward.at("merge_sizes").get<std::vector<index_t>>();
    const std::vector<std::span<const token_t>> copies(sizes.size(), tokens);
    const auto in_pieces = c->merge(copies, sizes, {.chunk = 10}, [](index_t) {});
    const auto soft_in_pieces = c->align(in_pieces, {.chunk = 10});
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const index_t m = sizes[i];
      const std::string size = ".m" + std::to_string(m);
      CAPTURE(m);
      const model::soft_prompt merged = merged_groups<B>(rows, m);
      const auto pooled = w.goldens.floats(context + ".pooled" + size);
      note(worst.pooled, largest_difference(merged.rows, pooled), 3e-4);
      note(worst.pooled, largest_difference(in_pieces[i].rows, pooled), 3e-4);
      const auto soft = c->align({&merged, 1}).front();
      note(worst.soft, largest_difference(soft.rows, w.goldens.floats(context + ".soft" + size)),
           2e-4);
      CHECK(largest_difference(soft_in_pieces[i].rows, soft.rows) <= 2e-4);
      soft_reader reader(w.decoder, soft);
      for (const auto& answer : forward.at("cases")) {
        if (answer.at("context") != context || answer.at("merge_size") != m) continue;
        CHECK(soft.size() == answer.at("memory_len").get<index_t>());
        check_answer(w, reader, answer, worst);
      }
    }
  }
  CHECK(worst.n_cases == static_cast<index_t>(forward.at("cases").size()));
  worst.report();
}

/// The layers of the encoder, the linear alignment, a whole row of logits, the official generation.
template <class B>
void check_gmsa_parts() {
  if (!require_file(golden_dir() / "gmsa") || !require_file(model_path())) return;
  const gmsa_world<B>& w = gmsa_world<B>::get();
  const nlohmann::json forward = w.goldens.json("forward.json");
  const index_t d = w.compressor.d_model();
  const auto ids = w.ids("c0_64");
  const auto n = static_cast<index_t>(ids.size());
  const auto layers = w.goldens.floats("c0_64.encoder_layers");
  const auto want = [&](index_t layer) {
    return std::span<const float>(layers).subspan(static_cast<std::size_t>(layer * n * d),
                                                  static_cast<std::size_t>(n * d));
  };
  model::host_model with_head = w.weights.encoder;
  with_head.config.tied_head = true;
  const model::transformer<B> encoder(backend<B>(), with_head);
  cache::gist_cache<B, float> cache(backend<B>(), encoder.cache_shape());
  double worst = 0;
  const auto hidden = read_all(encoder, cache, ids, [&](index_t l, matrix_view<const float> x) {
    if (l == encoder.config().n_layers) return;  // The goldens have that row behind the norm only.
    note(worst,
         largest_difference({x.data(), static_cast<std::size_t>(n * d)}, want(l)) /
             std::max(1.0, largest_entry(want(l))),
         1e-4);
  });
  note(worst, largest_difference(hidden.to_host(), want(encoder.config().n_layers)), 1e-3);

  const auto& linear = forward.at("linear_variant");
  const auto weight = golden_rule(linear.at("weight_t"), static_cast<std::size_t>(d * d), 0.02);
  const auto bias = golden_rule(linear.at("bias_t"), static_cast<std::size_t>(d), 0.02);
  gmsa::host_compressor straight = w.weights;
  straight.alignment = {};
  straight.linear = {{"linear", weight_type::f32, d, d, std::as_bytes(std::span(weight))},
                     {"bias", weight_type::f32, 1, d, std::as_bytes(std::span(bias))}};
  const gmsa::compressor<B> by_line(backend<B>(), straight);
  CHECK(by_line.n_alignment_layers() == 0);
  const double error = largest_difference(by_line.compress(ids, linear.at("merge_size")).rows,
                                          w.goldens.floats(linear.at("array").get<std::string>()));
  CHECK(error <= 2e-4);

  const auto& full = forward.at("full_logits");
  const auto soft = w.compressor.compress(ids, full.at("merge_size"));
  model::session<B> s(w.decoder, cache::cache_options{});
  s.read_soft(soft);
  s.read(full.at("prompt_ids").get<std::vector<token_t>>());
  const double logits =
      largest_difference(s.logits(), w.goldens.floats(full.at("array").get<std::string>()));
  CHECK(logits <= 3e-3);

  const auto& run = forward.at("authors_generate");
  model::session<B> g(w.decoder, cache::cache_options{});
  g.read_soft(w.compressor.compress(ids, run.at("merge_size")));
  g.read(run.at("prompt_ids").get<std::vector<token_t>>());
  model::sampler sample({.repeat_penalty = run.at("penalty").get<double>()});
  std::vector<token_t> written;
  while (static_cast<index_t>(written.size()) < run.at("max_new_tokens").get<index_t>()) {
    written.push_back(sample(g.logits(), written));
    if (written.back() == w.eos) break;
    g.read({&written.back(), 1});
  }
  CHECK(written == run.at("ids").get<std::vector<token_t>>());
  MESSAGE("largest errors: layers " << worst << ", linear alignment " << error
                                    << ", a row of logits " << logits);
}

/// edge.json: no context, contexts shorter than a group and one row longer, no prompt.
template <class B>
void check_gmsa_edges() {
  if (!require_file(golden_dir() / "gmsa") || !require_file(model_path())) return;
  const gmsa_world<B>& w = gmsa_world<B>::get();
  const nlohmann::json edge = w.goldens.json("edge.json");
  const auto all = w.ids(edge.at("context"));
  gmsa_errors worst;
  for (const auto& c : edge.at("cases")) {
    const std::string name = c.at("name");
    CAPTURE(name);
    const auto tokens = std::span<const token_t>(all).first(c.at("context_len").get<std::size_t>());
    const index_t m = c.at("merge_size");
    const auto merged = w.compressor.merge({&tokens, 1}, {&m, 1}, {}, [](index_t) {});
    const auto soft = w.compressor.align(merged).front();
    // The official code holds a zero vector, which nobody sees, in place of an empty context.
    CHECK(soft.size() == (tokens.empty() ? 0 : c.at("memory_len").get<index_t>()));
    CHECK(w.goldens.has(name + ".soft") == (!tokens.empty() && !c.at("prompt_ids").empty()));
    if (w.goldens.has(name + ".soft")) {
      note(worst.pooled, largest_difference(merged[0].rows, w.goldens.floats(name + ".pooled")),
           3e-4);
      note(worst.soft, largest_difference(soft.rows, w.goldens.floats(name + ".soft")), 2e-4);
    }
    soft_reader reader(w.decoder, soft);
    check_answer(w, reader, c, worst);
  }
  CHECK(worst.n_cases > 20);
  worst.report();
}

/// batch.json: rows of unequal length, read together, are what each is alone.
template <class B>
void check_gmsa_batch() {
  if (!require_file(golden_dir() / "gmsa") || !require_file(model_path())) return;
  const gmsa_world<B>& w = gmsa_world<B>::get();
  const nlohmann::json batch = w.goldens.json("batch.json");
  const auto& rows = batch.at("rows");
  std::vector<std::vector<token_t>> ids;
  std::vector<std::span<const token_t>> contexts;
  for (const auto& r : rows) {
    ids.push_back(w.ids(r.at("context")));
    ids.back().resize(r.at("context_len").get<std::size_t>());
  }
  contexts.assign(ids.begin(), ids.end());
  const std::vector<index_t> rates(rows.size(), batch.at("merge_size").get<index_t>());
  const auto soft = w.compressor.compress(contexts, rates);
  gmsa_errors worst;
  // One pass of the decoder over the soft tokens of all rows, one over prompts and labels.
  using step = model::sequence_step<B, float>;
  std::vector<cache::gist_cache<B, float>> caches;
  std::vector<std::vector<token_t>> inputs;
  for (const auto& r : rows) {
    caches.emplace_back(backend<B>(), w.decoder.cache_shape());
    inputs.push_back(input_tokens(r));
  }
  std::vector<step> soft_steps;
  std::vector<step> steps;
  index_t n_soft = 0;
  index_t n = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (soft[i].size() > 0) soft_steps.push_back({&caches[i], {}, soft[i].rows});
    steps.push_back({&caches[i], inputs[i], {}});
    n_soft += soft[i].size();
    n += static_cast<index_t>(inputs[i].size());
  }
  const index_t d = w.decoder.config().d_model;
  buffer<float, B> hidden(backend<B>(), std::max(n_soft, n) * d);
  const auto read = [&](std::span<const step> s, index_t count) {
    workspace<B> scratch(backend<B>(), w.decoder.workspace_size(s));
    w.decoder.forward(s, hidden.view({count, d}), scratch);
  };
  read(soft_steps, n_soft);
  read(steps, n);
  double nll = 0;
  index_t n_labels = 0;
  index_t end = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string name = rows[i].at("name");
    CAPTURE(name);
    if (ids[i].empty()) {
      CHECK(soft[i].size() == 0);  // The goldens hold the official zero vector, which is masked.
    } else {
      note(worst.soft, largest_difference(soft[i].rows, w.goldens.floats(name + ".soft")), 2e-4);
    }
    const auto alone = w.compressor.compress(contexts[i], rates[i]);
    CHECK(largest_difference(alone.rows, soft[i].rows) <= 2e-4);
    const auto labels = rows[i].at("labels").get<std::vector<token_t>>();
    const auto count = static_cast<index_t>(labels.size());
    end += static_cast<index_t>(inputs[i].size());
    const auto logits = logits_of(w.decoder, hidden, end - count, count);
    const auto lse = w.goldens.floats(name + ".lse");
    double sum = 0;
    for (std::size_t j = 0; j < labels.size(); ++j) {
      const float* row = logits.data() + static_cast<index_t>(j) * w.decoder.n_vocab();
      const double found = logsumexp(row, w.decoder.n_vocab());
      note(worst.lse, difference(found, lse[j]), 1e-3);
      sum += found - static_cast<double>(row[labels[j]]);
    }
    CHECK(std::abs(sum - rows[i].at("nll_sum").get<double>()) <= 2e-4 * static_cast<double>(count));
    nll += sum;
    n_labels += count;
    soft_reader reader(w.decoder, soft[i]);
    check_answer(w, reader, rows[i], worst);
  }
  CHECK(n_labels == batch.at("label_tokens").get<index_t>());
  note(worst.loss,
       std::abs(nll / static_cast<double>(n_labels) - batch.at("batch_loss").get<double>()), 2e-4);
  worst.report();
}

/// pool.json: group merging of any rows that are valid, whatever lies between them.
template <class B>
void check_gmsa_pooling() {
  if (!require_file(golden_dir() / "gmsa" / "pool.json")) return;
  const nlohmann::json pool = gmsa_goldens().json("pool.json");
  B& be = backend<B>();
  double worst = 0;
  index_t n_groups_seen = 0;
  for (const auto& c : pool.at("cases")) {
    const auto shape = c.at("shape").get<std::vector<index_t>>();
    const index_t n = shape[1];
    const index_t d = shape[2];
    const index_t m = c.at("merge_size");
    const auto values = golden_rule(c.at("t"), static_cast<std::size_t>(shape[0] * n * d),
                                    c.at("scale").get<double>());
    const buffer<float, B> x(be, std::span<const float>(values));
    for (index_t row = 0; row < shape[0]; ++row) {
      const auto at = static_cast<std::size_t>(row);
      std::vector<std::int32_t> valid;
      for (index_t i = 0; i < n; ++i) {
        if (c.at("mask")[at][static_cast<std::size_t>(i)] != 0) {
          valid.push_back(static_cast<std::int32_t>(row * n + i));
        }
      }
      const auto n_valid = static_cast<index_t>(valid.size());
      const index_t n_groups = gmsa::merged_rows(n_valid, m);
      index_t n_want = 0;
      for (const auto& flag : c.at("out_mask")[at]) n_want += flag.get<index_t>();
      REQUIRE(n_groups == n_want);
      if (n_groups == 0) continue;
      const buffer<std::int32_t, B> rows(be, std::span<const std::int32_t>(valid));
      buffer<float, B> packed(be, n_valid * d);
      ops::gather_rows<B, float>(be, packed.view({n_valid, d}), x.view({shape[0] * n, d}),
                                 rows.view({n_valid}));
      buffer<float, B> o(be, n_groups * d);
      workspace<B> scratch(be, gmsa::group_merge_workspace_size<B, float>(m));
      gmsa::group_merge<B, float>(be, o.view({n_groups, d}), packed.view({n_valid, d}), m, scratch);
      const auto found = o.to_host();
      for (index_t g = 0; g < n_groups; ++g) {
        const auto want = c.at("out")[at][static_cast<std::size_t>(g)].get<std::vector<float>>();
        note(worst,
             largest_difference(std::span(found).subspan(static_cast<std::size_t>(g * d),
                                                         static_cast<std::size_t>(d)),
                                want),
             1e-6);
        ++n_groups_seen;
      }
    }
  }
  for (const auto& c : pool.at("errors")) {
    CHECK_THROWS_AS(gmsa::merged_rows(5, c.at("merge_size")), argument_error);
  }
  CHECK(n_groups_seen > 100);
  MESSAGE(n_groups_seen << " groups, largest error " << worst);
}

}  // namespace gistkv::test
