// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// What an edit costs: how well a text is told behind contexts that were edited, with the adapter of
// the examples, against contexts that were read so.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/cache/edit.hpp>
#include <gistkv/eval/reader.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/segmenter_rule.hpp>

#include "golden/support.hpp"

namespace gistkv::test {
namespace {

using engine = backends::onednn<float, bf16>;
using cache_type = cache::gist_cache<engine, float>;

/// Three pieces of a book, one behind the other, that end with paragraphs; lines joined.
std::vector<std::string> pieces_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream all;
  all << file.rdbuf();
  const std::string book = all.str();
  std::vector<std::string> pieces;
  std::size_t at = book.find("\n\n", book.size() / 3) + 2;
  for (const std::size_t enough : {2500U, 2500U, 1500U}) {
    const std::size_t end = book.find("\n\n", at + enough);
    std::string piece = book.substr(at, end - at);
    for (std::size_t i = 0; i < piece.size(); ++i) {
      if (piece[i] == '\n' && piece[i + 1] != '\n' && (i == 0 || piece[i - 1] != '\n')) {
        piece[i] = ' ';
      }
    }
    pieces.push_back(std::move(piece));
    at = end + 2;
  }
  return pieces;
}

TEST_CASE("what edits cost, in perplexity of the text behind them") {
  const auto adapter_path =
      source_dir() / "examples/adapters/smollm2-135m-instruct-gists/adapter.safetensors";
  if (!require_file(model_path()) || !require_file(adapter_path)) return;
  const io::tokenizer tokens(io::read_tokenizer(io::gguf_file::open(model_path())));
  const auto file = io::safetensors_file::open(adapter_path);
  const model::adapter learned = io::read_adapter(file, smollm2().config);
  const io::adapter_layout layout = io::read_adapter_layout(file);
  engine be;
  model::transformer<engine> m(be, smollm2(), learned.gists);
  m.adapt(learned);
  const auto f = model::rope_frequencies(m.config().rope, m.config().head_dim);
  const cache::cache_rule rule{layout.rule.n_gist, layout.rule.recent, layout.rule.n_sink};
  const eval::policy policy{.rule = rule};

  const auto read = [&](cache_type& cache, const std::string& text) {
    const auto rows =
        text::lay_out(text, text::parse_segmenter_rule(layout.segmenter), rule.n_gist,
                      m.first_gist(), [&](std::string_view piece, std::vector<token_t>& ids) {
                        tokens.encode(piece, ids, io::special_tokens::as_text);
                      });
    std::vector<token_t> targets(rows.ids.size(), -1);
    for (std::size_t i = 0; i + 1 < rows.ids.size(); ++i) {
      if (rows.ids[i + 1] < m.first_gist()) targets[i] = rows.ids[i + 1];
    }
    eval::reader<engine> reader(m, cache, policy, {.chunk = 512});
    std::vector<eval::token_score> scores;
    reader.read({rows.ids, {}, targets}, scores);
    double nll = 0;
    for (const eval::token_score& s : scores) nll += s.nll();
    return std::pair(nll, static_cast<double>(scores.size()));
  };

  const std::vector<std::string> names = {"read so",       "apart, re-based", "apart, as they were",
                                          "oldest merged", "oldest dropped",  "second alone"};
  std::vector<double> nll(names.size());
  double n = 0;
  double base_rows = 0;
  double merged_rows = 0;
  for (const std::string book : {"10146", "10356", "12204"}) {
    const auto path = data_dir() / "pg19" / (book + ".txt");
    if (!require_file(path)) return;
    const auto pieces = pieces_of(path);
    const auto fresh = [&] { return cache_type(be, m.cache_shape(), {.rule = rule}); };
    cache_type whole = fresh();
    cache_type second = fresh();
    read(whole, pieces[0]);
    cache_type joined = whole.fork();
    cache_type as_they_were = whole.fork();
    read(whole, pieces[1]);
    read(second, pieces[1]);
    cache::concatenate(joined, second, std::span<const float>(f));
    cache::concatenate(as_they_were, second);
    const index_t half = whole.ledger().n_closed() / 2;
    cache_type merged = whole.fork();
    cache::merge(merged, 0, half, std::span<const float>(f));
    cache_type dropped = whole.fork();
    dropped.erase(0, half);
    base_rows += static_cast<double>(whole.rows_held());
    merged_rows += static_cast<double>(merged.rows_held());
    cache_type* const all[] = {&whole, &joined, &as_they_were, &merged, &dropped, &second};
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto [sum, count] = read(*all[i], pieces[2]);
      nll[i] += sum;
      if (i == 0) n += count;
    }
  }
  const double want = nll[0] / n;
  for (std::size_t i = 0; i < names.size(); ++i) {
    MESSAGE(names[i] << ": perplexity " << std::exp(nll[i] / n) << ", times the first "
                     << std::exp(nll[i] / n - want));
    // Any of them keeps the text in front of it, which a context of another text would not.
    CHECK(std::abs(nll[i] / n - want) < 0.2);
  }
  MESSAGE("rows held: " << base_rows << ", with the oldest half merged " << merged_rows << "; " << n
                        << " tokens told");
  CHECK(merged_rows < base_rows);
  CHECK(nll[0] <= nll[5] + 0.01 * n);  // The first piece does not hurt.
}

}  // namespace
}  // namespace gistkv::test
