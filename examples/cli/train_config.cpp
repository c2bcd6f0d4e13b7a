// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/train_config.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string_view>

#include <nlohmann/json.hpp>

#include <cli/eval.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/strict_json.hpp>
#include <gistkv/text/segmenter_rule.hpp>

namespace gistkv::cli {

namespace {

/// The fields of one object, each of which must be asked for.
class object {
 public:
  object(const nlohmann::json& value, std::string where, std::initializer_list<const char*> known)
      : fields_(value, std::move(where)) {
    for (const auto& [key, unused] : value.items()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      std::string all;
      for (const char* name : known) all += (all.empty() ? "" : ", ") + std::string(name);
      throw format_error(fields_.where() + ": key '" + key + "' is unknown, want one of " + all);
    }
  }

  template <class T>
  void read(const char* key, T& to) const {
    if (const auto value = fields_.find<T>(key)) to = *value;
  }
  void read(const char* key, std::uint64_t& to) const {
    std::int64_t value = static_cast<std::int64_t>(to);
    read_at_least(key, value, 0);
    to = static_cast<std::uint64_t>(value);
  }
  void read_at_least(const char* key, index_t& to, index_t least) const {
    read(key, to);
    if (to < least) reject(key, std::to_string(to), "at least " + std::to_string(least));
  }
  void read_positive(const char* key, double& to) const {
    read(key, to);
    if (!(to > 0 && std::isfinite(to))) reject(key, decimal(to, 6), "a positive number");
  }
  void read_between(const char* key, double& to, double least, double most) const {
    read(key, to);
    if (!(to >= least && to <= most)) {
      reject(key, decimal(to, 6), decimal(least, 0) + " to " + decimal(most, 0));
    }
  }
  void read(const char* key, std::vector<std::string>& to) const {
    const nlohmann::json* list = fields_.find(key);
    if (list == nullptr) return;
    to.clear();
    if (!list->is_array()) fields_.fail(key, *list, "a list of strings");
    for (const nlohmann::json& item : *list) {
      if (!item.is_string()) fields_.fail(key, *list, "a list of strings");
      to.push_back(item.get<std::string>());
    }
  }
  void read_whole_numbers(const char* key, std::vector<index_t>& to, index_t least) const {
    const nlohmann::json* list = fields_.find(key);
    if (list == nullptr) return;
    to.clear();
    bool good = list->is_array() && !list->empty();
    for (std::size_t i = 0; good && i < list->size(); ++i) {
      good = (*list)[i].is_number_integer() && (*list)[i].get<index_t>() >= least;
      if (good) to.push_back((*list)[i].get<index_t>());
    }
    if (!good) {
      reject(key, list->dump(), "a list of whole numbers of at least " + std::to_string(least));
    }
  }
  /// The number of the choice, or `otherwise` if there is none.
  std::size_t choice(const char* key, std::initializer_list<std::string_view> names,
                     std::size_t otherwise) const {
    const auto value = fields_.find<std::string>(key);
    if (!value) return otherwise;
    std::string all;
    std::size_t i = 0;
    for (const std::string_view name : names) {
      if (name == *value) return i;
      all += (i++ == 0 ? "" : ", ") + std::string(name);
    }
    reject(key, "'" + *value + "'", "one of " + all);
  }
  const nlohmann::json* find(const char* key) const { return fields_.find(key); }
  std::string in(const std::string& key) const { return fields_.where() + ": " + key; }

  [[noreturn]] void reject(const std::string& key, const std::string& found,
                           const std::string& wanted) const {
    throw format_error(fields_.where() + ": field '" + key + "' is " + found + ", want " + wanted);
  }

 private:
  io::json_fields fields_;
};

/// Fields that the stages of all methods share.
void read_steps(const object& o, step_config& s) {
  using train::schedule_kind;
  o.read_at_least("sequence", s.sequence, 16);
  o.read_at_least("batch", s.batch, 1);
  o.read_at_least("micro_batch", s.micro_batch, 1);
  o.read_at_least("steps", s.rate.steps, 1);
  s.rate.kind = static_cast<schedule_kind>(o.choice("schedule", {"constant", "linear", "cosine"},
                                                    static_cast<std::size_t>(s.rate.kind)));
  o.read_between("learning_rate", s.rate.peak, 0, 10);
  s.rate.floor = std::min(s.rate.floor, s.rate.peak);
  o.read_between("floor", s.rate.floor, 0, 10);
  if (o.find("warm_up") != nullptr) o.read_at_least("warm_up", s.rate.warm_up, 0);
  o.read_between("clip", s.clip, 0, 1e9);
}

stage_config read_stage(const nlohmann::json& value, const std::string& where, std::size_t number) {
  using train::schedule_kind;
  using train::trained_weights;
  const object o(
      value, where,
      {"train", "sequence", "batch", "micro_batch", "steps", "schedule", "learning_rate",
       "gist_learning_rate", "all_rows_learning_rate", "floor", "warm_up", "clip", "flexible"});
  // Warm-up of the gists, full training, cool-down.
  const stage_config published[] = {
      {{4096, 64, 1, {schedule_kind::cosine, 1e-4, 5e-5, 100, 1000}, 1.0}, trained_weights::none},
      {{4096, 128, 1, {schedule_kind::cosine, 1e-4, 5e-5, 1000, 9000}, 2.0}, trained_weights::all},
      {{4096, 512, 1, {schedule_kind::linear, 5e-5, 0, 100, 2000}, 2.0}, trained_weights::all}};
  stage_config s = published[std::min<std::size_t>(number, 2)];
  s.trained = static_cast<trained_weights>(
      o.choice("train", {"gists", "lora", "all"}, static_cast<std::size_t>(s.trained)));
  read_steps(o, s);
  for (const auto& [key, own] : {std::pair{"gist_learning_rate", &s.gist_rate},
                                 {"all_rows_learning_rate", &s.all_rows_rate}}) {
    if (o.find(key) == nullptr) continue;
    o.read_between(key, own->emplace(), 0, 10);
    // It follows the schedule of the other.
    if (**own > 0 && s.rate.peak == 0) o.reject("learning_rate", "0", "more beside another rate");
  }
  bool flexible = !s.gist_targets;
  o.read("flexible", flexible);
  s.gist_targets = !flexible;
  return s;
}

/// Fields that the configs of all methods share.
void read_common(const object& o, const std::string& path, run_config& c) {
  o.read("model", c.model);
  o.read("output", c.output);
  o.read("adapter", c.adapter);
  o.read("seed", c.seed);
  o.read_at_least("save_every", c.save_every, 1);
  o.read_at_least("validate_every", c.validate_every, 0);
  o.read_at_least("validation_windows", c.validation_windows, 0);
  for (const auto& [key, text] : {std::pair{"model", &c.model}, {"output", &c.output}}) {
    if (text->empty()) throw format_error(path + ": field '" + key + "' is missing or empty");
  }
  if (const nlohmann::json* optimiser = o.find("optimiser")) {
    const object a(*optimiser, o.in("optimiser"), {"beta1", "beta2", "eps", "weight_decay"});
    a.read_between("beta1", c.optimiser.beta1, 0, 1);
    a.read_between("beta2", c.optimiser.beta2, 0, 1);
    a.read_between("eps", c.optimiser.eps, 0, 1);
    a.read_between("weight_decay", c.optimiser.weight_decay, 0, 10);
  }
}

void read_lora(const object& l, train::lora_options& lora) {
  l.read_at_least("rank", lora.rank, 1);
  l.read_positive("alpha", lora.alpha);
  l.read_between("dropout", lora.dropout, 0, 0.99);
}

void read_targets(const object& l, train::lora_options& lora) {
  const train::lora_options all;
  l.read("targets", lora.targets);
  if (lora.targets.empty()) l.reject("targets", "an empty list", train::lora_target_names);
  for (const std::string& target : lora.targets) {
    if (!all.has(target)) l.reject("targets", "'" + target + "'", train::lora_target_names);
  }
}

/// Of a training of gists.
void read_gist_lora(const object& l, train::lora_options& lora) {
  read_lora(l, lora);
  if (l.find("alpha") == nullptr) lora.alpha = 2.0 * static_cast<double>(lora.rank);
  read_targets(l, lora);
}

void read_data_config(const nlohmann::json& data, const object& o, data_config& c) {
  const object d(data, o.in("data"),
                 {"files", "field", "segmenter", "markers", "max_tokens", "cache"});
  d.read("files", c.files);
  d.read("field", c.field);
  if (const nlohmann::json* rule = d.find("segmenter"); rule != nullptr && rule->is_string()) {
    c.segmenters = {rule->get<std::string>()};
  } else {
    d.read("segmenter", c.segmenters);
  }
  if (c.segmenters.empty()) d.reject("segmenter", "an empty list", "a rule or some");
  for (const std::string& rule : c.segmenters) {
    try {
      text::parse_segmenter_rule(rule);
    } catch (const argument_error& failure) {
      throw format_error(d.in("field 'segmenter': ") + failure.what());
    }
  }
  d.read("markers", c.markers);
  d.read_at_least("max_tokens", c.max_tokens, 0);
  d.read("cache", c.cache);
  if (c.files.empty()) throw format_error(d.in("files") + " is missing or empty");
}

const nlohmann::json& stages_of(const object& o, const std::string& path) {
  const nlohmann::json* stages = o.find("stages");
  if (stages == nullptr || !stages->is_array() || stages->empty()) {
    throw format_error(path + ": field 'stages' is missing, want a list of one stage or more");
  }
  return *stages;
}

}  // namespace

train_config read_train_config(const std::string& path) {
  const nlohmann::json parsed = io::parse_strict_json(read_text(path), path);
  const object o(parsed, path,
                 {"model", "output", "adapter", "seed", "gists", "recent", "sink", "data", "lora",
                  "optimiser", "distillation", "hidden_distillation", "recompute", "model_type",
                  "save_every", "validate_every", "validation_windows", "stages"});
  train_config c;
  c.source = parsed;
  read_common(o, path, c);
  o.read_at_least("gists", c.rule.n_gist, 1);
  if (const nlohmann::json* recent = o.find("recent"); recent != nullptr && recent->is_array()) {
    o.read_whole_numbers("recent", c.recent, 0);
  } else {
    o.read_at_least("recent", c.recent.front(), 0);
  }
  c.rule.recent = c.recent.front();
  o.read_at_least("sink", c.rule.n_sink, 0);
  o.read_between("distillation", c.lesson.mix, 0, 1);
  o.read_between("hidden_distillation", c.lesson.hidden, 0, 1000);
  o.read("recompute", c.recompute);
  c.narrow_model = o.choice("model_type", {"f32", "bf16"}, 0) == 1;
  const nlohmann::json* data = o.find("data");
  if (data == nullptr) throw format_error(path + ": field 'data' is missing");
  read_data_config(*data, o, c.data);
  if (const nlohmann::json* lora = o.find("lora")) {
    const object l(*lora, o.in("lora"),
                   {"rank", "alpha", "dropout", "targets", "rows", "all_rows"});
    read_gist_lora(l, c.lora);
    const std::size_t rows = l.choice("rows", {"all", "gists", "both"}, 0);
    c.lora.gist_rows_only = rows > 0;
    const nlohmann::json* all_rows = l.find("all_rows");
    if ((rows == 2) != (all_rows != nullptr)) {
      throw format_error(l.in("all_rows") + (rows == 2 ? " is missing" : " is given") +
                         ": \"rows\": \"both\" has it, and no other");
    }
    if (all_rows != nullptr) {
      c.lora_on_all_rows.emplace().name = "all_rows_lora";
      read_gist_lora(object(*all_rows, l.in("all_rows"), {"rank", "alpha", "dropout", "targets"}),
                     *c.lora_on_all_rows);
      c.lora_on_all_rows->seed = c.seed;
    }
  }
  c.lora.seed = c.seed;
  const nlohmann::json& stages = stages_of(o, path);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    c.stages.push_back(read_stage(stages[i], o.in("stages[" + std::to_string(i) + "]"), i));
    if (c.stages.back().all_rows_rate && !c.lora_on_all_rows) {
      throw format_error(o.in("stages[" + std::to_string(i) + "].all_rows_learning_rate") +
                         " is given: \"rows\": \"both\" has it, and no other");
    }
    if (!c.lesson.empty() && c.stages.back().gist_targets) {
      const bool mixed = c.lesson.mix > 0;
      o.reject(mixed ? "distillation" : "hidden_distillation",
               decimal(mixed ? c.lesson.mix : c.lesson.hidden, 3),
               "0, or stages with \"flexible\": true: the teacher knows no gists");
    }
    using enum train::trained_weights;
    const bool follows_lora = i > 0 && c.stages[i - 1].trained == lora;
    const bool stays_beside = c.stages[i].trained == all && c.lora.gist_rows_only;
    if (follows_lora && (c.stages[i].trained == none || stays_beside)) {
      throw format_error(o.in("stages[" + std::to_string(i) + "]") +
                         ": follows one of LoRA, whose factors it can neither train nor take into "
                         "the weights, want \"train\": \"lora\"");
    }
  }
  return c;
}

soft_config read_soft_config(const std::string& path) {
  const nlohmann::json parsed = io::parse_strict_json(read_text(path), path);
  const object o(parsed, path,
                 {"model",
                  "output",
                  "adapter",
                  "seed",
                  "rates",
                  "encoder_layers",
                  "alignment_layers",
                  "alignment",
                  "merging",
                  "data",
                  "questions",
                  "format",
                  "restore",
                  "instruction",
                  "adapter_type",
                  "lora",
                  "decoder_lora",
                  "optimiser",
                  "save_every",
                  "validate_every",
                  "validation_windows",
                  "stages"});
  soft_config c;
  c.source = parsed;
  c.optimiser = {0.9, 0.999, 1e-8, 0.01};
  c.lora = gmsa::training_options{}.lora;
  c.decoder_lora = gmsa::training_options{}.decoder_lora;
  c.data.segmenters = {"unicode"};  // Its boundaries insert nothing.
  read_common(o, path, c);
  o.read_whole_numbers("rates", c.rates, 1);
  o.read_at_least("encoder_layers", c.shape.encoder_layers, 1);
  o.read_at_least("alignment_layers", c.shape.alignment_layers, 1);
  c.alignment =
      static_cast<alignment_start>(o.choice("alignment", {"decoder", "random", "none"}, 0));
  if (c.alignment == alignment_start::none) c.shape.alignment_layers = 0;
  const std::size_t merging = o.choice("merging", {"mean", "last", "slots"}, 0);
  c.slots = merging == 2;
  if (!c.slots) c.merging = static_cast<gmsa::merging>(merging);
  o.read("questions", c.questions);
  o.read("format", c.format);
  if (!c.format.empty() &&
      std::ranges::find(question_formats, c.format) == question_formats.end()) {
    o.reject("format", "'" + c.format + "'", "one of " + listed(question_formats));
  }
  o.read("restore", c.restore);
  o.read("instruction", c.instruction);
  const weight_type types[] = {weight_type::f32, weight_type::bf16, weight_type::f16};
  c.adapter_type = types[o.choice("adapter_type", {"f32", "bf16", "f16"}, 0)];
  if (const nlohmann::json* data = o.find("data")) read_data_config(*data, o, c.data);
  if (const nlohmann::json* lora = o.find("lora")) {
    read_lora(object(*lora, o.in("lora"), {"rank", "alpha", "dropout"}), c.lora);
  }
  if (const nlohmann::json* lora = o.find("decoder_lora")) {
    const object l(*lora, o.in("decoder_lora"), {"rank", "alpha", "dropout", "targets"});
    read_lora(l, c.decoder_lora);
    read_targets(l, c.decoder_lora);
  }
  c.lora.seed = c.decoder_lora.seed = c.seed;
  const nlohmann::json& stages = stages_of(o, path);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const std::string where = o.in("stages[" + std::to_string(i) + "]");
    const object s(stages[i], where,
                   {"train", "decoder", "sequence", "batch", "micro_batch", "steps", "schedule",
                    "learning_rate", "floor", "warm_up", "clip"});
    soft_stage_config& stage = c.stages.emplace_back();
    const bool restoring =
        s.choice("train", {"restoring", "answering"}, std::min<std::size_t>(i, 1)) == 0;
    if (restoring && s.find("decoder") != nullptr) {
      throw format_error(s.in("decoder") + ": is constant in a stage that restores");
    }
    constexpr gmsa::stage of_decoder[] = {gmsa::stage::answering, gmsa::stage::decoder_lora,
                                          gmsa::stage::decoder};
    stage.trained = restoring ? gmsa::stage::restoring
                              : of_decoder[s.choice("decoder", {"attention", "lora", "all"}, 0)];
    const bool weights = !restoring && stage.trained != gmsa::stage::decoder_lora;
    using train::schedule_kind;
    static_cast<step_config&>(stage) = {
        512, 32, 1, {schedule_kind::cosine, weights ? 1e-5 : 1e-4, 0, -1, 1000}, 2.0};
    read_steps(s, stage);
    if (stage.rate.warm_up < 0) stage.rate.warm_up = (stage.rate.steps + 9) / 10;
    if (restoring ? c.data.files.empty() : c.questions.empty()) {
      throw format_error(where + ": has nothing to learn from, want field '" +
                         (restoring ? "data" : "questions") + "' of the config");
    }
    if (i > 0 && restoring && c.stages[i - 1].trained != gmsa::stage::restoring) {
      throw format_error(where + ": restores behind a stage that answers, want the other order");
    }
  }
  return c;
}

}  // namespace gistkv::cli
