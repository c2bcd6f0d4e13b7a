// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A text with two gists behind each sentence. Any function from bytes to token ids is a tokenizer;
// this one numbers words as they come. Gist ids follow the vocabulary: here they are 1000 and 1001.

// example-begin
#include <cstdio>
#include <map>
#include <sstream>

#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>

int main() {
  std::map<std::string, gistkv::token_t> seen;
  auto tokenize = [&](std::string_view text, std::vector<gistkv::token_t>& ids) {
    std::istringstream words{std::string(text)};
    for (std::string w; words >> w;) ids.push_back(seen.emplace(w, seen.size()).first->second);
  };
  const gistkv::text::paper rule;
  const auto rows = gistkv::text::lay_out("It rained. We stayed in. And", rule, 2, 1000, tokenize);
  for (std::size_t i = 0; i < rows.ids.size(); ++i)
    std::printf("position %2zu: id %4d, sentence %d\n", i, rows.ids[i], rows.sentence[i]);
  std::printf("%.2f tokens a gist\n", double(rows.n_regular) / double(rows.n_gist));
  return rows.n_sentences == 2 ? 0 : 1;
}
// example-end
