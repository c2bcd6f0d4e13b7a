// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Measures one task on real text and prints one line of JSON, for peers.py or by hand:
//
//   gistkv_bench_engine --model M.gguf --mode sentence --prefill 2048 --repeat 5
//   gistkv_bench_engine --model M.gguf --mode dense --decode 8000 --tokens 64
//   gistkv_bench_engine --model M.gguf --ids 2048
//
// Lengths count text tokens, gists not included. Both modes read the same text tokens: the text is
// tokenised sentence by sentence, as gists need it, and dense mode leaves the gists out.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <peers/bench.hpp>

#if defined(GISTKV_BENCH_ONEDNN)
#include <gistkv/backends/onednn.hpp>
#endif

namespace {

using namespace gistkv;
using peers::json;

/// `--name value` pairs; names that are not known here are errors.
class arguments {
 public:
  arguments(int argc, char** argv) {
    for (int i = 1; i < argc; i += 2) {
      const auto at = values_.find(argv[i]);
      if (at == values_.end() || i + 1 == argc) {
        throw argument_error(at == values_.end() ? "unknown option " + std::string(argv[i])
                                                 : std::string(argv[i]) + " wants a value");
      }
      at->second = argv[i + 1];
    }
    if (text("--model").empty()) throw argument_error("--model is missing, want a GGUF file");
  }

  const std::string& text(const char* name) const { return values_.at(name); }
  bool has(const char* name) const { return !text(name).empty(); }
  index_t number(const char* name, index_t least) const {
    const std::string& s = text(name);
    index_t n = 0;
    const auto [end, failure] = std::from_chars(s.data(), s.data() + s.size(), n);
    if (failure != std::errc{} || end != s.data() + s.size() || n < least) {
      throw argument_error(std::string(name) + " is '" + s + "', want a number from " +
                           std::to_string(least) + " on");
    }
    return n;
  }

 private:
  std::map<std::string, std::string> values_ = {
      {"--model", ""},    {"--text", ""},     {"--backend", "eigen"}, {"--type", "f32"},
      {"--mode", ""},     {"--prefill", ""},  {"--decode", ""},       {"--ids", ""},
      {"--chunk", "512"}, {"--tokens", "64"}, {"--threads", "2"},     {"--repeat", "1"}};
};

/// FILE, or all licences that a Debian system carries, in the order of their names, none twice.
std::string read_text(const std::string& file) {
  std::vector<std::filesystem::path> paths = {file};
  if (file.empty()) {
    paths.clear();
    for (const auto& entry : std::filesystem::directory_iterator("/usr/share/common-licenses")) {
      if (entry.is_regular_file() && !entry.is_symlink()) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
  }
  std::string text;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    text.append(std::istreambuf_iterator<char>(in), {});
    if (!in) throw argument_error(path.string() + ": cannot be read");
  }
  return text;
}

/// Backends with the types of their caches, as --backend and --type name them; of products too.
const std::vector<std::string> backends_built = {
    "eigen f32",
#if defined(GISTKV_BENCH_ONEDNN)
    "onednn f32",
    "onednn bf16",
#endif
};

json program() {
#if defined(NDEBUG)
  constexpr bool assertions = false;
#else
  constexpr bool assertions = true;
#endif
#if defined(__AVX512BF16__)
  constexpr const char* target = "AVX512-BF16";
#elif defined(__AVX512F__)
  constexpr const char* target = "AVX-512";
#elif defined(__AVX2__)
  constexpr const char* target = "AVX2";
#else
  constexpr const char* target = "any CPU";
#endif
#if defined(__clang__)
  const std::string compiler = __VERSION__;
#else
  const std::string compiler = std::string("g++ ") + __VERSION__;
#endif
  const std::string version = std::to_string(GISTKV_VERSION_MAJOR) + "." +
                              std::to_string(GISTKV_VERSION_MINOR) + "." +
                              std::to_string(GISTKV_VERSION_PATCH);
  return {{"version", version},
          {"compiler", compiler},
          {"compiled_for", target},
          {"assertions", assertions},
          {"backends", backends_built}};
}

template <class KV, class B>
json measure(const arguments& o, const std::string& text, const io::tokenizer& tokens, B& be) {
  json report;
  report["backend"] = B::name;
  report["type"] = o.text("--type");
  report["threads"] = o.number("--threads", 1);
  report["mode"] = o.text("--mode");
  report["chunk"] = o.number("--chunk", 1);
  peers::bench<B, KV> b(be, io::load_model(o.text("--model")), text, tokens,
                        {.gists = o.text("--mode") == "sentence",
                         .chunk = o.number("--chunk", 1),
                         .repeat = o.number("--repeat", 1)});
  report.update(o.has("--prefill") ? b.prefill(o.number("--prefill", 1))
                                   : b.decode(o.number("--decode", 0), o.number("--tokens", 1)));
  return report;
}

json run(const arguments& o) {
  const std::string text = read_text(o.text("--text"));
  const io::tokenizer tokens(io::read_tokenizer(io::gguf_file::open(o.text("--model"))));
  if (o.has("--ids")) {
    const peers::rows_of_text rows(text, tokens, static_cast<token_t>(tokens.vocab_size()), false);
    const auto ids = rows.slice(0, rows.end_of(o.number("--ids", 1)));
    return {{"program", program()},
            {"bytes", text.size()},
            {"xxh64", xxh64().update(text).digest()},
            {"tokens", rows.ids.size()},
            {"ids", std::vector<token_t>(ids.begin(), ids.end())}};
  }
  if (o.text("--mode") != "dense" && o.text("--mode") != "sentence") {
    throw argument_error("--mode is '" + o.text("--mode") + "', want dense or sentence");
  }
  if (o.has("--prefill") == o.has("--decode")) {
    throw argument_error("want one of --prefill N, --decode DEPTH and --ids N");
  }
  const std::string kind = o.text("--backend") + " " + o.text("--type");
  const auto threads = static_cast<int>(o.number("--threads", 1));
  if (kind == "eigen f32") {
    backends::eigen<float> be(threads);
    return measure<float>(o, text, tokens, be);
  }
#if defined(GISTKV_BENCH_ONEDNN)
  if (kind == "onednn f32") {
    backends::onednn<float> be({.n_threads = threads});
    return measure<float>(o, text, tokens, be);
  }
  if (kind == "onednn bf16") {
    backends::onednn<float, bf16> be({.n_threads = threads});
    return measure<bf16>(o, text, tokens, be);
  }
#endif
  std::string built;
  for (const std::string& b : backends_built) built += (built.empty() ? "" : ", ") + b;
  throw argument_error("--backend and --type are '" + kind + "', this program has " + built);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::puts(run(arguments(argc, argv)).dump().c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "gistkv_bench_engine: %s\n", e.what());
    return 1;
  }
}
