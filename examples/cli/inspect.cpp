// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cli/backend.hpp>
#include <cli/context_file.hpp>
#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/soft.hpp>
#include <cli/verbs.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/safetensors.hpp>

namespace gistkv::cli {

namespace {

struct inspect_options {
  std::string file;
  model_options model;
  bool json = false;
};

json metadata_value(const io::gguf_value& value) {
  constexpr std::uint64_t most = 16;
  if (const auto x = value.as<bool>()) return *x;
  if (const auto x = value.as<std::int64_t>()) return *x;
  if (const auto x = value.as<std::uint64_t>()) return *x;
  if (const auto x = value.as<double>()) return *x;
  if (const auto x = value.as<std::string>()) return *x;
  if (value.count > most) return "(" + value.type_text() + ")";
  if (const auto x = value.as<std::vector<std::int64_t>>()) return *x;
  if (const auto x = value.as<std::vector<double>>()) return *x;
  if (const auto x = value.as<std::vector<std::string>>()) return *x;
  return "(" + value.type_text() + ")";
}

json tokenizer_report(const std::string& model) {
  const io::tokenizer tokens = load_tokenizer(model);
  const auto id = [](std::optional<token_t> t) { return t ? json(*t) : json(nullptr); };
  json r;
  r["vocab_size"] = tokens.vocab_size();
  r["bos"] = id(tokens.bos());
  r["eos"] = id(tokens.eos());
  r["unk"] = id(tokens.unk());
  r["pad"] = id(tokens.pad());
  r["add_bos"] = tokens.add_bos();
  r["end_tokens"] = std::vector<token_t>(tokens.end_tokens().begin(), tokens.end_tokens().end());
  r["fingerprint"] = hex(tokens.fingerprint());
  constexpr const char* families[] = {"chatml", "qwen2", "qwen3", "llama3", "llama3_dated"};
  r["chat_template"] = nullptr;
  if (!tokens.chat_template().empty()) {
    try {
      const auto family = io::chat_template::recognize(tokens).family();
      r["chat_template"] = families[static_cast<std::size_t>(family)];
    } catch (const format_error& failure) {
      r["chat_template"] = std::string("unknown: ") + failure.what();
    }
  }
  return r;
}

json config_report(const model::model_config& c) {
  constexpr const char* scalings[] = {"none", "linear", "llama3", "yarn"};
  json rope;
  rope["theta"] = c.rope.theta;
  rope["scaling"] = scalings[static_cast<std::size_t>(c.rope.scaling)];
  rope["factor"] = c.rope.factor;
  if (c.rope.original_context > 0) rope["original_context"] = c.rope.original_context;
  json r;
  r["architecture"] = c.architecture;
  r["name"] = c.name;
  r["n_layers"] = c.n_layers;
  r["d_model"] = c.d_model;
  r["n_heads"] = c.n_heads;
  r["n_kv_heads"] = c.n_kv_heads;
  r["head_dim"] = c.head_dim;
  r["d_ff"] = c.d_ff;
  r["n_vocab"] = c.n_vocab;
  r["n_context"] = c.n_context;
  r["norm_eps"] = c.norm_eps;
  r["tied_head"] = c.tied_head;
  r["rope"] = rope;
  return r;
}

std::size_t row_bytes(const cache::cache_shape& shape, const std::string& cache_type,
                      const std::string& file) {
  return 2 * cache_row_bytes(cache_type, shape.head_dim, file) *
         static_cast<std::size_t>(shape.n_layers * shape.n_kv_heads);
}

json inspect_model(const std::string& path) {
  const auto loaded = load_model(path);
  const model::model_config& c = loaded->weights.config;
  json r;
  r["kind"] = "model";
  r["format"] = loaded->file.format;
  r["files"] = json::array();
  for (const auto& file : loaded->file.paths) r["files"].push_back(file.string());
  r["file_bytes"] = loaded->file.file_bytes;
  r["n_parameters"] = loaded->file.n_parameters;
  r["cache_type"] = default_cache_type();
  r["kv_bytes_row"] = row_bytes({c.n_layers, c.n_kv_heads, c.head_dim}, default_cache_type(), path);
  r["fingerprint"] = hex(io::fingerprint(loaded->weights));
  r["config"] = config_report(c);
  r["weights"] = json::array();
  for (const auto& [type, totals] : loaded->file.by_type) {
    r["weights"].push_back({{"type", std::string(to_string(type))},
                            {"n_tensors", totals.n_tensors},
                            {"n_elements", totals.n_elements},
                            {"n_bytes", totals.n_bytes}});
  }
  const bool bare = std::filesystem::path(path).extension() == ".bin";
  r["tokenizer"] = bare ? json(nullptr) : tokenizer_report(path);
  if (!loaded->file.format.starts_with("GGUF")) return r;
  r["metadata"] = json::object();
  const auto file = io::gguf_file::open(path);
  for (const io::gguf_entry& entry : file.metadata()) {
    r["metadata"][std::string(entry.key)] = metadata_value(entry.value);
  }
  return r;
}

json inspect_adapter(const std::string& path, const std::string& model) {
  const auto file = io::safetensors_file::open(path);
  json r;
  const bool soft = is_soft_adapter(path);
  r["kind"] = "adapter";
  r["method"] = soft ? "gmsa" : "sag";
  if (!soft) {
    const io::adapter_layout trained = io::read_adapter_layout(file);
    r["n_gist"] = trained.rule.n_gist;
    r["recent"] = trained.rule.recent;
    r["sink"] = trained.rule.n_sink;
    r["segmenter"] = trained.segmenter;
  }
  r["tensors"] = json::array();
  for (const io::safetensors_tensor& tensor : file.tensors()) {
    r["tensors"].push_back({{"name", tensor.name},
                            {"type", std::string(to_string(tensor.type))},
                            {"extents", tensor.extents}});
  }
  r["metadata"] = json::object();
  for (const auto& [key, value] : file.metadata()) r["metadata"][key] = value;
  if (soft) {
    if (model.empty()) return r;
    r["fingerprint"] = hex(make_soft_source(path, load_model(model)->weights).fingerprint);
    r["fits_model"] = true;
    return r;
  }
  r["fingerprint"] = hex(fingerprint_of(file));
  if (!model.empty()) {
    adapter_of(file, load_model(model)->weights);
    r["fits_model"] = true;
  }
  return r;
}

json inspect_context(const std::string& path, const model_options& model) {
  const context_file file = load_context_file(path, {}, model.threads);
  const cache::cache_options& options = file.cache->options();
  const cache::cache_shape& shape = file.cache->shape();
  const cache::row_ledger& books = file.cache->ledger();
  const auto n_anchors = static_cast<index_t>(books.anchors().size());
  const index_t n_local = books.local_end() - books.live_begin();
  // Of the file, whatever it became in the memory of this program.
  const std::size_t bytes_row = row_bytes(shape, file.cache_type, path);
  json r;
  r["kind"] = "compressed context";
  r["file_bytes"] = file.file_bytes;
  r["checksum"] = "good";
  r["seconds_load"] = file.seconds;
  r["fingerprints"] = {{"model", hex(file.info.model)},
                       {"tokenizer", hex(file.info.tokenizer)},
                       {"adapter", hex(file.info.adapter)}};
  r["shape"] = {
      {"n_layers", shape.n_layers}, {"n_kv_heads", shape.n_kv_heads}, {"head_dim", shape.head_dim}};
  r["rule"] = {{"gists", options.rule.n_gist},
               {"recent", options.rule.recent},
               {"sink", options.rule.n_sink},
               {"window", options.rule.window},
               {"max_anchors", options.max_anchors}};
  r["n_positions"] = books.next_position();
  r["n_sentences_closed"] = books.n_closed();
  r["n_soft"] = file.soft.size();
  r["d_soft"] = file.soft.d_model;
  r["n_anchors"] = n_anchors;
  r["n_local"] = n_local;
  r["rows_held"] = books.rows_held();
  r["cache_type"] = file.cache_type;
  r["kv_bytes_row"] = bytes_row;
  r["kv_bytes_held"] = bytes_row * static_cast<std::size_t>(n_anchors + n_local);
  for (const auto& [key, value] : file.info.entries) {
    if (key == "text" || key == "read") {
      r["n_" + key + "_bytes"] = value.size();
    } else if (key == "report") {
      r[key] = json::parse(value, nullptr, false);
    } else {
      r[key] = value;
    }
  }
  const auto report = r.find("report");
  if (report != r.end() && report->contains("seconds") && (*report)["seconds"].is_number()) {
    r["seconds_read"] = (*report)["seconds"];
    r["load_times_faster"] = (*report)["seconds"].get<double>() / file.seconds;
  }
  if (model.model.empty()) return r;
  std::uint64_t seed = 0;
  const method_settings settings = settings_of(file, path, {}, model, seed);
  const engine e(file.be, model, settings, seed);
  check_fingerprints(file, path, e);
  r["fits_model"] = true;
  return r;
}

bool is_adapter(const std::filesystem::path& path) {
  if (path.extension() != ".safetensors") return false;
  return io::safetensors_file::open(path).find_tensor("gist.input") != nullptr ||
         is_soft_adapter(path.string());
}

/// A value on one line: strings without quotes, objects as "key value, key value".
std::string as_cell(const json& value) {
  std::string cell;
  if (value.is_string()) {
    cell = value.get<std::string>();
  } else if (value.is_object()) {
    for (const auto& [key, item] : value.items()) {
      cell += (cell.empty() ? "" : ", ") + key + " " + as_cell(item);
    }
  } else {
    cell = value.dump(-1, ' ', false, json::error_handler_t::replace);
  }
  constexpr std::size_t longest = 200;
  if (cell.size() > longest) cell = cell.substr(0, longest) + "...";
  return one_line(cell);
}

/// "key value" lines; what an object or a list of objects holds is moved in.
std::string as_text(const json& value, const std::string& indent = {}) {
  std::string text;
  std::size_t width = 0;
  for (const auto& [key, item] : value.items()) width = std::max(width, key.size());
  for (const auto& [key, item] : value.items()) {
    text += indent + key;
    if (item.is_object()) {
      text += "\n" + as_text(item, indent + "  ");
    } else if (item.is_array() && !item.empty() && item.front().is_object()) {
      text += "\n";
      for (const json& element : item) text += indent + "  " + as_cell(element) + "\n";
    } else {
      text += std::string(width - key.size() + 2, ' ') + as_cell(item) + "\n";
    }
  }
  return text;
}

void inspect(const inspect_options& o) {
  json r;
  r["file"] = o.file;
  if (is_context_file(o.file)) {
    r.update(inspect_context(o.file, o.model));
  } else if (is_adapter(o.file)) {
    r.update(inspect_adapter(o.file, o.model.model));
  } else {
    r.update(inspect_model(o.file));
  }
  o.json ? print_json(r) : print(as_text(r));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto o = std::make_shared<inspect_options>();
  CLI::App& verb =
      add_verb(app, "inspect",
               "Say what a model, adapter or compressed context is, and whether it is whole");
  add_required(verb, "FILE", o->file, "Model file or directory, adapter, or compressed context");
  add_option(verb, "--model", o->model.model, "Check that an adapter or context belongs to it",
             "FILE|DIR");
  add_option(verb, "--adapter", o->model.adapter, "Gist rows that a context was made with", "FILE");
  add_json(verb, o->json);
  add_example(verb, "gistkv inspect ~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { inspect(*o); });
}

}  // namespace gistkv::cli
