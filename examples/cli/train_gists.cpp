// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/model_folder.hpp>
#include <cli/train_data.hpp>
#include <cli/training_run.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/model_writer.hpp>
#include <gistkv/train/token_stream.hpp>

namespace gistkv::cli {

namespace {

/// Gists, and LoRA or the model itself, on texts.
class gist_run final : public training_run {
 public:
  gist_run(train_config config, const train_options& o)
      : training_run(config, o), config_(std::move(config)), base_(origin_) {
    if (speaks()) read_data();
    group_.wait();
    if (!speaks()) read_data();
  }

 private:
  /// Rank 0 makes the token file, the others find it.
  void read_data() {
    data_.emplace(training_tokens(
        config_.data,
        config_.data.cache.empty() ? (folder_ / "tokens.safetensors").string() : config_.data.cache,
        tokens_));
  }

  std::filesystem::path model_path() const { return folder_ / "model"; }

  bool trains_all(std::size_t stage) const {
    return config_.stages[stage].trained == train::trained_weights::all;
  }
  /// Whether a stage before `stage` trains all weights.
  bool trained_before(std::size_t stage) const {
    while (stage > 0) {
      if (trains_all(--stage)) return true;
    }
    return false;
  }

  /// From now on the model is the one that a stage has made.
  void take_trained_model() {
    source_ = load_model(model_path().string());
    base_ = io::fingerprint(source_->weights);
  }

  std::size_t n_stages() const override { return config_.stages.size(); }
  const step_config& steps_of(std::size_t stage) const override { return config_.stages[stage]; }
  void check_stage(std::size_t stage) const override {
    // A model that cannot be written is refused before it is trained.
    if (trains_all(stage)) static_cast<void>(io::model_config_json(source_->weights));
  }

  model::adapter read_adapter(const std::string& path) const {
    return adapter_of(io::safetensors_file::open(path), source_->weights);
  }

  /// The gists that a run begins with.
  void begin(const position& at) override {
    if (trained_before(at.stage)) take_trained_model();
    const std::string from = adapter_before(at, config_.adapter);
    if (from.empty()) {
      adapter_.gists =
          model::untrained_gist_rows(source_->weights, config_.rule.n_gist, config_.seed);
      return;
    }
    adapter_ = read_adapter(from);
    if (adapter_.gists.n_gist != config_.rule.n_gist) {
      throw argument_error(from + ": holds " + std::to_string(adapter_.gists.n_gist) +
                           " gists a sentence, the config asks for " +
                           std::to_string(config_.rule.n_gist));
    }
  }

  void begin_again(const position& at) override {
    if (trained_before(at.stage)) take_trained_model();
    adapter_.gists = model::untrained_gist_rows(source_->weights, config_.rule.n_gist, 0);
    // What is frozen is no part of the checkpoint.
    if (!config_.adapter.empty() && !config_.lora_on_all_rows && !trained_before(at.stage)) {
      adapter_.on_all_rows = read_adapter(config_.adapter).on_all_rows;
    }
  }

  /// Whether a stage goes on with the LoRA on all rows; others take it into the weights.
  bool trains_all_rows(std::size_t stage) const {
    return config_.stages[stage].trained == train::trained_weights::lora &&
           (!config_.lora.gist_rows_only || config_.lora_on_all_rows);
  }
  bool trains_gist_rows(std::size_t stage) const {
    return config_.stages[stage].trained == train::trained_weights::lora &&
           config_.lora.gist_rows_only;
  }

  /// A model for a stage, with what was learned before.
  trainer_state& make_trainer(std::size_t stage) override {
    const stage_config& s = config_.stages[stage];
    const train::model_options o{s.trained, config_.lora, config_.rule, config_.recompute,
                                 config_.lora_on_all_rows};
    if (!trains_gist_rows(stage) && !adapter_.on_gist_rows.empty()) {
      throw argument_error("stage " + std::to_string(stage + 1) +
                           ": the adapter has LoRA on gist rows, which belongs to the model as it "
                           "is; only a stage of \"lora\" with \"rows\": \"gists\" or \"both\" "
                           "goes on from it");
    }
    if (trains_all_rows(stage) || adapter_.on_all_rows.empty()) {
      model_ = this_backend().make_trainer(options_.threads, source_->weights, adapter_.gists, o);
    } else {
      const model::host_model weights = model::merged(source_->weights, adapter_);
      model_ = this_backend().make_trainer(options_.threads, weights, adapter_.gists, o);
    }
    if (trains_gist_rows(stage)) expect_alpha(stage, adapter_.on_gist_rows, config_.lora);
    if (trains_all_rows(stage)) {
      expect_alpha(stage, adapter_.on_all_rows, config_.lora_on_all_rows.value_or(config_.lora));
    }
    // Its own file again: what stands in adapter_ by now may have learned, or be in a checkpoint.
    if (trains_all_rows(stage) && !config_.adapter.empty() && !trained_before(stage) &&
        !config_.lesson.empty()) {
      model::adapter before;
      before.on_all_rows = read_adapter(config_.adapter).on_all_rows;
      model_->load(before);
      model_->keep_for_teacher();
    }
    model_->load(adapter_);
    return *model_;
  }
  static void expect_alpha(std::size_t stage, const model::lora& before,
                           const train::lora_options& o) {
    if (before.empty() || before.alpha == o.alpha) return;
    throw argument_error("stage " + std::to_string(stage + 1) + ": the adapter's LoRA has alpha " +
                         decimal(before.alpha, 3) + ", the config " + decimal(o.alpha, 3));
  }
  /// What has been learned, with what the stage was given beside the model.
  model::adapter learned(std::size_t stage) const {
    model::adapter a = model_->save();
    if (!trains_all(stage) && !trains_all_rows(stage)) a.on_all_rows = adapter_.on_all_rows;
    return a;
  }

  void write_adapter(const position& at) override {
    // Gists of a model that is in training are of no use before that is written.
    if (!trains_all(at.stage)) write_gists(at);
  }
  void write_gists(const position& at) const {
    io::string_map facts = facts_of(at);
    facts["base"] = hex(base_);
    facts["base_name"] = source_->weights.config.name;
    facts["segmenter"] = config_.data.segmenters.front();
    facts["recent"] = std::to_string(config_.rule.recent);
    facts["sink"] = std::to_string(config_.rule.n_sink);
    io::write_adapter(adapter_path(), learned(at.stage), source_->weights.config.d_model,
                      std::move(facts), true);
  }

  /// A stage of all weights writes the model, with the tokenizer, as other programs read it, and
  /// the gists that belong to it. Later stages go on from there, now or after a restart.
  void end_stage(const position& at) override {
    adapter_ = learned(at.stage);
    if (trains_all(at.stage)) {
      if (speaks()) {
        write_model_folder(model_path(), model_->trained(source_->weights),
                           config_.narrow_model ? weight_type::bf16 : weight_type::f32,
                           config_.model);
      }
      group_.wait();
      take_trained_model();
      if (speaks()) write_gists(at);
    }
    model_.reset();
  }
  void add_to_report(json& report, std::size_t n) const override {
    if (trained_before(n)) report["model"] = model_path().string();
  }

  train::window_options windows_of(const stage_config& s) const {
    train::window_options w;
    w.n_gist = config_.rule.n_gist;
    w.first_gist = static_cast<token_t>(source_->weights.config.n_vocab);
    w.length = s.sequence;
    w.gist_targets = s.gist_targets;
    w.recent = config_.recent;
    if (tokens_.add_bos()) w.bos = tokens_.bos();
    return w;
  }

  void append(std::vector<train::sequence>& to, const train::window& w,
              const train::window_options& o) const {
    for (train::sequence& s : train::sequences_of(data_->stream(), w, o)) {
      to.push_back(std::move(s));
    }
  }

  std::size_t read_samples(std::size_t stage) override {
    how_ = windows_of(config_.stages[stage]);
    windows_ = train::cut_windows(data_->stream(), how_);
    // Parts that are read but not learned may fill a window.
    std::erase_if(windows_, [this](const train::window& w) {
      return train::total_weight(train::sequences_of(data_->stream(), w, how_)) == 0;
    });
    return windows_.size();
  }
  void take(std::size_t part, std::size_t sample, std::uint64_t) override {
    if (part == parts_.size()) parts_.emplace_back();
    append(parts_[part], windows_[sample], how_);
  }
  void drop_parts() override { parts_.clear(); }
  std::array<double, 2> size_of(std::size_t part) const override {
    std::array<double, 2> n = {train::total_weight(parts_[part]), 0};
    for (const train::sequence& q : parts_[part]) n[1] += static_cast<double>(q.tokens.size());
    return n;
  }
  double forward_backward(std::size_t part, double scale, std::uint64_t seed) override {
    return model_->forward_backward(parts_[part], scale, seed, config_.lesson);
  }
  /// Of regular tokens.
  std::array<double, 2> validate(std::size_t sample) override {
    train::window_options o = how_;
    o.gist_targets = false;
    std::vector<train::sequence> sequences;
    append(sequences, windows_[sample], o);
    return {model_->loss(sequences, 1.0), train::total_weight(sequences)};
  }
  double rate(std::size_t stage, double scheduled, train::parameter_kind kind) const override {
    const stage_config& s = config_.stages[stage];
    using enum train::parameter_kind;
    const std::optional<double> own = kind == gist          ? s.gist_rate
                                      : kind == second_lora ? s.all_rows_rate
                                                            : std::nullopt;
    if (!own) return scheduled;
    return *own > 0 ? scheduled * *own / s.rate.peak : 0;
  }
  std::string samples_text(std::size_t stage) const override {
    return "windows of " + std::to_string(config_.stages[stage].sequence) + " rows";
  }

  train_config config_;
  std::uint64_t base_;  ///< Fingerprint of `source_`, which a stage may have made.
  std::optional<io::token_file> data_;
  model::adapter adapter_;
  trainer_ptr model_;
  train::window_options how_;
  std::vector<train::window> windows_;
  std::vector<std::vector<train::sequence>> parts_;
};

}  // namespace

std::unique_ptr<training_run> make_gist_run(const train_options& o) {
  return std::make_unique<gist_run>(read_train_config(o.config), o);
}

}  // namespace gistkv::cli
