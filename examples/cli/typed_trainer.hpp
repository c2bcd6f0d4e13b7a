// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <cli/trainer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/gmsa/trainable.hpp>
#include <gistkv/gmsa/trained_parts.hpp>
#include <gistkv/train/process_group.hpp>
#include <gistkv/train/trained_model.hpp>

namespace gistkv::cli {

/// The part of a trainer that knows parameters only.
template <class B, class Model, class Base>
class typed_state : public Base {
 public:
  using parameter_set = train::parameter_set<B, element_t<B>>;

  void sum_gradients(process_group& group) override { add_up_(model_.parameters(), group); }
  /// Another way of adding up gradients than through the host's memory.
  void add_up_by(std::function<void(parameter_set&, process_group&)> f) { add_up_ = std::move(f); }

  double gradient_norm() override { return model_.parameters().gradient_norm(); }
  void update(const train::optimiser_options& options,
              const std::function<double(train::parameter_kind)>& rate, double scale,
              index_t step) override {
    model_.parameters().update(options, rate, scale, step);
    model_.parameters().clear_gradients();
  }
  std::vector<trained_array> state() override {
    std::vector<trained_array> arrays;
    auto& set = model_.parameters();
    set.make_moments();
    for (std::size_t i = 0; i < set.size(); ++i) {
      auto& p = set[i];
      if (!p.trained) continue;
      for (const auto& [suffix, from] : buffers_of(p)) {
        const auto values = from->to_host();
        arrays.push_back({p.name + suffix, p.rows, p.cols, {values.begin(), values.end()}});
      }
    }
    return arrays;
  }
  void restore(const std::vector<trained_array>& arrays, const std::string& file) override {
    auto& set = model_.parameters();
    set.make_moments();
    for (std::size_t i = 0; i < set.size(); ++i) {
      auto& p = set[i];
      if (!p.trained) continue;
      for (const auto& [suffix, to] : buffers_of(p)) {
        const std::string name = p.name + suffix;
        const auto found = std::find_if(arrays.begin(), arrays.end(),
                                        [&](const trained_array& a) { return a.name == name; });
        if (found == arrays.end()) {
          throw format_error(file + ": array '" + name + "' is missing");
        }
        if (found->rows != p.rows || found->cols != p.cols) {
          throw format_error(file + ": array '" + name + "' is [" + std::to_string(found->rows) +
                             ", " + std::to_string(found->cols) + "], expected [" +
                             std::to_string(p.rows) + ", " + std::to_string(p.cols) + "]");
        }
        const std::vector<number> values(found->values.begin(), found->values.end());
        if (suffix.empty()) {
          p.assign(*be_, values);
        } else {
          be_->upload(to->data(), values.data(), to->bytes());
        }
      }
    }
  }
  index_t n_parameters() override { return model_.parameters().n_elements(); }
  int n_threads() const override { return be_->n_threads(); }

 protected:
  template <class... Arguments>
  explicit typed_state(std::shared_ptr<B> be, Arguments&&... arguments)
      : be_(std::move(be)), model_(*be_, std::forward<Arguments>(arguments)...) {}

  std::shared_ptr<B> be_;
  Model model_;

 private:
  std::function<void(parameter_set&, process_group&)> add_up_ =
      [](parameter_set& set, process_group& group) { train::sum_gradients(set, group); };

  using parameter = train::parameter<B, element_t<B>>;
  using number = accumulate_t<element_t<B>>;

  static std::vector<std::pair<std::string, buffer<number, B>*>> buffers_of(parameter& p) {
    return {{"", &p.exact()}, {".first", &p.first}, {".second", &p.second}};
  }
};

template <class B>
class typed_trainer final : public typed_state<B, train::trainable_model<B>, trainer> {
 public:
  typed_trainer(std::shared_ptr<B> be, const model::host_model& weights,
                const model::gist_rows& gists, const train::model_options& options)
      : typed_state<B, train::trainable_model<B>, trainer>(std::move(be), weights, gists, options) {
  }

  double forward_backward(std::span<const train::sequence> sequences, double scale,
                          std::uint64_t seed, const train::lesson& lesson) override {
    const auto b = batch(sequences);
    if (lesson.empty()) return model_.forward_backward(b, scale, seed);
    const train::teacher<B> teacher(*be_, lesson, sequences, model_.options().rule,
                                    model_.config().n_vocab);
    return model_.forward_backward(b, scale, seed, &teacher);
  }
  double loss(std::span<const train::sequence> sequences, double scale) override {
    return model_.loss(batch(sequences), scale);
  }
  model::adapter save() const override { return model_.save(); }
  void load(const model::adapter& from) override { model_.load(from); }
  void keep_for_teacher() override { model_.keep_for_teacher(); }
  model::host_model trained(const model::host_model& source) override {
    return train::trained_model(model_.parameters(), source);
  }

 private:
  using typed_state<B, train::trainable_model<B>, trainer>::be_;
  using typed_state<B, train::trainable_model<B>, trainer>::model_;

  train::batch<B> batch(std::span<const train::sequence> sequences) {
    return {*be_, sequences, model_.options().rule, model_.config().n_vocab};
  }
};

template <class B>
class typed_soft_trainer final : public typed_state<B, gmsa::trainable_gmsa<B>, soft_trainer> {
 public:
  typed_soft_trainer(std::shared_ptr<B> be, const gmsa::host_parts& parts,
                     const gmsa::training_options& options)
      : typed_state<B, gmsa::trainable_gmsa<B>, soft_trainer>(std::move(be), parts, options) {}

  double forward_backward(std::span<const gmsa::sample> samples, std::span<const index_t> rates,
                          double scale, std::uint64_t seed) override {
    return this->model_.forward_backward(samples, rates, scale, seed);
  }
  double loss(std::span<const gmsa::sample> samples, std::span<const index_t> rates,
              double scale) override {
    return this->model_.loss(samples, rates, scale);
  }
  gmsa::host_parts parts(const gmsa::host_parts& start) override {
    return gmsa::trained_parts(this->model_, start);
  }
};

}  // namespace gistkv::cli
