// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/io/model_config_json.hpp>

namespace {

using namespace gistkv;
using io::parse_model_config;
using io::presence;
using nlohmann::json;

json good(const std::string& type = "llama") {
  return {{"model_type", type},       {"num_hidden_layers", 3},  {"hidden_size", 24},
          {"num_attention_heads", 6}, {"intermediate_size", 40}, {"vocab_size", 100}};
}

io::hugging_face_config parse(const json& config) {
  return parse_model_config(config.dump(), "config.json");
}

std::string message(const std::string& text) {
  try {
    parse_model_config(text, "config.json");
    return {};
  } catch (const format_error& e) {
    return e.what();
  }
}

TEST_CASE("defaults are those of the model's class") {
  const auto c = parse(good());
  CHECK(c.model.n_kv_heads == 6);
  CHECK(c.model.head_dim == 4);
  CHECK(c.model.norm_eps == 1e-6);
  CHECK(c.model.rope.theta == 10000.0);
  CHECK(c.model.rope.scaling == model::rope_scaling_kind::none);
  CHECK(c.model.activation == activation_kind::silu);
  CHECK(!c.model.tied_head);
  CHECK(c.model.n_context == 0);
  CHECK(c.rules.query_key_value_bias == presence::absent);
  CHECK(c.rules.query_key_norm == presence::absent);
}

TEST_CASE("fields are read, null is absent, unknown ones do not matter") {
  auto config = good();
  config.update({{"num_key_value_heads", 2},
                 {"head_dim", 8},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", 500000},
                 {"tie_word_embeddings", true},
                 {"max_position_embeddings", 4096},
                 {"hidden_act", "gelu_new"},
                 {"rope_scaling", nullptr},
                 {"sliding_window", nullptr},
                 {"torch_dtype", "bfloat16"},
                 {"bos_token_id", {1, 2}},
                 {"architectures", {"LlamaForCausalLM"}},
                 {"layer_types", {"full_attention", "full_attention"}},
                 {"partial_rotary_factor", 1.0},
                 {"anything", {{"deep", {1, 2, 3}}}}});
  const auto c = parse(config).model;
  CHECK(c.n_kv_heads == 2);
  CHECK(c.head_dim == 8);
  CHECK(c.norm_eps == 1e-5);
  CHECK(c.rope.theta == 500000.0);
  CHECK(c.tied_head);
  CHECK(c.n_context == 4096);
  CHECK(c.activation == activation_kind::gelu_tanh);
}

TEST_CASE("activations") {
  auto act = [](const std::string& name) {
    auto config = good();
    config["hidden_act"] = name;
    return parse(config).model.activation;
  };
  CHECK(act("silu") == activation_kind::silu);
  CHECK(act("gelu") == activation_kind::gelu);
  CHECK(act("gelu_pytorch_tanh") == activation_kind::gelu_tanh);
  CHECK_THROWS_AS(act("relu"), format_error);
  CHECK_THROWS_AS(act("quick_gelu"), format_error);
}

TEST_CASE("which optional tensors the blocks have") {
  auto rules = [](const std::string& type, const json& more) {
    auto config = good(type);
    config.update(more);
    return parse(config).rules;
  };
  const auto llama = rules("llama", {{"attention_bias", true}, {"mlp_bias", true}});
  CHECK(llama.query_key_value_bias == presence::required);
  CHECK(llama.output_bias == presence::required);
  CHECK(llama.feed_forward_bias == presence::required);
  const auto qwen2 = rules("qwen2", {{"use_sliding_window", false}, {"sliding_window", 32768}});
  CHECK(qwen2.query_key_value_bias == presence::required);
  CHECK(qwen2.output_bias == presence::absent);
  CHECK(qwen2.query_key_norm == presence::absent);
  const auto qwen3 = rules("qwen3", {{"attention_bias", false}});
  CHECK(qwen3.query_key_value_bias == presence::absent);
  CHECK(qwen3.query_key_norm == presence::required);
  CHECK(rules("qwen3", {{"attention_bias", true}}).output_bias == presence::required);
}

TEST_CASE("rotary scaling, in the older and the newer form") {
  using kind = model::rope_scaling_kind;
  auto rope = [](const json& more) {
    auto config = good();
    config["max_position_embeddings"] = 8192;
    config.update(more);
    return parse(config).model.rope;
  };
  const auto linear = rope({{"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}});
  CHECK(linear.scaling == kind::linear);
  CHECK(linear.factor == 2.5);
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const auto three = rope({{"rope_scaling", llama3}, {"rope_theta", 500000.0}});
  CHECK(three.scaling == kind::llama3);
  CHECK(three.factor == 8.0);
  CHECK(three.low_freq_factor == 1.0);
  CHECK(three.high_freq_factor == 4.0);
  CHECK(three.original_context == 8192);
  CHECK(three.theta == 500000.0);
  // A trained context beside the other fields goes before the inner one, as in the model classes.
  CHECK(rope({{"rope_scaling", llama3}, {"original_max_position_embeddings", 4096}})
            .original_context == 4096);
  auto newer = llama3;
  newer["rope_theta"] = 500000.0;
  CHECK(rope({{"rope_parameters", newer}}).theta == 500000.0);
  CHECK(rope({{"rope_parameters", newer}}).scaling == kind::llama3);
  CHECK(rope({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}}}}).theta == 7.0);
  const auto yarn = rope(
      {{"rope_scaling",
        {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}}});
  CHECK(yarn.scaling == kind::yarn);
  CHECK(yarn.attention_factor == 0.0);
  CHECK(yarn.beta_fast == 32.0);
  CHECK(yarn.beta_slow == 1.0);
  CHECK(yarn.original_context == 32768);
  const auto tuned = rope({{"rope_scaling",
                            {{"type", "yarn"},
                             {"factor", 4.0},
                             {"beta_fast", 16},
                             {"beta_slow", 2},
                             {"mscale", 0.5},
                             {"mscale_all_dim", 2.0}}}});
  CHECK(tuned.original_context == 8192);
  CHECK(tuned.beta_fast == 16.0);
  CHECK(tuned.attention_factor ==
        doctest::Approx((0.05 * std::log(4.0) + 1) / (0.2 * std::log(4.0) + 1)));
  CHECK(rope({{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"attention_factor", 1.25}}}})
            .attention_factor == 1.25);
}

struct broken_config {
  std::string_view expected;
  json change;
};

TEST_CASE("what is missing, wrong or not computed is named") {
  const json yarn = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 8}};
  auto with = [](json base, const json& more) {
    base.update(more);
    return base;
  };
  const std::vector<broken_config> cases = {
      {"model_type 'gpt2' is not supported, expected llama, qwen2 or qwen3",
       {{"model_type", "gpt2"}}},
      {"model_type 'qwen3_moe' is not supported", {{"model_type", "qwen3_moe"}}},
      {"field 'model_type' is 3, expected a string", {{"model_type", 3}}},
      {"field 'num_hidden_layers' is missing", {{"num_hidden_layers", nullptr}}},
      {"field 'num_hidden_layers' is 3.0, expected an integer", {{"num_hidden_layers", 3.0}}},
      {"field 'hidden_size' is the string '24'", {{"hidden_size", "24"}}},
      {"field 'hidden_size' is an array", {{"hidden_size", {24}}}},
      {"field 'hidden_size' is true", {{"hidden_size", true}}},
      {"field 'vocab_size' is 9223372036854775808", {{"vocab_size", 9223372036854775808ULL}}},
      {"the number of layers is 0", {{"num_hidden_layers", 0}}},
      {"the number of layers is -3", {{"num_hidden_layers", -3}}},
      {"the number of layers is 2147483648", {{"num_hidden_layers", 2147483648LL}}},
      {"the feed-forward width is 0", {{"intermediate_size", 0}}},
      {"the vocabulary size is -1", {{"vocab_size", -1}}},
      {"the context length is -1", {{"max_position_embeddings", -1}}},
      {"num_attention_heads is 7, expected a divisor of hidden_size 24",
       {{"num_attention_heads", 7}}},
      {"num_attention_heads is 0", {{"num_attention_heads", 0}}},
      {"the number of heads is 6, expected a multiple of the 4", {{"num_key_value_heads", 4}}},
      {"the number of key-value heads is 0", {{"num_key_value_heads", 0}}},
      {"the head width is 5, expected an even number", {{"head_dim", 5}}},
      {"the head width is 0", {{"head_dim", 0}}},
      {"the norm epsilon is 0", {{"rms_norm_eps", 0}}},
      {"the norm epsilon is -", {{"rms_norm_eps", -1e-5}}},
      {"field 'rms_norm_eps' is the string", {{"rms_norm_eps", "1e-5"}}},
      {"the rotary base is -1", {{"rope_theta", -1}}},
      {"field 'hidden_act' is the string 'relu2'", {{"hidden_act", "relu2"}}},
      {"field 'tie_word_embeddings' is 1, expected true or false", {{"tie_word_embeddings", 1}}},
      {"field 'use_sliding_window' is true", {{"use_sliding_window", true}}},
      {"field 'sliding_window' is 4096", {{"sliding_window", 4096}}},
      {"field 'layer_types' is the string 'sliding_attention'",
       {{"layer_types", {"full_attention", "sliding_attention"}}}},
      {"field 'attn_logit_softcapping' is 50.0", {{"attn_logit_softcapping", 50.0}}},
      {"field 'final_logit_softcapping' is 30.0", {{"final_logit_softcapping", 30.0}}},
      {"field 'num_local_experts' is 8", {{"num_local_experts", 8}}},
      {"field 'num_experts' is 64", {{"num_experts", 64}}},
      {"field 'quantization_config' is an object",
       {{"quantization_config", {{"quant_method", "gptq"}}}}},
      {"field 'auto_map' is an object", {{"auto_map", {{"AutoModel", "x.Y"}}}}},
      {"field 'partial_rotary_factor' is 0.5", {{"partial_rotary_factor", 0.5}}},
      {"field 'rope_interleaved' is true", {{"rope_interleaved", true}}},
      {"field 'logits_scaling' is 8.0", {{"logits_scaling", 8.0}}},
      {"field 'residual_multiplier' is 0.2", {{"residual_multiplier", 0.2}}},
      {"field 'embedding_multiplier' is 12.0", {{"embedding_multiplier", 12.0}}},
      {"field 'is_causal' is false", {{"is_causal", false}}},
      {"field 'no_rope_layers' is an array", {{"no_rope_layers", {1, 0}}}},
      {"field 'clip_qkv' is 8", {{"clip_qkv", 8}}},
      {"field 'architectures' is the string 'LlamaForSequenceClassification'",
       {{"architectures", {"LlamaForSequenceClassification"}}}},
      {"rope_scaling is 2, expected an object", {{"rope_scaling", 2}}},
      {"rotary scaling type 'dynamic' is not supported",
       {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}},
      {"rotary scaling type 'longrope'", {{"rope_scaling", {{"rope_type", "longrope"}}}}},
      {"rope_type 'yarn' contradicts type 'linear'",
       {{"rope_scaling", {{"rope_type", "yarn"}, {"type", "linear"}, {"factor", 2.0}}}}},
      {"rope_scaling: field 'factor' is missing", {{"rope_scaling", {{"type", "linear"}}}}},
      {"the rotary scaling factor is 0", {{"rope_scaling", {{"type", "linear"}, {"factor", 0.0}}}}},
      {"field 'low_freq_factor' is missing",
       {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}}},
      {"high_freq_factor is 1.000000, expected more than low_freq_factor 1",
       {{"rope_scaling",
         {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 1.0},
          {"original_max_position_embeddings", 8192}}}}},
      {"the original context length is 0",
       {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}}},
      {"beta_fast is 1.000000, expected more than beta_slow",
       {{"rope_scaling", with(yarn, {{"beta_fast", 1.0}})}}},
      {"field 'truncate' is false", {{"rope_scaling", with(yarn, {{"truncate", false}})}}},
      {"field 'attention_factor' is -1",
       {{"rope_scaling", with(yarn, {{"attention_factor", -1}})}}},
      {"expected at least 1 for yarn", {{"rope_scaling", with(yarn, {{"factor", 0.5}})}}},
      {"field 'mrope_section' is an array",
       {{"rope_scaling", {{"type", "default"}, {"mrope_section", {16, 24, 24}}}}}},
      {"rope_parameters: field 'partial_rotary_factor' is 0.25",
       {{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}}}},
      {"contradicts the config's own, 5",
       {{"rope_theta", 5.0}, {"rope_parameters", {{"rope_theta", 6.0}}}}},
      {"rope_parameters and rope_scaling differ",
       {{"rope_parameters", yarn}, {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}},
      {"holds a set of its own for 'full_attention'",
       {{"rope_parameters", {{"full_attention", {{"rope_theta", 1.0}}}}}}},
  };
  for (const broken_config& item : cases) {
    CAPTURE(item.change.dump());
    auto config = good();
    config.update(item.change);
    const std::string what = message(config.dump());
    CHECK_MESSAGE(what.find(item.expected) != std::string::npos, what);
  }
  CHECK(cases.size() >= 60);
}

TEST_CASE("a text that is no config is refused") {
  for (const std::string text : {"", "{", "[]", "null", "3", "\"llama\"", "{}", "{\"model_type\"}",
                                 "{\"model_type\":\"llama\",\"model_type\":\"llama\"}"}) {
    CAPTURE(text);
    CHECK(message(text).starts_with("config.json"));
  }
  const std::string whole = good().dump();
  REQUIRE(message(whole).empty());
  for (std::size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    CHECK(!message(whole.substr(0, n)).empty());
  }
}

}  // namespace
