// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/corpus.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <string_view>
#include <vector>

#include <cli/context_file.hpp>
#include <cli/ranks.hpp>
#include <cli/reading.hpp>
#include <cli/text_source.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/file_error.hpp>

namespace gistkv::cli {

namespace {

/// read_context, whose errors need not say which text they mean.
context read_document(const engine& e, const method_settings& settings, std::string_view text,
                      const std::string& name, bool chat, std::uint64_t seed) {
  try {
    return read_context(e, settings, text, name, chat, seed);
  } catch (const argument_error& failure) {
    const std::string what = failure.what();
    throw argument_error(what.starts_with(name) ? what : name + ": " + what);
  }
}

std::string file_name(index_t number) {
  const std::string digits = std::to_string(number);
  return std::string(6 - std::min<std::size_t>(digits.size(), 6), '0') + digits + ".gkv";
}

}  // namespace

json compress_corpus(const corpus& from, const engine& e, const method_settings& settings,
                     bool chat, std::uint64_t seed) {
  process_group& group = ranks();
  const std::filesystem::path folder(from.folder);
  if (group.rank() == 0) {
    std::error_code failure;
    std::filesystem::create_directories(folder, failure);
    if (failure) throw io::file_error(folder, "make the folder", failure);
  }
  group.wait();

  constexpr std::array keys = {"n_text_tokens", "n_gist",        "n_sentences",
                               "n_soft",        "kv_bytes_full", "kv_bytes_held"};
  std::array<double, keys.size() + 2> sums{};  // And documents, and bytes of files.
  const stopwatch watch;
  index_t number = 0;
  for_each_document(from.file, from.field, [&](const document_text& document) {
    ++number;
    if ((number - 1) % group.n_ranks() != group.rank()) return true;
    const std::string name = from.file + ": document " + std::to_string(number);
    context c = read_document(e, settings, document.text, name, chat, seed);
    for (const char* of_this_run : {"seconds", "seconds_layout", "seconds_load_compressor",
                                    "tokens_per_second", "peak_rss_bytes"}) {
      c.report.erase(of_this_run);
    }
    const auto n_bytes = save_context(c, (folder / file_name(number)).string(), e, settings, seed);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (c.report.contains(keys[i])) sums[i] += c.report[keys[i]].get<double>();
    }
    sums[keys.size()] += 1;
    sums[keys.size() + 1] += static_cast<double>(n_bytes);
    return true;
  });
  group.sum(sums);

  const double n_documents = sums[keys.size()];
  if (n_documents == 0) throw argument_error(from.file + ": holds no documents");
  json r;
  r["corpus"] = from.file;
  r["output"] = from.folder;
  r["documents"] = static_cast<std::uint64_t>(n_documents);
  r["ranks"] = group.n_ranks();
  r["method"] = settings.method;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    r[keys[i]] = static_cast<std::uint64_t>(sums[i]);
  }
  r["ratio_bytes"] = ratio(r["kv_bytes_full"].get<double>(), r["kv_bytes_held"].get<double>());
  r["file_bytes"] = static_cast<std::uint64_t>(sums[keys.size() + 1]);
  r["seconds"] = watch.seconds();
  r["tokens_per_second"] = sums[0] / std::max(watch.seconds(), 1e-9);
  r.update(engine_report(e));
  r["seconds_load"] = e.seconds_load;
  r["peak_rss_bytes"] = peak_rss_bytes();
  return r;
}

}  // namespace gistkv::cli
