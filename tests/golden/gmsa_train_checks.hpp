// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <utility>

#include <gistkv/gmsa/trainable.hpp>
#include <gistkv/io/gmsa_checkpoint.hpp>
#include <gistkv/io/model_config_json.hpp>

#include "golden/gmsa_support.hpp"

/// Gradients and ten steps of both stages of GMSA, on any backend that trains in float.

namespace gistkv::test {

/// A tensor of the official code, taken out of the parameters: of their values or gradients.
template <class B>
std::vector<float> tensor_of(gmsa::trainable_gmsa<B>& m, const std::string& name,
                             const std::vector<index_t>& shape, bool gradient) {
  const auto elements = [&](const std::string& parameter) {
    for (std::size_t i = 0; i < m.parameters().size(); ++i) {
      auto& p = m.parameters()[i];
      if (p.name == parameter) return (gradient ? p.gradient : p.value).to_host();
    }
    throw std::runtime_error("no parameter " + parameter + " for " + name);
  };
  const std::string part = name.starts_with("encoder.")   ? "encoder."
                           : name.starts_with("decoder.") ? "decoder."
                                                          : "alignment.";
  const auto layer = io::layer_of(name);
  if (!layer) return elements(part + (name.ends_with("norm.weight") ? "norm" : "table"));
  const std::string before = part + std::to_string(*layer) + ".";
  if (name.find("input_layernorm") != std::string::npos) return elements(before + "attention_norm");
  if (name.find("post_attention") != std::string::npos) {
    return elements(before + "feed_forward_norm");
  }
  // Maps of one input lie in one parameter, one below the other.
  struct place {
    const char* module;
    const char* map;
    const char* group;
    std::vector<const char*> above;
  };
  const place places[] = {{"q_proj", "query", "query+key+value", {}},
                          {"k_proj", "key", "query+key+value", {"q_proj"}},
                          {"v_proj", "value", "query+key+value", {"q_proj", "k_proj"}},
                          {"o_proj", "output", "output", {}},
                          {"gate_proj", "gate", "gate+up", {}},
                          {"up_proj", "up", "gate+up", {"gate_proj"}},
                          {"down_proj", "down", "down", {}}};
  const auto& c = m.config();
  const auto rows_of = [&](const std::string& module) {
    if (module == "q_proj") return c.n_heads * c.head_dim;
    if (module == "k_proj") return c.n_kv_heads * c.head_dim;
    return c.d_ff;
  };
  for (const place& p : places) {
    if (name.find(p.module) == std::string::npos) continue;
    if (name.find("lora_B") != std::string::npos) {  // Stored transposed.
      const auto stored = elements(before + p.map + ".lora_b");
      std::vector<float> b(stored.size());
      for (index_t r = 0; r < shape[0]; ++r) {
        for (index_t k = 0; k < shape[1]; ++k) {
          b[static_cast<std::size_t>(r * shape[1] + k)] =
              stored[static_cast<std::size_t>(k * shape[0] + r)];
        }
      }
      return b;
    }
    const bool lora = name.find("lora_A") != std::string::npos;
    index_t first = 0;
    for (const char* module : p.above) first += lora ? shape[0] : rows_of(module);
    const auto all = elements(before + p.group + (lora ? ".lora_a" : ""));
    const auto begin = all.begin() + first * shape[1];
    return {begin, begin + shape[0] * shape[1]};
  }
  throw std::runtime_error("no place for " + name);
}

inline double norm_of(std::span<const float> x) {
  double sum = 0;
  for (const float e : x) sum += static_cast<double>(e) * static_cast<double>(e);
  return std::sqrt(sum);
}

inline gmsa::stage stage_of(const std::string& name) {
  if (name == "ae") return gmsa::stage::restoring;
  return name == "keft" ? gmsa::stage::answering : gmsa::stage::decoder;
}

inline gmsa::training_options golden_training(gmsa::stage stage, index_t rank, double alpha) {
  return {stage, {.rank = rank, .alpha = alpha, .dropout = 0.0}};
}

/// What the checks of one stage share: the goldens, and a trainer that has not learned yet.
template <class B>
struct gmsa_stage_world {
  explicit gmsa_stage_world(gmsa::stage s) : stage(s) {}

  gmsa::stage stage;
  gmsa_goldens goldens;
  nlohmann::json contexts = goldens.json("contexts.json");
  gmsa::host_parts parts = golden_parts(smollm2());
  std::unique_ptr<gmsa::trainable_gmsa<B>> trainer = make();

  /// Packing a whole model takes longer than a step on it.
  std::unique_ptr<gmsa::trainable_gmsa<B>> make() const {
    return std::make_unique<gmsa::trainable_gmsa<B>>(backend<B>(), parts,
                                                     golden_training(stage, 128, 32));
  }
};

/// grad.json: norms of all gradients and many of their entries.
template <class B>
void check_gmsa_gradients(const gmsa_stage_world<B>& w) {
  const nlohmann::json golden = w.goldens.json("grad.json");
  const nlohmann::json& contexts = w.contexts;
  std::map<std::string, std::vector<token_t>> ids;
  for (const char* list : {"contexts", "train_samples"}) {
    for (const auto& c : contexts.at(list))
      ids[c.at("name")] = c.at("ids").get<std::vector<token_t>>();
  }
  gmsa::trainable_gmsa<B>& m = *w.trainer;
  double worst_norm = 0;
  double worst_entry = 0;
  double worst_loss = 0;
  index_t n_tensors = 0;
  for (const auto& c : golden.at("cases")) {
    if (stage_of(c.at("stage")) != w.stage) continue;
    const std::string name = c.at("name");
    CAPTURE(name);
    m.parameters().clear_gradients();
    const gmsa::sample sample{ids.at(c.at("context")), c.at("prompt_ids"), c.at("labels")};
    const index_t rate = c.at("merge_size");
    const double loss = m.forward_backward({&sample, 1}, {&rate, 1},
                                           1.0 / static_cast<double>(sample.labels.size()), 0);
    worst_loss = std::max(worst_loss, std::abs(loss - c.at("loss").get<double>()));
    CHECK(std::abs(loss - c.at("loss").get<double>()) <= 2e-4);
    const double total = c.at("total_norm");
    CHECK(std::abs(m.parameters().gradient_norm() - total) <= 1e-3 * total);
    for (const auto& t : c.at("tensors")) {
      const std::string tensor = t.at("name");
      CAPTURE(tensor);
      const auto found = tensor_of(m, tensor, t.at("shape"), true);
      const double norm = t.at("norm");
      const double error = std::abs(norm_of(found) - norm) / norm;
      CHECK(error <= 1e-3);
      worst_norm = std::max(worst_norm, error);
      ++n_tensors;
      if (!t.contains("index")) continue;
      const auto index = t.at("index").get<std::vector<std::size_t>>();
      const auto value = t.at("value").get<std::vector<double>>();
      for (std::size_t i = 0; i < index.size(); ++i) {
        const double e = std::abs(static_cast<double>(found.at(index[i])) - value[i]) /
                         t.at("max_abs").get<double>();
        CHECK(e <= 1e-3);
        worst_entry = std::max(worst_entry, e);
      }
    }
  }
  CHECK(n_tensors >= 180);
  MESSAGE(n_tensors << " gradients: largest relative error of a norm " << worst_norm
                    << ", of an entry " << worst_entry << " of the largest; of a loss "
                    << worst_loss);
}

/// train.json: ten steps of AdamW. The trainer has learned then.
template <class B>
void check_gmsa_training(gmsa_stage_world<B>& w) {
  const nlohmann::json golden = w.goldens.json("train.json");
  const nlohmann::json& contexts = w.contexts;
  const nlohmann::json layout =
      w.goldens.json("checkpoint_layout.json").at("layouts").at("SmolLM2-135M-Instruct");
  const auto restore = contexts.at("prompt_ae_ids").get<std::vector<token_t>>();
  const token_t eos = contexts.at("eos_id");
  index_t n_runs = 0;
  for (const auto& run : golden.at("runs")) {
    if (stage_of(run.at("stage")) != w.stage) continue;
    const std::string label = run.at("label");
    CAPTURE(label);
    const auto sample_of = [&](const std::string& name) {
      for (const auto& s : contexts.at("train_samples")) {
        if (s.at("name") != name) continue;
        const auto ids = s.at("ids").get<std::vector<token_t>>();
        if (w.stage == gmsa::stage::restoring) {
          return gmsa::restoring_sample(ids, restore, eos, 100000);
        }
        const auto& qa = golden.at("qa").at(name);
        return gmsa::sample{ids, qa.at("prompt_ids"), qa.at("labels")};
      }
      throw std::runtime_error("no sample " + name);
    };
    if (w.trainer == nullptr) w.trainer = w.make();
    gmsa::trainable_gmsa<B>& m = *w.trainer;
    std::map<std::string, std::vector<float>> before;
    const auto shape_of = [&](const std::string& name) -> std::vector<index_t> {
      for (const auto& k : layout.at("keys")) {
        if (k.at("key") == name) return k.at("shape");
      }
      throw std::runtime_error("no shape of " + name);
    };
    for (const auto& u : run.at("updates")) {
      before[u.at("name")] = tensor_of(m, u.at("name"), shape_of(u.at("name")), false);
    }
    const auto loss_of = [](const gmsa::sample& s) {
      return 1.0 / static_cast<double>(s.labels.size());
    };
    const double limit = w.stage == gmsa::stage::decoder ? 2e-3 : 5e-4;
    double worst = 0;
    double worst_norm = 0;
    index_t step = 0;
    for (const auto& s : run.at("steps")) {
      CAPTURE(step);
      const gmsa::sample sample = sample_of(s.at("sample"));
      const index_t rate = s.at("merge_size");
      m.parameters().clear_gradients();
      const double loss = m.forward_backward({&sample, 1}, {&rate, 1}, loss_of(sample), 0);
      worst = std::max(worst, std::abs(loss - s.at("loss").get<double>()));
      CHECK(std::abs(loss - s.at("loss").get<double>()) <= limit);
      const double norm = m.parameters().gradient_norm();
      const double want = s.at("grad_norm");
      CHECK(std::abs(norm - want) <= 2e-2 * want);
      worst_norm = std::max(worst_norm, std::abs(norm - want) / want);
      const double clip = run.at("clip_norm");
      const double scale = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
      m.parameters().update(
          {0.9, 0.999, 1e-8, run.at("weight_decay").get<double>()},
          [&](auto) { return s.at("lr").template get<double>(); }, scale, ++step);
    }
    const auto& after = run.at("loss_after_on_samples_m4");
    for (std::size_t i = 0; i < after.size(); ++i) {
      const gmsa::sample sample = sample_of(contexts.at("train_samples")[i].at("name"));
      const index_t four = 4;
      const double loss = m.loss({&sample, 1}, {&four, 1}, loss_of(sample));
      worst = std::max(worst, std::abs(loss - after[i].get<double>()));
      CHECK(std::abs(loss - after[i].get<double>()) <= limit);
    }
    for (const auto& u : run.at("updates")) {
      const std::string name = u.at("name");
      CAPTURE(name);
      auto moved = tensor_of(m, name, shape_of(name), false);
      for (std::size_t i = 0; i < moved.size(); ++i) moved[i] -= before[name][i];
      const double want = u.at("update_norm");
      CHECK(std::abs(norm_of(moved) - want) <= 2e-3 * want);
    }
    MESSAGE(label << ": largest error of a loss " << worst << ", of a gradient's norm "
                  << worst_norm);
    w.trainer.reset();
    ++n_runs;
  }
  CHECK(n_runs > 0);
}

/// Gradients and steps of a stage.
template <class B>
void check_gmsa_stage(gmsa::stage stage) {
  for (const char* file : {"grad.json", "train.json"}) {
    if (!require_file(golden_dir() / "gmsa" / file)) return;
  }
  if (!require_file(model_path())) return;
  gmsa_stage_world<B> w(stage);
  check_gmsa_gradients(w);
  check_gmsa_training(w);
}

/// tiny.json: every gradient of both stages, whole.
template <class B>
void check_gmsa_tiny_gradients() {
  if (!require_file(golden_dir() / "gmsa" / "tiny.json")) return;
  const gmsa_goldens g;
  const auto tiny = g.json("tiny.json");
  double worst = 0;
  index_t n_tensors = 0;
  for (const auto& checkpoint : tiny.at("checkpoints")) {
    const auto directory = g.directory() / checkpoint.at("path").get<std::string>();
    const auto config = io::parse_model_config(read_file(directory / "config.json"), "config.json");
    const auto parts =
        io::load_gmsa_checkpoint(directory / "model.safetensors", config.model, config.rules,
                                 checkpoint.at("lora_alpha").get<double>());
    for (const auto& c : checkpoint.at("cases")) {
      if (!c.contains("grads")) continue;
      const std::string name = c.at("name");
      CAPTURE(name);
      for (const auto& [stage, grads] : c.at("grads").items()) {
        CAPTURE(stage);
        gmsa::trainable_gmsa<B> m(
            backend<B>(), parts,
            golden_training(stage == "autoencoding" ? gmsa::stage::restoring : gmsa::stage::decoder,
                            checkpoint.at("lora_r"), checkpoint.at("lora_alpha")));
        const gmsa::sample sample{c.at("context_ids"), c.at("prompt_ids"), c.at("labels")};
        const index_t rate = c.at("merge_size");
        const double loss = m.forward_backward({&sample, 1}, {&rate, 1},
                                               1.0 / static_cast<double>(sample.labels.size()), 0);
        CHECK(std::abs(loss - c.at("loss").get<double>()) <= 1e-4);
        const auto all = g.floats(grads.at("array"));
        for (const auto& t : grads.at("tensors")) {
          const std::string tensor = t.at("key");
          CAPTURE(tensor);
          const auto want = std::span<const float>(all).subspan(t.at("offset"), t.at("count"));
          const auto found = tensor_of(m, tensor, t.at("shape"), true);
          const double error = largest_difference(found, want) / largest_entry(want);
          CHECK(error <= 1e-3);
          worst = std::max(worst, error);
          ++n_tensors;
        }
      }
    }
  }
  CHECK(n_tensors > 400);
  MESSAGE(n_tensors << " gradients, largest error of an entry " << worst << " of the largest");
}

}  // namespace gistkv::test
