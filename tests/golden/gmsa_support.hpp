// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <gistkv/gmsa/compressor.hpp>
#include <gistkv/model/sampler.hpp>
#include <gistkv/model/session.hpp>

#include "golden/support.hpp"

/// What the tests of the GMSA goldens share.

namespace gistkv::test {

/// The folder of the GMSA goldens: JSON files, and arrays that a manifest lists.
class gmsa_goldens {
 public:
  gmsa_goldens() : directory_(golden_dir() / "gmsa") {
    arrays_ = json("manifest.json").at("arrays");
  }

  nlohmann::json json(const char* file) const { return read_json(directory_ / file); }
  const std::filesystem::path& directory() const { return directory_; }
  bool has(const std::string& name) const { return arrays_.contains(name); }
  std::vector<float> floats(const std::string& name) const { return numbers<float>(name, "f32"); }
  std::vector<std::int32_t> ints(const std::string& name) const {
    return numbers<std::int32_t>(name, "i32");
  }

 private:
  template <class T>
  std::vector<T> numbers(const std::string& name, const char* dtype) const {
    const auto& entry = arrays_.at(name);
    if (entry.at("dtype") != dtype) throw std::runtime_error(name + " is no " + dtype);
    std::size_t n = 1;
    for (const std::size_t extent : entry.at("shape")) n *= extent;
    return read_numbers<T>(read_file(directory_ / entry.at("file").get<std::string>()),
                           entry.at("data_offset").get<std::size_t>(), n);
  }

  std::filesystem::path directory_;
  nlohmann::json arrays_;
};

/// Largest difference; infinite for NaN, and for other lengths.
inline double largest_difference(std::span<const float> found, std::span<const float> want) {
  if (found.size() != want.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = std::abs(static_cast<double>(found[i]) - static_cast<double>(want[i]));
    largest = std::isnan(e) ? INFINITY : std::max(largest, e);
  }
  return largest;
}

inline double largest_entry(std::span<const float> x) {
  double largest = 0;
  for (const float e : x) largest = std::max(largest, std::abs(static_cast<double>(e)));
  return largest;
}

/// The numbers that stand for trained weights in the goldens.
inline std::vector<float> golden_rule(std::uint64_t t, std::size_t n, double scale) {
  std::vector<float> numbers(n);
  for (std::size_t e = 0; e < n; ++e) {
    const double u = static_cast<double>(splitmix64(0x6d5a + 1000003 * t + e) >> 40) / 16777216.0;
    numbers[e] = static_cast<float>(scale * (u - 0.5) * std::sqrt(12.0));
  }
  return numbers;
}

/// The parts of the goldens on a model: 8 layers with LoRA of rank 128, one alignment layer.
inline gmsa::host_parts golden_parts(const model::host_model& m) {
  gmsa::host_parts parts = gmsa::untrained_parts(m);
  std::uint64_t t = 0;
  constexpr index_t rank = 128;
  const auto numbers = [&t](index_t n) {
    return golden_rule(t++, static_cast<std::size_t>(n), 0.02);
  };
  for (std::size_t i = 0; i < parts.encoder.blocks.size(); ++i) {
    for (const auto& [target, name, map] : model::linear_maps(parts.encoder.blocks[i])) {
      const index_t rows = map->weight.rows;
      const index_t cols = map->weight.cols;
      parts.encoder_lora.push_back({static_cast<index_t>(i), std::string(target), rank, rows, cols,
                                    numbers(rank * cols), numbers(rows * rank)});
    }
  }
  parts.lora_alpha = 32;
  return parts;
}

/// A decoder that has read soft tokens, for any number of continuations.
template <class B>
class soft_reader {
 public:
  soft_reader(const model::transformer<B>& m, const model::soft_prompt& soft)
      : m_(&m), n_soft_(soft.size()), cache_(m.backend(), m.cache_shape()) {
    hidden_ = buffer<float, B>(m.backend(), n_soft_ * m.config().d_model);
    read({&cache_, {}, soft.rows}, hidden_, 0, n_soft_);
  }

  const model::transformer<B>& model() const { return *m_; }
  index_t n_soft() const { return n_soft_; }

  /// Hidden states of the soft tokens and of the tokens behind them.
  buffer<float, B> behind(const std::vector<token_t>& tokens) {
    const auto n = static_cast<index_t>(tokens.size());
    buffer<float, B> all(m_->backend(), (n_soft_ + n) * m_->config().d_model);
    if (n_soft_ > 0) m_->backend().copy(all.data(), hidden_.data(), hidden_.bytes());
    auto cache = cache_.fork();
    read({&cache, tokens, {}}, all, n_soft_, n);
    return all;
  }

 private:
  using step = model::sequence_step<B, float>;

  void read(const step& s, buffer<float, B>& hidden, index_t begin, index_t count) const {
    if (count == 0) return;
    const index_t d = m_->config().d_model;
    workspace<B> scratch(m_->backend(), m_->workspace_size({&s, 1}));
    m_->forward({&s, 1}, hidden.view({hidden.size() / d, d}).rows(begin, count), scratch);
  }

  const model::transformer<B>* m_;
  index_t n_soft_;
  cache::gist_cache<B, float> cache_;
  buffer<float, B> hidden_;
};

/// The prompt and the labels without their last, which is read and predicts nothing.
inline std::vector<token_t> input_tokens(const nlohmann::json& c) {
  auto tokens = c.at("prompt_ids").get<std::vector<token_t>>();
  const auto labels = c.at("labels").get<std::vector<token_t>>();
  tokens.insert(tokens.end(), labels.begin(), labels.end() - 1);
  return tokens;
}

/// Greedy continuations of a case, with and without a penalty, step by step.
/// @return how many steps were compared
template <class B>
index_t check_greedy_runs(const model::transformer<B>& m, const model::soft_prompt& soft,
                          const nlohmann::json& c, token_t eos) {
  index_t n_steps = 0;
  if (!c.contains("greedy")) return 0;
  const auto prompt = c.at("prompt_ids").get<std::vector<token_t>>();
  for (const auto& run : c.at("greedy")) {
    const double penalty = run.at("penalty");
    CAPTURE(penalty);
    const auto want = run.at("ids").get<std::vector<token_t>>();
    const auto margins = run.at("margin").get<std::vector<double>>();
    model::session<B> s(m, cache::cache_options{});
    if (soft.size() > 0) s.read_soft(soft);
    s.read(prompt);
    model::sampler greedy({.repeat_penalty = penalty});
    std::vector<token_t> ids;
    for (std::size_t i = 0; i < want.size() && margins[i] >= 5e-3; ++i) {
      CAPTURE(i);
      ids.push_back(greedy(s.logits(), ids));
      ++n_steps;
      REQUIRE(ids.back() == want[i]);
      if (ids.back() == eos) break;
      s.read({&ids.back(), 1});
    }
  }
  return n_steps;
}

}  // namespace gistkv::test
