// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/quantize.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/safetensors_writer.hpp>

#include <io/gguf_builder.hpp>
#include <io/small_model.hpp>
#include <support/data.hpp>

namespace {

using namespace gistkv;
using test::small_model;
namespace code = test::gguf_code;

std::vector<float> values_of(const host_matrix& m) {
  std::vector<float> values(static_cast<std::size_t>(m.rows * m.cols));
  for (index_t r = 0; r < m.rows; ++r) dequantize_row(m, r, values.data() + r * m.cols);
  return values;
}

/// Every matrix of a model in a fixed order, empty ones included.
std::vector<const host_matrix*> matrices(const model::host_model& m) {
  std::vector<const host_matrix*> all = {&m.token_embedding};
  for (const auto& b : m.blocks) {
    for (const auto* x : {&b.attention_norm, &b.query_norm, &b.key_norm, &b.feed_forward_norm}) {
      all.push_back(x);
    }
    for (const auto* x : {&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down}) {
      all.push_back(&x->weight);
      all.push_back(&x->bias);
    }
  }
  all.insert(all.end(), {&m.final_norm, &m.head.weight, &m.head.bias});
  return all;
}

nlohmann::json small_config(const std::string& type = "llama") {
  return {{"model_type", type},
          {"num_hidden_layers", small_model::n_layers},
          {"hidden_size", small_model::d_model},
          {"num_attention_heads", small_model::n_heads},
          {"num_key_value_heads", small_model::n_kv_heads},
          {"intermediate_size", small_model::d_ff},
          {"vocab_size", small_model::n_vocab},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"}};
}

/// A Hugging Face directory of the small model; `change` edits the tensors before they are written.
struct small_directory {
  test::scratch_directory scratch;
  nlohmann::json config = small_config();
  small_model weights;

  explicit small_directory(bool bias = false, bool norms = false) : weights(bias, norms) {}

  io::loaded_model load(const io::load_options& options = {}) const {
    std::vector<io::safetensors_tensor> tensors;
    for (const auto& t : weights.tensors) {
      tensors.push_back({t.hugging_face, io::safetensors_type::f32, t.extents,
                         std::as_bytes(std::span(t.values))});
    }
    io::write_safetensors(scratch / "model.safetensors", tensors);
    test::write_text(scratch / "config.json", config.dump());
    return io::load_model(scratch.path(), options);
  }

  /// The message of the error that loading ends in; empty if it loads.
  std::string message() const {
    try {
      load();
      return {};
    } catch (const format_error& e) {
      return e.what();
    }
  }

  small_model::tensor& tensor(std::string_view name) {
    for (auto& t : weights.tensors) {
      if (t.hugging_face == name) return t;
    }
    throw argument_error("no tensor " + std::string(name));
  }
};

io::loaded_model load_bytes(const test::gguf_builder& builder) {
  test::scratch_directory scratch;
  test::write_bytes(scratch / "m.gguf", builder.bytes());
  return io::load_model(scratch / "m.gguf");  // The mapping outlives the file's name.
}

TEST_CASE("GGUF and safetensors of one model give the same weights") {
  for (const std::string type : {"llama", "qwen2", "qwen3"}) {
    CAPTURE(type);
    const bool bias = type != "qwen3";
    const bool norms = type == "qwen3";
    small_directory directory(bias, norms);
    directory.config = small_config(type);
    if (type == "llama") {
      // Llama's class has one switch for the biases of all four, the file here has three of them.
      directory.config["attention_bias"] = true;
      for (int i = 0; i < 2; ++i) {
        directory.weights.tensors.push_back(
            {"model.layers." + std::to_string(i) + ".self_attn.o_proj.bias",
             "blk." + std::to_string(i) + ".attn_output.bias",
             {small_model::d_model},
             std::vector<float>(small_model::d_model, 0.5F)});
      }
    }
    const auto hf = directory.load();
    auto builder = test::small_gguf({.architecture = type, .bias = bias, .norms = norms});
    if (type == "llama") {
      for (int i = 0; i < 2; ++i) {
        builder.floats("blk." + std::to_string(i) + ".attn_output.bias", {small_model::d_model},
                       std::vector<float>(small_model::d_model, 0.5F));
      }
    }
    const auto gguf = load_bytes(builder);
    const auto a = matrices(hf.weights);
    const auto b = matrices(gguf.weights);
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      CAPTURE(a[i]->name);
      CHECK(a[i]->rows == b[i]->rows);
      CHECK(a[i]->cols == b[i]->cols);
      CHECK(values_of(*a[i]) == values_of(*b[i]));
    }
    const auto& block = gguf.weights.blocks[1];
    CHECK(block.query.bias.empty() == !bias);
    CHECK(block.query_norm.empty() == !norms);
    CHECK(block.query.weight.rows == 8);
    CHECK(block.key.weight.rows == 4);
    CHECK(block.down.weight.cols == 12);

    const auto& c = gguf.weights.config;
    CHECK(c.architecture == type);
    CHECK(c.n_layers == 2);
    CHECK(c.n_heads == 2);
    CHECK(c.n_kv_heads == 1);
    CHECK(c.head_dim == 4);
    CHECK(c.n_vocab == 10);
    CHECK(c.n_context == 64);
    CHECK(c.rope.theta == 10000.0);
    CHECK(!c.tied_head);
    CHECK(std::abs(c.norm_eps - 1e-5) < 1e-11);
    CHECK(c.name == "a small model");
    CHECK(hf.weights.config.n_context == 64);
    CHECK(hf.file.format == "safetensors");
    CHECK(gguf.file.format == "GGUF 3");
    CHECK(hf.file.n_parameters == gguf.file.n_parameters);
  }
}

TEST_CASE("Llama rows leave the interleaved order with their quantised blocks whole") {
  // Head width 4, rows of 32: the file's row holds its number in the scale of its only block.
  test::gguf_builder wide;
  wide.string("general.architecture", "llama").u32("llama.block_count", 1);
  wide.u32("llama.embedding_length", 32).u32("llama.feed_forward_length", 32);
  wide.u32("llama.attention.head_count", 2).u32("llama.attention.head_count_kv", 1);
  wide.u32("llama.attention.key_length", 4).f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  auto rows = [&](const std::string& name, std::uint64_t n_rows, std::uint64_t n_cols = 32) {
    std::vector<float> x(32, 0.0F);
    std::vector<std::byte> bytes;
    for (std::uint64_t r = 0; r < n_rows; ++r) {
      x[0] = static_cast<float>(r + 1);
      std::vector<std::byte> row(34);
      quantize(weight_type::q8_0, x.data(), 32, row.data());
      bytes.insert(bytes.end(), row.begin(), row.end());
    }
    wide.add({name, {n_cols, n_rows}, code::q8_0, bytes});
  };
  rows("token_embd.weight", 10);
  rows("blk.0.attn_q.weight", 8);
  rows("blk.0.attn_k.weight", 4);
  rows("blk.0.attn_v.weight", 4);
  wide.floats("blk.0.attn_output.weight", {8, 32}, std::vector<float>(256, 1.0F));
  for (const std::string name : {"ffn_gate", "ffn_up", "ffn_down"}) {
    rows("blk.0." + name + ".weight", 32);
  }
  for (const std::string name : {"blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"}) {
    wide.floats(name + ".weight", {32}, std::vector<float>(32, 1.0F));
  }
  const auto loaded = load_bytes(wide);
  CHECK(loaded.weights.config.tied_head);
  CHECK(loaded.weights.head.weight.empty());
  const auto& block = loaded.weights.blocks.at(0);
  auto first_column = [](const host_matrix& m) {
    std::vector<int> column;
    std::vector<float> row(static_cast<std::size_t>(m.cols));
    for (index_t r = 0; r < m.rows; ++r) {
      dequantize_row(m, r, row.data());
      column.push_back(static_cast<int>(std::lround(row[0])));
    }
    return column;
  };
  // In each head of four: pairs (1 2) (3 4) of the file become firsts 1 3 and seconds 2 4.
  CHECK(first_column(block.query.weight) == std::vector<int>{1, 3, 2, 4, 5, 7, 6, 8});
  CHECK(first_column(block.key.weight) == std::vector<int>{1, 3, 2, 4});
  CHECK(first_column(block.value.weight) == std::vector<int>{1, 2, 3, 4});
  CHECK(loaded.file.by_type.at(weight_type::q8_0).n_tensors == 7);
  CHECK(loaded.file.by_type.at(weight_type::f32).n_tensors == 4);
  CHECK(loaded.file.by_type.at(weight_type::q8_0).n_bytes == 34 * (10 + 8 + 4 + 4 + 96));
  CHECK(loaded.file.n_parameters == 32 * (10 + 8 + 4 + 4 + 96) + 256 + 96);
}

TEST_CASE("rotary settings of GGUF") {
  auto rope = [](auto change) {
    auto builder = test::small_gguf();
    change(builder);
    return load_bytes(builder).weights.config.rope;
  };
  using kind = model::rope_scaling_kind;
  CHECK(rope([](auto&) {}).scaling == kind::none);
  CHECK(rope([](auto& b) { b.f32("llama.rope.freq_base", 500000); }).theta == 500000.0);
  const auto linear = rope([](auto& b) { b.f32("llama.rope.scaling.factor", 4); });
  CHECK(linear.scaling == kind::linear);
  CHECK(linear.factor == 4.0);
  CHECK(rope([](auto& b) { b.f32("llama.rope.scale_linear", 2); }).factor == 2.0);
  CHECK(rope([](auto& b) { b.f32("llama.rope.scaling.factor", 0); }).scaling == kind::none);
  const auto none = rope([](auto& b) {
    b.string("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4);
  });
  CHECK(none.scaling == kind::none);
  CHECK(none.factor == 1.0);
  const auto yarn = rope([](auto& b) {
    b.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
    b.u32("llama.rope.scaling.original_context_length", 32);
  });
  CHECK(yarn.scaling == kind::yarn);
  CHECK(yarn.original_context == 32);
  CHECK(yarn.attention_factor == 0.0);
  const auto warm = rope([](auto& b) {
    b.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
    b.f32("llama.rope.scaling.attn_factor", 0.5F);
  });
  CHECK(warm.original_context == 64);  // The context length itself.
  CHECK(warm.attention_factor == doctest::Approx(0.5 * (0.1 * std::log(4.0) + 1)));
  const auto divisors = rope([](auto& b) {
                          b.floats("rope_freqs.weight", {2}, {1.0F, 8.0F});
                        }).frequency_divisors;
  CHECK(divisors == std::vector<float>{1.0F, 8.0F});
}

TEST_CASE("a prefix or a map picks one model out of several") {
  small_directory directory;
  for (auto& t : directory.weights.tensors) t.hugging_face = "decoder." + t.hugging_face;
  directory.weights.tensors.push_back({"other.weight", "", {2}, {1, 2}});
  CHECK_THROWS_AS(directory.load(), format_error);
  const auto by_prefix = directory.load({.prefix = "decoder."});
  CHECK(by_prefix.weights.blocks.size() == 2);
  const auto by_map =
      directory.load({.rename = [](std::string_view name) -> std::optional<std::string> {
        if (!name.starts_with("decoder.")) return std::nullopt;
        return std::string(name.substr(8));
      }});
  CHECK(io::fingerprint(by_map.weights) == io::fingerprint(by_prefix.weights));
  const auto one_layer = directory.load(
      {.rename = [](std::string_view name) -> std::optional<std::string> {
         if (!name.starts_with("decoder.") || name.starts_with("decoder.model.layers.1.")) {
           return std::nullopt;
         }
         return std::string(name.substr(8));
       },
       .n_layers = 1});
  CHECK(one_layer.weights.blocks.size() == 1);
  CHECK(one_layer.weights.config.n_layers == 1);
  CHECK_THROWS_AS(directory.load({.prefix = "decoder.", .n_layers = -1}), argument_error);
  test::scratch_directory scratch;
  test::write_bytes(scratch / "m.gguf", test::small_gguf().bytes());
  CHECK_THROWS_AS(io::load_model(scratch / "m.gguf", {.prefix = "x"}), argument_error);
}

TEST_CASE("tensors of a directory must be those of the config") {
  small_directory d;
  CHECK(d.message().empty());
  SUBCASE("missing") {
    std::erase_if(d.weights.tensors,
                  [](const auto& t) { return t.hugging_face == "model.norm.weight"; });
    CHECK(d.message() == d.scratch.path().string() +
                             ": tensor 'model.norm.weight' is missing, expected one with extents "
                             "[8]");
  }
  SUBCASE("left over") {
    d.weights.tensors.push_back(
        {"model.layers.0.mlp.gate_proj.bias", "", {12}, std::vector<float>(12)});
    CHECK(d.message().find("'model.layers.0.mlp.gate_proj.bias' is not part of a llama model") !=
          std::string::npos);
  }
  SUBCASE("mis-shaped") {
    d.tensor("model.layers.1.mlp.up_proj.weight").extents = {8, 12};
    CHECK(d.message().find("'model.layers.1.mlp.up_proj.weight' has extents [8, 12], expected "
                           "[12, 8]") != std::string::npos);
  }
  SUBCASE("no head") {
    std::erase_if(d.weights.tensors,
                  [](const auto& t) { return t.hugging_face == "lm_head.weight"; });
    CHECK(d.message().find("'lm_head.weight' is missing") != std::string::npos);
    d.config["tie_word_embeddings"] = true;
    CHECK(d.message().empty());
    CHECK(d.load().weights.head.weight.empty());
  }
  SUBCASE("a tied head that is no copy") {
    d.config["tie_word_embeddings"] = true;
    CHECK(d.message().find("'lm_head.weight' differs from 'model.embed_tokens.weight'") !=
          std::string::npos);
    d.tensor("lm_head.weight").values = d.tensor("model.embed_tokens.weight").values;
    CHECK(d.message().empty());
    auto& bit = d.tensor("lm_head.weight").values[79];
    bit = std::nextafter(bit, 1e9F);
    CHECK(d.message().find("expected a copy") != std::string::npos);
  }
  SUBCASE("rotary frequencies of an older export are passed over") {
    d.weights.tensors.push_back(
        {"model.layers.0.self_attn.rotary_emb.inv_freq", "", {2}, {1, 0.01F}});
    CHECK(d.message().empty());
  }
  SUBCASE("biases that the config wants") {
    d.config["attention_bias"] = true;
    CHECK(d.message().find("'model.layers.0.self_attn.q_proj.bias' is missing") !=
          std::string::npos);
  }
  SUBCASE("the file instead of its directory") {
    d.load();
    CHECK(io::load_model(d.scratch / "model.safetensors").weights.blocks.size() == 2);
  }
  SUBCASE("no config") {
    d.load();
    std::filesystem::remove(d.scratch / "config.json");
    CHECK_THROWS_AS(io::load_model(d.scratch.path()), io::file_error);
  }
}

TEST_CASE("what is no model is refused by name") {
  test::scratch_directory scratch;
  CHECK_THROWS_AS(io::load_model(scratch / "absent.gguf"), io::file_error);
  for (const std::string name : {"notes.txt", "m.gguf", "pytorch_model.bin"}) {
    test::write_text(scratch / name, "PK\3\4 no model");
    CHECK_THROWS_AS(io::load_model(scratch / name), format_error);
  }
  test::write_text(scratch / "empty", "");
  CHECK_THROWS_AS(io::load_model(scratch / "empty"), format_error);
}

TEST_CASE("the fingerprint changes with every bit of the weights and every setting") {
  auto builder = test::small_gguf();
  std::size_t header_size = 0;
  const auto original = builder.build(&header_size).bytes();
  auto print = [](const std::vector<std::byte>& bytes) {
    return io::fingerprint(io::assemble_model(io::gguf_file::parse(bytes, "m")));
  };
  std::set<std::uint64_t> seen = {print(original)};
  CHECK(print(original) == *seen.begin());
  const auto file = io::gguf_file::parse(original, "m");
  std::size_t n = 1;
  for (const auto& tensor : file.tensors()) {
    const auto at = static_cast<std::size_t>(tensor.data.data() - original.data());
    for (const std::size_t byte :
         {std::size_t{0}, tensor.data.size() / 2, tensor.data.size() - 1}) {
      auto changed = original;
      changed[at + byte] ^= std::byte{1};
      seen.insert(print(changed));
      ++n;
    }
  }
  CHECK(seen.size() == n);
  auto model = io::assemble_model(file);
  auto differs = [&](auto change) {
    auto copy = model;
    change(copy.config);
    return seen.insert(io::fingerprint(copy)).second;
  };
  CHECK(differs([](auto& c) { c.norm_eps = 2e-5; }));
  CHECK(differs([](auto& c) { c.rope.theta = 5; }));
  CHECK(differs([](auto& c) { c.rope.scaling = model::rope_scaling_kind::linear; }));
  CHECK(differs([](auto& c) { c.rope.frequency_divisors = {1, 2}; }));
  CHECK(differs([](auto& c) { c.activation = activation_kind::gelu; }));
  CHECK(differs([](auto& c) { c.n_context = 65; }));
  CHECK(differs([](auto& c) { c.tied_head = true; }));
  CHECK(differs([](auto& c) { c.architecture = "qwen2"; }));
  CHECK(!differs([](auto& c) { c.name = "another name"; }));
}

TEST_CASE("a real model") {
  if (!test::require_file(test::model_path())) return;
  const auto loaded = io::load_model(test::model_path());
  const auto& c = loaded.weights.config;
  CHECK(c.n_layers == 30);
  CHECK(c.d_model == 576);
  CHECK(c.n_heads == 9);
  CHECK(c.n_kv_heads == 3);
  CHECK(c.head_dim == 64);
  CHECK(c.d_ff == 1536);
  CHECK(c.n_vocab == 49152);
  CHECK(c.n_context == 8192);
  CHECK(c.rope.theta == 100000.0);
  CHECK(c.tied_head);
  CHECK(loaded.file.n_parameters == 134515008);
  CHECK(loaded.file.by_type.at(weight_type::q8_0).n_tensors == 1);
  CHECK(loaded.file.by_type.at(weight_type::q4_1).n_tensors == 210);
  CHECK(loaded.file.by_type.at(weight_type::f32).n_tensors == 61);
  CHECK(loaded.file.file_bytes == 98362432);
  CHECK(io::fingerprint(loaded.weights) != 0);
  // Row 1 of the first head's query is the file's row 2, row 32 its row 1.
  const auto file = io::gguf_file::open(test::model_path());
  const auto& stored = file.tensor("blk.3.attn_q.weight").data;
  const auto& query = loaded.weights.blocks[3].query.weight;
  const std::size_t bytes = row_bytes(query.type, query.cols);
  auto same_row = [&](std::size_t ours, std::size_t theirs) {
    return std::memcmp(query.data.data() + ours * bytes, stored.data() + theirs * bytes, bytes) ==
           0;
  };
  CHECK(same_row(0, 0));
  CHECK(same_row(1, 2));
  CHECK(same_row(32, 1));
  CHECK(same_row(63, 63));
  CHECK(same_row(64 + 5, 64 + 10));
  CHECK(!same_row(1, 1));
}

TEST_CASE("the three models of a compressor's checkpoint") {
  for (const std::string name : {"llama_tied", "qwen3_tied_bf16"}) {
    const auto directory = test::golden_dir() / "gmsa" / "tiny" / name;
    if (!test::require_file(directory)) return;
    CAPTURE(name);
    const auto decoder = io::load_model(directory, {.prefix = "decoder."});
    CHECK(decoder.weights.blocks.size() == 10);
    CHECK(decoder.weights.config.head_dim == (name == "llama_tied" ? 8 : 16));
    CHECK(decoder.weights.blocks[0].query_norm.empty() == (name == "llama_tied"));
    const auto fusion =
        io::load_model(directory, {.prefix = "memory_fusion_layer.", .n_layers = 1});
    CHECK(fusion.weights.blocks.size() == 1);
    // The encoder's linear maps are split in a base and an adapter.
    const auto encoder = io::load_model(
        directory, {.prefix = "encoder.base_model.model.",
                    .rename = [](std::string_view tensor) -> std::optional<std::string> {
                      if (tensor.find(".lora_") != std::string_view::npos) return std::nullopt;
                      std::string plain(tensor);
                      const std::string infix = ".base_layer";
                      if (const auto at = plain.find(infix); at != std::string::npos) {
                        plain.erase(at, infix.size());
                      }
                      return plain;
                    },
                    .n_layers = 8});
    CHECK(encoder.weights.blocks.size() == 8);
    const std::set<std::uint64_t> prints = {io::fingerprint(decoder.weights),
                                            io::fingerprint(fusion.weights),
                                            io::fingerprint(encoder.weights)};
    CHECK(prints.size() == 3);
    CHECK_THROWS_AS(io::load_model(directory), format_error);
    CHECK_THROWS_AS(io::load_model(directory, {.prefix = "decoder.", .n_layers = 9}), format_error);
  }
}

}  // namespace
