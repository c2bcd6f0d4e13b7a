// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The decoder of the tiny GMSA checkpoints: a model picked out of a file that holds three, read
// with soft tokens in front of the prompt, gives the logits and losses of the official code.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "golden/support.hpp"

namespace {

using namespace gistkv;

/// The float32 array `name` of the manifest.
std::vector<float> golden_floats(const nlohmann::json& manifest,
                                 const std::filesystem::path& directory, const std::string& name) {
  const auto& entry = manifest.at("arrays").at(name);
  if (entry.at("dtype") != "f32") throw std::runtime_error(name + " is no f32");
  std::size_t n = 1;
  for (const std::size_t extent : entry.at("shape")) n *= extent;
  return test::read_numbers<float>(test::read_file(directory / entry.at("file").get<std::string>()),
                                   entry.at("data_offset").get<std::size_t>(), n);
}

/// Logits that predict each label, [labels, n_vocab], of the input
/// [soft tokens][prompt][labels but the last].
std::vector<float> label_logits(const model::transformer<test::reference>& m,
                                const std::vector<float>& soft, std::vector<token_t> tokens,
                                const std::vector<token_t>& labels) {
  using step = model::sequence_step<test::reference, float>;
  tokens.insert(tokens.end(), labels.begin(), labels.end() - 1);
  const index_t d = m.config().d_model;
  const index_t n_soft = static_cast<index_t>(soft.size()) / d;
  const auto n_tokens = static_cast<index_t>(tokens.size());
  const auto n_labels = static_cast<index_t>(labels.size());
  const index_t n = n_soft + n_tokens;
  cache::gist_cache<test::reference, float> cache(m.backend(), m.cache_shape());
  buffer<float, test::reference> hidden(m.backend(), n * d);
  auto read = [&](const step& s, index_t begin, index_t count) {
    if (count == 0) return;
    workspace<test::reference> scratch(m.backend(), m.workspace_size({&s, 1}));
    m.forward({&s, 1}, hidden.view({n, d}).rows(begin, count), scratch);
  };
  read({&cache, {}, soft}, 0, n_soft);
  read({&cache, tokens, {}}, n_soft, n_tokens);
  return test::logits_of(m, hidden, n - n_labels, n_labels);
}

/// Mean of logsumexp - label logit.
double loss_of(const std::vector<float>& logits, const std::vector<token_t>& labels) {
  const std::size_t n_vocab = logits.size() / labels.size();
  double total = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const float* row = logits.data() + i * n_vocab;
    const double most = static_cast<double>(*std::max_element(row, row + n_vocab));
    double sum = 0;
    for (std::size_t j = 0; j < n_vocab; ++j) sum += std::exp(static_cast<double>(row[j]) - most);
    total += most + std::log(sum) - static_cast<double>(row[labels[i]]);
  }
  return total / static_cast<double>(labels.size());
}

TEST_SUITE_BEGIN("golden");

TEST_CASE("GMSA: decoder of the tiny checkpoints") {
  const auto directory = test::golden_dir() / "gmsa";
  if (!test::require_file(directory / "tiny.json")) return;
  const auto tiny = test::read_json(directory / "tiny.json");
  const auto manifest = test::read_json(directory / "manifest.json");
  constexpr double tolerance = 1e-4;  // The goldens' own, for every number of these checkpoints.
  std::size_t n_cases = 0;
  double worst = 0;
  double worst_loss = 0;
  for (const auto& checkpoint : tiny.at("checkpoints")) {
    const std::string checkpoint_name = checkpoint.at("name");
    CAPTURE(checkpoint_name);
    const auto loaded = io::load_model(directory / checkpoint.at("path").get<std::string>(),
                                       {.prefix = "decoder."});
    const model::transformer<test::reference> m(test::backend(), loaded.weights);
    for (const auto& c : checkpoint.at("cases")) {
      const std::string name = c.at("name");
      CAPTURE(name);
      const auto labels = c.at("labels").get<std::vector<token_t>>();
      // Without a context the official code appends one masked zero vector: as if there were none.
      std::vector<float> soft;
      if (!c.at("context_ids").empty()) {
        soft = golden_floats(manifest, directory, name + ".soft");
        CHECK(static_cast<index_t>(soft.size()) ==
              c.at("memory_len").get<index_t>() * m.config().d_model);
      }
      const auto found =
          label_logits(m, soft, c.at("prompt_ids").get<std::vector<token_t>>(), labels);
      const auto want = golden_floats(manifest, directory, name + ".logits");
      REQUIRE(found.size() == want.size());
      double error = 0;
      double largest = 0;
      std::size_t n_wrong = 0;
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double w = static_cast<double>(want[i]);
        const double difference = std::abs(static_cast<double>(found[i]) - w);
        if (!(difference <= tolerance)) ++n_wrong;  // NaN too.
        error = std::max(error, difference);
        largest = std::max(largest, std::abs(w));
      }
      CHECK(n_wrong == 0);
      CHECK(largest > 1.0);
      const double loss_error = std::abs(loss_of(found, labels) - c.at("loss").get<double>());
      CHECK(loss_error <= tolerance);
      worst = std::max(worst, error);
      worst_loss = std::max(worst_loss, loss_error);
      ++n_cases;
    }
  }
  CHECK(n_cases > 0);
  MESSAGE(n_cases << " cases: largest logit error " << worst << ", loss error " << worst_loss);
}

TEST_SUITE_END();

}  // namespace
