// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include <support/data.hpp>
#include <text/segmenting.hpp>

#include <gistkv/text/paper.hpp>

using namespace gistkv;
using namespace gistkv::test;
using text::boundary;

namespace {

void replace_all(std::string& text, const std::string& what, const std::string& by) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at)) {
    text.replace(at, what.size(), by);
    at += by.size();
  }
}

/// `$` of a regular expression: the end of the text, or in front of a newline that ends it.
void replace_at_end(std::string& text, char what, const std::string& by) {
  const bool newline = !text.empty() && text.back() == '\n';
  if (newline && text.size() >= 2 && text[text.size() - 2] == what) {
    text.replace(text.size() - 2, 1, by);
  } else if (!text.empty() && text.back() == what) {
    text.replace(text.size() - 1, 1, by);
  }
}

/// The nine substitutions as method and paper state them, each over the whole text.
std::string nine_substitutions(std::string text, const std::string& gists) {
  for (const char* gap : {" ", "\n"}) {
    for (const char* mark : {".", "?", "!"}) {
      replace_all(text, std::string(mark) + gap, std::string(mark) + gap + gists);
    }
  }
  replace_at_end(text, '.', ". " + gists);
  replace_at_end(text, '!', "!" + gists);
  replace_at_end(text, '?', "?" + gists);
  return text;
}

std::string with_gists(std::string_view text, const std::string& gists) {
  std::string out;
  std::size_t begin = 0;
  for (const boundary& b : checked_boundaries(text::paper{}, text)) {
    out += text.substr(begin, static_cast<std::size_t>(b.offset) - begin);
    out += b.inserted;
    out += gists;
    begin = static_cast<std::size_t>(b.offset);
  }
  return out + std::string(text.substr(begin));
}

std::string gist_names(int n) {
  std::string names;
  for (int i = 0; i < n; ++i) names += "<end_of_sentence_" + std::to_string(i) + ">";
  return names;
}

}  // namespace

TEST_CASE("paper: the boundaries that the method lists") {
  const auto find = [](std::string_view text) { return checked_boundaries(text::paper{}, text); };
  CHECK(find("A. B") == std::vector<boundary>{{3, ""}});
  CHECK(find("A.  B") == std::vector<boundary>{{3, ""}});
  CHECK(find("A.\n\nB") == std::vector<boundary>{{3, ""}});
  CHECK(find("e.g. x") == std::vector<boundary>{{5, ""}});
  CHECK(find("A.") == std::vector<boundary>{{2, " "}});
  CHECK(find("A!") == std::vector<boundary>{{2, ""}});
  CHECK(find("A.\n") == std::vector<boundary>{{3, ""}});
  CHECK(find("? ") == std::vector<boundary>{{2, ""}});
  for (const char* none : {"3.14 a", "said \"hi.\" Then", "(ok.) B", "A.\r\nB", "A.\tB", "No!No",
                           "\xE3\x80\x82 a", "", " ", "\n"}) {
    CHECK(find(none).empty());
  }
  CHECK(text::paper{}.max_tokens() == 0);
}

TEST_CASE("paper: the same sentences in front of white space, and nothing inserted") {
  const text::paper before({text::placement::before_whitespace});
  CHECK(checked_boundaries(before, "A. B") == std::vector<boundary>{{2, ""}});
  CHECK(checked_boundaries(before, "A.\n\nB!") == std::vector<boundary>{{2, ""}, {6, ""}});
  CHECK(checked_boundaries(before, "A.") == std::vector<boundary>{{2, ""}});
  random_generator random(2);
  for (int i = 0; i < 400; ++i) {
    const std::string text = random_text({"a", ".", "!", "?", " ", "\n", "\t", "3.14"}, 40, random);
    std::vector<boundary> wanted = text::boundaries(text::paper{}, text);
    for (boundary& b : wanted) {
      const char last = text[static_cast<std::size_t>(b.offset - 1)];
      b = {b.offset - (last == ' ' || last == '\n' ? 1 : 0), ""};
    }
    CHECK(checked_boundaries(before, text) == wanted);
  }
}

TEST_CASE("paper: equals the nine substitutions on every short text") {
  const std::string letters = "a .?!\n";
  index_t wrong = 0;
  index_t n_texts = 0;
  for (int length = 0; length <= 6; ++length) {
    index_t count = 1;
    for (int i = 0; i < length; ++i) count *= static_cast<index_t>(letters.size());
    for (index_t number = 0; number < count; ++number) {
      std::string text;
      for (index_t rest = number, i = 0; i < length; ++i, rest /= 6) {
        text += letters[static_cast<std::size_t>(rest % 6)];
      }
      std::string rewritten;
      std::size_t begin = 0;
      for (const boundary& b : text::boundaries(text::paper{}, text)) {
        rewritten += text.substr(begin, static_cast<std::size_t>(b.offset) - begin);
        rewritten += std::string(b.inserted) + "<G>";
        begin = static_cast<std::size_t>(b.offset);
      }
      wrong += rewritten + text.substr(begin) != nine_substitutions(text, "<G>");
      ++n_texts;
    }
  }
  CHECK(n_texts == 55987);
  CHECK(wrong == 0);
}

TEST_CASE("paper: equals the nine substitutions on random and hostile texts") {
  random_generator random(1);
  const std::vector<std::string> alphabet = {"a",
                                             "Mr",
                                             ".",
                                             "!",
                                             "?",
                                             " ",
                                             "\n",
                                             "\r",
                                             "\t",
                                             "\"",
                                             ")",
                                             "\xE3\x80\x82",
                                             std::string(1, '\0'),
                                             "<G>",
                                             "..",
                                             "3.14",
                                             ". ",
                                             "word word "};
  for (int i = 0; i < 400; ++i) {
    const std::string text = random_text(alphabet, 60, random);
    CHECK(with_gists(text, "<G>") == nine_substitutions(text, "<G>"));
  }
  for (const std::string& text : hostile_texts()) {
    CHECK(with_gists(text, "<G>") == nine_substitutions(text, "<G>"));
  }
  const std::string long_text(1 << 20, 'x');
  CHECK(text::boundaries(text::paper{}, long_text).empty());
  CHECK(text::boundaries(text::paper{}, long_text + ".") ==
        std::vector<boundary>{{(1 << 20) + 1, " "}});
}

TEST_CASE("paper: every rewriting of the authors' code") {
  const auto path = golden_dir() / "sag" / "gist_text.json";
  if (!require_file(path)) return;
  const auto golden = nlohmann::json::parse(std::ifstream(path));
  REQUIRE(golden.at("cases").size() > 0);
  for (const auto& sample : golden.at("cases")) {
    const auto text = sample.at("text").get<std::string>();
    CAPTURE(text);
    CHECK(checked_boundaries(text::paper{}, text).size() ==
          sample.at("gist_groups").get<std::size_t>() -
              (text.find("<end_of_sentence_") != std::string::npos));
    REQUIRE(sample.at("rewritten").size() > 0);
    for (const auto& [n, rewritten] : sample.at("rewritten").items()) {
      CHECK(with_gists(text, gist_names(std::stoi(n))) == rewritten.get<std::string>());
    }
  }
}
