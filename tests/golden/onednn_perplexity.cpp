// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Perplexity of the model as it is, in float, against another engine's program on the same chunks.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/eval/reader.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>

#include "golden/support.hpp"

namespace gistkv::test {
namespace {

using exact = backends::onednn<float>;

TEST_CASE("perplexity of two books agrees with llama.cpp within 0.3 %") {
  const auto path = golden_dir() / "llama_cpp" / "oracle.json";
  if (!require_file(path) || !require_file(model_path())) return;
  std::ifstream file(path);
  const auto golden = nlohmann::json::parse(file);
  const io::tokenizer tokens(io::read_tokenizer(io::gguf_file::open(model_path())));
  exact be;
  const model::transformer<exact> m(be, smollm2());
  constexpr index_t chunk = 2048;
  int n_books = 0;
  for (const std::string book : {"10146", "10356"}) {
    const auto text_path = data_dir() / "pg19" / (book + ".txt");
    if (!require_file(text_path)) continue;
    std::ifstream text_file(text_path, std::ios::binary);
    std::stringstream all;
    all << text_file.rdbuf();
    std::string text = all.str();
    if (text.ends_with('\n')) text.pop_back();
    constexpr std::size_t enough = 80'000;  // Bytes that hold 8192 tokens of either book.
    const auto ids = tokens.encode(text.substr(0, enough), io::special_tokens::as_text);
    REQUIRE(ids.size() > 4 * chunk + 64);
    const auto& want =
        golden["perplexity"]["values"][book + ".txt f32 fa=on kv=f16"]["running_ppl_after_chunk"];
    double nll = 0;
    double n = 0;
    for (std::size_t c = 0; c < 4; ++c) {
      // Each chunk by itself; the first half is read only.
      const auto part = std::span(ids).subspan(c * chunk, chunk);
      std::vector<token_t> targets(part.size(), -1);
      for (std::size_t i = chunk / 2; i + 1 < part.size(); ++i) targets[i] = part[i + 1];
      const eval::policy full{.rule = {.n_gist = 0, .recent = 0, .n_sink = 0, .window = 0}};
      cache::gist_cache<exact, float> cache(be, m.cache_shape(), {.rule = full.rule});
      eval::reader<exact> reader(m, cache, full, {.chunk = 512});
      std::vector<eval::token_score> scores;
      reader.read({part, {}, targets}, scores);
      REQUIRE(scores.size() == 1023);
      for (const eval::token_score& s : scores) nll += s.nll();
      n += static_cast<double>(scores.size());
      const double found = std::exp(nll / n);
      const auto expected = want[c].get<double>();
      MESSAGE(book << ", " << c + 1 << " chunks: " << found << ", llama.cpp " << expected);
      CHECK(std::abs(found / expected - 1) < 0.003);
    }
    ++n_books;
  }
  MESSAGE(n_books << " books");
}

}  // namespace
}  // namespace gistkv::test
