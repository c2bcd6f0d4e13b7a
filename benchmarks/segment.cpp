// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Bytes per second of every segmenter, on one core: English prose of random words, the same with
// letters of two bytes, and text without any punctuation. Compile with optimisation.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/text/english.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>
#include <gistkv/text/unicode_sentences.hpp>

namespace {

using namespace gistkv;

enum class kind { prose, cyrillic, no_punctuation };

/// Eight mebibytes: sentences of 4 to 30 words, quotations, abbreviations, numbers, paragraphs.
std::string generate(kind what) {
  constexpr std::size_t size = 8 << 20;
  random_generator random(1);
  std::string text;
  const auto word = [&](bool capital) {
    for (index_t i = 1 + random.below(9); i > 0; --i) {
      if (what == kind::cyrillic) {  // U+0410 to U+041F are capital, U+0430 to U+043F small.
        text += '\xD0';
        text += static_cast<char>((capital ? 0x90 : 0xB0) + random.below(16));
      } else {
        text += static_cast<char>((capital ? 'A' : 'a') + random.below(26));
      }
      capital = false;
    }
  };
  while (text.size() < size) {
    const bool quoted = what == kind::prose && random.below(10) == 0;
    if (quoted) text += '"';
    word(true);
    for (index_t i = 3 + random.below(27); i > 0; --i) {
      text += ' ';
      const index_t special = random.below(40);
      if (special == 0) text += "3.14 ";
      if (special == 1) text += "Mr. ";
      word(special == 1);
      if (special == 2) text += ',';
    }
    if (what == kind::no_punctuation) {
      text += ' ';
      continue;
    }
    text += random.below(8) == 0 ? '?' : '.';
    if (quoted) text += '"';
    text += random.below(6) == 0 ? "\n\n" : " ";
  }
  if (what == kind::no_punctuation) {
    for (char& c : text) c = c == '.' ? '5' : c == ',' ? 'x' : c;
  }
  return text;
}

template <text::Segmenter S>
void segment(benchmark::State& state) {
  const std::string text = generate(static_cast<kind>(state.range(0)));
  std::vector<text::boundary> found;
  for (auto _ : state) {
    found.clear();
    S segmenter;
    segmenter.push(text, found);
    segmenter.finish(found);
    benchmark::DoNotOptimize(found.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
  state.counters["boundaries"] = static_cast<double>(found.size());
}

/// The layout alone: its tokenizer makes one token of four bytes.
void lay_out(benchmark::State& state) {
  const std::string text = generate(static_cast<kind>(state.range(0)));
  const auto tokenize = [](std::string_view piece, std::vector<token_t>& out) {
    out.insert(out.end(), piece.size() / 4 + 1, 7);
  };
  for (auto _ : state) {
    const text::gist_layout layout = text::lay_out(text, text::paper{}, 4, 1000, tokenize);
    benchmark::DoNotOptimize(layout.ids.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

constexpr auto all_texts = [](auto* b) {
  b->ArgName("text")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
};

BENCHMARK(segment<text::paper>)->Apply(all_texts);
BENCHMARK(segment<text::unicode_sentences>)->Apply(all_texts);
BENCHMARK(segment<text::english>)->Apply(all_texts);
BENCHMARK(lay_out)->Apply(all_texts);

}  // namespace

BENCHMARK_MAIN();
