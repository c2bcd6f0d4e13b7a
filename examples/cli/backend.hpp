// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cli/codec.hpp>
#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/cache/snapshot.hpp>
#include <gistkv/conformance/report.hpp>
#include <gistkv/eval/reading.hpp>
#include <gistkv/gmsa/compressor.hpp>
#include <gistkv/model/adapter.hpp>
#include <gistkv/model/generate.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/soft_prompt.hpp>
#include <gistkv/text/segmenter_rule.hpp>

/// A backend with an element type as the program sees it. The library chooses both when it is
/// compiled; here whole operations (read a text, write an answer, save a cache) stand behind
/// virtual calls, so that verbs are compiled once and know no backend. typed_backend.hpp has the
/// other side.

namespace gistkv::train {
struct model_options;
}
namespace gistkv::gmsa {
struct training_options;
}

namespace gistkv::cli {

class trainer;
class soft_trainer;

/// What a cache takes up.
struct cache_sizes {
  index_t rows_held = 0;
  index_t n_shared = 0;  ///< Rows of a prefix that forks share.
  std::size_t bytes_per_row = 0;
  std::size_t bytes_held = 0;
  std::size_t bytes_allocated = 0;  ///< Without the shared prefix.
  std::size_t peak_bytes_held = 0;
  std::size_t peak_bytes_allocated = 0;
};

/// The cache of one sequence. It keeps its backend alive, as models and sequences do.
class sequence_cache {
 public:
  virtual ~sequence_cache() = default;
  /// A second sequence with the same past; see cache::gist_cache.
  virtual std::unique_ptr<sequence_cache> fork() = 0;
  virtual const cache::cache_options& options() const = 0;
  virtual const cache::cache_shape& shape() const = 0;
  virtual const cache::row_ledger& ledger() const = 0;
  virtual cache_sizes sizes() const = 0;
  virtual void save(const cache::snapshot_info& info, const model::soft_prompt& soft,
                    const cache::byte_sink& sink) const = 0;
};
using cache_ptr = std::unique_ptr<sequence_cache>;

/// A sequence being read and continued; see model::session and model::generator.
class sequence {
 public:
  using progress_call = std::function<void(index_t)>;
  using text_call = std::function<void(std::string_view)>;

  virtual ~sequence() = default;
  virtual const cache::row_ledger& ledger() const = 0;
  virtual void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after,
                    const progress_call& progress) = 0;
  virtual void read_soft(const model::soft_prompt& soft) = 0;
  /// @param n_bytes  of text that the segmenter has seen
  /// @param n_open   regular tokens of the sentence that is open
  virtual model::generation write(const codec& tokens, text::any_segmenter segmenter,
                                  const model::generate_options& options, index_t n_bytes,
                                  index_t n_open, model::sampler& sampler,
                                  const text_call& on_text) = 0;
  /// The cache, to go on from later. The sequence is of no use without it.
  virtual cache_ptr take_cache() = 0;
};

/// A model in the memory of its backend; see model::transformer.
class resident_model {
 public:
  virtual ~resident_model() = default;
  /// Adds LoRA for the rows of gist tokens; see model::transformer::adapt.
  virtual void adapt(const model::adapter& a) = 0;
  virtual const model::model_config& config() const = 0;
  virtual cache::cache_shape cache_shape() const = 0;
  virtual token_t first_gist() const = 0;
  virtual cache_ptr make_cache(const cache::cache_options& options) const = 0;
  /// @throws std::bad_cast for a cache of another backend.
  virtual std::unique_ptr<sequence> go_on(cache_ptr cache,
                                          const model::session_options& options) const = 0;
  /// Reads on under a policy and rates what is asked for; see eval::reader.
  /// @throws std::bad_cast for a cache of another backend.
  virtual std::vector<eval::token_score> read(sequence_cache& cache, const eval::policy& policy,
                                              const eval::reading& what,
                                              const model::session_options& options,
                                              const sequence::progress_call& progress) const = 0;

  bool is_gist(token_t t) const { return t >= first_gist(); }
};

/// What makes soft tokens of a text; see gmsa::compressor.
class resident_compressor {
 public:
  using progress_call = std::function<void(index_t)>;

  virtual ~resident_compressor() = default;
  virtual model::soft_prompt compress(std::span<const token_t> tokens, index_t rate,
                                      const gmsa::compress_options& options,
                                      const progress_call& progress) const = 0;
};

/// How a program computes, for its reports.
struct backend_info {
  std::string name;             ///< "eigen"
  std::string cache_type;       ///< Elements of the cache: "f32".
  std::string activation_type;  ///< Elements of what is computed.
  std::string factor_type;      ///< To which factors of products are rounded.
  std::string instruction_set;  ///< As the backend calls it.
  int n_threads = 0;
};

struct loaded_cache {
  cache_ptr cache;
  cache::snapshot_info info;
  model::soft_prompt soft;
};

class backend {
 public:
  virtual ~backend() = default;
  virtual const backend_info& info() const = 0;
  virtual std::unique_ptr<resident_model> load(const model::host_model& weights,
                                               const model::gist_rows& gists) = 0;
  virtual std::unique_ptr<resident_compressor> load_compressor(
      const gmsa::host_compressor& weights) = 0;
  /// Rows of another element type are converted; others stay in the memory of `owner`, see
  /// cache::load_snapshot.
  virtual loaded_cache load_cache(cache::snapshot_contents contents,
                                  const std::shared_ptr<const void>& owner) = 0;
};
using backend_ptr = std::shared_ptr<backend>;

/// How an operation is computed.
enum class support { no, composed, native };
std::string_view to_string(support s);

/// Operations in the order in which support is listed.
inline constexpr std::array<std::string_view, 11> operations = {"linear",
                                                                "matmul",
                                                                "norm",
                                                                "rope",
                                                                "activation",
                                                                "add",
                                                                "masked_softmax",
                                                                "gather_rows",
                                                                "scatter_rows",
                                                                "attention, two spans",
                                                                "attention, any mask"};
inline constexpr std::size_t spans_attention = operations.size() - 2;
inline constexpr std::size_t masked_attention = operations.size() - 1;

/// All element types of the library.
inline constexpr std::array<std::string_view, 4> element_types = {"f64", "f32", "bf16", "f16"};

/// Those of a cache.
inline constexpr std::array<std::string_view, 5> cache_element_types = {"f64", "f32", "bf16", "f16",
                                                                        "q8"};

/// What is there for activations of one type.
struct type_support {
  std::string_view type;
  std::array<support, operations.size()> of = {};
  std::array<bool, cache_element_types.size()> caches =
      {};  ///< Types of a cache that these may use.
};

/// A cache type that a program was built with, and how it computes with that.
struct cache_kind {
  std::string_view name;  ///< "f32"
  backend_ptr (*make)(int n_threads);
};

/// A form of a backend, and the conformance suite on it.
struct checked_form {
  std::string_view activations;
  std::string_view factors;
  conformance::report (*check)(int n_threads, bool quick);  ///< quick: no shapes of a real model
};

/// Makes a model to train; see trainer.hpp.
using make_trainer_call = std::unique_ptr<trainer> (*)(int n_threads,
                                                       const model::host_model& weights,
                                                       const model::gist_rows& gists,
                                                       const train::model_options& options);

/// Makes a stage of gmsa to train.
using make_soft_trainer_call = std::unique_ptr<soft_trainer> (*)(
    int n_threads, const gmsa::host_parts& parts, const gmsa::training_options& options);

/// The backend that a program was built with.
struct built_backend {
  std::string_view name;              ///< "eigen"
  std::span<const cache_kind> kinds;  ///< The first is the default.
  std::span<const checked_form> forms;
  std::span<const type_support> support;  ///< In the order of element_types.
  make_trainer_call make_trainer;         ///< Null: the backend does not train.
  make_soft_trainer_call make_soft_trainer;
};

/// Defined once a program, by a file of backends/.
built_backend this_backend();

/// The cache types of this program: "bf16 or f32".
std::string cache_types();
std::string default_cache_type();
bool has_cache_type(std::string_view name);

/// @throws usage_error for a cache type that this program does not have.
void check_cache_type(const std::string& name);

/// @param n_threads  0: all that the machine has
/// @throws usage_error as check_cache_type.
backend_ptr make_backend(const std::optional<std::string>& cache_type, int n_threads);

/// Bytes of a row of one head in a cache type that some program writes. @throws format_error.
std::size_t cache_row_bytes(std::string_view type, index_t head_dim, const std::string& file);

}  // namespace gistkv::cli
