// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/engine.hpp>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include <cli/errors.hpp>
#include <cli/soft.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/io/tokenizer_json.hpp>

namespace gistkv::cli {

namespace {

gist_source make_gists(const model_options& o, const model::host_model& weights,
                       const method_settings& settings, std::uint64_t seed) {
  gist_source source;
  if (settings.method == "gmsa") return source;  // Its adapter is a compressor.
  const index_t n_gist = settings.n_gist;
  if (o.adapter.empty()) {
    if (n_gist == 0) return source;
    source.rows = model::untrained_gist_rows(weights, n_gist, seed);
    source.fingerprint = fingerprint_of(source.rows);
    return source;
  }
  const auto file = io::safetensors_file::open(o.adapter);
  source.lora = adapter_of(file, weights);
  // Without gists an adapter is what it changes of the other rows.
  if (n_gist == 0 && source.lora.on_all_rows.empty()) return {};
  source.rows = std::move(source.lora.gists);
  source.lora.gists = {};
  source.trained = true;
  source.fingerprint = fingerprint_of(file);
  if (n_gist == 0) {
    source.rows = {};
  } else if (source.rows.n_gist != n_gist) {
    throw argument_error(o.adapter + ": holds " + std::to_string(source.rows.n_gist) +
                         " gists a sentence, asked for are " + std::to_string(n_gist) +
                         " (--gists " + std::to_string(source.rows.n_gist) + ")");
  }
  return source;
}

/// LoRA on all rows becomes part of weights that are floats. It stands beside those in codes, which
/// would become several times as large, and that on gist rows always does.
std::unique_ptr<const resident_model> load_adapted(backend& be, const model::host_model& weights,
                                                   const gist_source& gists) {
  const bool in_codes = block_length(weights.blocks.at(0).up.weight.type) > 1;
  if (gists.lora.on_all_rows.empty() || in_codes) {
    auto m = be.load(weights, gists.rows);
    m->adapt(gists.lora);
    return m;
  }
  auto m = be.load(model::merged(weights, gists.lora), gists.rows);
  m->adapt({{}, {}, gists.lora.on_gist_rows});
  return m;
}

}  // namespace

std::unique_ptr<const io::loaded_model> load_model(const std::string& model) {
  return std::make_unique<io::loaded_model>(io::load_model(model));
}

io::tokenizer load_tokenizer(const std::string& model) {
  const std::filesystem::path path(model);
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return io::tokenizer(io::read_tokenizer_json(path));
  }
  if (path.extension() == ".safetensors") {
    return io::tokenizer(io::read_tokenizer_json(path.parent_path()));
  }
  if (path.extension() == ".bin") {
    throw format_error(model +
                       ": has no tokenizer, want a GGUF file or a directory with tokenizer.json");
  }
  return io::tokenizer(io::read_tokenizer(io::gguf_file::open(path)));
}

method_settings resolve(method_options o, const model_options& model) {
  const std::string method = o.method.value_or("sag");
  if ((method == "sag" || method == "uniform") && !model.adapter.empty()) {
    const auto file = io::safetensors_file::open(model.adapter);
    const io::adapter_layout trained = io::read_adapter_layout(file);
    if (!o.gists) o.gists = trained.rule.n_gist;
    if (!o.recent) o.recent = trained.rule.recent;
    if (!o.sink) o.sink = trained.rule.n_sink;
    const bool uniform = trained.segmenter.starts_with("uniform:");
    if (!o.method && !o.segmenter && uniform) o.method = "uniform";
    if (!o.segmenter && uniform == (o.method == "uniform")) o.segmenter = trained.segmenter;
  }
  if (method == "gmsa" && !o.rate && !model.adapter.empty()) {
    const std::vector<index_t> rates = adapter_rates(model.adapter);
    if (!rates.empty()) o.rate = rates.front();
  }
  return resolve(o);
}

model::adapter adapter_of(const io::safetensors_file& file, const model::host_model& base) {
  const auto trained_on = file.metadata().find("base");
  const std::string here = hex(io::fingerprint(base));
  if (trained_on != file.metadata().end() && trained_on->second != here) {
    throw format_error(file.name() + ": was trained on another model (fingerprint " +
                       trained_on->second + ", this one has " + here + ")");
  }
  return io::read_adapter(file, base.config);
}

std::uint64_t fingerprint_of(const model::gist_rows& rows) {
  xxh64 hash(static_cast<std::uint64_t>(rows.n_gist));
  hash.update(std::as_bytes(std::span(rows.input)));
  hash.update(std::as_bytes(std::span(rows.head)));
  return hash.digest();
}

std::uint64_t fingerprint_of(const io::safetensors_file& adapter) {
  xxh64 hash;
  for (const io::safetensors_tensor& tensor : adapter.tensors()) {
    hash.update(tensor.name + io::extents_text(tensor.extents));
    hash.update(to_string(tensor.type));
    hash.update(tensor.data);
  }
  for (const char* key : {"alpha", "lora_rows"}) {
    const auto found = adapter.metadata().find(key);
    if (found != adapter.metadata().end()) hash.update(found->second);
  }
  return hash.digest();
}

std::string_view codec::piece(token_t t) const {
  return t < tokens->vocab_size() ? tokens->piece(t) : std::string_view{};
}

void codec::encode(std::string_view text, std::vector<token_t>& out) const {
  tokens->encode(text, out, io::special_tokens::as_text);
}

engine::engine(backend_ptr to, const model_options& o, const method_settings& settings,
               std::uint64_t seed)
    : be(std::move(to)),
      source(load_model(o.model)),
      tokens(load_tokenizer(o.model)),
      gists(make_gists(o, source->weights, settings, seed)),
      soft(settings.method == "gmsa"
               ? std::make_unique<soft_source>(make_soft_source(o.adapter, source->weights))
               : nullptr),
      model(load_adapted(*be, soft ? soft->parts.decoder : source->weights, gists)) {
  const index_t n_vocab = model->config().n_vocab;
  if (tokens.vocab_size() > n_vocab) {
    throw format_error(o.model + ": the tokenizer has " + std::to_string(tokens.vocab_size()) +
                       " tokens, the embedding table " + std::to_string(n_vocab) + " rows");
  }
  seconds_load = since_start.seconds();
}

engine::~engine() = default;

std::vector<token_t> engine::encode_text(std::string_view text) const {
  return tokens.encode(text, io::special_tokens::as_text);
}

std::vector<token_t> engine::encode_template(std::string_view text) const {
  return tokens.encode(text, io::special_tokens::parse);
}

std::string engine::decode(std::span<const token_t> ids) const {
  std::string text;
  for (const token_t t : ids) {
    if (!model->is_gist(t)) text += codec().piece(t);
  }
  return text;
}

io::chat_template engine::chat() const { return io::chat_template::recognize(tokens); }

std::unique_ptr<const resident_model> engine::load_base() const {
  if (gists.lora.on_all_rows.empty()) return nullptr;
  return be->load(source->weights, {});
}

std::uint64_t engine::model_fingerprint() const { return io::fingerprint(source->weights); }

std::uint64_t engine::adapter_fingerprint() const {
  return soft ? soft->fingerprint : gists.fingerprint;
}

json engine_report(const engine& e) {
  std::vector<std::pair<std::uint64_t, std::string>> weights;
  for (const auto& [type, totals] : e.source->file.by_type) {
    weights.emplace_back(totals.n_bytes, to_string(type));
  }
  std::sort(weights.rbegin(), weights.rend());
  const backend_info& info = e.be->info();
  json r;
  r["backend"] = info.name;
  r["cache_type"] = info.cache_type;
  r["activation_type"] = info.activation_type;
  r["factor_type"] = info.factor_type;
  r["weight_types"] = json::array();
  for (const auto& w : weights) r["weight_types"].push_back(w.second);
  r["threads"] = info.n_threads;
  r["instruction_set"] = info.instruction_set;
  return r;
}

std::string threads_text(const backend_info& info) {
  return std::to_string(info.n_threads) + (info.n_threads == 1 ? " thread, " : " threads, ") +
         info.instruction_set;
}

void note_untrained(const engine& e, std::uint64_t seed) {
  if (e.gists.rows.n_gist == 0 || e.gists.trained) return;
  note("the gist rows are untrained (drawn around the mean of the embedding table, seed " +
       std::to_string(seed) +
       "): sizes and speeds are real, but what is written on a compressed text means nothing "
       "without --adapter");
}

void check_context(const engine& e, index_t n_positions, bool past_context) {
  const index_t context = e.model->config().n_context;
  if (context == 0 || n_positions <= context) return;
  const std::string numbers = std::to_string(n_positions) +
                              " positions (gists included) are needed, the model was trained for " +
                              std::to_string(context);
  if (!past_context) throw argument_error(numbers + "; --past-context goes on all the same");
  note(numbers + ": what lies behind them may be read wrongly");
}

index_t positions_left(const engine& e, index_t next_position, bool past_context) {
  const index_t context = e.model->config().n_context;
  if (context == 0 || past_context) return std::numeric_limits<std::int32_t>::max();
  return context - next_position;
}

}  // namespace gistkv::cli
