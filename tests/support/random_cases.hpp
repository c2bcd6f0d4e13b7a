// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

// The small models of tests/data/random_models, whose weights follow from a rule:
// tests/generate/random_models.py tells it, and where their logits are from.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <gistkv/core/random.hpp>
#include <gistkv/core/types.hpp>

#include <io/gguf_builder.hpp>
#include <support/data.hpp>
#include <support/golden_arrays.hpp>

namespace gistkv::test {

inline std::filesystem::path random_models() {
  return source_dir() / "tests" / "data" / "random_models";
}

struct weight_tensor {
  std::string name;
  std::vector<index_t> extents;
  std::vector<float> values;  ///< As stored: exact in bfloat16 where the model is.
};

/// One file of tests/data/random_models with the weights made.
struct random_case {
  std::string name;
  nlohmann::json json;
  std::vector<weight_tensor> tensors;

  const nlohmann::json& config() const { return json.at("config"); }
  bool is_bf16() const { return json.at("dtype") == "bfloat16"; }
};

inline std::vector<float> rule_weights(std::size_t t, const std::string& name,
                                       const std::vector<index_t>& extents, bool is_bf16) {
  double mean = 0;
  double scale = 1.5 / std::sqrt(static_cast<double>(extents.back()));
  if (name == "model.embed_tokens.weight") scale = 1.0;
  if (extents.size() == 1) {
    const bool is_norm = name.ends_with("norm.weight");
    mean = is_norm ? 1.0 : 0.0;
    scale = is_norm ? 0.2 : 0.3;
  }
  index_t n = 1;
  for (const index_t extent : extents) n *= extent;
  std::vector<float> values;
  for (std::uint64_t e = 0; e < static_cast<std::uint64_t>(n); ++e) {
    const double u =
        static_cast<double>(splitmix64(0x6d5a + 1000003 * std::uint64_t{t} + e) >> 40) / 0x1p24;
    const auto value = static_cast<float>(mean + scale * ((u - 0.5) * std::sqrt(12.0)));
    values.push_back(is_bf16 ? static_cast<float>(bf16(value)) : value);
  }
  return values;
}

inline std::vector<random_case> read_cases() {
  std::vector<random_case> cases;
  for (const auto& file : std::filesystem::directory_iterator(random_models())) {
    if (file.is_directory()) continue;
    random_case c{file.path().stem().string(), read_json(file.path()), {}};
    const auto& tensors = c.json.at("tensors");
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const auto name = tensors[t][0].get<std::string>();
      const auto extents = tensors[t][1].get<std::vector<index_t>>();
      c.tensors.push_back({name, extents, rule_weights(t, name, extents, c.is_bf16())});
      for (std::size_t i = 0; i < 4; ++i) {
        const double want = c.json.at("first")[t][i].get<double>();
        const double found = static_cast<double>(c.tensors.back().values[i]);
        CHECK(std::abs(found - want) <= 1e-6 * std::abs(want));
      }
    }
    cases.push_back(std::move(c));
  }
  std::sort(cases.begin(), cases.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  REQUIRE(cases.size() >= 14);
  return cases;
}

inline const std::vector<random_case>& all_cases() {
  static const std::vector<random_case> cases = read_cases();
  return cases;
}

inline std::vector<std::byte> stored_bytes(const std::vector<float>& values, bool as_bf16) {
  if (!as_bf16) {
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
  }
  const std::vector<bf16> halves = [&] {
    std::vector<bf16> result;
    for (const float x : values) result.push_back(bf16(x));
    return result;
  }();
  const auto bytes = std::as_bytes(std::span(halves));
  return {bytes.begin(), bytes.end()};
}

/// Largest error of a case's logits and logsumexp over what is allowed; infinite for NaN.
/// `read(ids, rows)` gives the logits of these rows of a sequence, [rows][n_vocab].
///
/// Allowed are four times the error that Hugging Face's own float32 run has against float64: both
/// sides round, and in another order; and the seventh digit, to which the expected numbers are
/// kept.
template <class Read>
double error_of(const random_case& c, Read&& read) {
  double worst = 0;
  auto compare = [&](double found, double want) {
    const double allowed = 4 * c.json.at("deviation").get<double>() + 5e-7 * std::abs(want);
    const double error = std::abs(found - want) / allowed;
    worst = error >= 0 ? std::max(worst, error) : INFINITY;
  };
  for (const auto& s : c.json.at("sequences")) {
    const auto rows = s.at("rows").get<std::vector<index_t>>();
    const auto columns = s.at("columns").get<std::vector<std::size_t>>();
    const auto logits = read(s.at("ids").get<std::vector<token_t>>(), rows);
    REQUIRE(logits.size() == rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto& want = s.at("logits")[i];
      for (std::size_t j = 0; j < columns.size(); ++j) {
        compare(static_cast<double>(logits[i].at(columns[j])), want.at(j).get<double>());
      }
      double sum = 0;
      for (const auto x : logits[i]) sum += std::exp(static_cast<double>(x));
      compare(std::log(sum), s.at("logsumexp")[i].get<double>());
    }
  }
  return worst;
}

/// Name of a tensor in GGUF.
inline std::string gguf_name(const std::string& name) {
  static const std::map<std::string, std::string> whole = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  static const std::map<std::string, std::string> parts = {
      {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  if (const auto found = whole.find(name); found != whole.end()) return found->second;
  const std::string prefix = "model.layers.";
  const std::size_t layer_end = name.find('.', prefix.size());
  const std::size_t last = name.rfind('.');
  return "blk." + name.substr(prefix.size(), layer_end - prefix.size()) + "." +
         parts.at(name.substr(layer_end + 1, last - layer_end - 1)) + name.substr(last);
}

/// Rows of a query or key with rotary pairs side by side: 0, d/2, 1, d/2 + 1, ... of each head.
inline std::vector<float> paired_rows(const weight_tensor& t, index_t head_dim) {
  const index_t width = t.extents.size() == 1 ? 1 : t.extents[1];
  std::vector<float> result(t.values.size());
  for (index_t row = 0; row < t.extents[0]; ++row) {
    const index_t in_head = row % head_dim;
    const index_t to = row - in_head + in_head / 2;
    const index_t from = to - in_head / 2 + in_head % 2 * (head_dim / 2) + in_head / 2;
    std::copy_n(t.values.begin() + from * width, width, result.begin() + row * width);
  }
  return result;
}

/// What Hugging Face's converter stores of the stretching of Llama 3.1.
inline std::vector<float> llama3_divisors(const nlohmann::json& rope, index_t head_dim) {
  const double context = rope.at("original_max_position_embeddings");
  const double factor = rope.at("factor");
  const double low = rope.at("low_freq_factor");
  const double high = rope.at("high_freq_factor");
  std::vector<float> divisors;
  for (index_t j = 0; j < head_dim; j += 2) {
    const double wavelength = 2 * std::numbers::pi *
                              std::pow(rope.at("rope_theta").get<double>(),
                                       static_cast<double>(j) / static_cast<double>(head_dim));
    double divisor = 1.0;
    if (wavelength > context / low) {
      divisor = factor;
    } else if (wavelength >= context / high) {
      const double smooth = (context / wavelength - low) / (high - low);
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

/// The model as a GGUF file; nothing if the format cannot say what it computes.
inline std::optional<gguf_builder> as_gguf(const random_case& c) {
  const auto& config = c.config();
  if (config.at("hidden_act") != "silu") return std::nullopt;
  gguf_builder b;
  const std::string type = config.at("model_type");
  b.string("general.architecture", type).string("general.name", c.name);
  b.string("tokenizer.ggml.model", "no_vocab");  // Other readers ask for one.
  auto count = [&](const char* key, const nlohmann::json& value) {
    b.u32(type + "." + key, value.get<std::uint32_t>());
  };
  auto real = [&](const char* key, double value) {
    b.f32(type + "." + key, static_cast<float>(value));
  };
  count("block_count", config.at("num_hidden_layers"));
  count("context_length", config.at("max_position_embeddings"));
  count("embedding_length", config.at("hidden_size"));
  count("feed_forward_length", config.at("intermediate_size"));
  count("attention.head_count", config.at("num_attention_heads"));
  count("attention.head_count_kv", config.at("num_key_value_heads"));
  count("vocab_size", config.at("vocab_size"));
  real("attention.layer_norm_rms_epsilon", config.at("rms_norm_eps"));
  const index_t head_dim = config.contains("head_dim")
                               ? config.at("head_dim").get<index_t>()
                               : config.at("hidden_size").get<index_t>() /
                                     config.at("num_attention_heads").get<index_t>();
  if (config.contains("head_dim")) {
    for (const char* key :
         {"attention.key_length", "attention.value_length", "rope.dimension_count"}) {
      count(key, head_dim);
    }
  }
  const auto& rope = config.at("rope_parameters");
  const std::string kind = rope.at("rope_type");
  real("rope.freq_base", rope.at("rope_theta"));
  if (kind == "llama3")
    b.floats("rope_freqs.weight", {static_cast<std::uint64_t>(head_dim / 2)},
             llama3_divisors(rope, head_dim));
  if (kind == "linear" || kind == "yarn") {
    b.string(type + ".rope.scaling.type", kind);
    real("rope.scaling.factor", rope.at("factor"));
  }
  if (kind == "yarn") {
    count("rope.scaling.original_context_length", rope.at("original_max_position_embeddings"));
    real("rope.scaling.yarn_beta_fast", rope.value("beta_fast", 32.0));
    real("rope.scaling.yarn_beta_slow", rope.value("beta_slow", 1.0));
    // GGUF holds what the usual temperature is multiplied with.
    const double log_factor = 0.1 * std::log(rope.at("factor").get<double>());
    double temperature = log_factor + 1;
    if (rope.contains("mscale")) {
      temperature = (rope.at("mscale").get<double>() * log_factor + 1) /
                    (rope.at("mscale_all_dim").get<double>() * log_factor + 1);
    }
    temperature = rope.value("attention_factor", temperature);
    real("rope.scaling.attn_factor", temperature / (log_factor + 1));
  }
  for (const weight_tensor& t : c.tensors) {
    const bool is_rotated = t.name.find(".q_proj.") != std::string::npos ||
                            t.name.find(".k_proj.") != std::string::npos;
    const bool as_bf16 = c.is_bf16() && t.extents.size() == 2;
    const auto values = type == "llama" && is_rotated ? paired_rows(t, head_dim) : t.values;
    b.add({gguf_name(t.name),
           {t.extents.rbegin(), t.extents.rend()},
           as_bf16 ? gguf_code::bf16 : gguf_code::f32,
           stored_bytes(values, as_bf16)});
  }
  return b;
}

}  // namespace gistkv::test
