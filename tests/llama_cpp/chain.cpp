// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The gist cache inside llama.cpp against our own in double: the same small models, the same rows
// held, the same logits. What our float paths may differ from double by, llama.cpp's may too; it
// reads them with keys and values in floats and without flash attention, which rounds to f16.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <llama.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/model/generate.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/transformer.hpp>
#include <gistkv/text/paper.hpp>

#include <llama_cpp/gist_context.hpp>
#include <llama_cpp/lora_gguf.hpp>
#include <llama_cpp/quiet.hpp>
#include <support/random_cases.hpp>

namespace {

using namespace gistkv;
using backend = backends::eigen<double>;
using session = model::session<backend>;
using llama_gist::gist_context;
using test::random_case;

static_assert(model::Sequence<gist_context>);
static_assert(model::Sequence<session>);

const llama_gist::context_options in_floats = {.n_cells = 256, .kv = GGML_TYPE_F32, .flash = false};

/// A small model in both engines.
struct twin {
  test::scratch_directory scratch;
  const random_case* source;
  io::loaded_model ours;
  llama_gist::model_ptr theirs;

  explicit twin(const std::string& name) {
    const auto& all = test::all_cases();
    source = &*std::find_if(all.begin(), all.end(), [&](const auto& c) { return c.name == name; });
    test::write_bytes(scratch / "model.gguf", test::as_gguf(*source)->bytes());
    ours = io::load_model(scratch / "model.gguf");
    theirs = llama_gist::load_model((scratch / "model.gguf").string());
  }

  /// Largest error of logits over the allowed one, as test::error_of has it.
  double error(std::span<const float> found, std::span<const float> want) const {
    const auto n = static_cast<std::size_t>(ours.weights.config.n_vocab);
    REQUIRE(found.size() == n);
    double worst = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const auto w = static_cast<double>(want[i]);
      const double allowed = 4 * source->json.at("deviation").get<double>() + 5e-7 * std::abs(w);
      const double error = std::abs(static_cast<double>(found[i]) - w) / allowed;
      worst = error >= 0 ? std::max(worst, error) : INFINITY;
    }
    return worst;
  }
};

/// About 90 rows: sentences of 1 to 9 tokens with gists behind them, the last one open.
std::vector<token_t> sequence(const model::model_config& c, index_t n_gist, std::uint64_t seed) {
  random_generator random(seed);
  const auto token = [&] {
    return static_cast<token_t>(random.uniform(0, 1) * static_cast<double>(c.n_vocab - 1));
  };
  std::vector<token_t> ids = {token()};
  while (ids.size() < 85) {
    const auto length = static_cast<int>(random.uniform(1, 10));
    for (int i = 0; i < length; ++i) ids.push_back(token());
    for (index_t i = 0; i < n_gist; ++i) ids.push_back(static_cast<token_t>(c.n_vocab + i));
  }
  for (int i = 0; i < 5; ++i) ids.push_back(token());
  return ids;
}

/// Bytes of the state of a context that has read so many tokens, all of which it keeps.
std::size_t state_of(llama_model& model, index_t n_rows) {
  gist_context context(model, {}, {}, in_floats);
  context.read(std::vector<token_t>(static_cast<std::size_t>(n_rows), 1));
  return context.state_bytes();
}

struct outcome {
  double error = 0;
  index_t most_rows = 0;
};

/// Reads a sequence in pieces with both engines and compares behind each.
outcome compare(const twin& t, const std::vector<token_t>& ids, session& ours,
                gist_context& theirs) {
  outcome result;
  std::vector<index_t> rows_ours;
  std::vector<index_t> rows_theirs;
  std::size_t piece = 1;
  for (std::size_t begin = 0; begin < ids.size(); piece = piece % 11 + 3) {
    const auto part = std::span(ids).subspan(begin, std::min(piece, ids.size() - begin));
    ours.read(part, &rows_ours);
    theirs.read(part, &rows_theirs);
    result.error = std::max(result.error, t.error(theirs.logits(), ours.logits()));
    begin += part.size();
    result.most_rows = std::max(result.most_rows, theirs.ledger().rows_held());
  }
  CHECK(rows_theirs == rows_ours);
  CHECK(theirs.ledger().rows() == ours.cache().ledger().rows());
  return result;
}

TEST_CASE("logits and rows behind each piece of a gisted sequence are ours") {
  const llama_gist::quiet silence;
  double worst = 0;
  int n = 0;
  for (const char* name : {"llama_tied", "llama_rope_llama3", "qwen2", "qwen3"}) {
    CAPTURE(name);
    const twin t(name);
    backend be;
    for (const cache::cache_rule rule : {cache::cache_rule{.n_gist = 4, .recent = 0, .n_sink = 1},
                                         {.n_gist = 1, .recent = 3, .n_sink = 1},
                                         {.n_gist = 2, .recent = 1, .n_sink = 0},
                                         {.n_gist = 3, .recent = 0, .n_sink = 4}}) {
      CAPTURE(rule.n_gist);
      const auto gists = model::untrained_gist_rows(t.ours.weights, rule.n_gist, 7);
      const model::transformer<backend> m(be, t.ours.weights, gists);
      const auto ids = sequence(m.config(), rule.n_gist, 100 + static_cast<std::uint64_t>(n));
      session ours(m, {.rule = rule}, {.past_context = true});
      gist_context theirs(*t.theirs, rule, gists, in_floats);
      const outcome o = compare(t, ids, ours, theirs);
      CHECK(o.error <= 1.0);
      worst = std::max(worst, o.error);
      // llama.cpp itself holds as many rows as the ledger says, and no more.
      const index_t held = theirs.ledger().rows_held();
      CHECK(held < static_cast<index_t>(ids.size()) * 4 / 5);
      CHECK(theirs.state_bytes() == state_of(*t.theirs, held));

      // The same rows with nothing removed are another computation.
      cache::cache_rule all = rule;
      all.recent = 1000;
      gist_context whole(*t.theirs, all, gists, in_floats);
      whole.read(ids);
      CHECK(t.error(whole.logits(), ours.logits()) > 100.0);
      ++n;
    }
  }
  CHECK(n == 16);
  MESSAGE("largest error over the allowed one: " << worst);
}

TEST_CASE("cells of removed rows are used again") {
  const llama_gist::quiet silence;
  const twin t("qwen3");
  const cache::cache_rule rule{.n_gist = 1, .recent = 0, .n_sink = 1};
  const auto gists = model::untrained_gist_rows(t.ours.weights, 1, 7);
  backend be;
  const model::transformer<backend> m(be, t.ours.weights, gists);
  session ours(m, {.rule = rule}, {.past_context = true});
  gist_context theirs(*t.theirs, rule, gists, in_floats);
  // 60 sentences of 9 tokens: 600 positions in 256 cells.
  std::vector<token_t> ids;
  for (int i = 0; i < 600; ++i) {
    ids.push_back(i % 10 == 9 ? m.first_gist() : static_cast<token_t>((i * 7 + i / 10) % 130));
  }
  const outcome o = compare(t, ids, ours, theirs);
  CHECK(o.most_rows < 80);
  // Angles grow with the position, and so does what a float of them is off by.
  CHECK(o.error <= 600.0 / 80);
}

TEST_CASE("a call that fails leaves the sequence as it was") {
  const llama_gist::quiet silence;
  const twin t("llama_tied");
  const auto gists = model::untrained_gist_rows(t.ours.weights, 1, 7);
  gist_context context(*t.theirs, {.n_gist = 1}, gists, in_floats);
  const std::vector<token_t> some(200, 3);
  context.read(some);
  const std::vector<float> before(context.logits().begin(), context.logits().end());
  CHECK_THROWS_AS(context.read(some), backend_error);  // 256 cells
  CHECK(context.ledger().next_position() == 200);
  CHECK(context.ledger().rows_held() == 200);
  CHECK_THROWS_AS(context.read({}), argument_error);
  const std::vector<token_t> no_such_gist = {132};
  CHECK_THROWS_AS(context.read(no_such_gist), argument_error);
  // The sentence closes, and there is room again.
  const std::vector<token_t> gist = {131};
  context.read(gist);
  CHECK(context.ledger().rows_held() == 2);
  context.read(some);
  CHECK(context.ledger().next_position() == 401);
}

TEST_CASE("soft tokens are read in place of tokens") {
  const llama_gist::quiet silence;
  for (const char* name : {"llama_biases", "qwen2_tied", "qwen3"}) {
    CAPTURE(name);
    const twin t(name);
    backend be;
    const model::transformer<backend> m(be, t.ours.weights);
    model::soft_prompt soft{m.config().d_model, {}};
    random_generator random(5);
    for (index_t i = 0; i < 21 * soft.d_model; ++i) {
      soft.rows.push_back(static_cast<float>(random.normal()));
    }
    session ours(m, {});
    gist_context theirs(*t.theirs, {}, {},
                        {.n_cells = 256, .kv = GGML_TYPE_F32, .flash = false, .n_batch = 8});
    ours.read_soft(soft);
    theirs.read_soft(soft);
    CHECK(t.error(theirs.logits(), ours.logits()) <= 1.0);
    const std::vector<token_t> question = {4, 8, 15, 16, 23, 42};
    CHECK(compare(t, question, ours, theirs).error <= 1.0);
    CHECK(theirs.state_bytes() == state_of(*t.theirs, 27));
    soft.d_model = 1;
    CHECK_THROWS_AS(theirs.read_soft(soft), shape_error);
  }
}

model::lora random_lora(const model::model_config& c, std::uint64_t seed) {
  model::lora l;
  l.alpha = 3.0;
  const index_t q = c.n_heads * c.head_dim;
  const index_t kv = c.n_kv_heads * c.head_dim;
  random_generator random(seed);
  const auto numbers = [&](index_t n) {
    std::vector<float> x;
    for (index_t i = 0; i < n; ++i) x.push_back(static_cast<float>(0.2 * random.normal()));
    return x;
  };
  for (index_t layer = 0; layer < c.n_layers; ++layer) {
    for (const auto& [target, rows, cols] :
         {std::tuple<const char*, index_t, index_t>{"query", q, c.d_model},
          {"key", kv, c.d_model},
          {"value", kv, c.d_model},
          {"output", c.d_model, q},
          {"gate", c.d_ff, c.d_model},
          {"up", c.d_ff, c.d_model},
          {"down", c.d_model, c.d_ff}}) {
      l.factors.push_back({layer, target, 2, rows, cols, numbers(2 * cols), numbers(2 * rows)});
    }
  }
  return l;
}

TEST_CASE("LoRA of an adapter, on all rows, on those of gists, and both") {
  const llama_gist::quiet silence;
  const cache::cache_rule rule{.n_gist = 2, .recent = 1, .n_sink = 1};
  for (const char* name : {"llama_tied", "llama_wide_heads", "qwen3"}) {
    for (const int which : {1, 2, 3}) {
      CAPTURE(name);
      CAPTURE(which);
      const twin t(name);
      const auto gists = model::untrained_gist_rows(t.ours.weights, rule.n_gist, 7);
      model::adapter adapter;
      if ((which & 1) != 0) adapter.on_all_rows = random_lora(t.ours.weights.config, 11);
      if ((which & 2) != 0) adapter.on_gist_rows = random_lora(t.ours.weights.config, 12);
      backend be;
      model::transformer<backend> m(be, t.ours.weights, gists);
      m.adapt(adapter);
      const auto loaded = [&](const model::lora& l) -> llama_adapter_lora* {
        if (l.empty()) return nullptr;
        llama_gist::write_lora(t.scratch / "lora.gguf", l, m.config());
        llama_adapter_lora* lora =
            llama_adapter_lora_init(t.theirs.get(), (t.scratch / "lora.gguf").c_str());
        REQUIRE(lora != nullptr);
        return lora;
      };
      llama_adapter_lora* on_all_rows = loaded(adapter.on_all_rows);
      llama_adapter_lora* on_gist_rows = loaded(adapter.on_gist_rows);
      const auto ids = sequence(m.config(), rule.n_gist, 3);
      session ours(m, {.rule = rule});
      gist_context theirs(*t.theirs, rule, gists, in_floats);
      theirs.adapt(on_all_rows, on_gist_rows);
      CHECK(compare(t, ids, ours, theirs).error <= 1.0);

      gist_context without(*t.theirs, rule, gists, in_floats);
      without.read(ids);
      CHECK(t.error(without.logits(), ours.logits()) > 100.0);
      gist_context other(*t.theirs, rule, gists, in_floats);
      other.adapt(on_gist_rows, on_all_rows);
      other.read(ids);
      CHECK(t.error(other.logits(), ours.logits()) > 100.0);
    }
  }
}

/// Every fifth token ends a sentence.
struct five_letters {
  std::string_view piece(token_t t) const { return t % 5 == 0 ? ". " : "a"; }
  void encode(std::string_view, std::vector<token_t>& out) const { out.push_back(1); }
};

TEST_CASE("the generator writes the same in both engines") {
  const llama_gist::quiet silence;
  const twin t("qwen2");
  const cache::cache_rule rule{.n_gist = 2, .recent = 1, .n_sink = 1};
  const auto gists = model::untrained_gist_rows(t.ours.weights, rule.n_gist, 7);
  backend be;
  const model::transformer<backend> m(be, t.ours.weights, gists);
  session ours(m, {.rule = rule});
  gist_context theirs(*t.theirs, rule, gists, in_floats);
  const std::vector<token_t> prompt = {7, 11, 13};
  ours.read(prompt);
  theirs.read(prompt);
  const five_letters codec;
  const auto write = [&](auto& sequence) {
    model::sampler greedy({.temperature = 0.0});
    model::generator generator(sequence, codec, text::paper{}, {.max_tokens = 80}, 3, 3);
    return generator.run(greedy);
  };
  const auto a = write(ours);
  const auto b = write(theirs);
  CHECK(a.ids == b.ids);
  CHECK(a.rows_after == b.rows_after);
  CHECK(a.text == b.text);
  CHECK(ours.cache().ledger().n_closed() > 2);
  CHECK(theirs.ledger().rows() == ours.cache().ledger().rows());
  // llama.cpp has no logits of gists, so the model cannot say where a sentence ends.
  model::sampler greedy({.temperature = 0.0});
  model::generator by_model(theirs, codec, text::paper{}, {.close = model::close_rule::model});
  CHECK_THROWS_AS(by_model.run(greedy), argument_error);
}

/// A recurrent model, of one layer.
test::gguf_builder mamba() {
  test::gguf_builder b;
  b.string("general.architecture", "mamba").string("tokenizer.ggml.model", "no_vocab");
  const std::pair<const char*, std::uint32_t> counts[] = {
      {"vocab_size", 16},         {"context_length", 64},    {"embedding_length", 8},
      {"block_count", 1},         {"ssm.conv_kernel", 4},    {"ssm.inner_size", 16},
      {"ssm.state_size", 4},      {"ssm.time_step_rank", 2}, {"feed_forward_length", 0},
      {"attention.head_count", 0}};
  for (const auto& [key, n] : counts) b.u32(std::string("mamba.") + key, n);
  b.f32("mamba.attention.layer_norm_rms_epsilon", 1e-5F);
  const auto add = [&](const std::string& name, std::vector<std::uint64_t> extents) {
    std::uint64_t n = 1;
    for (const std::uint64_t extent : extents) n *= extent;
    b.floats(name, std::move(extents), std::vector<float>(n, 0.1F));
  };
  add("token_embd.weight", {8, 16});
  add("output_norm.weight", {8});
  add("blk.0.attn_norm.weight", {8});
  add("blk.0.ssm_in.weight", {8, 32});
  add("blk.0.ssm_conv1d.weight", {4, 16});
  add("blk.0.ssm_conv1d.bias", {16});
  add("blk.0.ssm_x.weight", {16, 10});
  add("blk.0.ssm_dt.weight", {2, 16});
  add("blk.0.ssm_dt.bias", {16});
  add("blk.0.ssm_a", {4, 16});
  add("blk.0.ssm_d", {16});
  add("blk.0.ssm_out.weight", {16, 8});
  return b;
}

TEST_CASE("models whose memory has no rows to remove are refused, and other misuse") {
  const llama_gist::quiet silence;
  const test::scratch_directory scratch;
  test::write_bytes(scratch / "mamba.gguf", mamba().bytes());
  const auto recurrent = llama_gist::load_model((scratch / "mamba.gguf").string());
  CHECK_THROWS_AS(gist_context(*recurrent, {}, {}, in_floats), argument_error);
  CHECK_THROWS_AS(llama_gist::load_model((scratch / "none.gguf").string()), backend_error);

  const twin t("llama_tied");
  const auto gists = model::untrained_gist_rows(t.ours.weights, 2, 7);
  CHECK_THROWS_AS(gist_context(*t.theirs, {.n_gist = 3}, gists, in_floats), shape_error);
  CHECK_THROWS_AS(gist_context(*t.theirs, {.window = 3}, {}, in_floats), argument_error);
  CHECK_THROWS_AS(gist_context(*t.theirs, {.n_gist = -1}, {}, in_floats), argument_error);
  const gist_context empty(*t.theirs, {.n_gist = 2}, gists, in_floats);
  CHECK_THROWS_AS(empty.logits(), argument_error);
}

}  // namespace
