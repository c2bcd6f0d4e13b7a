// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cli/engine.hpp>
#include <cli/output.hpp>
#include <cli/ranks.hpp>
#include <cli/train_config.hpp>
#include <cli/train_log.hpp>
#include <cli/trainer.hpp>
#include <gistkv/io/adapter_file.hpp>

namespace gistkv::cli {

struct train_options {
  std::string method;
  std::string config;
  std::optional<index_t> stage;
  int threads = 0;
  double max_minutes = 0;  ///< 0: no limit.
  bool resume = false;
  bool json = false;
};

/// Where a run stands: behind `step` steps of stage `stage`.
struct position {
  std::size_t stage = 0;
  index_t step = 0;
  index_t tokens = 0;
};

/// A run of training in its folder: steps, checkpoints and logs, the same for every method. What a
/// sample is and what is learned from it, a method says.
class training_run {
 public:
  virtual ~training_run();
  training_run(const training_run&) = delete;
  training_run& operator=(const training_run&) = delete;

  json run();

 protected:
  /// Makes the folder. @throws format_error, io::file_error; usage_error where it holds a
  /// checkpoint that the run would begin anew over.
  training_run(const run_config& config, const train_options& o);

  /// Stages, from 0.
  virtual std::size_t n_stages() const = 0;
  virtual const step_config& steps_of(std::size_t stage) const = 0;
  /// What a run without checkpoint begins with.
  virtual void begin(const position& at) = 0;
  /// What stages before `at` have left, when a run goes on from a checkpoint of it.
  virtual void begin_again(const position& at) = 0;
  /// Refuses a stage whose result cannot be written. @throws format_error.
  virtual void check_stage(std::size_t) const {}
  /// A model for a stage, with what was learned before.
  virtual trainer_state& make_trainer(std::size_t stage) = 0;
  /// Writes what has been learned so far. One rank does.
  virtual void write_adapter(const position& at) = 0;
  /// Takes over what a stage has learned. All ranks do.
  virtual void end_stage(const position& at) = 0;
  virtual void add_to_report(json&, std::size_t /*n_stages*/) const {}

  /// Samples of a stage, those for validation included: the last ones.
  virtual std::size_t read_samples(std::size_t stage) = 0;
  /// Adds a sample to a part of the step.
  /// @param draw  of this sample in this stage, the same whatever the number of ranks
  virtual void take(std::size_t part, std::size_t sample, std::uint64_t draw) = 0;
  virtual void drop_parts() = 0;
  /// Targets and tokens of a part.
  virtual std::array<double, 2> size_of(std::size_t part) const = 0;
  virtual double forward_backward(std::size_t part, double scale, std::uint64_t seed) = 0;
  /// Sums of losses and of weights of a sample that is never trained on.
  virtual std::array<double, 2> validate(std::size_t sample) = 0;
  virtual double rate(std::size_t stage, double scheduled, train::parameter_kind) const {
    static_cast<void>(stage);
    return scheduled;
  }
  /// "windows of 512 rows"
  virtual std::string samples_text(std::size_t stage) const = 0;

  /// Whether this is the rank that writes files.
  bool speaks() const { return group_.rank() == 0; }
  std::filesystem::path adapter_path() const { return folder_ / "adapter.safetensors"; }
  /// The adapter that a stage begins with, empty if none: the first with the one that the config
  /// names, a later one by itself with what those before it have left.
  std::string adapter_before(const position& at, const std::string& of_config) const {
    return at.stage > 0 ? adapter_path().string() : of_config;
  }
  /// Of what is trained, for metadata.
  io::string_map facts_of(const position& at) const;

  process_group& group_ = ranks();
  train_options options_;
  std::filesystem::path folder_;
  std::unique_ptr<const io::loaded_model> source_;
  io::tokenizer tokens_;
  std::uint64_t origin_;  ///< Fingerprint of the config's model.

 private:
  std::filesystem::path checkpoint_path() const { return folder_ / "checkpoint.safetensors"; }
  /// The stage that a run which does not go on begins with, from 0.
  std::size_t first_stage() const {
    return static_cast<std::size_t>(options_.stage.value_or(1) - 1);
  }
  void spare_checkpoint() const;
  position resume();
  void save(const position& at);
  void train_stage(position& at, std::optional<train_log>& log);
  double validate_all(std::size_t begin, std::size_t end);
  /// Whether --max-minutes have gone by; rank 0's clock counts, so that all ranks stop together.
  bool time_is_up();
  /// On stderr.
  void show(const train_record& r, index_t steps) const;

  stopwatch clock_;
  bool ended_early_ = false;
  run_config common_;
  trainer_state* model_ = nullptr;  ///< Of the stage; null: not made yet.
  position saved_;
  index_t begun_ = 0;
  double validation_ = -1;
  train_record last_;
};

/// Trains gists as a config says; and soft tokens. @throws format_error, io::file_error.
std::unique_ptr<training_run> make_gist_run(const train_options& o);
std::unique_ptr<training_run> make_soft_run(const train_options& o);

}  // namespace gistkv::cli
