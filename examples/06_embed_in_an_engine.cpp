// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// gistkv inside an engine with tensors, KV layout and attention of its own
// (06_embed_in_an_engine.hpp): the layout says which ids to insert where, the ledger which rows to
// read and which to drop.
//
//   06_embed_in_an_engine          lays out a short text and follows its rows
//   06_embed_in_an_engine FILE     reads "n_gist n_sink first_gist id id id ..." and prints the
//                                  positions of the rows that stay

#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>

#include "06_embed_in_an_engine.hpp"

static void print(const char* label, const std::vector<gistkv::index_t>& positions) {
  std::printf("%s", label);
  for (const gistkv::index_t p : positions) std::printf(" %d", static_cast<int>(p));
  std::printf("\n");
}

static int run(const foreign::gisted_ids& sequence, bool talk) {
  foreign::engine engine({.n_gist = sequence.n_gist, .n_sink = sequence.n_sink});
  const double error =
      foreign::drive(engine, sequence, [&](std::size_t i, const foreign::engine::step& step) {
        if (talk && !step.dropped.empty()) {
          print(("behind position " + std::to_string(i) + " drop rows").c_str(), step.dropped);
        }
      });
  print("rows kept:", engine.kept_rows());
  if (talk) {
    std::printf("%zu tokens and gists read, at most %zu rows in memory, now %zu\n",
                sequence.ids.size(), engine.most_rows_in_memory(), engine.rows_in_memory());
    std::printf("difference to masked attention over everything: %.1g\n", error);
  }
  const bool consistent = engine.kept_rows().size() == engine.rows_in_memory();
  return consistent && error < 1e-5 ? 0 : 1;
}

static int run_text() {
  // The engine's own tokenizer: here the bytes.
  const auto tokenize = [](std::string_view bytes, std::vector<gistkv::token_t>& ids) {
    for (const char c : bytes) ids.push_back(static_cast<unsigned char>(c));
  };
  foreign::gisted_ids sequence{.n_gist = 2, .n_sink = 1, .first_gist = 256, .ids = {}};
  const auto rows = gistkv::text::lay_out("One. Two. Three", gistkv::text::paper{}, sequence.n_gist,
                                          sequence.first_gist, tokenize);
  sequence.ids = rows.ids;
  for (std::size_t i = 0; i < rows.ids.size(); ++i) {
    if (rows.is_gist[i] != 0) {
      std::printf("at text byte %d insert id %d as position %zu\n",
                  static_cast<int>(rows.text_begin[i]), rows.ids[i], i);
    }
  }
  return run(sequence, true);
}

int main(int argc, char** argv) {
  if (argc < 2) return run_text();
  std::ifstream in(argv[1]);
  foreign::gisted_ids sequence;
  in >> sequence.n_gist >> sequence.n_sink >> sequence.first_gist;
  for (gistkv::token_t t = 0; in >> t;) sequence.ids.push_back(t);
  if (sequence.ids.empty() || !in.eof() || sequence.n_gist < 1 || sequence.n_sink < 0) {
    std::fprintf(stderr, "%s: want numbers: n_gist >= 1, n_sink >= 0, first_gist, then ids\n",
                 argv[1]);
    return 2;
  }
  return run(sequence, false);
}
