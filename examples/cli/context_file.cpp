// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/context_file.hpp>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <utility>

#include <cli/errors.hpp>
#include <cli/output.hpp>
#include <cli/soft.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/mapped_file.hpp>

namespace gistkv::cli {

namespace {

std::string stage_text(stage s) { return s == stage::text ? "text" : "answer"; }

std::string given(const char* option, const std::string& value, const std::string& path,
                  const std::string& stored) {
  return std::string(option) + " is " + value + ", but " + path + " was made with " + stored;
}

void agree(const char* option, const std::optional<index_t>& said, index_t stored,
           const std::string& path) {
  if (said && *said != stored) {
    throw usage_error(given(option, std::to_string(*said), path, std::to_string(stored)));
  }
}

/// Sizes of a cache as they are after its elements became `now` bytes from `before`.
void scale_bytes(json& report, std::size_t before, std::size_t now) {
  for (auto& [key, value] : report.items()) {
    if (key.starts_with("kv_bytes_") && value.is_number_unsigned()) {
      value = value.get<std::uint64_t>() * now / before;
    }
  }
}

/// A file whose checksums are right.
struct mapped_context {
  std::shared_ptr<const io::mapped_file> file;
  cache::snapshot_contents contents;
  std::string cache_type;
  double seconds = 0;
};

mapped_context map_context(const std::string& path) {
  const stopwatch watch;
  auto file = std::make_shared<const io::mapped_file>(path);
  cache::snapshot_contents contents = cache::read_snapshot(file->bytes(), path);
  // Rows of old files were f32, whatever the cache had been.
  const std::string* said = contents.version < 3 ? contents.info.find("cache_type") : nullptr;
  std::string type = said != nullptr ? *said : std::string(to_string(contents.type));
  cache_row_bytes(type, contents.shape.head_dim, path);
  return {std::move(file), std::move(contents), std::move(type), watch.seconds()};
}

context_file load(mapped_context from, backend_ptr be) {
  const stopwatch watch;
  loaded_cache loaded = be->load_cache(std::move(from.contents), from.file);
  return {std::move(be),
          std::move(loaded.cache),
          std::move(loaded.info),
          std::move(from.cache_type),
          from.file->bytes().size(),
          std::move(loaded.soft),
          from.seconds + watch.seconds()};
}

}  // namespace

bool is_context_file(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  if (std::filesystem::path(path).extension() == ".gkv") return true;
  std::ifstream file(path, std::ios::binary);
  std::string begin(cache::detail::snapshot_magic.size(), '\0');
  file.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  begin.resize(static_cast<std::size_t>(file.gcount()));
  return !begin.empty() && cache::detail::snapshot_magic.starts_with(begin);
}

context_file load_context_file(backend_ptr be, const std::string& path) {
  return load(map_context(path), std::move(be));
}

context_file load_context_file(const std::string& path,
                               const std::optional<std::string>& cache_type, int n_threads) {
  mapped_context file = map_context(path);
  const bool kept = !cache_type && has_cache_type(file.cache_type);
  backend_ptr be = make_backend(kept ? std::optional(file.cache_type) : cache_type, n_threads);
  return load(std::move(file), std::move(be));
}

const std::string& entry(const context_file& file, const std::string& path,
                         const std::string& key) {
  const std::string* value = file.info.find(key);
  if (value == nullptr) {
    throw format_error(path + ": entry '" + key + "' is missing, expected a context of gistkv");
  }
  return *value;
}

method_settings settings_of(const context_file& file, const std::string& path,
                            const method_options& said, const model_options& model,
                            std::uint64_t& seed) {
  const cache::cache_options& stored = file.cache->options();
  method_options undecided;
  undecided.cache_type = said.cache_type;
  undecided.chunk = said.chunk;
  undecided.past_context = said.past_context;
  method_settings s = resolve(undecided);
  s.method = entry(file, path, "method");
  if (said.method && *said.method != s.method) {
    throw usage_error(given("--method", *said.method, path, s.method));
  }
  agree("--gists", said.gists, stored.rule.n_gist, path);
  agree("--recent", said.recent, stored.rule.recent, path);
  agree("--sink", said.sink, stored.rule.n_sink, path);
  agree("--max-anchors", said.max_anchors, stored.max_anchors, path);
  if (said.budget || said.overflow) {
    throw usage_error(std::string(said.budget ? "--budget" : "--overflow") + " was decided when " +
                      path + " was made");
  }
  s.cache = stored;
  s.n_gist = stored.rule.n_gist;
  s.rule = said.segmenter.value_or(entry(file, path, "segmenter"));
  parse_rule(s.rule);
  const bool soft = s.method == "gmsa";
  if (soft) {
    const std::string& rate = entry(file, path, "rate");
    std::from_chars(rate.data(), rate.data() + rate.size(), s.rate);
    agree("--rate", said.rate, s.rate, path);
  } else if (s.n_gist == 0) {
    return s;
  }
  const std::string& rows = entry(file, path, soft ? "compressor" : "gist_rows");
  if (rows == "trained" && model.adapter.empty()) {
    throw usage_error("--adapter is missing: " + path + " was made with " +
                      (soft ? "a trained compressor" : "trained gist rows"));
  }
  if (rows == "untrained") {
    if (!model.adapter.empty()) {
      throw usage_error(given("--adapter", model.adapter, path,
                              soft ? "an untrained compressor" : "untrained gist rows"));
    }
    const std::string& number = entry(file, path, "seed");
    std::from_chars(number.data(), number.data() + number.size(), seed);
  }
  return s;
}

void check_fingerprints(const context_file& file, const std::string& path, const engine& e) {
  const auto check = [&path](const char* what, std::uint64_t stored, std::uint64_t here) {
    if (stored == here) return;
    throw format_error(path + ": was made with another " + what + " (fingerprint " + hex(stored) +
                       ", here it is " + hex(here) + ")");
  };
  check("model", file.info.model, e.model_fingerprint());
  check("tokenizer", file.info.tokenizer, e.tokens.fingerprint());
  if (file.info.adapter == 0 && e.adapter_fingerprint() != 0) {
    throw format_error(path +
                       ": was made without this adapter: leave --adapter out, or compress the "
                       "text again with it");
  }
  check("adapter", file.info.adapter, e.adapter_fingerprint());
}

context open_context(context_file file, const std::string& path, const engine& e) {
  check_fingerprints(file, path, e);
  const bool in_text = entry(file, path, "stage") == "text";
  const std::string& type = e.be->info().cache_type;
  if (type != file.cache_type) {
    note(path + " holds " + file.cache_type + " rows, which become " + type +
         (has_cache_type(file.cache_type) ? " (--cache-type)"
                                          : ": this program has no " + file.cache_type));
  }
  context c{std::move(file.cache),
            in_text ? stage::text : stage::answer,
            entry(file, path, "chat") == "yes",
            entry(file, path, "text"),
            entry(file, path, "read"),
            {},
            std::move(file.soft)};
  const std::string& report = entry(file, path, "report");
  c.report = json::parse(report, nullptr, false);
  if (!c.report.is_object()) throw format_error(path + ": entry 'report' is no JSON object");
  c.report["file_bytes"] = file.file_bytes;
  const index_t head_dim = c.cache->shape().head_dim;
  scale_bytes(c.report, cache_row_bytes(file.cache_type, head_dim, path),
              cache_row_bytes(type, head_dim, path));
  return c;
}

std::uint64_t save_context(const context& c, const std::string& path, const engine& e,
                           const method_settings& settings, std::uint64_t seed) {
  cache::snapshot_info info;
  info.model = e.model_fingerprint();
  info.tokenizer = e.tokens.fingerprint();
  info.adapter = e.adapter_fingerprint();
  const std::string report = c.report.dump(-1, ' ', false, json::error_handler_t::replace);
  info.entries = {
      {"method", settings.method},
      {"segmenter", settings.rule},
      {"gist_rows", settings.n_gist == 0 ? "none"
                    : e.gists.trained    ? "trained"
                                         : "untrained"},
      {"compressor", !e.soft           ? "none"
                     : e.soft->trained ? "trained"
                                       : "untrained"},
      {"rate", std::to_string(settings.rate)},
      {"seed", std::to_string(seed)},
      {"chat", c.chat ? "yes" : "no"},
      {"stage", stage_text(c.stage)},
      {"text", c.text},
      {"read", c.read},
      {"report", report},
  };
  std::uint64_t n_bytes = 0;
  const signals_held held;
  io::write_file_atomically(path, [&](const io::file_sink& file) {
    c.cache->save(info, c.soft, [&](std::span<const std::byte> bytes) {
      file(bytes);
      n_bytes += bytes.size();
    });
  });
  return n_bytes;
}

}  // namespace gistkv::cli
