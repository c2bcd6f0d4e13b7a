// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/eval/answers.hpp>

namespace gistkv {

namespace {

TEST_CASE("answers") {
  CHECK(eval::normalized_answer(" The  Quick,\nbrown a fox! ") == "quick brown fox");
  CHECK(eval::normalized_answer("the-end") == "theend");
  CHECK(eval::exact_match("an apple a day", "apple day") == 1);
  CHECK(eval::exact_match("apple", "apples") == 0);
  CHECK(eval::token_f1("x x y", "x y y") == doctest::Approx(2.0 / 3));
  CHECK(eval::token_f1("", "the") == 1);
  CHECK(eval::token_f1("", "x") == 0);
  const std::vector<std::string> references = {" ", "big cat", "cat"};
  CHECK(eval::best_over("The cat", references, eval::exact_match) == 1);
  CHECK_THROWS_AS(eval::best_over("x", std::vector<std::string>{" "}, eval::exact_match),
                  argument_error);
}

TEST_CASE("needles") {
  CHECK(eval::number_match(" is: 1234. And 5", "1234") == 1);
  CHECK(eval::number_match("12345", "1234") == 0);
  CHECK(eval::number_match("no number", "1") == 0);
  CHECK(eval::number_match("", "1") == 0);
  CHECK(eval::words_match(" red-blue. or green", "red-blue") == 1);
  CHECK(eval::words_match("the answer: red-blue", "red-blue") == 0);
  CHECK(eval::contains_match("abc", "bc") == 1);
  CHECK(eval::contains_match("abc", "cb") == 0);
  CHECK(eval::first_line("\n  Paris \nQuestion: ") == "Paris");
  CHECK(eval::first_line(" \n").empty());
}

}  // namespace

}  // namespace gistkv
