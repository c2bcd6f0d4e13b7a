// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <gistkv/eval/answers.hpp>

#include "support/data.hpp"

namespace gistkv {

namespace {

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0x80U) != 0) return false;
  }
  return true;
}

/// References as the goldens write them: a string, or a list of which only strings count.
std::vector<std::string> references_of(const nlohmann::json& value) {
  std::vector<std::string> references;
  if (value.is_string()) references.push_back(value.get<std::string>());
  if (!value.is_array()) return references;
  for (const auto& item : value) {
    if (item.is_string()) references.push_back(item.get<std::string>());
  }
  return references;
}

TEST_CASE("exact match and F1 agree with the golden pairs") {
  const auto path = test::golden_dir() / "gmsa" / "metrics.json";
  if (!test::require_file(path)) return;
  std::ifstream file(path);
  const auto golden = nlohmann::json::parse(file);
  int n = 0;
  int n_errors = 0;
  int n_other_letters = 0;
  for (const auto& c : golden["cases"]) {
    const auto prediction = c["prediction"].get<std::string>();
    const auto references = references_of(c["references"]);
    CAPTURE(c.dump());
    if (c.contains("error")) {
      CHECK_THROWS_AS(eval::best_over(prediction, references, eval::exact_match), argument_error);
      ++n_errors;
      continue;
    }
    if (!c["ascii"].get<bool>()) {  // Needs the classes of Unicode, which the scorer has not.
      ++n_other_letters;
      continue;
    }
    CHECK(eval::normalized_answer(prediction) == c["normalized_prediction"].get<std::string>());
    CHECK(eval::best_over(prediction, references, eval::exact_match) == c["em"].get<double>());
    CHECK(eval::best_over(prediction, references, eval::token_f1) ==
          doctest::Approx(c["f1"].get<double>()).epsilon(1e-9));
    ++n;
  }
  for (const auto& c : golden["single_pairs"]) {
    const auto prediction = c["prediction"].get<std::string>();
    const auto reference = c["reference"].get<std::string>();
    if (!is_ascii(prediction + reference)) continue;
    CAPTURE(c.dump());
    CHECK(eval::exact_match(prediction, reference) == c["em"].get<double>());
    CHECK(eval::token_f1(prediction, reference) ==
          doctest::Approx(c["f1"].get<double>()).epsilon(1e-9));
    ++n;
  }
  MESSAGE(n << " pairs compared, " << n_errors << " errors, " << n_other_letters
            << " left out that need Unicode");
  CHECK(n > 200);
  CHECK(n_errors == 7);
}

}  // namespace

}  // namespace gistkv
