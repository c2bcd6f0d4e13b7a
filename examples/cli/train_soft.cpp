// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <cli/train_data.hpp>
#include <cli/training_run.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/eval/statistics.hpp>
#include <gistkv/gmsa/sample.hpp>
#include <gistkv/io/gmsa_adapter.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/train/token_stream.hpp>

namespace gistkv::cli {

namespace {

/// The compressor of gmsa: texts are restored, then questions on texts answered.
class soft_run final : public training_run {
 public:
  soft_run(soft_config config, const train_options& o)
      : training_run(config, o),
        config_(std::move(config)),
        restore_(tokens_.encode(config_.restore, io::special_tokens::as_text)) {
    if (!tokens_.eos()) {
      throw format_error(config_.model + ": the tokenizer names no token that ends a text");
    }
    if (!config_.data.files.empty()) {
      if (speaks()) read_texts();
      group_.wait();
      if (!speaks()) read_texts();
    }
    for (const std::string& file : config_.questions) {
      for (question& q : read_questions(file, config_.format)) all_.push_back(std::move(q));
    }
    // By content, so that what is held back does not depend on the order of files.
    std::vector<std::string> names;
    for (const question& q : all_) names.push_back(q.name);
    for (const std::size_t i : eval::sampled(names, 0, config_.seed))
      questions_.push_back(&all_[i]);
  }

 private:
  struct part {
    std::vector<gmsa::sample> samples;
    std::vector<index_t> rates;
  };

  void read_texts() {
    texts_.emplace(training_tokens(
        config_.data,
        config_.data.cache.empty() ? (folder_ / "tokens.safetensors").string() : config_.data.cache,
        tokens_));
  }

  std::size_t n_stages() const override { return config_.stages.size(); }
  const step_config& steps_of(std::size_t stage) const override { return config_.stages[stage]; }
  bool restores(std::size_t stage) const {
    return config_.stages[stage].trained == gmsa::stage::restoring;
  }

  void begin(const position& at) override {
    const std::string from = adapter_before(at, config_.adapter);
    if (!from.empty()) return take_adapter(from);
    parts_ = gmsa::untrained_parts(source_->weights, config_.shape);
    parts_.merging = config_.merging;
    if (config_.slots) gmsa::add_slots(parts_, n_slots(), config_.seed);
    if (config_.alignment == alignment_start::random) {
      gmsa::randomise_alignment(parts_, config_.seed);
    }
  }
  /// The adapter has what stages before have learned; what this one has, the checkpoint has.
  void begin_again(const position& at) override {
    if (at.stage > 0 && !restores(at.stage)) {
      take_adapter(adapter_path().string());
    } else {
      begin({});
    }
  }
  void take_adapter(const std::string& path) {
    parts_ = io::read_gmsa_adapter(path, source_->weights).parts;
    if (parts_.encoder.config.n_layers != config_.shape.encoder_layers ||
        static_cast<index_t>(parts_.alignment.blocks.size()) != config_.shape.alignment_layers ||
        parts_.merging != config_.merging || parts_.slots.empty() == config_.slots) {
      throw argument_error(path + ": has " + std::to_string(parts_.encoder.config.n_layers) +
                           " encoder and " + std::to_string(parts_.alignment.blocks.size()) +
                           " alignment layers, the config asks for " +
                           std::to_string(config_.shape.encoder_layers) + " and " +
                           std::to_string(config_.shape.alignment_layers) +
                           ", and both for the same merging");
    }
  }
  /// As many as the longest sample that slots are learned from has groups at the lowest rate.
  index_t n_slots() const {
    index_t longest = 0;
    for (std::size_t i = 0; i < n_stages(); ++i) {
      if (restores(i)) longest = std::max(longest, config_.stages[i].sequence);
    }
    if (longest == 0) longest = config_.stages.front().sequence;  // They stay as they are drawn.
    return gmsa::merged_rows(longest, *std::ranges::min_element(config_.rates));
  }

  trainer_state& make_trainer(std::size_t stage) override {
    model_ = this_backend().make_soft_trainer(
        options_.threads, parts_,
        {config_.stages[stage].trained, config_.lora, config_.decoder_lora});
    return *model_;
  }
  void write_adapter(const position&) override {
    io::write_gmsa_adapter(adapter_path(), {model_->parts(parts_), config_.rates}, source_->weights,
                           config_.adapter_type);
  }
  /// From what was written, so that a run that goes on from there has the same bits.
  void end_stage(const position& at) override {
    if (speaks()) write_adapter(at);
    model_.reset();
    group_.wait();
    take_adapter(adapter_path().string());
  }

  std::size_t read_samples(std::size_t stage) override {
    stage_ = stage;
    if (!restores(stage)) return questions_.size();
    // Context, prompt and the end of the text fit into a sample.
    const auto extra = static_cast<index_t>(restore_.size()) + 1;
    how_.n_gist = 0;
    how_.length = config_.stages[stage].sequence - extra;
    if (how_.length < 2) {
      throw argument_error("stage " + std::to_string(stage + 1) + ": sequence is " +
                           std::to_string(config_.stages[stage].sequence) +
                           ", want more than the " + std::to_string(extra) +
                           " tokens of the prompt and the end");
    }
    windows_ = train::cut_windows(texts_->stream(), how_);
    std::erase_if(windows_, [this](const train::window& w) {
      return train::sequences_of(texts_->stream(), w, how_).empty();
    });
    return windows_.size();
  }
  gmsa::sample sample_of(std::size_t number) const {
    const token_t eos = *tokens_.eos();
    const index_t most = config_.stages[stage_].sequence;
    if (restores(stage_)) {
      // Of documents that share a window, the longest piece.
      auto pieces = train::sequences_of(texts_->stream(), windows_[number], how_);
      const auto longest = std::max_element(
          pieces.begin(), pieces.end(),
          [](const auto& a, const auto& b) { return a.tokens.size() < b.tokens.size(); });
      if (longest == pieces.end()) return {};
      return gmsa::restoring_sample(longest->tokens, restore_, eos, most);
    }
    const question& q = *questions_[number];
    const auto encode = [this](std::string_view text) {
      return tokens_.encode(text, io::special_tokens::as_text);
    };
    gmsa::sample s{encode(q.context), encode(q.text + config_.instruction),
                   encode(gmsa::first_answer(q.answers))};
    s.labels.push_back(eos);
    const auto n_context = static_cast<index_t>(s.context.size());
    const auto left = gmsa::cut(n_context, static_cast<index_t>(s.prompt.size()), most);
    s.context.resize(static_cast<std::size_t>(left.context));
    s.prompt.resize(static_cast<std::size_t>(left.prompt));
    return s;
  }
  index_t rate_of(std::uint64_t draw) const {
    random_generator random(draw);
    return config_
        .rates[static_cast<std::size_t>(random.below(static_cast<index_t>(config_.rates.size())))];
  }

  void take(std::size_t number, std::size_t sample, std::uint64_t draw) override {
    if (number == taken_.size()) taken_.emplace_back();
    taken_[number].samples.push_back(sample_of(sample));
    taken_[number].rates.push_back(rate_of(draw));
  }
  void drop_parts() override { taken_.clear(); }
  std::array<double, 2> size_of(std::size_t number) const override {
    std::array<double, 2> n{};
    for (const gmsa::sample& s : taken_[number].samples) {
      n[0] += static_cast<double>(s.labels.size());
      n[1] += static_cast<double>(s.context.size() + s.prompt.size() + s.labels.size());
    }
    return n;
  }
  double forward_backward(std::size_t number, double scale, std::uint64_t seed) override {
    return model_->forward_backward(taken_[number].samples, taken_[number].rates, scale, seed);
  }
  /// Each held sample has a rate of its own, always the same.
  std::array<double, 2> validate(std::size_t number) override {
    const gmsa::sample s = sample_of(number);
    const index_t rate = rate_of(splitmix64(static_cast<std::uint64_t>(number)));
    return {model_->loss({&s, 1}, {&rate, 1}, 1.0), static_cast<double>(s.labels.size())};
  }
  std::string samples_text(std::size_t stage) const override {
    return std::string(restores(stage) ? "texts" : "questions") + " of at most " +
           std::to_string(config_.stages[stage].sequence) + " tokens";
  }

  soft_config config_;
  std::vector<token_t> restore_;
  std::optional<io::token_file> texts_;
  std::vector<question> all_;
  std::vector<const question*> questions_;
  gmsa::host_parts parts_;  ///< That the stage began with.
  soft_trainer_ptr model_;
  std::size_t stage_ = 0;
  train::window_options how_;
  std::vector<train::window> windows_;
  std::vector<part> taken_;
};

}  // namespace

std::unique_ptr<training_run> make_soft_run(const train_options& o) {
  return std::make_unique<soft_run>(read_soft_config(o.config), o);
}

}  // namespace gistkv::cli
