// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Loader and transformer against the model classes of Hugging Face on small models of every
// configuration: biases, head norms, untied heads, activations, stretched rotations, odd sizes. The
// weights follow from a rule; tests/generate/random_models.py tells it and where the logits are
// from.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/model_config_json.hpp>
#include <gistkv/io/safetensors_writer.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/model/transformer.hpp>

#include <io/gguf_builder.hpp>
#include <support/golden_arrays.hpp>
#include <support/random_cases.hpp>

namespace {

using namespace gistkv;
using test::all_cases;
using test::random_case;

/// The directory that Hugging Face would write, in two shards with an index if `is_sharded`.
io::loaded_model load_hugging_face(const random_case& c, bool is_sharded) {
  const test::scratch_directory scratch;
  const auto type = c.is_bf16() ? io::safetensors_type::bf16 : io::safetensors_type::f32;
  std::vector<std::vector<std::byte>> bytes;
  std::map<std::string, std::vector<io::safetensors_tensor>> files;
  nlohmann::json map;
  for (const auto& t : c.tensors) bytes.push_back(test::stored_bytes(t.values, c.is_bf16()));
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

/// The error of a model in memory; the first sequence is read at once, the next in pieces.
template <class B>
double error_of(const random_case& c, const model::host_model& source) {
  using T = element_t<B>;
  static B be{1};
  const model::transformer<B> m(be, source);
  const index_t d = m.config().d_model;
  std::size_t chunk = 1000;
  return test::error_of(c, [&](const std::vector<token_t>& ids, const std::vector<index_t>& rows) {
    const auto hidden = read(m, ids, chunk);
    chunk = 17;
    std::vector<std::vector<T>> logits;
    for (const index_t row : rows) {
      buffer<T, B> out(be, m.n_vocab());
      m.logits(out.view({1, m.n_vocab()}), hidden.view({hidden.size() / d, d}).rows(row, 1));
      logits.push_back(out.to_host());
    }
    return logits;
  });
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
  const auto rotations = test::read_json(test::random_models() / "rotations" / "rotations.json");
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

TEST_CASE("logits of the same models from GGUF") {
  double worst = 0;
  std::map<std::string, int> counts;
  for (const random_case& c : all_cases()) {
    CAPTURE(c.name);
    const auto builder = test::as_gguf(c);
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
