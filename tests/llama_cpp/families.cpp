// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The small models of every family as GGUF files, read by llama.cpp: it must find the logits that
// Hugging Face found. The same files are read by our loader in model.random_models, so what GGUF
// says of biases, head norms, rotations and their order is not our own reading of it alone.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <llama.h>
#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>

#include <llama_cpp/gist_context.hpp>
#include <llama_cpp/quiet.hpp>
#include <support/random_cases.hpp>

namespace {

using namespace gistkv;
using test::random_case;

/// Logits of some rows of a sequence that llama.cpp reads at once, in floats.
std::vector<std::vector<float>> read(llama_model& model, const nlohmann::json& rope,
                                     std::vector<token_t> ids, const std::vector<index_t>& rows) {
  llama_context_params p = llama_context_default_params();
  p.n_ctx = p.n_batch = p.n_ubatch = 256;
  p.type_k = p.type_v = GGML_TYPE_F32;
  p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  p.n_threads = p.n_threads_batch = 1;
  // llama.cpp leaves these two out of such files unread, but computes with what the caller says.
  p.yarn_beta_fast = rope.value("beta_fast", p.yarn_beta_fast);
  p.yarn_beta_slow = rope.value("beta_slow", p.yarn_beta_slow);
  const std::unique_ptr<llama_context, llama_gist::deleter> context(
      llama_init_from_model(&model, p));
  REQUIRE(context);
  std::vector<std::int8_t> outputs(ids.size(), 1);
  llama_batch batch = {};
  batch.n_tokens = static_cast<std::int32_t>(ids.size());
  batch.token = ids.data();
  batch.logits = outputs.data();
  REQUIRE(llama_decode(context.get(), batch) == 0);
  const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(&model));
  std::vector<std::vector<float>> logits;
  for (const index_t row : rows) {
    const float* x = llama_get_logits_ith(context.get(), static_cast<std::int32_t>(row));
    logits.emplace_back(x, x + n_vocab);
  }
  return logits;
}

TEST_CASE("llama.cpp reads the small models as Hugging Face does") {
  const llama_gist::quiet silence;
  double worst = 0;
  std::map<std::string, int> counts;
  for (const random_case& c : test::all_cases()) {
    CAPTURE(c.name);
    const auto builder = test::as_gguf(c);
    if (!builder) continue;
    const test::scratch_directory scratch;
    test::write_bytes(scratch / "model.gguf", builder->bytes());
    if (c.name == "qwen3_biases_bf16") {
      // To llama.cpp, a Qwen3 with biases in its attention has tensors too many.
      CHECK_THROWS_AS(llama_gist::load_model((scratch / "model.gguf").string()), backend_error);
      continue;
    }
    const auto model = llama_gist::load_model((scratch / "model.gguf").string());
    const auto& rope = c.config().at("rope_parameters");
    const double error = test::error_of(
        c, [&](const auto& ids, const auto& rows) { return read(*model, rope, ids, rows); });
    CHECK(error <= 1.0);
    worst = std::max(worst, error);
    ++counts[c.config().at("model_type").get<std::string>()];
  }
  CHECK(counts == std::map<std::string, int>{{"llama", 6}, {"qwen2", 3}, {"qwen3", 2}});
  MESSAGE("largest error over the allowed one: " << worst);
}

}  // namespace
