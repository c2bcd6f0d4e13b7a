// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Checkpoints as the official code of GMSA writes them: names and extents of their tensors, which
// file of a folder is read, and tiny ones whose three parts differ, from the encoder to the answer.

#include <fstream>

#include <doctest/doctest.h>

#include <gistkv/io/gmsa_checkpoint.hpp>
#include <gistkv/io/gmsa_checkpoint_writer.hpp>
#include <gistkv/io/model_config_json.hpp>

#include "golden/forward_checks.hpp"
#include "golden/gmsa_support.hpp"

namespace gistkv::test {
namespace {

TEST_SUITE_BEGIN("golden");

gmsa::host_parts load_tiny(const nlohmann::json& checkpoint, const std::filesystem::path& folder) {
  const auto directory = folder / checkpoint.at("path").get<std::string>();
  const auto config = io::parse_model_config(read_file(directory / "config.json"), "config.json");
  return io::load_gmsa_checkpoint(*io::find_gmsa_checkpoint(directory), config.model, config.rules,
                                  checkpoint.at("lora_alpha").get<double>());
}

TEST_CASE("GMSA: tiny official checkpoints") {
  if (!require_file(golden_dir() / "gmsa" / "tiny.json")) return;
  const gmsa_goldens g;
  constexpr double tolerance = 1e-4;  // The goldens' own, for every number of these checkpoints.
  double worst = 0;
  index_t n_cases = 0;
  index_t n_greedy = 0;
  const auto tiny = g.json("tiny.json");
  for (const auto& checkpoint : tiny.at("checkpoints")) {
    const std::string checkpoint_name = checkpoint.at("name");
    CAPTURE(checkpoint_name);
    const gmsa::host_parts parts = load_tiny(checkpoint, g.directory());
    CHECK(parts.encoder.config.n_layers == checkpoint.at("encoder_layers").get<index_t>());
    CHECK(parts.alignment.config.n_layers == checkpoint.at("fusion_layers").get<index_t>());
    CHECK(parts.encoder_lora.front().rank == checkpoint.at("lora_r").get<index_t>());
    const gmsa::compressor<reference> compressor(backend(), gmsa::compressor_of(parts));
    const model::transformer<reference> decoder(backend(), parts.decoder);
    const auto compare = [&](std::span<const float> found, const std::string& array) {
      CAPTURE(array);
      const double error = largest_difference(found, g.floats(array));
      CHECK(error <= tolerance);
      worst = std::max(worst, error);
    };
    for (const auto& c : checkpoint.at("cases")) {
      const std::string name = c.at("name");
      CAPTURE(name);
      const auto ids = c.at("context_ids").get<std::vector<token_t>>();
      const std::span<const token_t> tokens = ids;
      const index_t rate = c.at("merge_size");
      const auto merge = [&](index_t m) {
        return compressor.merge({&tokens, 1}, {&m, 1}, {}, [](index_t) {});
      };
      const auto soft = compressor.align(merge(rate)).front();
      if (!ids.empty()) {
        compare(merge(1).front().rows, name + ".encoder");
        compare(merge(rate).front().rows, name + ".pooled");
        compare(soft.rows, name + ".soft");
        CHECK(soft.size() == c.at("memory_len").get<index_t>());
      }
      const auto labels = c.at("labels").get<std::vector<token_t>>();
      const auto n = static_cast<index_t>(labels.size());
      const auto hidden = soft_reader(decoder, soft).behind(input_tokens(c));
      const auto logits =
          logits_of(decoder, hidden, hidden.size() / decoder.config().d_model - n, n);
      compare(logits, name + ".logits");
      CHECK(largest_entry(logits) > 1.0);
      double loss = 0;
      for (index_t i = 0; i < n; ++i) {
        const float* row = logits.data() + i * decoder.n_vocab();
        loss += logsumexp(row, decoder.n_vocab()) -
                static_cast<double>(row[labels[static_cast<std::size_t>(i)]]);
      }
      CHECK(std::abs(loss / static_cast<double>(n) - c.at("loss").get<double>()) <= tolerance);
      n_greedy += check_greedy_runs(decoder, soft, c, 2);
      ++n_cases;
    }
  }
  CHECK(n_cases > 0);
  MESSAGE(n_cases << " cases, " << n_greedy << " greedy steps, largest error " << worst);
}

TEST_CASE("GMSA: a checkpoint written here has the bytes of the official one") {
  if (!require_file(golden_dir() / "gmsa" / "tiny.json")) return;
  const gmsa_goldens g;
  const auto path = std::filesystem::temp_directory_path() / "gistkv_gmsa_round.safetensors";
  const auto tiny = g.json("tiny.json");
  CHECK(tiny.at("checkpoints").size() == 2);
  for (const auto& checkpoint : tiny.at("checkpoints")) {
    CAPTURE(checkpoint.at("name").get<std::string>());
    const gmsa::host_parts parts = load_tiny(checkpoint, g.directory());
    io::write_gmsa_checkpoint(
        path, parts, checkpoint.at("dtype") == "float32" ? weight_type::f32 : weight_type::bf16);
    const auto written = io::safetensors_file::open(path);
    const auto official = io::safetensors_file::open(
        g.directory() / checkpoint.at("path").get<std::string>() / "model.safetensors");
    CHECK(written.tensors().size() == official.tensors().size());
    for (const auto& want : official.tensors()) {
      CAPTURE(want.name);
      const auto& found = written.tensor(want.name);
      CHECK(found.type == want.type);
      CHECK(found.extents == want.extents);
      CHECK(std::ranges::equal(found.data, want.data));
    }
  }
  std::filesystem::remove(path);
}

/// What config.json would say of a layout of the goldens.
io::gmsa_layout layout_of(const std::string& name, const nlohmann::json& layout) {
  io::gmsa_layout l;
  const auto extents = [&](const std::string& key) -> std::vector<index_t> {
    for (const auto& k : layout.at("keys")) {
      if (k.at("key") == key) return k.at("shape");
    }
    return {};
  };
  const auto has = [&](const char* part) {
    return !extents("decoder.model.layers.0." + std::string(part)).empty();
  };
  const std::string first = "decoder.model.layers.0.";
  model::model_config& c = l.config;
  c.d_model = extents("decoder.model.norm.weight").at(0);
  c.n_vocab = extents("decoder.model.embed_tokens.weight").at(0);
  c.d_ff = extents(first + "mlp.gate_proj.weight").at(0);
  c.head_dim = name == "qwen3_tied" ? 16 : name == "SmolLM2-135M-Instruct" ? 64 : 8;
  c.n_heads = extents(first + "self_attn.q_proj.weight").at(0) / c.head_dim;
  c.n_kv_heads = extents(first + "self_attn.k_proj.weight").at(0) / c.head_dim;
  c.n_layers = layout.contains("layers") ? layout.at("layers").get<index_t>() : 30;
  if (has("self_attn.q_proj.bias")) l.rules.query_key_value_bias = io::presence::required;
  if (has("self_attn.q_norm.weight")) l.rules.query_key_norm = io::presence::required;
  l.encoder_layers = 8;
  l.lora_rank = layout.contains("lora_r") ? layout.at("lora_r").get<index_t>() : 4;
  l.alignment_layers = name == "llama_linear_only" ? 0 : 1;
  return l;
}

TEST_CASE("GMSA: names and extents of the official checkpoints, in their order") {
  if (!require_file(golden_dir() / "gmsa" / "checkpoint_layout.json")) return;
  const nlohmann::json layouts =
      read_json(golden_dir() / "gmsa" / "checkpoint_layout.json").at("layouts");
  CHECK(layouts.size() == 5);
  for (const auto& [name, layout] : layouts.items()) {
    CAPTURE(name);
    const auto found = io::gmsa_tensors(layout_of(name, layout));
    const auto& want = layout.at("keys");
    REQUIRE(found.size() == want.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].name == want[i].at("key").get<std::string>());
      CHECK(found[i].extents == want[i].at("shape").get<std::vector<index_t>>());
    }
  }
}

TEST_CASE("GMSA: which file of a folder is the checkpoint") {
  if (!require_file(golden_dir() / "gmsa" / "checkpoint_layout.json")) return;
  const auto root = std::filesystem::temp_directory_path() / "gistkv_gmsa_resolver";
  const auto golden = read_json(golden_dir() / "gmsa" / "checkpoint_layout.json");
  CHECK(golden.at("resolver").size() > 10);
  for (const auto& c : golden.at("resolver")) {
    CAPTURE(c.dump());
    std::filesystem::remove_all(root);
    std::filesystem::create_directories(root);
    for (const std::string file : c.at("files")) {
      std::filesystem::create_directories((root / file).parent_path());
      std::ofstream(root / file) << "x";
    }
    const auto found = io::find_gmsa_checkpoint(root);
    if (c.at("chosen").is_null()) {
      CHECK(!found);
    } else {
      REQUIRE(found);
      CHECK(std::filesystem::relative(*found, root) == c.at("chosen").get<std::string>());
    }
  }
  std::filesystem::remove_all(root);
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
