// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <cli/ranks.hpp>
#include <gistkv/gmsa/sample.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/model/adapter.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/train/batch.hpp>
#include <gistkv/train/parameters.hpp>
#include <gistkv/train/trainable_model.hpp>

/// A model in training as the program sees it, on whatever backend; typed_trainer.hpp has the other
/// side. The step itself is here, so that the verb only reads data, counts and writes files.

namespace gistkv::cli {

/// One of the arrays that a checkpoint holds.
struct trained_array {
  std::string name;
  index_t rows = 0;
  index_t cols = 0;
  std::vector<float> values;
};

/// What is trained, whatever it is.
class trainer_state {
 public:
  virtual ~trainer_state() = default;

  /// Gradients <- their sum over all ranks.
  virtual void sum_gradients(process_group& group) = 0;
  virtual double gradient_norm() = 0;
  /// A step of AdamW, and gradients are 0 again.
  virtual void update(const train::optimiser_options& options,
                      const std::function<double(train::parameter_kind)>& rate, double scale,
                      index_t step) = 0;
  /// Values and moments of all parameters.
  virtual std::vector<trained_array> state() = 0;
  /// @throws format_error naming file and array.
  virtual void restore(const std::vector<trained_array>& arrays, const std::string& file) = 0;
  virtual index_t n_parameters() = 0;
  virtual int n_threads() const = 0;
};

/// Gists, and what is trained with them.
class trainer : public trainer_state {
 public:
  /// Sum of the weighted losses; gradients are added up until `update`.
  virtual double forward_backward(std::span<const train::sequence> sequences, double scale,
                                  std::uint64_t seed, const train::lesson& lesson) = 0;
  virtual double loss(std::span<const train::sequence> sequences, double scale) = 0;
  virtual model::adapter save() const = 0;
  virtual void load(const model::adapter& from) = 0;
  /// The teacher of distillation has LoRA on all rows as it is now; none without this call.
  virtual void keep_for_teacher() = 0;
  /// `source` with what was trained in it, but for gists and LoRA.
  virtual model::host_model trained(const model::host_model& source) = 0;
};
using trainer_ptr = std::unique_ptr<trainer>;

/// A stage of gmsa; see gmsa::trainable_gmsa.
class soft_trainer : public trainer_state {
 public:
  virtual double forward_backward(std::span<const gmsa::sample> samples,
                                  std::span<const index_t> rates, double scale,
                                  std::uint64_t seed) = 0;
  virtual double loss(std::span<const gmsa::sample> samples, std::span<const index_t> rates,
                      double scale) = 0;
  /// `start` with what was trained in it.
  virtual gmsa::host_parts parts(const gmsa::host_parts& start) = 0;
};
using soft_trainer_ptr = std::unique_ptr<soft_trainer>;

}  // namespace gistkv::cli
