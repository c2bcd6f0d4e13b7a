// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/reading.hpp>

#include <algorithm>
#include <functional>
#include <utility>

#include <cli/errors.hpp>
#include <cli/soft.hpp>

namespace gistkv::cli {

namespace {

/// Rows that a pass may read, those held twice counted twice, on average behind the regular rows
/// from `begin` on.
double mean_rows(const text::gist_layout& rows, const cache::cache_rule& rule, index_t begin) {
  cache::row_ledger books(rule);
  double sum = 0;
  index_t n = 0;
  for (index_t i = 0; i < rows.n_rows(); ++i) {
    const bool gist = rows.is_gist[static_cast<std::size_t>(i)] != 0;
    books.append(gist);
    if (gist || i < begin) continue;
    sum += static_cast<double>(static_cast<index_t>(books.anchors().size()) + books.local_end() -
                               books.live_begin());
    ++n;
    if (n % 1024 == 0) books.forget_dead_rows();
  }
  return n > 0 ? sum / static_cast<double>(n) : 0;
}

/// Rows, itself included, that a pass over the token behind the text may read.
index_t rows_read_next(const text::gist_layout& rows, const cache::cache_rule& rule) {
  cache::row_ledger books(rule);
  for (const std::uint8_t gist : rows.is_gist) books.append(gist != 0);
  return static_cast<index_t>(books.anchors().size()) + books.local_end() - books.live_begin() + 1;
}

std::size_t row_bytes(const engine& e) { return e.model->make_cache({})->sizes().bytes_per_row; }

void set_window(method_settings& settings, index_t rows, const std::string& of) {
  cache::cache_rule& rule = settings.cache.rule;
  if (rows <= rule.n_sink) {
    throw usage_error("--budget is " + std::to_string(rows) + " rows (" + of +
                      "), want more than " + "the sink's " + std::to_string(rule.n_sink));
  }
  rule.window = rows - rule.n_sink;
}

void set_window_in_bytes(const engine& e, method_settings& settings) {
  const std::uint64_t bytes = row_bytes(e);
  const std::uint64_t rows = settings.budget->bytes / bytes;
  set_window(settings, static_cast<index_t>(std::min<std::uint64_t>(rows, 1U << 30)),
             std::to_string(settings.budget->bytes) + " bytes of " + std::to_string(bytes) +
                 " bytes a row");
}

}  // namespace

layout_writer::layout_writer(const engine& e, const method_settings& settings)
    : engine_(e),
      segmenter_(settings.segmenter()),
      builder_(settings.n_gist, e.model->first_gist(),
               [&e](token_t t) { return static_cast<index_t>(e.codec().piece(t).size()); }) {}

void layout_writer::add_template(std::string_view text) {
  builder_.append_verbatim(engine_.encode_template(text));
}

void layout_writer::add_verbatim(std::string_view text) {
  builder_.append_verbatim(engine_.encode_text(text));
}

void layout_writer::add_text(std::string_view text) {
  const auto encode = [this](std::string_view piece, std::vector<token_t>& out) {
    engine_.codec().encode(piece, out);
  };
  builder_.append_text(segmenter_, text, encode);
  builder_.finish_text(segmenter_, encode);
}

void add_opening(const engine& e, layout_writer& writer, bool chat) {
  const bool brings_bos = chat && e.chat().begins_with_bos();
  if (e.tokens.add_bos() && e.tokens.bos() && !brings_bos) {
    writer.add_template(e.tokens.piece(*e.tokens.bos()));
  }
  if (chat) writer.add_template(e.chat().user_opening());
}

cache_ptr make_cache(const engine& e, const method_settings& settings) {
  method_settings s = settings;
  if (s.budget && s.cache.rule.window == 0) {
    if (s.budget->match) {
      throw usage_error(
          "--budget match needs a text that is known beforehand, want a number of bytes");
    }
    set_window_in_bytes(e, s);
  }
  return e.model->make_cache(s.cache);
}

void read_rows(sequence& s, const text::gist_layout& rows, const std::string& label,
               std::vector<index_t>* rows_after) {
  progress bar(label, rows.n_rows());
  s.read(rows.ids, rows_after, std::ref(bar));
}

index_t open_tokens(const cache::row_ledger& books) {
  index_t n = 0;
  const auto count = [&](const cache::row& r) {
    if (r.kind != cache::row_kind::gist && r.sentence == books.n_closed()) ++n;
  };
  for (const cache::row& r : books.anchors()) count(r);
  for (std::int32_t i = books.live_begin(); i < books.local_end(); ++i) count(books.local(i));
  return n;
}

void note_sentences(const text::gist_layout& rows, const method_settings& settings,
                    const std::string& name) {
  constexpr index_t short_text = 64;
  constexpr index_t long_sentence = 1024;
  if (settings.n_gist == 0 || rows.n_regular < short_text) return;
  index_t longest = 0;
  index_t length = 0;
  for (const std::uint8_t gist : rows.is_gist) {
    length = gist != 0 ? 0 : length + 1;
    longest = std::max(longest, length);
  }
  const std::string limit = "--segmenter " + settings.rule + ",max_length:64";
  const std::string advice = settings.rule == "english" || settings.rule == "unicode"
                                 ? limit
                                 : "--segmenter english, or " + limit;
  if (rows.n_sentences == 0) {
    note(name + " has no sentence end under the rule " + settings.rule +
         ", so all of its rows are held; try " + advice);
  } else if (longest >= long_sentence) {
    note("the longest sentence of " + name + " has " + std::to_string(longest) +
         " tokens, which are held until it ends; try " + advice);
  }
}

json cache_report(const sequence_cache& cache) {
  const cache_sizes n = cache.sizes();
  json report;
  report["rows_held"] = n.rows_held;
  report["kv_bytes_row"] = n.bytes_per_row;
  report["kv_bytes_held"] = n.bytes_held;
  // A prefix that forks share is memory too.
  const std::size_t shared = n.bytes_per_row * static_cast<std::size_t>(n.n_shared);
  report["kv_bytes_allocated"] = n.bytes_allocated + shared;
  report["kv_bytes_held_peak"] = std::max(n.peak_bytes_held, n.bytes_held);
  report["kv_bytes_allocated_peak"] = n.peak_bytes_allocated + shared;
  return report;
}

context read_context(const engine& e, method_settings settings, std::string_view text,
                     const std::string& name, bool chat, std::uint64_t seed) {
  if (text.empty()) throw argument_error(name + ": the text is empty");
  if (settings.method == "gmsa") return read_soft_context(e, settings, text, name);
  const stopwatch total;
  layout_writer writer(e, settings);
  add_opening(e, writer, chat);
  const index_t n_template = writer.layout().n_rows();
  writer.add_text(text);
  const text::gist_layout rows = writer.take();
  const index_t n_text = rows.n_regular - n_template;
  const index_t n_full = n_template + static_cast<index_t>(e.encode_text(text).size());
  if (settings.budget && settings.budget->match) {
    method_settings sag = settings;
    sag.method = "sag";
    sag.n_gist = settings.matched.n_gist;
    sag.cache.rule = settings.matched;
    layout_writer other(e, sag);
    add_opening(e, other, chat);
    other.add_text(text);
    set_window(settings, rows_read_next(other.layout(), settings.matched), "as sag reads");
  } else if (settings.budget) {
    set_window_in_bytes(e, settings);
  }
  check_context(e, rows.n_rows(), settings.past_context);
  note_sentences(rows, settings, name);
  if (settings.n_gist > 0) note_untrained(e, seed);

  const double seconds_layout = total.seconds();
  const auto s = e.model->go_on(make_cache(e, settings), {settings.chunk, settings.past_context});
  read_rows(*s, rows, "reading " + settings.method);
  const double seconds = total.seconds();

  context c{s->take_cache(), stage::text, chat, std::string(text), e.decode(rows.ids), {}};
  const cache_sizes sizes = c.cache->sizes();
  const double bytes_row = static_cast<double>(sizes.bytes_per_row);
  const double bytes_full = bytes_row * static_cast<double>(n_full);
  json& r = c.report;
  r["method"] = settings.method;
  if (settings.n_gist > 0) {
    r["segmenter"] = settings.rule;
    r["gists"] = settings.n_gist;
    r["recent"] = settings.cache.rule.recent;
  }
  if (settings.method != "full") r["sink"] = settings.cache.rule.n_sink;
  if (settings.cache.rule.window > 0) r["window"] = settings.cache.rule.window;
  if (settings.cache.max_anchors > 0) r["max_anchors"] = settings.cache.max_anchors;
  r["n_text_bytes"] = text.size();
  r["n_text_tokens"] = n_text;
  r["n_gist"] = rows.n_gist;
  r["n_sentences"] = rows.n_sentences;
  r["n_template_tokens"] = n_template;
  r["n_positions"] = rows.n_rows();
  r["ratio_tokens"] = ratio(static_cast<double>(n_text), static_cast<double>(rows.n_gist));
  r["rows_full"] = n_full;
  r["kv_bytes_full"] = static_cast<std::uint64_t>(bytes_full);
  r.update(cache_report(*c.cache));
  if (settings.cache.max_anchors == 0) {
    r["kv_bytes_held_mean"] =
        static_cast<std::uint64_t>(mean_rows(rows, settings.cache.rule, n_template) * bytes_row);
  }
  r["ratio_bytes"] = ratio(bytes_full, static_cast<double>(sizes.bytes_held));
  r["seconds"] = seconds;
  r["seconds_layout"] = seconds_layout;
  r["tokens_per_second"] = static_cast<double>(n_text) / std::max(seconds, 1e-9);
  r.update(engine_report(e));
  r["peak_rss_bytes"] = peak_rss_bytes();
  return c;
}

}  // namespace gistkv::cli
