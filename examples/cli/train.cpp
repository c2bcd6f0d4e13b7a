// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/model_folder.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/ranks.hpp>
#include <cli/train_config.hpp>
#include <cli/train_data.hpp>
#include <cli/train_log.hpp>
#include <cli/trainer.hpp>
#include <cli/verbs.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/model_writer.hpp>
#include <gistkv/train/token_stream.hpp>

namespace gistkv::cli {

namespace {

struct train_options {
  std::string method;
  std::string config;
  index_t stage = 0;
  int threads = 0;
  double max_minutes = 0;
  bool resume = false;
  bool json = false;
};

/// Where a run stands: behind `step` steps of stage `stage`.
struct position {
  std::size_t stage = 0;
  index_t step = 0;
  index_t tokens = 0;
};

/// A run in its folder.
class training_run {
 public:
  training_run(train_config config, const train_options& o)
      : config_(std::move(config)),
        options_(o),
        folder_(config_.output),
        source_(load_model(config_.model)),
        tokens_(load_tokenizer(config_.model)),
        origin_(io::fingerprint(source_->weights)),
        base_(origin_) {
    if (speaks()) {
      std::error_code failure;
      std::filesystem::create_directories(folder_, failure);
      if (failure) throw io::file_error(folder_, "make the folder", failure);
      read_data();
    }
    group_.wait();
    if (!speaks()) read_data();
  }

  json run() {
    position at;
    if (options_.stage > static_cast<index_t>(config_.stages.size())) {
      throw usage_error("--stage is " + std::to_string(options_.stage) + ", the config has " +
                        std::to_string(config_.stages.size()) + " stages");
    }
    if (options_.stage > 0) at.stage = static_cast<std::size_t>(options_.stage - 1);
    if (options_.resume) {
      at = resume();
    } else {
      begin(at);
    }
    begun_ = at.step;
    const std::size_t last =
        options_.stage > 0 ? static_cast<std::size_t>(options_.stage) : config_.stages.size();
    for (std::size_t i = at.stage; i < last; ++i) {
      // A model that cannot be written is refused before it is trained.
      if (trains_all(i)) static_cast<void>(io::model_config_json(source_->weights));
    }
    std::optional<train_log> log;
    if (speaks()) {
      log.emplace(folder_, options_.resume || at.stage > 0, static_cast<index_t>(at.stage) + 1,
                  at.step);
    }
    for (; at.stage < last; at = {at.stage + 1, 0, at.tokens}) {
      if (model_ == nullptr) change_stage(at.stage);
      train_stage(at, log);
      if (ended_early_) break;
      adapter_ = model_->save();
      if (trains_all(at.stage)) write_trained_model(at);
      model_.reset();
      begun_ = 0;
    }
    json report;
    report["ranks"] = group_.n_ranks();
    report["output"] = folder_.string();
    if (trained_before(last)) report["model"] = model_path().string();
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

 private:
  /// Whether this is the rank that writes files.
  bool speaks() const { return group_.rank() == 0; }

  /// Rank 0 makes the token file, the others find it.
  void read_data() {
    data_.emplace(training_tokens(
        config_.data,
        config_.data.cache.empty() ? (folder_ / "tokens.safetensors").string() : config_.data.cache,
        tokens_));
  }

  std::filesystem::path checkpoint_path() const { return folder_ / "checkpoint.safetensors"; }
  std::filesystem::path model_path() const { return folder_ / "model"; }
  std::filesystem::path adapter_path() const { return folder_ / "adapter.safetensors"; }

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

  /// Writes what a stage has made of all weights, with the tokenizer, as other programs read it,
  /// and the gists that belong to it. Later stages go on from there, now or after a restart.
  void write_trained_model(const position& at) {
    if (speaks()) {
      write_model_folder(model_path(), model_->trained(source_->weights),
                         config_.narrow_model ? weight_type::bf16 : weight_type::f32,
                         config_.model);
    }
    group_.wait();
    take_trained_model();
    if (speaks()) write_adapter(at);
  }

  /// The gists that a run begins with.
  void begin(const position& at) {
    if (trained_before(at.stage)) take_trained_model();
    std::string from = config_.adapter;
    if (from.empty() && at.stage > 0) from = adapter_path().string();
    if (from.empty()) {
      adapter_.gists =
          model::untrained_gist_rows(source_->weights, config_.rule.n_gist, config_.seed);
      return;
    }
    adapter_ = io::read_adapter(io::safetensors_file::open(from), source_->weights.config);
    if (adapter_.gists.n_gist != config_.rule.n_gist) {
      throw argument_error(from + ": holds " + std::to_string(adapter_.gists.n_gist) +
                           " gists a sentence, the config asks for " +
                           std::to_string(config_.rule.n_gist));
    }
  }

  /// A model for a stage, with what was learned before.
  void change_stage(std::size_t stage) {
    const stage_config& s = config_.stages[stage];
    train::model_options o{s.trained, config_.lora, config_.rule, config_.recompute};
    if (s.trained == train::trained_weights::all && !adapter_.factors.empty()) {
      const model::host_model weights = model::merged(source_->weights, adapter_);
      model_ = this_backend().make_trainer(options_.threads, weights, adapter_.gists, o);
      return;
    }
    if (s.trained == train::trained_weights::none && !adapter_.factors.empty()) {
      throw argument_error("stage " + std::to_string(stage + 1) +
                           " trains gists only, but the adapter has LoRA already");
    }
    model_ = this_backend().make_trainer(options_.threads, source_->weights, adapter_.gists, o);
    model_->load(adapter_.factors);
  }

  /// Reads the checkpoint and makes the model of its stage.
  position resume() {
    const auto file = io::safetensors_file::open(checkpoint_path());
    const auto number = [&file](const char* key) {
      return static_cast<index_t>(std::stoll(io::detail::adapter_fact(file, key)));
    };
    if (io::detail::adapter_fact(file, "base") != hex(origin_)) {
      throw format_error(file.name() + ": was trained on another model (" +
                         io::detail::adapter_fact(file, "base") + ", this is " + hex(origin_) +
                         ")");
    }
    if (io::detail::adapter_fact(file, "config") != config_.source.dump()) {
      note(file.name() + " was written under another config; going on under this one");
    }
    const auto ranks = file.metadata().find("ranks");  // Once there was only one.
    const std::string n_ranks = ranks == file.metadata().end() ? "1" : ranks->second;
    if (n_ranks != std::to_string(group_.n_ranks())) {
      note(file.name() + " was written by " + n_ranks + " processes, this run has " +
           std::to_string(group_.n_ranks()) +
           "; it goes on where the same steps of its own would be");
    }
    position at{static_cast<std::size_t>(number("stage") - 1), number("step"), number("tokens")};
    if (at.stage >= config_.stages.size()) {
      throw format_error(file.name() + ": is of stage " + std::to_string(at.stage + 1) +
                         ", the config has " + std::to_string(config_.stages.size()));
    }
    if (trained_before(at.stage)) take_trained_model();
    adapter_.gists = model::untrained_gist_rows(source_->weights, config_.rule.n_gist, 0);
    change_stage(at.stage);
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

  void save(const position& at) {
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
    const std::string stage = std::to_string(at.stage + 1);
    const std::string step = std::to_string(at.step);
    const std::string tokens = std::to_string(at.tokens);
    const signals_held held;
    io::write_safetensors(checkpoint_path(), tensors,
                          {{"format", "gistkv-checkpoint"},
                           {"base", hex(origin_)},
                           {"config", config_.source.dump()},
                           {"stage", stage},
                           {"step", step},
                           {"tokens", tokens},
                           {"ranks", std::to_string(group_.n_ranks())}});
    // Gists of a model that is in training are of no use before that is written.
    if (!trains_all(at.stage)) write_adapter(at);
  }

  void write_adapter(const position& at) const {
    const std::string stage = std::to_string(at.stage + 1);
    const std::string step = std::to_string(at.step);
    const std::string tokens = std::to_string(at.tokens);
    const std::string config = config_.source.dump();
    io::write_adapter(adapter_path(), model_->save(), source_->weights.config.d_model,
                      {{"base", hex(base_)},
                       {"base_name", source_->weights.config.name},
                       {"segmenter", config_.data.segmenter},
                       {"recent", std::to_string(config_.rule.recent)},
                       {"sink", std::to_string(config_.rule.n_sink)},
                       {"config", config},
                       {"stage", stage},
                       {"step", step},
                       {"tokens", tokens}},
                      true);
  }

  train::window_options windows_of(const stage_config& s) const {
    train::window_options w;
    w.n_gist = config_.rule.n_gist;
    w.first_gist = static_cast<token_t>(source_->weights.config.n_vocab);
    w.length = s.sequence;
    w.gist_targets = s.gist_targets;
    if (tokens_.add_bos()) w.bos = tokens_.bos();
    return w;
  }

  void append(std::vector<train::sequence>& to, const train::window& w,
              const train::window_options& o) const {
    for (train::sequence& s : train::sequences_of(data_->stream(), w, o)) {
      to.push_back(std::move(s));
    }
  }

  /// Mean loss of the regular tokens of windows that are never trained on.
  double validate(std::span<const train::window> windows, train::window_options o) {
    o.gist_targets = false;
    std::array<double, 2> sum{};  // Of losses and of weights.
    for (std::size_t i = 0; i < windows.size(); ++i) {
      if (static_cast<index_t>(i) % group_.n_ranks() != group_.rank()) continue;
      std::vector<train::sequence> sequences;
      append(sequences, windows[i], o);
      sum[0] += model_->loss(sequences, 1.0);
      sum[1] += train::total_weight(sequences);
    }
    group_.sum(sum);
    return sum[1] > 0 ? sum[0] / sum[1] : 0;
  }

  void train_stage(position& at, std::optional<train_log>& log) {
    const stage_config& s = config_.stages[at.stage];
    const train::window_options how = windows_of(s);
    const std::vector<train::window> all = train::cut_windows(data_->stream(), how);
    const auto held_out = static_cast<std::size_t>(
        config_.validate_every > 0
            ? std::min<index_t>(config_.validation_windows, static_cast<index_t>(all.size()) / 2)
            : 0);
    const auto n = static_cast<index_t>(all.size() - held_out);
    const std::span<const train::window> kept(all.data() + n, held_out);
    const std::uint64_t seed = config_.seed + (static_cast<std::uint64_t>(at.stage) << 32);
    std::vector<std::int32_t> order;
    index_t epoch = -1;
    const stopwatch watch;
    const index_t tokens_before = at.tokens;
    note("stage " + std::to_string(at.stage + 1) + ": " + std::to_string(n) + " windows of " +
         std::to_string(s.sequence) + " rows, " + std::to_string(model_->n_parameters()) +
         " parameters, " + std::to_string(model_->n_threads()) + " threads" +
         (group_.n_ranks() > 1 ? " in each of " + std::to_string(group_.n_ranks()) + " processes"
                               : ""));
    group_.say_when_ended("ended from outside or with a process that was lost; " +
                          checkpoint_path().string() +
                          " is whole, and --resume goes on from there");
    if (at.step == 0) save(at);
    while (at.step < s.rate.steps) {
      const index_t step = at.step + 1;
      std::vector<std::vector<train::sequence>> parts;
      for (index_t i = 0; i < s.batch; ++i) {
        const index_t number = (at.step * group_.n_ranks() + group_.rank()) * s.batch + i;
        if (number / n != epoch) order = train::shuffled(n, seed, epoch = number / n);
        if (i % s.micro_batch == 0) parts.emplace_back();
        append(parts.back(),
               all[static_cast<std::size_t>(order[static_cast<std::size_t>(number % n)])], how);
      }
      std::array<double, 2> read{};  // Targets and tokens.
      for (const auto& part : parts) {
        read[0] += train::total_weight(part);
        for (const train::sequence& q : part) read[1] += static_cast<double>(q.tokens.size());
      }
      group_.sum(read);
      const double weight = read[0];
      if (weight == 0) throw argument_error("step " + std::to_string(step) + ": no targets");
      at.tokens += static_cast<index_t>(read[1]);
      double loss = 0;
      for (std::size_t i = 0; i < parts.size(); ++i) {
        // The number of the part among those of all ranks.
        const auto part = static_cast<std::uint64_t>(group_.rank()) * parts.size() + i;
        const std::uint64_t pass =
            splitmix64(seed + (static_cast<std::uint64_t>(step) << 12) + part);
        loss += model_->forward_backward(parts[i], 1.0 / weight, pass, config_.distillation);
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
      const double rate = s.rate.rate(step);
      const double gists = s.gist_rate > 0 ? rate * s.gist_rate / s.rate.peak : rate;
      model_->update(
          config_.optimiser,
          [&](train::parameter_kind kind) {
            return kind == train::parameter_kind::gist ? gists : rate;
          },
          train::clip_factor(norm, s.clip), step);
      at.step = step;
      const bool last = step == s.rate.steps;
      train_record r{
          static_cast<index_t>(at.stage) + 1, step, at.tokens, loss, -1, norm, rate, 0, 0};
      if (held_out > 0 && (last || step % config_.validate_every == 0)) {
        r.validation = validation_ = validate(kept, how);
      }
      r.seconds = watch.seconds();
      r.tokens_per_second = static_cast<double>(at.tokens - tokens_before) / r.seconds;
      if (log) log->add(r);
      last_ = r;
      show(r, s.rate.steps);
      if (!last) ended_early_ = time_is_up();
      if (last || ended_early_ || step % config_.save_every == 0) save(at);
      if (ended_early_) return;
    }
  }

  /// Whether --max-minutes have gone by; rank 0's clock counts, so that all ranks stop together.
  bool time_is_up() {
    if (options_.max_minutes <= 0) return false;
    double late = speaks() && clock_.seconds() >= 60.0 * options_.max_minutes ? 1 : 0;
    group_.sum(std::span<double>(&late, 1));
    return late > 0;
  }

  void show(const train_record& r, index_t steps) const {
    if (options_.json) return;
    const double left = r.seconds / static_cast<double>(std::max<index_t>(1, r.step - begun_)) *
                        static_cast<double>(steps - r.step);
    std::string line = "stage " + std::to_string(r.stage) + " step " + std::to_string(r.step) +
                       "/" + std::to_string(steps) + "  loss " + decimal(r.loss, 4);
    if (r.validation >= 0) {
      line += "  validation " + decimal(r.validation, 4) + ", perplexity " +
              decimal(std::exp(r.validation), 2);
    }
    print(line + "  norm " + decimal(r.gradient_norm, 3) + "  " + decimal(r.tokens_per_second, 0) +
          " tokens/s  " + decimal(left / 60, 1) + " min left\n");
    std::fflush(stdout);
  }

  stopwatch clock_;
  bool ended_early_ = false;
  process_group& group_ = ranks();
  train_config config_;
  train_options options_;
  std::filesystem::path folder_;
  std::unique_ptr<const io::loaded_model> source_;
  io::tokenizer tokens_;
  std::uint64_t origin_;  ///< Fingerprint of the config's model,
  std::uint64_t base_;    ///< and of `source_`, which a stage may have made.
  std::optional<io::token_file> data_;
  model::adapter adapter_;
  trainer_ptr model_;
  position saved_;
  index_t begun_ = 0;
  double validation_ = -1;
  train_record last_;
};

void train_verb(const train_options& o) {
  if (o.method != "sag") throw usage_error("METHOD is '" + o.method + "', want sag");
  if (this_backend().make_trainer == nullptr) {
    throw usage_error("gistkv-" + std::string(this_backend().name) +
                      " does not train; gistkv-onednn, gistkv-eigen and gistkv-cuda do");
  }
  check_threads(o.threads);
  training_run run(read_train_config(o.config), o);
  const json report = run.run();
  if (o.json) return print_json(report);
  print("wrote      " + report["adapter"].get<std::string>() + "\n");
}

}  // namespace

void add_train(CLI::App& app) {
  auto o = std::make_shared<train_options>();
  CLI::App& verb = add_verb(app, "train", "Train gists, and LoRA, on texts");
  add_required(verb, "METHOD", o->method, "sag");
  add_required(verb, "--config", o->config, "What to train on what, how", "C.json");
  add_option(verb, "--stage", o->stage, "Only this stage of the config, from 1", "N");
  add_flag(verb, "--resume", o->resume, "Go on from the checkpoint in the config's output folder");
  add_option(verb, "--max-minutes", o->max_minutes,
             "End with a checkpoint behind the step in which so many minutes, start and validation "
             "included, have gone by; --resume goes on",
             "MINUTES");
  add_option(verb, "--threads", o->threads, "Threads; 0: all that the machine has");
  add_json(verb, o->json);
  add_example(verb, "gistkv train sag --config train.json --resume");
  on_run(verb, [o] { train_verb(*o); });
}

}  // namespace gistkv::cli
