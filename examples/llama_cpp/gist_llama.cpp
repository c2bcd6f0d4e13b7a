// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Continues a text in llama.cpp with a gist cache, and prints what `gistkv generate --json` prints,
// so that the two can be compared (compare.py). docs/llama_cpp.md has the options by example.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include <llama.h>
#include <nlohmann/json.hpp>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/cache/snapshot.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/model/generate.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/text/boundary.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/segmenter_rule.hpp>

#include "gist_context.hpp"
#include "lora_gguf.hpp"
#include "quiet.hpp"

using gistkv::index_t;
using gistkv::token_t;
using clock_type = std::chrono::steady_clock;

static constexpr const char* usage =
    R"(gist_llama --model FILE.gguf -f TEXT [OPTION VALUE]...
  --model FILE          tokenizer, and what an adapter was trained on
  --engine-model FILE   what llama.cpp loads: the same weights, maybe in another type (as --model)
  --adapter FILE        trained gist rows and LoRA; without one the rows are untrained
  -f FILE               text to continue
  --context FILE        soft tokens of `gistkv compress --method gmsa`, read in front of the text
  --method sag|full     full: no gists, nothing is removed (sag)
  --gists N --recent K --sink S --segmenter RULE   (the adapter's, or 4, 0, 1 and paper)
  --max-tokens N        tokens to write, gists not counted (100)
  --seed N              of untrained gist rows (0)
  --kv f32|f16|q8_0     type of keys and values (f16)
  --flash 0|1           flash attention (1)
  --threads N           (2)
gist_llama --model FILE.gguf --write-floats OUT.gguf
  the same weights in float32
)";

/// The words behind the program's name, in pairs.
class options {
 public:
  options(int argc, char** argv) {
    for (int i = 1; i < argc; i += 2) {
      if (i + 1 == argc) throw gistkv::argument_error(std::string(argv[i]) + " has no value");
      values_[argv[i]] = argv[i + 1];
    }
  }
  std::optional<std::string> text(const std::string& name) {
    const auto found = values_.find(name);
    if (found == values_.end()) return std::nullopt;
    std::string value = found->second;
    values_.erase(found);
    return value;
  }
  std::optional<index_t> number(const std::string& name) {
    const auto value = text(name);
    if (!value) return std::nullopt;
    index_t n = 0;
    const char* end = value->data() + value->size();
    if (std::from_chars(value->data(), end, n).ptr != end || value->empty() || n < 0) {
      throw gistkv::argument_error(name + " is " + *value + ", expected a number, 0 or more");
    }
    return n;
  }
  std::string one_of(const std::string& name, const std::vector<std::string>& values) {
    const std::string value = text(name).value_or(values.front());
    if (std::find(values.begin(), values.end(), value) == values.end()) {
      throw gistkv::argument_error(name + " " + value + " is not known");
    }
    return value;
  }
  void expect_all_used() const {
    if (!values_.empty()) {
      throw gistkv::argument_error(values_.begin()->first + " is not known\n" + usage);
    }
  }

 private:
  std::map<std::string, std::string> values_;
};

static double seconds_since(clock_type::time_point start) {
  return std::chrono::duration<double>(clock_type::now() - start).count();
}

static std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw gistkv::argument_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// What generation needs of the tokenizer.
struct codec {
  const gistkv::io::tokenizer* tokens;
  std::string_view piece(token_t t) const {
    return t < tokens->vocab_size() ? tokens->piece(t) : std::string_view{};
  }
  void encode(std::string_view text, std::vector<token_t>& out) const {
    tokens->encode(text, out, gistkv::io::special_tokens::as_text);
  }
};

/// Most rows that are in the cache at a time, before a closed sentence goes.
static index_t most_rows(const gistkv::text::gist_layout& rows,
                         const gistkv::cache::cache_rule& rule) {
  gistkv::cache::row_ledger books(rule);
  index_t most = 0;
  for (const std::uint8_t gist : rows.is_gist) {
    most = std::max(most, books.rows_held() + 1);
    books.append(gist != 0);
    books.forget_dead_rows();
  }
  return most;
}

static index_t open_tokens(const gistkv::cache::row_ledger& books) {
  const auto rows = books.rows();
  return std::count_if(rows.begin(), rows.end(), [&](const gistkv::cache::row& r) {
    return r.kind != gistkv::cache::row_kind::gist && r.sentence == books.n_closed();
  });
}

/// LoRA of an adapter inside llama.cpp, by way of a file that is gone afterwards; null for none.
static llama_adapter_lora* load_lora(llama_model& model, const gistkv::model::lora& changes,
                                     const gistkv::model::model_config& config) {
  if (changes.empty()) return nullptr;
  std::string path = (std::filesystem::temp_directory_path() / "gist_llama_XXXXXX").string();
  const int file = ::mkstemp(path.data());
  if (file < 0) throw gistkv::backend_error("cannot make " + path);
  ::close(file);
  llama_gist::write_lora(path, changes, config);
  llama_adapter_lora* lora = llama_adapter_lora_init(&model, path.c_str());
  std::filesystem::remove(path);
  if (lora == nullptr) throw gistkv::backend_error("llama.cpp: cannot load the adapter's LoRA");
  return lora;  // Freed with the model.
}

static void write_floats(const std::string& from, const std::string& to) {
  llama_model_quantize_params p = llama_model_quantize_default_params();
  p.ftype = LLAMA_FTYPE_ALL_F32;
  p.allow_requantize = true;
  p.nthread = 2;
  if (llama_model_quantize(from.c_str(), to.c_str(), &p) != 0) {
    throw gistkv::backend_error("llama.cpp: cannot write " + to + " from " + from);
  }
}

static int run(options o) {
  const auto path = o.text("--model");
  if (!path) throw gistkv::argument_error(usage);
  if (const auto floats = o.text("--write-floats")) {
    o.expect_all_used();
    write_floats(*path, *floats);
    return 0;
  }
  const std::string engine_path = o.text("--engine-model").value_or(*path);
  const auto adapter_path = o.text("--adapter");
  const auto text_path = o.text("-f");
  const auto context_path = o.text("--context");
  const bool full = o.one_of("--method", {"sag", "full"}) == "full";
  const auto n_gist = o.number("--gists");
  const auto recent = o.number("--recent");
  const auto n_sink = o.number("--sink");
  const auto segmenter_text = o.text("--segmenter");
  const index_t max_tokens = o.number("--max-tokens").value_or(100);
  const auto seed = static_cast<std::uint64_t>(o.number("--seed").value_or(0));
  const std::string kv = o.one_of("--kv", {"f16", "f32", "q8_0"});
  const bool flash = o.one_of("--flash", {"1", "0"}) == "1";
  const auto n_threads = static_cast<int>(o.number("--threads").value_or(2));
  o.expect_all_used();
  if (!text_path) throw gistkv::argument_error(usage);
  const std::string text = read_text(*text_path);

  // Of our own: tokenizer, gist rows, and the layout they were trained on.
  const auto source = gistkv::io::load_model(*path);
  const gistkv::io::tokenizer tokens(
      gistkv::io::read_tokenizer(gistkv::io::gguf_file::open(*path)));
  gistkv::io::adapter_layout layout{{4, 0, 1}, "paper"};
  gistkv::model::adapter adapter;
  const bool gists = !full && !context_path;
  if (context_path && adapter_path) {
    throw gistkv::argument_error("--adapter goes with a text, not with --context");
  }
  if (adapter_path) {
    const auto file = gistkv::io::safetensors_file::open(*adapter_path);
    const auto base = file.metadata().find("base");
    char found[17];
    std::snprintf(found, sizeof found, "%016llx",
                  static_cast<unsigned long long>(gistkv::io::fingerprint(source.weights)));
    if (base != file.metadata().end() && base->second != found) {
      throw gistkv::format_error(*adapter_path + ": was trained on model " + base->second + ", " +
                                 *path + " is " + found);
    }
    adapter = gistkv::io::read_adapter(file, source.weights.config);
    if (gists) {
      layout = gistkv::io::read_adapter_layout(file);
    } else {  // What it does to all rows it does to a full cache too.
      adapter.gists = {};
      adapter.on_gist_rows = {};
    }
  }
  const gistkv::cache::cache_rule rule{gists ? n_gist.value_or(layout.rule.n_gist) : 0,
                                       recent.value_or(layout.rule.recent),
                                       n_sink.value_or(layout.rule.n_sink), 0};
  if (adapter.gists.n_gist == 0) {
    adapter.gists = gistkv::model::untrained_gist_rows(source.weights, rule.n_gist, seed);
  }
  gistkv::model::soft_prompt soft;
  if (context_path) {
    gistkv::backends::eigen<float> be{1};
    const gistkv::io::mapped_file file(*context_path);
    auto loaded = gistkv::cache::load_snapshot<float>(be, file.bytes(), *context_path);
    soft = std::move(loaded.soft);
    if (soft.size() == 0) throw gistkv::format_error(*context_path + ": has no soft tokens");
    if (loaded.info.model != gistkv::io::fingerprint(source.weights)) {
      throw gistkv::format_error(*context_path + ": was made with another model than " + *path);
    }
    if (loaded.info.adapter != 0) {
      throw gistkv::format_error(*context_path +
                                 ": was made by a trained compressor, whose decoder is not here");
    }
  }

  // The text as rows, and the plan: how many of them there are at most at a time.
  const codec words{&tokens};
  const auto encode = [&](std::string_view s, std::vector<token_t>& out) { words.encode(s, out); };
  auto segmenter = gistkv::text::parse_segmenter_rule(segmenter_text.value_or(layout.segmenter));
  gistkv::text::open_end sentences(segmenter);
  gistkv::text::gist_layout_builder builder(rule.n_gist,
                                            static_cast<token_t>(source.weights.config.n_vocab));
  if (tokens.add_bos() && tokens.bos() && !context_path) {
    builder.append_verbatim(std::vector<token_t>{*tokens.bos()});
  }
  builder.append_text(sentences, text, encode);
  builder.finish_text(sentences, encode);
  const gistkv::text::gist_layout rows = builder.take();
  gistkv::cache::row_ledger books(rule);
  for (const std::uint8_t gist : rows.is_gist) books.append(gist != 0);
  // Gists beside what is written: for sentences of N_g tokens at least on the average.
  const index_t most_written = rule.n_gist > 0 ? 2 * max_tokens : max_tokens;
  const index_t n_cells =
      soft.size() +
      std::max(most_rows(rows, rule), books.rows_held() + most_written + rule.n_gist + 8);

  // Of llama.cpp: everything else.
  const llama_gist::quiet log;
  llama_backend_init();
  const auto model = llama_gist::load_model(engine_path);
  llama_gist::gist_context context(
      *model, rule, adapter.gists,
      {.n_cells = (n_cells + 255) / 256 * 256,
       .kv = kv == "f16" ? GGML_TYPE_F16 : (kv == "f32" ? GGML_TYPE_F32 : GGML_TYPE_Q8_0),
       .flash = flash,
       .n_threads = n_threads});
  context.adapt(load_lora(*model, adapter.on_all_rows, source.weights.config),
                load_lora(*model, adapter.on_gist_rows, source.weights.config));
  const auto reading = clock_type::now();
  if (soft.size() > 0) context.read_soft(soft);
  std::vector<index_t> rows_prompt;
  context.read(rows.ids, &rows_prompt);
  context.logits();  // Waits.
  const double seconds_prompt = seconds_since(reading);
  const index_t held_prompt = context.ledger().rows_held();
  const std::size_t state_prompt = context.state_bytes();

  gistkv::model::generate_options how;
  how.max_tokens = max_tokens;
  how.max_rows = most_written;
  how.stop_tokens.assign(tokens.end_tokens().begin(), tokens.end_tokens().end());
  gistkv::model::sampler greedy({.temperature = 0});
  gistkv::model::generator generator(context, words, std::move(segmenter), how,
                                     static_cast<index_t>(text.size()),
                                     open_tokens(context.ledger()));
  const auto writing = clock_type::now();
  const auto written = generator.run(greedy);
  const double seconds = seconds_since(writing);

  struct rusage used = {};
  ::getrusage(RUSAGE_SELF, &used);
  const std::size_t row_bytes =
      2 * static_cast<std::size_t>(source.weights.config.n_layers) *
      ggml_row_size(kv == "f16"   ? GGML_TYPE_F16
                    : kv == "f32" ? GGML_TYPE_F32
                                  : GGML_TYPE_Q8_0,
                    source.weights.config.n_kv_heads * source.weights.config.head_dim);
  const nlohmann::json report = {
      {"engine", std::string("llama.cpp ") + llama_version()},
      {"method", full           ? "full"
                 : context_path ? "gmsa"
                                : "sag"},
      {"segmenter", gists ? segmenter_text.value_or(layout.segmenter) : ""},
      {"gists", rule.n_gist},
      {"prompt_ids", rows.ids},
      {"n_soft", soft.size()},
      {"ids", written.ids},
      {"text", written.text},
      {"kv_rows_prompt", rows_prompt},
      {"kv_rows", written.rows_after},
      {"rows_held", context.ledger().rows_held()},
      {"rows_held_prompt", held_prompt},
      {"kv_bytes_row", row_bytes},
      {"kv_bytes_held", row_bytes * static_cast<std::size_t>(context.ledger().rows_held())},
      {"kv_bytes_allocated", row_bytes * llama_n_ctx(context.get())},
      {"state_bytes_prompt", state_prompt},
      {"state_bytes", context.state_bytes()},
      {"stop_reason", std::string(to_string(written.reason))},
      {"seconds_prompt", seconds_prompt},
      {"prompt_tokens_per_second", static_cast<double>(rows.n_regular) / seconds_prompt},
      {"seconds", seconds},
      {"tokens_per_second", static_cast<double>(written.n_regular) / seconds},
      {"cache_type", kv},
      {"flash", flash},
      {"threads", n_threads},
      {"peak_rss_bytes", static_cast<std::uint64_t>(used.ru_maxrss) * 1024}};
  std::printf("%s\n", report.dump().c_str());
  return 0;
}

int main(int argc, char** argv) {
  try {
    return run(options(argc, argv));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "gist_llama: %s\n", e.what());
    return 1;
  }
}
