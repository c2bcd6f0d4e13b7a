// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/train/parameters.hpp>

namespace gistkv::train {

namespace detail {

/// Puts the values of parameters, as floats, in the place of a model's matrices.
template <Storage B, class T>
class weight_transfer {
 public:
  weight_transfer(const parameter_set<B, T>& set, model::host_model& to) : set_(&set), to_(&to) {}

  /// Maps that were trained side by side: their rows stand one behind the other.
  void move(const std::string& prefix,
            std::initializer_list<std::pair<const char*, model::host_linear*>> maps) {
    std::string names;
    std::vector<host_matrix*> weights;
    std::vector<host_matrix*> biases;
    for (const auto& [name, map] : maps) {
      if (!names.empty()) names += '+';
      names += name;
      weights.push_back(&map->weight);
      if (!map->bias.empty()) biases.push_back(&map->bias);
    }
    move(prefix + names, weights);
    move(prefix + names + ".bias", biases);
  }
  void move(const std::string& name, host_matrix& m) {
    const std::array all = {&m};
    move(name, all);
  }

 private:
  void move(const std::string& name, std::span<host_matrix* const> matrices) {
    const parameter<B, T>* p = find(name);
    if (p == nullptr) return;
    const auto values = p->exact().to_host();
    auto floats = std::make_shared<std::vector<float>>(values.begin(), values.end());
    index_t begin = 0;
    for (host_matrix* m : matrices) {
      const index_t n = m->rows * m->cols;
      if (begin + n > p->rows * p->cols) break;
      m->type = weight_type::f32;
      m->data = std::as_bytes(std::span<const float>(*floats).subspan(
          static_cast<std::size_t>(begin), static_cast<std::size_t>(n)));
      begin += n;
    }
    if (begin != p->rows * p->cols) {
      throw shape_error("trained model: parameter '" + name + "' has " +
                        std::to_string(p->rows * p->cols) + " elements, the model's own are " +
                        std::to_string(begin));
    }
    to_->storage.push_back(std::move(floats));
  }
  const parameter<B, T>* find(const std::string& name) const {
    for (std::size_t i = 0; i < set_->size(); ++i) {
      if ((*set_)[i].name == name) return &(*set_)[i];
    }
    return nullptr;
  }

  const parameter_set<B, T>* set_;
  model::host_model* to_;
};

}  // namespace detail

/// The model that a parameter set has made of `source`: trained matrices as floats, all others as
/// they were. Gist rows and LoRA are no part of it; trainable_model::save has them.
/// @throws shape_error if a parameter does not fit the model.
template <Storage B, class T>
model::host_model trained_model(const parameter_set<B, T>& set, const model::host_model& source) {
  model::host_model m = source;
  detail::weight_transfer<B, T> weights(set, m);
  weights.move("embedding", m.token_embedding);
  if (!m.config.tied_head) weights.move("head", m.head.weight);
  weights.move("final_norm", m.final_norm);
  for (std::size_t l = 0; l < m.blocks.size(); ++l) {
    model::host_block& b = m.blocks[l];
    const std::string prefix = "blocks." + std::to_string(l) + ".";
    weights.move(prefix + "attention_norm", b.attention_norm);
    weights.move(prefix + "query_norm", b.query_norm);
    weights.move(prefix + "key_norm", b.key_norm);
    weights.move(prefix + "feed_forward_norm", b.feed_forward_norm);
    weights.move(prefix, {{"query", &b.query}, {"key", &b.key}, {"value", &b.value}});
    weights.move(prefix, {{"output", &b.output}});
    weights.move(prefix, {{"gate", &b.gate}, {"up", &b.up}});
    weights.move(prefix, {{"down", &b.down}});
  }
  return m;
}

}  // namespace gistkv::train
