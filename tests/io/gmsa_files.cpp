// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Checkpoints and adapters of GMSA: what is written comes back, and every fault is named.

#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/io/gmsa_adapter.hpp>
#include <gistkv/io/gmsa_checkpoint.hpp>
#include <gistkv/io/gmsa_checkpoint_writer.hpp>

#include "support/random_model.hpp"

namespace {

using namespace gistkv;

/// A file that is gone at the end.
struct scratch_file {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "gistkv_gmsa.safetensors";
  ~scratch_file() { std::filesystem::remove(path); }
};

/// Parts in which no two matrices are equal.
gmsa::host_parts random_parts(const test::random_model_options& o, index_t n_alignment = 1) {
  gmsa::host_parts parts = gmsa::untrained_parts(test::random_model(o), {2, 1});
  test::random_model_options other = o;
  other.seed += 1;
  const auto second = test::random_model(other);
  parts.encoder = gmsa::first_layers(second, 2);
  parts.encoder.token_embedding = second.token_embedding;
  other.seed += 1;
  const auto third = test::random_model(other);
  if (n_alignment > 0) {
    parts.alignment = gmsa::first_layers(third, n_alignment);
  } else {
    parts.alignment = {};
  }
  auto memory = std::make_shared<std::vector<std::vector<float>>>();
  memory->reserve(100);
  random_generator random(o.seed + 9);
  const auto matrix = [&](index_t rows, index_t cols) {
    auto& x = memory->emplace_back();
    for (index_t i = 0; i < rows * cols; ++i) x.push_back(static_cast<float>(random.normal()));
    return host_matrix{"random", weight_type::f32, rows, cols,
                       std::as_bytes(std::span<const float>(x))};
  };
  constexpr index_t rank = 3;
  parts.lora_alpha = 6;
  for (index_t i = 0; i < 2; ++i) {
    for (const auto& [target, name, map] :
         model::linear_maps(parts.encoder.blocks[static_cast<std::size_t>(i)])) {
      const index_t rows = map->weight.rows;
      const index_t cols = map->weight.cols;
      model::low_rank f{i, std::string(target), rank, rows, cols, {}, {}};
      for (index_t j = 0; j < rank * cols; ++j) f.a.push_back(static_cast<float>(random.normal()));
      for (index_t j = 0; j < rank * rows; ++j) f.b.push_back(static_cast<float>(random.normal()));
      parts.encoder_lora.push_back(std::move(f));
    }
  }
  parts.linear = {matrix(o.d_model, o.d_model), matrix(1, o.d_model)};
  parts.encoder.storage.push_back(memory);
  parts.alignment.storage.push_back(memory);
  return parts;
}

void same(const host_matrix& a, const host_matrix& b) {
  CHECK(a.rows == b.rows);
  CHECK(a.cols == b.cols);
  CHECK(a.type == b.type);
  CHECK(std::ranges::equal(a.data, b.data));
}
void same(const model::host_model& a, const model::host_model& b) {
  REQUIRE(a.blocks.size() == b.blocks.size());
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    const auto left = model::linear_maps(a.blocks[i]);
    const auto right = model::linear_maps(b.blocks[i]);
    for (std::size_t j = 0; j < left.size(); ++j) {
      same(left[j].map->weight, right[j].map->weight);
      same(left[j].map->bias, right[j].map->bias);
    }
    same(a.blocks[i].attention_norm, b.blocks[i].attention_norm);
    same(a.blocks[i].feed_forward_norm, b.blocks[i].feed_forward_norm);
    same(a.blocks[i].query_norm, b.blocks[i].query_norm);
    same(a.blocks[i].key_norm, b.blocks[i].key_norm);
  }
  same(a.final_norm, b.final_norm);
}
void same_lora(const std::vector<model::low_rank>& a, const std::vector<model::low_rank>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const model::low_rank& left = a[i];
    const model::low_rank& right = b[i];
    CHECK(left.layer == right.layer);
    CHECK(left.target == right.target);
    CHECK(left.a == right.a);
    CHECK(left.b == right.b);
  }
}
void same_compressor(const gmsa::host_parts& a, const gmsa::host_parts& b) {
  same(a.alignment, b.alignment);
  same_lora(a.encoder_lora, b.encoder_lora);
  CHECK(a.lora_alpha == b.lora_alpha);
}

/// The message of the error that `f` throws.
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const error& failure) {
    return failure.what();
  }
  return "no error";
}
void names(const std::string& message, const std::string& part) {
  CAPTURE(message);
  CAPTURE(part);
  CHECK(message.find(part) != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
}

using tensors = std::vector<io::safetensors_tensor>;

/// Writes a file again after `change`. The old file stays mapped.
void rewrite(const std::filesystem::path& path, const std::function<void(tensors&)>& change,
             std::map<std::string, std::string, std::less<>> metadata = {}) {
  const auto file = io::safetensors_file::open(path);
  tensors all(file.tensors().begin(), file.tensors().end());
  if (metadata.empty()) metadata = file.metadata();
  change(all);
  io::write_safetensors(path, all, metadata);
}
io::safetensors_tensor& tensor_of(tensors& all, const std::string& name) {
  for (auto& t : all) {
    if (t.name == name) return t;
  }
  throw argument_error("the test knows no tensor " + name);
}

/// Makes encoder and decoder those of the base; returns the encoder as it was.
model::host_model put_on(gmsa::host_parts& parts, const model::host_model& base) {
  const model::host_model other = parts.encoder;
  parts.encoder = gmsa::first_layers(base, 2);
  parts.encoder.storage.insert(parts.encoder.storage.end(), other.storage.begin(),
                               other.storage.end());
  parts.decoder = base;
  return other;
}

test::random_model_options model_options(bool biases, bool norms, bool tied) {
  test::random_model_options o;
  o.n_layers = 3;
  o.biases = biases;
  o.head_norms = norms;
  o.tied_head = tied;
  return o;
}

TEST_SUITE_BEGIN("gmsa files");

TEST_CASE("a checkpoint comes back as it was written") {
  const scratch_file file;
  for (const bool biases : {false, true}) {
    for (const bool norms : {false, true}) {
      for (const bool tied : {false, true}) {
        for (const index_t n_alignment : {0, 1, 2}) {
          const auto parts = random_parts(model_options(biases, norms, tied), n_alignment);
          io::write_gmsa_checkpoint(file.path, parts, weight_type::f32);
          const auto back = io::load_gmsa_checkpoint(file.path, parts.decoder.config,
                                                     io::rules_of(parts.decoder), 6);
          same(parts.decoder, back.decoder);
          same(parts.decoder.token_embedding, back.decoder.token_embedding);
          same(parts.decoder.head.weight, back.decoder.head.weight);
          same(parts.encoder, back.encoder);
          same(parts.encoder.token_embedding, back.encoder.token_embedding);
          same(parts.linear.weight, back.linear.weight);
          same(parts.linear.bias, back.linear.bias);
          same_compressor(parts, back);
        }
      }
    }
  }
}

TEST_CASE("every fault of a checkpoint is named") {
  const auto parts = random_parts(model_options(false, false, true));
  const std::string layer = "encoder.base_model.model.model.layers.1.";
  const auto fault = [&](const std::function<void(tensors&)>& change, double alpha = 6) {
    const scratch_file file;
    io::write_gmsa_checkpoint(file.path, parts, weight_type::f32);
    rewrite(file.path, change);
    return error_of([&] {
      io::load_gmsa_checkpoint(file.path, parts.decoder.config, io::rules_of(parts.decoder), alpha);
    });
  };
  CHECK(fault([](tensors&) {}) == "no error");
  // One of each kind, and all in one message.
  const std::string all = fault([&](tensors& t) {
    std::erase_if(t, [&](const auto& x) { return x.name == "decoder.model.norm.weight"; });
    std::erase_if(
        t, [&](const auto& x) { return x.name == layer + "mlp.up_proj.lora_B.default.weight"; });
    tensor_of(t, "decoder.model.layers.0.self_attn.q_proj.weight").extents = {12, 16};
    tensor_of(t, layer + "self_attn.k_proj.lora_A.default.weight").name =
        layer + "self_attn.k_proj.lora_A.other.weight";
  });
  names(all, "'decoder.model.norm.weight'");
  names(all, "'" + layer + "mlp.up_proj.lora_B.default.weight'");
  names(all, "'decoder.model.layers.0.self_attn.q_proj.weight' [12, 16], expected [16, 12]");
  names(all, "missing: ");
  names(all, "1 unknown: '" + layer + "self_attn.k_proj.lora_A.other.weight'");

  const auto drop = [&](const std::string& prefix) {
    return fault([&](tensors& t) {
      std::erase_if(t, [&](const auto& x) { return x.name.starts_with(prefix); });
    });
  };
  names(drop("encoder."), "holds no encoder layer");
  for (const std::string number : {"4000000000", "9223372036854775807", "-1"}) {
    names(fault([&](tensors& t) {
            tensor_of(t, "encoder.base_model.model.model.layers.1.input_layernorm.weight").name =
                "encoder.base_model.model.model.layers." + number + ".input_layernorm.weight";
          }),
          "is of layer " + number);
  }
  names(drop("encoder.base_model.model.model.layers.0."), "layers.0.mlp.down_proj.base_layer");
  names(drop("decoder.model.layers.2."), "'decoder.model.layers.2.mlp.up_proj.weight'");
  names(drop("semantic_alignment_layer."), "'semantic_alignment_layer.bias'");
  names(drop("memory_fusion_layer.lm_head"), "'memory_fusion_layer.lm_head.weight'");
  // Half of an alignment is none of its layers, not a linear one.
  names(drop("memory_fusion_layer.model.layers"), "unknown: 'memory_fusion_layer");
  names(fault([](tensors& t) {
          std::erase_if(t,
                        [](const auto& x) { return x.name.find("lora_A") != std::string::npos; });
        }),
        "no matrix of LoRA");
  std::vector<std::byte> bytes;
  const auto copy = [&](io::safetensors_tensor& t) {
    bytes.assign(t.data.begin(), t.data.end());
    t.data = bytes;
  };
  for (const std::string part : {"decoder.", "encoder.base_model.model.", "memory_fusion_layer."}) {
    names(fault([&](tensors& t) {
            copy(tensor_of(t, part + "lm_head.weight"));
            bytes[5] ^= std::byte{1};
          }),
          "'lm_head.weight' differs from 'model.embed_tokens.weight'");
  }
  names(fault([&](tensors& t) {
          copy(tensor_of(t, "decoder.model.norm.weight"));
          const float infinite = INFINITY;
          std::memcpy(bytes.data() + 8, &infinite, 4);
        }),
        "'decoder.model.norm.weight': element 2 is inf");
  names(fault([&](tensors& t) {
          auto& x = tensor_of(t, "decoder.model.norm.weight");
          bytes.assign(x.data.size() / 2, std::byte{});
          x.data = bytes;
          x.type = io::safetensors_type::bf16;
        }),
        "'decoder.model.norm.weight' is bf16, expected f32");
  for (const double alpha : {0.0, -1.0, std::nan("")}) {
    names(fault([](tensors&) {}, alpha), "lora_alpha is ");
  }
  const scratch_file file;
  io::write_gmsa_checkpoint(file.path, parts, weight_type::bf16);
  std::filesystem::resize_file(file.path, std::filesystem::file_size(file.path) - 3);
  names(error_of([&] {
          io::load_gmsa_checkpoint(file.path, parts.decoder.config, io::rules_of(parts.decoder), 6);
        }),
        "gistkv_gmsa.safetensors");
  auto without = parts;
  without.encoder_lora.clear();
  CHECK_THROWS_AS(io::write_gmsa_checkpoint(file.path, without, weight_type::f32), argument_error);
  CHECK_THROWS_AS(io::write_gmsa_checkpoint(file.path, parts, weight_type::q8_0), argument_error);
  auto last = parts;
  last.merging = gmsa::merging::last;
  CHECK_THROWS_AS(io::write_gmsa_checkpoint(file.path, last, weight_type::f32), argument_error);
  auto slots = parts;
  gmsa::add_slots(slots, 2, 1);
  CHECK_THROWS_AS(io::write_gmsa_checkpoint(file.path, slots, weight_type::f32), argument_error);
}

TEST_CASE("an adapter holds what differs from the base, and comes back") {
  const scratch_file file;
  for (const bool norms : {false, true}) {
    for (const index_t n_alignment : {0, 1, 2}) {
      const auto base = test::random_model(model_options(norms, norms, true));
      io::gmsa_adapter adapter{random_parts(model_options(norms, norms, true), n_alignment),
                               {4, 8}};
      // Encoder and decoder are the base but for LoRA and one map.
      const auto other = put_on(adapter.parts, base);
      adapter.parts.decoder.blocks[1].value.weight = other.blocks[1].value.weight;
      if (norms) {  // All that stage 2 may train.
        adapter.parts.decoder.blocks[2].query_norm = other.blocks[1].query_norm;
        adapter.parts.decoder.blocks[0].attention_norm = other.blocks[1].attention_norm;
        adapter.parts.decoder.final_norm = other.final_norm;
        adapter.parts.decoder.token_embedding = other.token_embedding;
        adapter.parts.decoder_lora = {adapter.parts.encoder_lora[1], adapter.parts.encoder_lora[8]};
        adapter.parts.decoder_lora_alpha = 7.0 / 3;  // No short decimal has its value.
      }
      io::write_gmsa_adapter(file.path, adapter, base, weight_type::f32);
      CHECK(io::is_gmsa_adapter(io::safetensors_file::open(file.path)));
      const auto back = io::read_gmsa_adapter(file.path, base);
      CHECK(back.rates == adapter.rates);
      same(back.parts.decoder, adapter.parts.decoder);
      same(back.parts.encoder, adapter.parts.encoder);
      same_compressor(back.parts, adapter.parts);
      if (n_alignment == 0) {
        same(back.parts.linear.weight, adapter.parts.linear.weight);
        same(back.parts.linear.bias, adapter.parts.linear.bias);
      }
      const auto count = [&](const std::string& prefix) {
        const auto f = io::safetensors_file::open(file.path);
        return std::ranges::count_if(f.tensors(),
                                     [&](const auto& t) { return t.name.starts_with(prefix); });
      };
      CHECK(count("decoder.") == (norms ? 9 : 1));
      same_lora(back.parts.decoder_lora, adapter.parts.decoder_lora);
      CHECK(back.parts.decoder_lora_alpha == adapter.parts.decoder_lora_alpha);
      CHECK(count("encoder.") == 28);
      CHECK(back.parts.merging == gmsa::merging::mean);
      if (n_alignment > 0) continue;
      // Nor linear: nothing is between merged rows and soft tokens.
      adapter.parts.linear = {};
      adapter.parts.merging = gmsa::merging::last;
      io::write_gmsa_adapter(file.path, adapter, base, weight_type::f32);
      const auto bare = io::read_gmsa_adapter(file.path, base);
      CHECK(bare.parts.merging == gmsa::merging::last);
      CHECK(bare.parts.alignment.blocks.empty());
      CHECK(bare.parts.linear.weight.empty());
      CHECK(count("alignment.") == 0);
      adapter.parts.encoder.token_embedding = base.token_embedding;
      gmsa::add_slots(adapter.parts, 5, 1);
      io::write_gmsa_adapter(file.path, adapter, base, weight_type::f32);
      same(io::read_gmsa_adapter(file.path, base).parts.slots, adapter.parts.slots);
    }
  }
}

TEST_CASE("an alpha that could not be read back is not written") {
  const auto base = test::random_model(model_options(false, false, true));
  io::gmsa_adapter adapter{random_parts(model_options(false, false, true)), {4}};
  put_on(adapter.parts, base);
  for (const double alpha : {0.0, -1.0, std::nan(""), double(INFINITY)}) {
    const scratch_file file;
    adapter.parts.lora_alpha = alpha;
    CHECK_THROWS_AS(io::write_gmsa_adapter(file.path, adapter, base, weight_type::f32),
                    argument_error);
  }
}

TEST_CASE("every fault of an adapter is named") {
  const auto base = test::random_model(model_options(false, false, true));
  io::gmsa_adapter adapter{random_parts(model_options(false, false, true)), {4}};
  const auto another_encoder = put_on(adapter.parts, base);
  const auto fault =
      [&](const std::function<void(tensors&)>& change,
          const std::function<void(std::map<std::string, std::string, std::less<>>&)>& metadata =
              {}) {
        const scratch_file file;
        io::write_gmsa_adapter(file.path, adapter, base, weight_type::f32);
        auto said = io::safetensors_file::open(file.path).metadata();
        if (metadata) metadata(said);
        rewrite(file.path, change, said);
        return error_of([&] { io::read_gmsa_adapter(file.path, base); });
      };
  const auto keep = [](tensors&) {};
  CHECK(fault(keep) == "no error");
  names(
      fault([](tensors& t) {
        std::erase_if(t, [](const auto& x) {
          return x.name == "encoder.layers.1.mlp.up_proj.lora_B" ||
                 x.name == "alignment.norm.weight";
        });
        tensor_of(t, "alignment.layers.0.mlp.gate_proj.weight").extents = {12, 20};
        tensor_of(t, "alignment.layers.0.self_attn.k_proj.weight").name = "decoder.layers.7.x";
      }),
      "'alignment.layers.0.self_attn.k_proj.weight', 'alignment.norm.weight'; 1 of other extents: "
      "'alignment.layers.0.mlp.gate_proj.weight' [12, 20], expected [20, 12]; 1 unknown: "
      "'decoder.layers.7.x'");
  const auto says = [&](const std::string& key, const std::string& value) {
    return fault(keep, [&](auto& m) { m[key] = value; });
  };
  names(says("base", "0000000000000000"), "was trained on another model");
  names(says("format", "gistkv gmsa adapter 2"), "'format' is 'gistkv gmsa adapter 2'");
  names(says("encoder_layers", "4"), "4 encoder and 1 alignment layers, the model has 3");
  names(says("encoder_layers", "x"), "'encoder_layers' is 'x', expected a number");
  names(says("encoder_layers", "1"), "14 unknown: 'encoder.layers.1.");
  names(says("encoder_layers", "3"), "14 missing: 'encoder.layers.2.");
  names(says("lora_alpha", "0"), "'lora_alpha' is '0'");
  names(says("rates", "4;8"), "'rates': gmsa: rates are '4;8'");
  names(fault(keep, [](auto& m) { m.erase("alignment_layers"); }), "'alignment_layers' is missing");
  names(says("merging", "median"), "'median', expected 'mean', 'last' or 'slots'");
  names(says("merging", "slots"), "1 missing: 'encoder.slots'");
  CHECK_THROWS_AS(gmsa::add_slots(adapter.parts, 5, 1), argument_error);
  adapter.parts.encoder.token_embedding = base.token_embedding;
  gmsa::add_slots(adapter.parts, 5, 1);
  CHECK(fault(keep) == "no error");
  names(says("merging", "mean"), "1 unknown: 'encoder.slots'");
  names(fault([](tensors& t) {
          tensor_of(t, "encoder.slots").extents = {12, 5};
        }),
        "'encoder.slots' [12, 5], expected [12, 12]");
  adapter.parts.slots = {};
  adapter.parts.decoder_lora = {adapter.parts.encoder_lora[1]};
  adapter.parts.decoder_lora_alpha = 7;
  CHECK(fault(keep) == "no error");
  names(says("decoder_lora_alpha", "-1"), "'decoder_lora_alpha' is '-1', expected a positive");
  names(fault(keep, [](auto& m) { m.erase("decoder_lora_alpha"); }), "'decoder_lora_alpha' is ''");
  names(fault([](tensors& t) {
          std::erase_if(t, [](const auto& x) {
            return x.name == "decoder.layers.0.self_attn.k_proj.lora_B";
          });
        }),
        "1 missing: 'decoder.layers.0.self_attn.k_proj.lora_B'");
  adapter.parts.decoder_lora.clear();
  const auto other = test::random_model({.n_layers = 3, .seed = 77});
  const scratch_file file;
  io::write_gmsa_adapter(file.path, adapter, base, weight_type::bf16);
  names(error_of([&] { io::read_gmsa_adapter(file.path, other); }), "another model");

  // What the file has no place for is not left out in silence.
  const auto write = [&](const io::gmsa_adapter& a) {
    return error_of([&] { io::write_gmsa_adapter(file.path, a, base, weight_type::f32); });
  };
  auto wrong = adapter;
  wrong.parts.encoder = another_encoder;
  names(write(wrong), "encoder.embed_tokens.weight is not that of the base model");
  wrong = adapter;
  wrong.parts.decoder.blocks.pop_back();
  names(write(wrong), "the decoder has 2 layers, the base model 3");
  wrong = adapter;
  wrong.parts.decoder.final_norm.cols = 11;
  wrong.parts.decoder.final_norm.data = wrong.parts.decoder.final_norm.data.first(11 * 4);
  names(write(wrong), "decoder.norm.weight is [1, 11], in the base model [1, 12]");
  wrong = adapter;
  wrong.parts.encoder_lora.pop_back();
  names(write(wrong), "there is none of layer 1 down");
}

TEST_CASE("LoRA adds scale B A, and its extents are checked") {
  auto parts = random_parts(model_options(false, false, true));
  const model::low_rank& lora = parts.encoder_lora.back();
  REQUIRE(lora.target == "down");
  const auto& w = parts.encoder.blocks[1].down.weight;
  const auto merged = gmsa::compressor_of(parts);
  const auto& sum = merged.encoder.blocks[1].down.weight;
  double worst = 0;
  for (index_t i = 0; i < w.rows; ++i) {
    for (index_t j = 0; j < w.cols; ++j) {
      double want = test::element(w, i, j);
      for (index_t k = 0; k < lora.rank; ++k) {
        want += parts.lora_alpha / static_cast<double>(lora.rank) *
                test::element(lora.b_matrix(), i, k) * test::element(lora.a_matrix(), k, j);
      }
      worst = std::max(worst, std::abs(want - test::element(sum, i, j)));
    }
  }
  CHECK(worst <= 1e-5);
  CHECK(!std::ranges::equal(sum.data, w.data));
  auto wrong = parts;
  wrong.encoder_lora.back().target = "up";
  names(error_of([&] { gmsa::compressor_of(wrong); }),
        "LoRA of layer 1 up is [12, 20] of rank 3 with 60 and 36 numbers, expected [20, 12]");
  wrong = parts;
  wrong.encoder_lora[3].b.pop_back();
  CHECK_THROWS_AS(gmsa::compressor_of(wrong), shape_error);
  wrong = parts;
  wrong.encoder_lora.front().layer = 2;
  names(error_of([&] { gmsa::compressor_of(wrong); }), "for layer 2 of 2");
  wrong = parts;
  wrong.encoder_lora.front().target = "side";
  names(error_of([&] { gmsa::compressor_of(wrong); }), "target 'side' is none of a block");
  CHECK_THROWS_AS(gmsa::untrained_parts(parts.decoder, {8, 1}), argument_error);
  CHECK_THROWS_AS(gmsa::first_layers(parts.decoder, 0), argument_error);
}

TEST_SUITE_END();

}  // namespace
