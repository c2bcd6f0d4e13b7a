// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/io/llama2c.hpp>
#include <gistkv/io/load_model.hpp>

#include <io/gguf_builder.hpp>
#include <io/small_model.hpp>
#include <support/data.hpp>

namespace {

using namespace gistkv;
using test::small_model;

/// The small model as the exporter writes it: each kind of tensor for all layers, then the next.
std::vector<std::byte> small_file(bool tied, index_t n_context = 3) {
  using m = small_model;
  test::byte_builder b;
  for (const index_t n : {m::d_model, m::d_ff, m::n_layers, m::n_heads, m::n_kv_heads,
                          tied ? m::n_vocab : -m::n_vocab, n_context}) {
    b.put(static_cast<std::int32_t>(n));
  }
  const m model;
  auto put = [&](const std::string& name) {
    for (const auto& t : model.tensors) {
      if (t.gguf != name) continue;
      for (const float v : t.heads != 0 ? test::interleaved(t) : t.values) b.put(v);
      return;
    }
    throw argument_error("no tensor " + name);
  };
  put("token_embd.weight");
  for (const std::string kind : {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output",
                                 "ffn_norm", "ffn_gate", "ffn_down", "ffn_up"}) {
    for (index_t i = 0; i < m::n_layers; ++i) {
      put("blk." + std::to_string(i) + "." + kind + ".weight");
    }
  }
  put("output_norm.weight");
  for (index_t i = 0; i < n_context * m::head_dim; ++i) b.put(-77.0F);  // Rotary tables.
  if (!tied) put("output.weight");
  return b.bytes();
}

TEST_CASE("a llama2.c file and a GGUF file of one model give the same weights") {
  const auto bytes = small_file(false);
  const auto a = io::parse_llama2c(bytes, "c");
  const auto gguf_bytes = test::small_gguf().bytes();
  const auto b = io::assemble_model(io::gguf_file::parse(gguf_bytes, "gguf"));
  auto same = [](const host_matrix& x, const host_matrix& y) {
    return x.rows == y.rows && x.cols == y.cols && x.type == y.type &&
           std::ranges::equal(x.data, y.data);
  };
  CHECK(same(a.token_embedding, b.token_embedding));
  REQUIRE(a.blocks.size() == b.blocks.size());
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    CHECK(same(a.blocks[i].attention_norm, b.blocks[i].attention_norm));
    CHECK(same(a.blocks[i].query.weight, b.blocks[i].query.weight));
    CHECK(same(a.blocks[i].key.weight, b.blocks[i].key.weight));
    CHECK(same(a.blocks[i].value.weight, b.blocks[i].value.weight));
    CHECK(same(a.blocks[i].output.weight, b.blocks[i].output.weight));
    CHECK(same(a.blocks[i].feed_forward_norm, b.blocks[i].feed_forward_norm));
    CHECK(same(a.blocks[i].gate.weight, b.blocks[i].gate.weight));
    CHECK(same(a.blocks[i].up.weight, b.blocks[i].up.weight));
    CHECK(same(a.blocks[i].down.weight, b.blocks[i].down.weight));
  }
  CHECK(same(a.final_norm, b.final_norm));
  CHECK(same(a.head.weight, b.head.weight));
  CHECK(a.config.n_context == 3);
  CHECK(a.config.norm_eps == 1e-5);
  CHECK(a.config.rope.theta == 10000.0);
  CHECK(!a.config.tied_head);
}

TEST_CASE("the sign of the vocabulary says whether the head is the table") {
  const auto bytes = small_file(true);
  const auto m = io::parse_llama2c(bytes, "c");
  CHECK(m.config.tied_head);
  CHECK(m.config.n_vocab == 10);
  CHECK(m.head.weight.empty());
}

TEST_CASE("a file cut, lengthened or with a wrong header is refused") {
  for (const bool tied : {false, true}) {
    const auto bytes = small_file(tied);
    for (std::size_t n = 0; n < bytes.size(); n += n < 40 ? 1 : 13) {
      const std::vector<std::byte> cut(bytes.begin(),
                                       bytes.begin() + static_cast<std::ptrdiff_t>(n));
      CAPTURE(n);
      REQUIRE_THROWS_AS(io::parse_llama2c(cut, "c"), format_error);
    }
    auto longer = bytes;
    longer.push_back(std::byte{0});
    CHECK_THROWS_WITH_AS(io::parse_llama2c(longer, "c"),
                         doctest::Contains("1 bytes are left behind the last tensor"),
                         format_error);
    for (std::size_t field = 0; field < 7; ++field) {
      for (const std::int32_t value : {0, -1, 1, 7, std::numeric_limits<std::int32_t>::max(),
                                       std::numeric_limits<std::int32_t>::min()}) {
        auto changed = bytes;
        std::memcpy(changed.data() + 4 * field, &value, sizeof value);
        CAPTURE(field);
        CAPTURE(value);
        if (std::ranges::equal(changed, bytes)) continue;
        // One key-value head is what the file has; every other value leaves the sizes wrong.
        CHECK_THROWS_AS(io::parse_llama2c(changed, "c"), format_error);
      }
    }
  }
  test::byte_builder versioned;
  versioned.put<std::uint32_t>(0x616b3432).put<std::int32_t>(1).zeros(248);
  CHECK_THROWS_WITH_AS(io::parse_llama2c(versioned.bytes(), "c"),
                       doctest::Contains("version 1, expected one without a version"),
                       format_error);
}

TEST_CASE("a trained llama2.c model") {
  const auto path = test::data_dir() / "weights" / "stories260K.bin";
  if (!test::require_file(path)) return;
  const auto loaded = io::load_model(path);
  const auto& c = loaded.weights.config;
  CHECK(c.d_model == 64);
  CHECK(c.n_layers == 5);
  CHECK(c.n_heads == 8);
  CHECK(c.n_kv_heads == 4);
  CHECK(c.n_vocab == 512);
  CHECK(c.head_dim == 8);
  CHECK(loaded.file.format == "llama2.c");
  CHECK(loaded.file.by_type.size() == 1);
  // Norm weights of a trained model are near 1, which a reader that is off by one tensor misses.
  for (const auto& block : loaded.weights.blocks) {
    for (const auto* norm : {&block.attention_norm, &block.feed_forward_norm}) {
      std::vector<float> w(64);
      dequantize_row(*norm, 0, w.data());
      double mean = 0;
      for (const float v : w) mean += static_cast<double>(v) / 64;
      CHECK(mean > 0.3);
      CHECK(mean < 5.0);
    }
  }
}

}  // namespace
