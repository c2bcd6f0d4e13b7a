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

class trainer {
 public:
  virtual ~trainer() = default;

  /// Sum of the weighted losses; gradients are added up until `update`.
  /// @param mix  share of the divergence from the full-cache model in the loss; 0: no teacher
  virtual double forward_backward(std::span<const train::sequence> sequences, double scale,
                                  std::uint64_t seed, double mix) = 0;
  virtual double loss(std::span<const train::sequence> sequences, double scale) = 0;
  /// Gradients <- their sum over all ranks.
  virtual void sum_gradients(process_group& group) = 0;
  virtual double gradient_norm() = 0;
  /// A step of AdamW, and gradients are 0 again.
  virtual void update(const train::optimiser_options& options,
                      const std::function<double(train::parameter_kind)>& rate, double scale,
                      index_t step) = 0;
  virtual model::adapter save() const = 0;
  virtual void load(std::span<const model::low_rank> factors) = 0;
  /// `source` with what was trained in it, but for gists and LoRA.
  virtual model::host_model trained(const model::host_model& source) = 0;
  /// Values and moments of all parameters.
  virtual std::vector<trained_array> state() = 0;
  /// @throws format_error naming file and array.
  virtual void restore(const std::vector<trained_array>& arrays, const std::string& file) = 0;
  virtual index_t n_parameters() = 0;
  virtual int n_threads() const = 0;
};
using trainer_ptr = std::unique_ptr<trainer>;

}  // namespace gistkv::cli
