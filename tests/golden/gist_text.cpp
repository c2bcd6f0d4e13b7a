// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>
#include <golden/sag_tokenizer.hpp>

using namespace gistkv;

namespace {

/// The text with inserted bytes and the gists' names at each boundary.
std::string rewritten(std::string_view text, index_t n_gist, const io::tokenizer& t,
                      token_t first_gist) {
  std::string gists;
  for (index_t i = 0; i < n_gist; ++i) gists += t.piece(first_gist + static_cast<token_t>(i));
  std::string out;
  std::size_t begin = 0;
  for (const text::boundary& b : text::boundaries(text::paper{}, text)) {
    const auto end = static_cast<std::size_t>(b.offset);
    out += text.substr(begin, end - begin);
    out += b.inserted;
    out += gists;
    begin = end;
  }
  out += text.substr(begin);
  return out;
}

}  // namespace

TEST_SUITE("golden") {
  TEST_CASE("gist_text.json: the authors' rewriting and its ids") {
    const auto golden = test::sag_golden("gist_text.json");
    const auto base = test::model_tokenizer();
    if (!golden || !base) return;
    REQUIRE_FALSE((*golden)["cases"].empty());
    for (const auto n_gist : (*golden)["n_g"].get<std::vector<index_t>>()) {
      const io::tokenizer t = base->with_gists(n_gist);
      const auto first_gist = static_cast<token_t>(base->vocab_size());
      const auto tokenize = [&](std::string_view s, std::vector<token_t>& out) {
        t.encode(s, out);
      };
      const std::string key = std::to_string(n_gist);
      for (const auto& c : (*golden)["cases"]) {
        INFO(n_gist, " gists: ", c["text"].dump());
        const auto text = c["text"].get<std::string>();
        const auto expected = c["ids"][key].get<std::vector<token_t>>();
        const std::string by_names = rewritten(text, n_gist, t, first_gist);
        CHECK(by_names == c["rewritten"][key].get<std::string>());
        CHECK(t.encode(by_names) == expected);
        const auto layout = text::lay_out(text, text::paper{}, n_gist, first_gist, tokenize);
        CHECK(layout.ids == expected);
        // The file counts groups by their first gist, also one that is written in the text alone.
        const auto begun = std::count(expected.begin(), expected.end(), first_gist);
        CHECK(begun == c["gist_groups"].get<index_t>());
        const auto gists = std::count_if(expected.begin(), expected.end(),
                                         [&](token_t id) { return id >= first_gist; });
        CHECK(layout.n_gist == gists);
        CHECK(layout.n_sentences == gists / n_gist);
      }
    }
  }
}
