// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// How samples of GMSA are cut and what they teach, against the official code.

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <gistkv/gmsa/sample.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/train/schedule.hpp>

#include "support/data.hpp"
#include "support/golden_arrays.hpp"

namespace gistkv::test {
namespace {

using ids = std::vector<token_t>;

/// A marker in a text is the special token: so the official tokenizer reads it.
ids encode(const std::string& text) {
  static const io::tokenizer tokens(io::read_tokenizer(io::gguf_file::open(model_path())));
  return tokens.encode(text, io::special_tokens::parse);
}

ids first(const ids& all, index_t n) { return {all.begin(), all.begin() + n}; }

TEST_SUITE_BEGIN("golden");

TEST_CASE("GMSA: prompt and context cut to a length") {
  if (!require_file(golden_dir() / "gmsa" / "truncation.json") || !require_file(model_path()))
    return;
  const auto golden = read_json(golden_dir() / "gmsa" / "truncation.json");
  std::size_t n_cut = 0;
  for (const auto& c : golden.at("cases")) {
    CAPTURE(c.at("max_length").get<index_t>());
    const ids context = encode(c.at("context"));
    const ids prompt = encode(c.at("prompt"));
    CHECK(static_cast<index_t>(context.size()) == c.at("full_context_len").get<index_t>());
    CHECK(static_cast<index_t>(prompt.size()) == c.at("full_prompt_len").get<index_t>());
    const auto left = gmsa::cut(static_cast<index_t>(context.size()),
                                static_cast<index_t>(prompt.size()), c.at("max_length"));
    CHECK(first(context, left.context) == c.at("context_ids").get<ids>());
    CHECK(first(prompt, left.prompt) == c.at("prompt_ids").get<ids>());
    if (left.context < static_cast<index_t>(context.size())) ++n_cut;
  }
  CHECK(n_cut > 10);
  for (const index_t n : {0, -3}) CHECK_THROWS_AS(gmsa::cut(5, 5, n), argument_error);
}

TEST_CASE("GMSA: what is to be restored") {
  if (!require_file(golden_dir() / "gmsa" / "truncation.json")) return;
  const auto golden = read_json(golden_dir() / "gmsa" / "truncation.json");
  const auto contexts = read_json(golden_dir() / "gmsa" / "contexts.json");
  const auto prompt = contexts.at("prompt_ae_ids").get<ids>();
  const token_t eos = contexts.at("eos_id");
  for (const auto& c : golden.at("autoencoding")) {
    const index_t max_length = c.at("max_length");
    CAPTURE(max_length);
    ids context;
    for (const auto& s : contexts.at("train_samples")) {
      if (s.at("name") == c.at("sample")) context = s.at("ids").get<ids>();
    }
    REQUIRE(!context.empty());
    const auto s =
        gmsa::restoring_sample(context, prompt, eos, max_length, gmsa::restoring_cut::official);
    const auto n_context = static_cast<index_t>(s.context.size());
    const auto n_labels = static_cast<index_t>(s.labels.size());
    const bool has_eos = s.labels.back() == eos;
    CHECK(n_context == c.at("context_len").get<index_t>());
    CHECK(static_cast<index_t>(s.prompt.size()) == c.at("prompt_len").get<index_t>());
    CHECK(n_labels == c.at("label_len").get<index_t>());
    CHECK(has_eos == c.at("label_has_eos").get<bool>());
    CHECK(n_labels - (has_eos ? 1 : 0) - n_context == c.at("labels_beyond_seen_context"));

    // Ours: all that is to be restored was read, and it ends.
    const auto whole = gmsa::restoring_sample(context, prompt, eos, max_length);
    CHECK(whole.labels.size() == whole.context.size() + 1);
    CHECK(whole.labels.back() == eos);
    CHECK(std::equal(whole.context.begin(), whole.context.end(), whole.labels.begin()));
    const auto total = static_cast<index_t>(whole.prompt.size() + whole.labels.size());
    CHECK(total <= std::max(max_length, static_cast<index_t>(whole.prompt.size()) + 1));
    CHECK(static_cast<index_t>(whole.context.size()) ==
          std::clamp<index_t>(max_length - static_cast<index_t>(whole.prompt.size()) - 1, 0,
                              static_cast<index_t>(context.size())));
  }
}

TEST_CASE("GMSA: the answer that is learned") {
  if (!require_file(golden_dir() / "gmsa" / "truncation.json") || !require_file(model_path()))
    return;
  const auto golden = read_json(golden_dir() / "gmsa" / "truncation.json");
  for (const auto& c : golden.at("finetune_answers")) {
    CAPTURE(c.dump());
    const auto& given = c.at("answer");
    std::vector<std::string> answers;
    for (const auto& a : given.is_array() ? given : nlohmann::json::array({given})) {
      if (a.is_string()) answers.push_back(a);
    }
    if (c.contains("error")) {
      CHECK_THROWS_AS(gmsa::first_answer(answers), argument_error);
      continue;
    }
    ids labels = encode(std::string(gmsa::first_answer(answers)));
    labels.push_back(2);
    CHECK(labels == c.at("label_ids").get<ids>());
  }
}

TEST_CASE("GMSA: lists of rates") {
  if (!require_file(golden_dir() / "gmsa" / "pool.json")) return;
  const auto golden = read_json(golden_dir() / "gmsa" / "pool.json");
  std::size_t n_errors = 0;
  for (const auto& c : golden.at("merge_sizes")) {
    const std::string list = c.at("merge_sizes");
    CAPTURE(list);
    if (c.contains("error")) {
      CHECK_THROWS_AS(gmsa::parse_rates(list), argument_error);
      ++n_errors;
    } else {
      CHECK(gmsa::parse_rates(list) == c.at("candidates").get<std::vector<index_t>>());
    }
  }
  CHECK(n_errors > 2);
}

TEST_CASE("GMSA: learning rates of the official schedules") {
  if (!require_file(golden_dir() / "gmsa" / "train.json")) return;
  const auto golden = read_json(golden_dir() / "gmsa" / "train.json");
  std::size_t n_values = 0;
  for (const auto& c : golden.at("lr_schedules")) {
    const train::schedule schedule{
        c.at("schedule") == "linear" ? train::schedule_kind::linear : train::schedule_kind::cosine,
        c.at("lr").get<double>(), 0.0, c.at("warmup").get<index_t>(), c.at("total").get<index_t>()};
    CAPTURE(c.dump());
    for (std::size_t i = 0; i < c.at("step").size(); ++i) {
      const index_t step = c.at("step")[i];
      if (step == 0) continue;  // Steps count from 1 here; the official first step is number 0.
      const double want = c.at("value")[i];
      CHECK(std::abs(schedule.rate(step) - want) <= 1e-12);
      ++n_values;
    }
  }
  CHECK(n_values > 30);
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
