// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/soft.hpp>

#include <algorithm>
#include <functional>
#include <utility>

#include <cli/errors.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/gmsa/group_merge.hpp>
#include <gistkv/io/gmsa_adapter.hpp>
#include <gistkv/io/mapped_file.hpp>

namespace gistkv::cli {

bool is_soft_adapter(const std::string& path) {
  return io::is_gmsa_adapter(io::safetensors_file::open(path));
}

std::vector<index_t> adapter_rates(const std::string& path) {
  return io::gmsa_adapter_rates(io::safetensors_file::open(path));
}

soft_source make_soft_source(const std::string& adapter, const model::host_model& base) {
  soft_source source;
  if (adapter.empty()) {
    source.parts = gmsa::untrained_parts(base);
    return source;
  }
  source.parts = io::read_gmsa_adapter(adapter, base).parts;
  // Nothing is trained here: one decoder, merged once, for all who load it.
  source.parts.decoder = gmsa::decoder_of(source.parts);
  source.parts.decoder_lora.clear();
  source.trained = true;
  source.fingerprint = xxh64().update(io::mapped_file(adapter).bytes()).digest();
  return source;
}

context read_soft_context(const engine& e, const method_settings& settings, std::string_view text,
                          const std::string& name) {
  const stopwatch loading;
  const auto compressor = e.be->load_compressor(gmsa::compressor_of(e.soft->parts));
  const double seconds_load = loading.seconds();
  const stopwatch total;
  const std::vector<token_t> ids = e.encode_text(text);
  const auto n = static_cast<index_t>(ids.size());
  if (settings.rate > n) {
    throw usage_error("--rate is " + std::to_string(settings.rate) + ", want at most the " +
                      std::to_string(n) + " tokens of " + name);
  }
  check_context(e, n, settings.past_context);
  note_untrained_compressor(*e.soft);
  const double seconds_layout = total.seconds();
  progress bar("compressing", n);
  context c{e.model->make_cache(settings.cache), stage::text, false, std::string(text), {}, {}};
  c.soft = compressor->compress(ids, settings.rate, {settings.chunk, settings.past_context},
                                std::ref(bar));
  const double seconds = total.seconds();

  const std::size_t bytes_row = c.cache->sizes().bytes_per_row;
  const auto n_soft = static_cast<std::size_t>(c.soft.size());
  json& r = c.report;
  r["method"] = settings.method;
  r["rate"] = settings.rate;
  r["encoder_layers"] = e.soft->parts.encoder.config.n_layers;
  r["n_text_bytes"] = text.size();
  r["n_text_tokens"] = n;
  r["n_gist"] = 0;
  r["n_sentences"] = 0;
  r["n_soft"] = n_soft;
  r["n_template_tokens"] = 0;
  r["n_positions"] = n_soft;
  r["ratio_tokens"] = ratio(static_cast<double>(n), static_cast<double>(n_soft));
  r["rows_full"] = n;
  r["kv_bytes_full"] = bytes_row * static_cast<std::size_t>(n);
  // As soon as the decoder reads them; until then they are vectors of its width.
  r["rows_held"] = n_soft;
  r["kv_bytes_row"] = bytes_row;
  r["kv_bytes_held"] = bytes_row * n_soft;
  r["ratio_bytes"] = ratio(static_cast<double>(n), static_cast<double>(n_soft));
  r["soft_bytes"] = c.soft.rows.size() * sizeof(float);
  r["seconds"] = seconds;
  r["seconds_layout"] = seconds_layout;
  r["seconds_load_compressor"] = seconds_load;
  r["tokens_per_second"] = static_cast<double>(n) / std::max(seconds, 1e-9);
  r.update(engine_report(e));
  r["peak_rss_bytes"] = peak_rss_bytes();
  return c;
}

void settle(const engine& e, const method_settings& settings, context& c) {
  if (c.soft.size() == 0) return;
  check_context(e, c.cache->ledger().next_position() + c.soft.size(), settings.past_context);
  const stopwatch watch;
  const auto s = e.model->go_on(std::move(c.cache), {settings.chunk, settings.past_context});
  s->read_soft(c.soft);
  c.cache = s->take_cache();
  c.soft = {};
  c.report["seconds_soft"] = watch.seconds();
  c.report.update(cache_report(*c.cache));
}

void note_untrained_compressor(const soft_source& source) {
  if (source.trained) return;
  note("the compressor is untrained (the first " +
       std::to_string(source.parts.encoder.config.n_layers) +
       " layers of the model and a copy of its first): sizes and speeds are real, but what is "
       "answered means nothing without --adapter");
}

}  // namespace gistkv::cli
