// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Loader and transformer against the model classes of Hugging Face on small models of every
// configuration: biases, head norms, untied heads, activations, stretched rotations, odd sizes. The
// weights follow from a rule; tests/generate/random_models.py tells it and where the logits are
// from.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/model_config_json.hpp>
#include <gistkv/io/safetensors_writer.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/model/transformer.hpp>

#include <io/gguf_builder.hpp>
#include <support/golden_arrays.hpp>

namespace {

using namespace gistkv;

const auto data =
    std::filesystem::path(__FILE__).parent_path().parent_path() / "data" / "random_models";

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

std::vector<float> rule_weights(std::size_t t, const std::string& name,
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

std::vector<random_case> read_cases() {
  std::vector<random_case> cases;
  for (const auto& file : std::filesystem::directory_iterator(data)) {
    if (file.is_directory()) continue;
    random_case c{file.path().stem().string(), test::read_json(file.path()), {}};
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

const std::vector<random_case>& all_cases() {
  static const std::vector<random_case> cases = read_cases();
  return cases;
}

std::vector<std::byte> stored_bytes(const std::vector<float>& values, bool as_bf16) {
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

/// The directory that Hugging Face would write, in two shards with an index if `is_sharded`.
io::loaded_model load_hugging_face(const random_case& c, bool is_sharded) {
  const test::scratch_directory scratch;
  const auto type = c.is_bf16() ? io::safetensors_type::bf16 : io::safetensors_type::f32;
  std::vector<std::vector<std::byte>> bytes;
  std::map<std::string, std::vector<io::safetensors_tensor>> files;
  nlohmann::json map;
  for (const auto& t : c.tensors) bytes.push_back(stored_bytes(t.values, c.is_bf16()));
  for (std::size_t i = 0; i < c.tensors.size(); ++i) {
    const std::string file = !is_sharded  ? "model.safetensors"
                             : i % 2 == 0 ? "model-00001-of-00002.safetensors"
                                          : "model-00002-of-00002.safetensors";
    files[file].push_back({c.tensors[i].name, type, c.tensors[i].extents, bytes[i]});
    map[c.tensors[i].name] = file;
  }
  for (const auto& [file, tensors] : files) {
    io::write_safetensors(scratch / file, tensors, {{"format", "pt"}});
  }
  if (is_sharded) {
    const nlohmann::json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
    test::write_text(scratch / "model.safetensors.index.json", index.dump());
  }
  test::write_text(scratch / "config.json", c.config().dump(2));
  return io::load_model(scratch.path());  // The mappings outlive the files' names.
}

/// Hidden states of a sequence read in chunks of at most `chunk` tokens.
template <class B>
buffer<element_t<B>, B> read(const model::transformer<B>& m, std::span<const token_t> ids,
                             std::size_t chunk) {
  using T = element_t<B>;
  const auto n = static_cast<index_t>(ids.size());
  const index_t d = m.config().d_model;
  cache::gist_cache<B, T> cache(m.backend(), m.cache_shape());
  buffer<T, B> hidden(m.backend(), n * d);
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    const auto piece = ids.subspan(begin, std::min(chunk, ids.size() - begin));
    const model::sequence_step<B, T> step{&cache, piece, {}};
    workspace<B> scratch(m.backend(), m.workspace_size({&step, 1}));
    m.forward(
        {&step, 1},
        hidden.view({n, d}).rows(static_cast<index_t>(begin), static_cast<index_t>(piece.size())),
        scratch);
  }
  return hidden;
}

/// Largest error of the case's logits and logsumexp over what is allowed; infinite for NaN.
///
/// Allowed are four times the error that Hugging Face's own float32 run has against float64: both
/// sides round, and in another order; and the seventh digit, to which the expected numbers are
/// kept.
template <class B>
double error_of(const random_case& c, const model::host_model& source) {
  using T = element_t<B>;
  static B be{1};
  const model::transformer<B> m(be, source);
  const index_t d = m.config().d_model;
  double worst = 0;
  auto compare = [&](double found, double want) {
    const double allowed = 4 * c.json.at("deviation").get<double>() + 5e-7 * std::abs(want);
    const double error = std::abs(found - want) / allowed;
    worst = error >= 0 ? std::max(worst, error) : INFINITY;
  };
  std::size_t chunk = 1000;  // The first sequence at once, the next in pieces.
  for (const auto& s : c.json.at("sequences")) {
    const auto ids = s.at("ids").get<std::vector<token_t>>();
    const auto rows = s.at("rows").get<std::vector<index_t>>();
    const auto columns = s.at("columns").get<std::vector<std::size_t>>();
    const auto hidden = read(m, ids, chunk);
    chunk = 17;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      buffer<T, B> out(be, m.n_vocab());
      m.logits(out.view({1, m.n_vocab()}), hidden.view({hidden.size() / d, d}).rows(rows[i], 1));
      const std::vector<T> row = out.to_host();
      const auto& want = s.at("logits")[i];
      for (std::size_t j = 0; j < columns.size(); ++j) {
        compare(static_cast<double>(row.at(columns[j])), want.at(j).get<double>());
      }
      double sum = 0;
      for (const T x : row) sum += std::exp(static_cast<double>(x));
      compare(std::log(sum), s.at("logsumexp")[i].get<double>());
    }
  }
  return worst;
}

using in_float = backends::eigen<float>;
using in_double = backends::eigen<double>;

TEST_CASE("logits are those of Hugging Face") {
  double worst = 0;
  bool is_sharded = false;
  for (const random_case& c : all_cases()) {
    CAPTURE(c.name);
    const auto loaded = load_hugging_face(c, is_sharded);
    CHECK(loaded.file.paths.size() == (is_sharded ? 2U : 1U));
    const double error = error_of<in_float>(c, loaded.weights);
    CHECK(error <= 1.0);
    CHECK(error_of<in_double>(c, loaded.weights) <= 1.0);
    worst = std::max(worst, error);
    is_sharded = !is_sharded;
  }
  MESSAGE("largest error over the allowed one: " << worst);
}

/// Models that lack one thing each, and what they lack.
std::vector<std::pair<std::string, model::host_model>> crippled(const model::host_model& m) {
  std::vector<std::pair<std::string, model::host_model>> result;
  auto add = [&](const char* what, auto&& change) {
    result.emplace_back(what, m);
    change(result.back().second);
  };
  auto add_blocks = [&](const char* what, bool has, auto&& change) {
    if (!has) return;
    add(what, [&](model::host_model& x) {
      for (auto& b : x.blocks) change(b);
    });
  };
  using model::rope_scaling_kind;
  const model::rope_config& rope = m.config.rope;
  add("base", [](auto& x) { x.config.rope.theta *= 1.05; });
  if (rope.scaling != rope_scaling_kind::none) {
    add("scaling", [](auto& x) { x.config.rope.scaling = rope_scaling_kind::none; });
    add("factor", [](auto& x) { x.config.rope.factor *= 1.1; });
  }
  if (rope.scaling == rope_scaling_kind::yarn) {
    add("temperature", [](auto& x) { x.config.rope.attention_factor = 1.0; });
    add("original context", [](auto& x) { x.config.rope.original_context *= 8; });
  }
  if (rope.attention_factor > 0) {
    add("given temperature", [](auto& x) { x.config.rope.attention_factor = 0.0; });
  }
  if (rope.beta_fast != 32.0) {
    add("betas", [](auto& x) {
      x.config.rope.beta_fast = 32.0;
      x.config.rope.beta_slow = 1.0;
    });
  }
  if (rope.scaling == rope_scaling_kind::llama3) {
    add("low", [](auto& x) { x.config.rope.low_freq_factor = 2.0; });
    add("high", [](auto& x) { x.config.rope.high_freq_factor = 8.0; });
  }
  if (m.config.norm_eps > 1e-3) add("epsilon", [](auto& x) { x.config.norm_eps = 1e-5; });
  if (m.config.activation == activation_kind::silu) {
    add("silu", [](auto& x) { x.config.activation = activation_kind::gelu; });
  } else {
    const auto other = m.config.activation == activation_kind::gelu ? activation_kind::gelu_tanh
                                                                    : activation_kind::gelu;
    add("form of gelu", [&](auto& x) { x.config.activation = other; });
  }
  if (!m.config.tied_head) add("head", [](auto& x) { x.config.tied_head = true; });
  const model::host_block& b = m.blocks.front();
  using block = model::host_block;
  add_blocks("query norm", !b.query_norm.empty(), [](block& x) { x.query_norm = {}; });
  add_blocks("key norm", !b.key_norm.empty(), [](block& x) { x.key_norm = {}; });
  for (const auto part : {&block::query, &block::key, &block::value, &block::output, &block::gate,
                          &block::up, &block::down}) {
    add_blocks("bias", !(b.*part).bias.empty(), [&](block& x) { (x.*part).bias = {}; });
  }
  return result;
}

TEST_CASE("each setting shows in the logits") {
  std::size_t n = 0;
  for (const random_case& c : all_cases()) {
    CAPTURE(c.name);
    for (const auto& lacking : crippled(load_hugging_face(c, false).weights)) {
      CAPTURE(lacking.first);
      CHECK(error_of<in_float>(c, lacking.second) > 10.0);
      ++n;
    }
  }
  CHECK(n > 60);
}

TEST_CASE("the older form of the config says the same") {
  for (const random_case& c : all_cases()) {
    CAPTURE(c.name);
    nlohmann::json older = c.config();
    nlohmann::json rope = older.at("rope_parameters");
    older.erase("rope_parameters");
    older.erase("layer_types");
    older["rope_theta"] = rope.at("rope_theta");
    rope.erase("rope_theta");
    older["rope_scaling"] = rope.at("rope_type") == "default" ? nlohmann::json() : rope;
    const auto expected = io::parse_model_config(c.config().dump(), "config.json").model;
    auto check = [&] {
      const auto found = io::parse_model_config(older.dump(), "config.json").model;
      CHECK(found.rope.scaling == expected.rope.scaling);
      CHECK(model::rope_frequencies(found.rope, found.head_dim) ==
            model::rope_frequencies(expected.rope, expected.head_dim));
      CHECK(model::rope_magnitude(found.rope) == model::rope_magnitude(expected.rope));
      CHECK(found.head_dim == expected.head_dim);
    };
    check();
    if (older["rope_scaling"].is_null()) continue;
    older["rope_scaling"]["type"] = rope.at("rope_type");
    check();
    older["rope_scaling"].erase("rope_type");
    check();
  }
}

TEST_CASE("rotary frequencies are those of Hugging Face") {
  const auto rotations = test::read_json(data / "rotations" / "rotations.json");
  double worst = 0;
  for (const auto& rotation : rotations.items()) {
    CAPTURE(rotation.key());
    const auto& json = rotation.value();
    const auto config = io::parse_model_config(json.at("config").dump(), "config.json").model;
    const auto found = model::rope_frequencies(config.rope, config.head_dim);
    const auto want = json.at("frequencies").get<std::vector<double>>();
    REQUIRE(found.size() == want.size());
    for (std::size_t j = 0; j < want.size(); ++j) {
      // A float32 exponent, up to 1, of a base up to 10^6: ln(10^6) = 14 units of 2^-24.
      const double error = std::abs(static_cast<double>(found[j]) - want[j]) / want[j];
      CHECK(error <= 1e-6);
      worst = std::max(worst, error);
    }
    CHECK(model::rope_magnitude(config.rope) ==
          doctest::Approx(json.at("magnitude").get<double>()).epsilon(1e-12));
  }
  CHECK(rotations.size() >= 13);
  MESSAGE("largest relative error of a frequency: " << worst);
}

/// Name of a tensor in GGUF.
std::string gguf_name(const std::string& name) {
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
std::vector<float> paired_rows(const weight_tensor& t, index_t head_dim) {
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
std::vector<float> llama3_divisors(const nlohmann::json& rope, index_t head_dim) {
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
std::optional<test::gguf_builder> as_gguf(const random_case& c) {
  const auto& config = c.config();
  if (config.at("hidden_act") != "silu") return std::nullopt;
  test::gguf_builder b;
  const std::string type = config.at("model_type");
  b.string("general.architecture", type).string("general.name", c.name);
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
           as_bf16 ? test::gguf_code::bf16 : test::gguf_code::f32,
           stored_bytes(values, as_bf16)});
  }
  return b;
}

TEST_CASE("logits of the same models from GGUF") {
  double worst = 0;
  std::map<std::string, int> counts;
  for (const random_case& c : all_cases()) {
    CAPTURE(c.name);
    const auto builder = as_gguf(c);
    if (!builder) continue;
    const test::scratch_directory scratch;
    test::write_bytes(scratch / "model.gguf", builder->bytes());
    const auto loaded = io::load_model(scratch / "model.gguf");
    CHECK(loaded.file.format == "GGUF 3");
    CHECK(loaded.weights.config.tied_head == c.config().at("tie_word_embeddings").get<bool>());
    const double error = error_of<in_float>(c, loaded.weights);
    CHECK(error <= 1.0);
    worst = std::max(worst, error);
    ++counts[loaded.weights.config.architecture];
  }
  CHECK(counts == std::map<std::string, int>{{"llama", 6}, {"qwen2", 3}, {"qwen3", 3}});
  MESSAGE("largest error over the allowed one: " << worst);
}

}  // namespace
