// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/core/error.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/model_writer.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/io/tokenizer_json.hpp>
#include <gistkv/io/tokenizer_json_writer.hpp>
#include <io/gguf_builder.hpp>
#include <io/small_tokenizer.hpp>

#include "support/data.hpp"
#include "support/random_model.hpp"

/// A model and its tokenizer written as a Hugging Face directory are read as what they were.

namespace gistkv::test {

namespace {

model::host_model made(const std::string& architecture, const random_model_options& o) {
  model::host_model m = random_model(o);
  m.config.architecture = architecture;
  m.config.name = "made";
  m.config.n_context = 512;
  m.config.rope.theta = 12345.5;
  return m;
}

/// All matrices, absent ones included.
std::vector<const host_matrix*> matrices(const model::host_model& m) {
  std::vector<const host_matrix*> all = {&m.token_embedding, &m.final_norm, &m.head.weight,
                                         &m.head.bias};
  for (const model::host_block& b : m.blocks) {
    for (const host_matrix* x :
         {&b.attention_norm, &b.query_norm, &b.key_norm, &b.feed_forward_norm}) {
      all.push_back(x);
    }
    for (const model::host_linear* l :
         {&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down}) {
      all.push_back(&l->weight);
      all.push_back(&l->bias);
    }
  }
  return all;
}

std::vector<float> floats(const host_matrix& m) {
  std::vector<float> values(static_cast<std::size_t>(m.rows * m.cols));
  for (index_t r = 0; r < m.rows; ++r) dequantize_row(m, r, values.data() + r * m.cols);
  return values;
}

void check_round_trip(const model::host_model& m, weight_type type) {
  const scratch_directory folder;
  io::write_model(folder.path(), m, type);
  const io::loaded_model back = io::load_model(folder.path());
  const model::model_config& a = m.config;
  const model::model_config& b = back.weights.config;
  CHECK(b.architecture == a.architecture);
  CHECK(b.name == a.name);
  CHECK(b.n_layers == a.n_layers);
  CHECK(b.d_model == a.d_model);
  CHECK(b.n_heads == a.n_heads);
  CHECK(b.n_kv_heads == a.n_kv_heads);
  CHECK(b.head_dim == a.head_dim);
  CHECK(b.d_ff == a.d_ff);
  CHECK(b.n_vocab == a.n_vocab);
  CHECK(b.n_context == a.n_context);
  CHECK(b.norm_eps == a.norm_eps);
  CHECK(b.activation == a.activation);
  CHECK(b.tied_head == a.tied_head);
  CHECK(b.rope.theta == a.rope.theta);
  CHECK(b.rope.scaling == a.rope.scaling);
  CHECK(b.rope.factor == a.rope.factor);
  CHECK(b.rope.original_context == a.rope.original_context);
  CHECK(b.rope.low_freq_factor == a.rope.low_freq_factor);
  CHECK(b.rope.high_freq_factor == a.rope.high_freq_factor);
  CHECK(b.rope.beta_fast == a.rope.beta_fast);
  CHECK(b.rope.beta_slow == a.rope.beta_slow);
  CHECK(b.rope.attention_factor == a.rope.attention_factor);
  const auto before = matrices(m);
  const auto after = matrices(back.weights);
  REQUIRE(before.size() == after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    CAPTURE(after[i]->name);
    std::vector<float> expected = floats(*before[i]);
    if (type == weight_type::bf16) {
      for (float& x : expected) x = static_cast<float>(bf16(x));
    }
    CHECK(floats(*after[i]) == expected);
    if (!after[i]->empty()) CHECK(after[i]->type == type);
  }
}

TEST_CASE("model writer: what is read is what was written") {
  random_model_options plain;
  random_model_options untied;
  untied.tied_head = false;
  random_model_options biased;
  biased.biases = true;
  random_model_options normed;
  normed.head_norms = true;
  for (const weight_type type : {weight_type::f32, weight_type::bf16}) {
    check_round_trip(made("llama", plain), type);
    check_round_trip(made("llama", untied), type);
    check_round_trip(made("llama", biased), type);
    check_round_trip(made("qwen3", normed), type);
  }
  model::host_model qwen2 = made("qwen2", biased);
  for (model::host_block& b : qwen2.blocks) {
    for (model::host_linear* l : {&b.output, &b.gate, &b.up, &b.down}) l->bias = {};
  }
  check_round_trip(qwen2, weight_type::f32);

  model::host_model stretched = made("llama", plain);
  model::rope_config& rope = stretched.config.rope;
  rope.scaling = model::rope_scaling_kind::linear;
  rope.factor = 4;
  check_round_trip(stretched, weight_type::f32);
  rope.scaling = model::rope_scaling_kind::llama3;
  rope.original_context = 128;
  rope.low_freq_factor = 1.5;
  rope.high_freq_factor = 3.5;
  check_round_trip(stretched, weight_type::f32);
  rope = {};
  rope.scaling = model::rope_scaling_kind::yarn;
  rope.factor = 2;
  rope.original_context = 256;
  rope.beta_fast = 30;
  rope.beta_slow = 2;
  rope.attention_factor = 1.25;
  check_round_trip(stretched, weight_type::f32);
}

TEST_CASE("model writer: a name of any bytes is written as UTF-8") {
  model::host_model m = made("llama", {});
  m.config.name = "caf\xe9";
  const scratch_directory scratch;
  io::write_model(scratch.path(), m, weight_type::f32);
  CHECK(io::load_model(scratch.path()).weights.config.name == "caf\xEF\xBF\xBD");
}

TEST_CASE("model writer: what config.json cannot say is refused") {
  const auto refused = [](const model::host_model& m) {
    try {
      io::model_config_json(m);
    } catch (const argument_error& failure) {
      return std::string(failure.what());
    }
    return std::string("accepted");
  };
  random_model_options plain;
  random_model_options biased;
  biased.biases = true;
  CHECK(refused(made("llama", plain)) == "accepted");
  CHECK(refused(made("gpt", plain)).find("'gpt', expected llama") != std::string::npos);
  CHECK(refused(made("qwen3", plain)).find("norms of queries") != std::string::npos);
  CHECK(refused(made("qwen2", plain)).find("query biases") != std::string::npos);
  model::host_model m = made("llama", plain);
  m.config.attention_scale = 0.5;
  CHECK(refused(m).find("attention scale, 0.5") != std::string::npos);
  m = made("llama", plain);
  m.config.rope.frequency_divisors = {1, 2};
  CHECK(refused(m).find("divisors") != std::string::npos);
  m = made("llama", biased);
  for (model::host_block& b : m.blocks) b.output.bias = {};
  CHECK(refused(m).find("without those of the output") != std::string::npos);
  const scratch_directory folder;
  CHECK_THROWS_AS(io::write_model(folder.path(), made("llama", plain), weight_type::q4_0),
                  argument_error);
}

/// The same ids for the same text, and the same special tokens.
void check_tokenizer(const io::tokenizer_data& data) {
  const scratch_directory folder;
  io::write_tokenizer_json(folder.path(), data);
  const io::tokenizer_data read = io::read_tokenizer_json(folder.path());
  CHECK(read.pre == data.pre);
  CHECK(read.bos == data.bos);
  CHECK(read.eos == data.eos);
  CHECK(read.pad == data.pad);
  CHECK(read.add_bos == data.add_bos);
  CHECK(read.chat_template == data.chat_template);
  const io::tokenizer before(data);
  const io::tokenizer after(read);
  CHECK(after.fingerprint() == before.fingerprint());
  CHECK(std::ranges::equal(after.end_tokens(), before.end_tokens()));
  for (const char* text :
       {"The wind was good. It's 1842!\n\nIs it?  So.", "\xC3\xA9\xE2\x80\x94\xF0\x9F\x98\x80 \xFF",
        "<|im_start|>user\nthen<|im_end|>", "a\tb\r\nc   d"}) {
    CHECK(after.encode(text) == before.encode(text));
    CHECK(after.encode(text, io::special_tokens::as_text) ==
          before.encode(text, io::special_tokens::as_text));
  }
}

TEST_CASE("tokenizer.json writer: every rule and option") {
  io::tokenizer_data data = small_tokenizer_data();
  for (io::token_kind& kind : data.kinds) {
    // Hugging Face has two kinds of added tokens.
    if (kind == io::token_kind::unknown || kind == io::token_kind::unused) {
      kind = io::token_kind::control;
    }
  }
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm"}) {
    data.pre = pre;
    check_tokenizer(data);
  }
  data.bos = 0;
  data.eos = 1;
  data.add_bos = true;
  data.ignore_merges = true;
  data.compose = true;
  data.chat_template = "{{ messages }}";
  check_tokenizer(data);
  data.pre = "gpt-2";
  data.add_prefix_space = true;
  check_tokenizer(data);
}

TEST_CASE("tokenizer.json writer: as many kinds as tokens, or none") {
  io::tokenizer_data data = small_tokenizer_data();
  const scratch_directory folder;
  data.kinds.pop_back();
  CHECK_THROWS_AS(io::write_tokenizer_json(folder.path(), data), format_error);
  data.kinds.resize(data.tokens.size() + 1, io::token_kind::normal);
  CHECK_THROWS_AS(io::write_tokenizer_json(folder.path(), data), format_error);
  data.kinds.clear();
  io::write_tokenizer_json(folder.path(), data);
}

TEST_CASE("tokenizer.json writer: the vocabulary of a GGUF file") {
  if (!require_file(model_path())) return;
  check_tokenizer(io::read_tokenizer(io::gguf_file::open(model_path())));
}

}  // namespace

}  // namespace gistkv::test
