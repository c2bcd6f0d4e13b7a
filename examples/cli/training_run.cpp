// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/training_run.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <span>
#include <utility>

#include <cli/errors.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/train/token_stream.hpp>

namespace gistkv::cli {

namespace {

/// Where the run stood that wrote a checkpoint.
position position_of(const io::safetensors_file& checkpoint) {
  const auto number = [&checkpoint](const char* key) {
    return static_cast<index_t>(std::stoll(io::detail::adapter_fact(checkpoint, key)));
  };
  return {static_cast<std::size_t>(number("stage") - 1), number("step"), number("tokens")};
}

}  // namespace

training_run::training_run(const run_config& config, const train_options& o)
    : options_(o),
      folder_(config.output),
      source_(load_model(config.model)),
      tokens_(load_tokenizer(config.model)),
      origin_(io::fingerprint(source_->weights)),
      common_(config) {
  if (!speaks()) return;
  if (!options_.resume) spare_checkpoint();
  std::error_code failure;
  std::filesystem::create_directories(folder_, failure);
  if (failure) throw io::file_error(folder_, "make the folder", failure);
}

training_run::~training_run() = default;

/// A stage may follow those that have ended. One that begins anew where the checkpoint is of it or
/// of one behind it would cost what was learned there.
void training_run::spare_checkpoint() const {
  if (!std::filesystem::is_regular_file(checkpoint_path())) return;
  const position held = position_of(io::safetensors_file::open(checkpoint_path()));
  const bool untrained = held.stage == 0 && held.step == 0;
  if (untrained || first_stage() > held.stage) return;
  throw usage_error(checkpoint_path().string() + " is of stage " + std::to_string(held.stage + 1) +
                    ", step " + std::to_string(held.step) +
                    ", which would be lost; want --resume to go on from it, or another output");
}

json training_run::run() {
  if (first_stage() >= n_stages()) {
    throw usage_error("--stage is " + std::to_string(*options_.stage) + ", the config has " +
                      std::to_string(n_stages()) + " stages");
  }
  position at{first_stage(), 0, 0};
  if (options_.resume) {
    at = resume();
  } else {
    begin(at);
  }
  begun_ = at.step;
  const std::size_t last = options_.stage ? first_stage() + 1 : n_stages();
  for (std::size_t i = at.stage; i < last; ++i) check_stage(i);
  std::optional<train_log> log;
  if (speaks()) {
    log.emplace(folder_, options_.resume || at.stage > 0, static_cast<index_t>(at.stage) + 1,
                at.step);
  }
  for (; at.stage < last; at = {at.stage + 1, 0, at.tokens}) {
    if (model_ == nullptr) model_ = &make_trainer(at.stage);
    train_stage(at, log);
    if (ended_early_) break;
    model_ = nullptr;
    end_stage(at);
    begun_ = 0;
  }
  json report;
  report["ranks"] = group_.n_ranks();
  report["output"] = folder_.string();
  add_to_report(report, last);
  report["adapter"] = adapter_path().string();
  report["stages"] = last;
  report["finished"] = !ended_early_;
  if (ended_early_) {
    report["stage"] = at.stage + 1;
    report["step"] = at.step;
  }
  report["tokens"] = at.tokens;
  report["loss"] = last_.loss;
  if (validation_ >= 0) report["validation"] = validation_;
  report["tokens_per_second"] = last_.tokens_per_second;
  report["peak_rss_bytes"] = peak_rss_bytes();
  return report;
}

io::string_map training_run::facts_of(const position& at) const {
  return {{"config", common_.source.dump()},
          {"stage", std::to_string(at.stage + 1)},
          {"step", std::to_string(at.step)},
          {"tokens", std::to_string(at.tokens)}};
}

/// Reads the checkpoint and makes the model of its stage.
position training_run::resume() {
  const auto file = io::safetensors_file::open(checkpoint_path());
  if (io::detail::adapter_fact(file, "base") != hex(origin_)) {
    throw format_error(file.name() + ": was trained on another model (" +
                       io::detail::adapter_fact(file, "base") + ", this is " + hex(origin_) + ")");
  }
  if (io::detail::adapter_fact(file, "config") != common_.source.dump()) {
    note(file.name() + " was written under another config; going on under this one");
  }
  const auto ranks = file.metadata().find("ranks");  // Once there was only one.
  const std::string n_ranks = ranks == file.metadata().end() ? "1" : ranks->second;
  if (n_ranks != std::to_string(group_.n_ranks())) {
    note(file.name() + " was written by " + n_ranks + " processes, this run has " +
         std::to_string(group_.n_ranks()) +
         "; it goes on where the same steps of its own would be");
  }
  const position at = position_of(file);
  if (at.stage >= n_stages()) {
    throw format_error(file.name() + ": is of stage " + std::to_string(at.stage + 1) +
                       ", the config has " + std::to_string(n_stages()));
  }
  begin_again(at);
  model_ = &make_trainer(at.stage);
  std::vector<trained_array> arrays;
  for (const io::safetensors_tensor& t : file.tensors()) {
    if (t.type != io::safetensors_type::f32 || t.extents.size() != 2) {
      throw format_error(file.name() + ": tensor " + io::quote(t.name) + " is no F32 matrix");
    }
    trained_array& a = arrays.emplace_back();
    a = {t.name, t.extents[0], t.extents[1], {}};
    a.values.resize(t.data.size() / sizeof(float));
    std::memcpy(a.values.data(), t.data.data(), t.data.size());
  }
  model_->restore(arrays, file.name());
  saved_ = at;
  return at;
}

void training_run::save(const position& at) {
  saved_ = at;
  if (!speaks()) return;
  const std::vector<trained_array> arrays = model_->state();
  std::vector<io::safetensors_tensor> tensors;
  for (const trained_array& a : arrays) {
    tensors.push_back({a.name,
                       io::safetensors_type::f32,
                       {a.rows, a.cols},
                       std::as_bytes(std::span<const float>(a.values))});
  }
  io::string_map facts = facts_of(at);
  facts["format"] = "gistkv-checkpoint";
  facts["base"] = hex(origin_);
  facts["ranks"] = std::to_string(group_.n_ranks());
  const signals_held held;
  io::write_safetensors(checkpoint_path(), tensors, facts);
  write_adapter(at);
}

/// Mean loss of the samples that are never trained on.
double training_run::validate_all(std::size_t begin, std::size_t end) {
  std::array<double, 2> sum{};  // Of losses and of weights.
  for (std::size_t i = begin; i < end; ++i) {
    if (static_cast<index_t>(i - begin) % group_.n_ranks() != group_.rank()) continue;
    const auto found = validate(i);
    sum[0] += found[0];
    sum[1] += found[1];
  }
  group_.sum(sum);
  return sum[1] > 0 ? sum[0] / sum[1] : 0;
}

void training_run::train_stage(position& at, std::optional<train_log>& log) {
  const step_config& s = steps_of(at.stage);
  const std::size_t n_all = read_samples(at.stage);
  if (n_all == 0) {
    throw argument_error("stage " + std::to_string(at.stage + 1) +
                         ": the training texts hold nothing to learn");
  }
  const auto held_out = static_cast<std::size_t>(
      common_.validate_every > 0
          ? std::min<index_t>(common_.validation_windows, static_cast<index_t>(n_all) / 2)
          : 0);
  const auto n = static_cast<index_t>(n_all - held_out);
  const std::uint64_t seed = common_.seed + (static_cast<std::uint64_t>(at.stage) << 32);
  std::vector<std::int32_t> order;
  index_t epoch = -1;
  const stopwatch watch;
  const index_t tokens_before = at.tokens;
  note("stage " + std::to_string(at.stage + 1) + ": " + std::to_string(n) + " " +
       samples_text(at.stage) + ", " + std::to_string(model_->n_parameters()) + " parameters, " +
       std::to_string(model_->n_threads()) + " threads" +
       (group_.n_ranks() > 1 ? " in each of " + std::to_string(group_.n_ranks()) + " processes"
                             : ""));
  group_.say_when_ended("ended from outside or with a process that was lost; " +
                        checkpoint_path().string() + " is whole, and --resume goes on from there");
  if (at.step == 0) save(at);
  while (at.step < s.rate.steps) {
    const index_t step = at.step + 1;
    drop_parts();
    const auto n_parts = static_cast<std::size_t>((s.batch + s.micro_batch - 1) / s.micro_batch);
    for (index_t i = 0; i < s.batch; ++i) {
      const index_t number = (at.step * group_.n_ranks() + group_.rank()) * s.batch + i;
      if (number / n != epoch) order = train::shuffled(n, seed, epoch = number / n);
      take(static_cast<std::size_t>(i / s.micro_batch),
           static_cast<std::size_t>(order[static_cast<std::size_t>(number % n)]),
           splitmix64(seed + static_cast<std::uint64_t>(number)));
    }
    std::array<double, 2> read{};  // Targets and tokens.
    for (std::size_t i = 0; i < n_parts; ++i) {
      const auto part = size_of(i);
      read[0] += part[0];
      read[1] += part[1];
    }
    group_.sum(read);
    const double weight = read[0];
    if (weight == 0) throw argument_error("step " + std::to_string(step) + ": no targets");
    at.tokens += static_cast<index_t>(read[1]);
    double loss = 0;
    for (std::size_t i = 0; i < n_parts; ++i) {
      // The number of the part among those of all ranks.
      const auto part = static_cast<std::uint64_t>(group_.rank()) * n_parts + i;
      const std::uint64_t pass = splitmix64(seed + (static_cast<std::uint64_t>(step) << 12) + part);
      loss += forward_backward(i, 1.0 / weight, pass);
    }
    group_.sum(std::span<double>(&loss, 1));
    model_->sum_gradients(group_);
    // Ranks with other numbers of threads may add up in another order; rank 0's norm counts.
    double norm = model_->gradient_norm();
    if (!speaks()) norm = 0;
    group_.sum(std::span<double>(&norm, 1));
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      throw error("stage " + std::to_string(at.stage + 1) + ", step " + std::to_string(step) +
                  ": the loss is " + std::to_string(loss) + ", its gradient " +
                  std::to_string(norm) + "; " + checkpoint_path().string() + " is of step " +
                  std::to_string(saved_.step) + " and good");
    }
    const double scheduled = s.rate.rate(step);
    model_->update(
        common_.optimiser,
        [&](train::parameter_kind kind) { return rate(at.stage, scheduled, kind); },
        train::clip_factor(norm, s.clip), step);
    at.step = step;
    const bool last = step == s.rate.steps;
    train_record r{
        static_cast<index_t>(at.stage) + 1, step, at.tokens, loss, -1, norm, scheduled, 0, 0};
    if (held_out > 0 && (last || step % common_.validate_every == 0)) {
      r.validation = validation_ = validate_all(n_all - held_out, n_all);
    }
    r.seconds = watch.seconds();
    r.tokens_per_second = static_cast<double>(at.tokens - tokens_before) / r.seconds;
    if (log) log->add(r);
    last_ = r;
    show(r, s.rate.steps);
    if (!last) ended_early_ = time_is_up();
    if (last || ended_early_ || step % common_.save_every == 0) save(at);
    if (ended_early_) return;
  }
}

bool training_run::time_is_up() {
  if (options_.max_minutes <= 0) return false;
  double late = speaks() && clock_.seconds() >= 60.0 * options_.max_minutes ? 1 : 0;
  group_.sum(std::span<double>(&late, 1));
  return late > 0;
}

void training_run::show(const train_record& r, index_t steps) const {
  if (!speaks()) return;
  const double left = r.seconds / static_cast<double>(std::max<index_t>(1, r.step - begun_)) *
                      static_cast<double>(steps - r.step);
  std::string line = "stage " + std::to_string(r.stage) + " step " + std::to_string(r.step) + "/" +
                     std::to_string(steps) + "  loss " + decimal(r.loss, 4);
  if (r.validation >= 0) {
    line += "  validation " + decimal(r.validation, 4) + ", perplexity " +
            decimal(std::exp(r.validation), 2);
  }
  line += "  norm " + decimal(r.gradient_norm, 3) + "  " + decimal(r.tokens_per_second, 0) +
          " tokens/s  " + decimal(left / 60, 1) + " min left\n";
  std::fputs(line.c_str(), stderr);
}

}  // namespace gistkv::cli
