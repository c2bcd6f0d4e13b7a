// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/eval/scored_text.hpp>
#include <gistkv/gmsa/group_merge.hpp>

namespace gistkv::cli {

namespace {

/// The beginning of a text that has `length` tokens, or nothing if the text is shorter.
std::string first_tokens(const engine& e, const std::string& text, index_t length) {
  const auto wanted = static_cast<std::size_t>(length);
  constexpr std::size_t margin = 64;  // Tokens at the end of a prefix may change with what follows.
  for (std::size_t size = 8 * wanted;; size *= 2) {
    const std::string prefix = text.substr(0, size);
    const std::vector<token_t> ids = e.encode_text(prefix);
    const bool whole = prefix.size() == text.size();
    if (ids.size() < wanted + (whole ? 0 : margin)) {
      if (whole) return {};
      continue;
    }
    std::size_t n_bytes = 0;
    std::size_t end = 0;
    for (std::size_t i = 0; i < wanted; ++i) {
      n_bytes += e.codec().piece(ids[i]).size();
      // A character may be spread over tokens: the text ends in front of it.
      const bool inside =
          n_bytes < prefix.size() && (static_cast<unsigned char>(prefix[n_bytes]) & 0xC0U) == 0x80U;
      if (!inside) end = n_bytes;
    }
    return prefix.substr(0, std::min(end, prefix.size()));
  }
}

/// Texts of `length` tokens, those of one document beside each other.
struct sampled_texts {
  std::vector<document> texts;
  std::vector<std::size_t> sizes;  ///< Texts of each document: what a bootstrap draws whole.

  eval::estimate bootstrap(const std::function<double(std::span<const std::size_t>)>& statistic,
                           std::uint64_t seed) const {
    return eval::grouped_bootstrap(sizes, statistic, seed);
  }
};

/// `--windows` texts of a document, at even distances, none over another: the first from its
/// beginning, the others from that of a paragraph.
std::vector<document> windows_of(const evaluation& run, const document& d) {
  const eval_options& o = run.options();
  std::vector<document> windows;
  const std::size_t apart = d.text.size() / static_cast<std::size_t>(o.windows);
  std::size_t end = 0;  // Of the window before.
  for (index_t w = 0; w < o.windows; ++w) {
    std::size_t begin = std::max(end, apart * static_cast<std::size_t>(w));
    if (w > 0) {
      begin = d.text.find_first_not_of('\n', d.text.find('\n', begin));
      if (begin == std::string::npos) break;
    }
    std::string text = first_tokens(run.engine(), d.text.substr(begin), o.length);
    if (text.empty()) break;
    end = begin + text.size();
    windows.push_back({d.name, std::move(text), begin});
  }
  return windows;
}

/// The sample of documents that are long enough, cut to texts of `length` tokens.
sampled_texts sample(const evaluation& run) {
  const eval_options& o = run.options();
  std::vector<document> all = read_documents(o.data, o.keep_lines);
  std::vector<std::string> names;
  for (const document& d : all) names.push_back(d.name);
  sampled_texts chosen;
  index_t n_short = 0;
  index_t n_missing = 0;
  for (const std::size_t i : eval::sampled(names, 0, o.seed)) {
    if (o.limit > 0 && static_cast<index_t>(chosen.sizes.size()) == o.limit) break;
    std::vector<document> windows = windows_of(run, all[i]);
    if (windows.empty()) {
      ++n_short;
      continue;
    }
    n_missing += o.windows - static_cast<index_t>(windows.size());
    chosen.sizes.push_back(windows.size());
    for (document& w : windows) chosen.texts.push_back(std::move(w));
  }
  if (chosen.texts.empty()) {
    throw argument_error(o.data + ": no document has " + std::to_string(o.length) +
                         " tokens, want a smaller --length");
  }
  if (n_short > 0) {
    note(std::to_string(n_short) + " documents have fewer than " + std::to_string(o.length) +
         " tokens and are left out");
  }
  if (n_missing > 0) {
    note(std::to_string(n_missing) + " windows are left out: their documents are too short for " +
         std::to_string(o.windows));
  }
  return chosen;
}

std::string sample_key(const evaluation& run, const document& d) {
  return std::to_string(run.options().buckets) + " " + d.name + " " +
         hex(xxh64(0).update(std::string_view(d.text)).digest());
}

/// Records of all samples, a column a method.
using method_records = std::vector<std::vector<json>>;

std::vector<double> column(const std::vector<json>& of, const std::string& name) {
  std::vector<double> values;
  for (const json& r : of) values.push_back(r.at(name).get<double>());
  return values;
}

/// exp(sum nll / sum tokens), and its ratio to another method's on the same draws.
eval::estimate perplexity(const sampled_texts& texts, const std::vector<json>& of,
                          const std::string& nll, const std::string& n, std::uint64_t seed) {
  const auto a = column(of, nll);
  const auto b = column(of, n);
  return texts.bootstrap([&](auto items) { return std::exp(eval::ratio_of_sums(a, b, items)); },
                         seed);
}

eval::estimate perplexity_ratio(const sampled_texts& texts, const std::vector<json>& of,
                                const std::vector<json>& base, std::uint64_t seed) {
  const auto a = column(of, "nll");
  const auto b = column(base, "nll");
  const auto n = column(base, "n_tokens");
  return texts.bootstrap(
      [&](auto items) {
        return std::exp(eval::ratio_of_sums(a, n, items) - eval::ratio_of_sums(b, n, items));
      },
      seed);
}

/// Figures of memory that ppl and compression share.
void add_memory(const evaluation& run, const sampled_texts& texts, const method_records& all,
                std::vector<json>& figures) {
  const std::uint64_t seed = run.options().seed;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const std::string& name = run.methods()[m].name;
    const auto full = column(all[m], "rows_full");
    const auto held = column(all[m], "rows_read");
    const auto n = column(all[m], "n_rated");
    auto weighted = [&n](const std::vector<double>& rows) {
      std::vector<double> sums;
      for (std::size_t i = 0; i < rows.size(); ++i) sums.push_back(rows[i] * n[i]);
      return sums;
    };
    const auto full_sums = weighted(full);
    const auto held_sums = weighted(held);
    figures.push_back(figure(
        "kv_ratio_bytes", name,
        texts.bootstrap(
            [&](auto items) { return eval::ratio_of_sums(full_sums, held_sums, items); }, seed),
        texts.sizes.size()));
    const auto bytes = static_cast<double>(run.bytes_per_row());
    figures.push_back(figure(
        "kv_bytes_mean", name,
        texts.bootstrap(
            [&](auto items) { return bytes * eval::ratio_of_sums(held_sums, n, items); }, seed),
        texts.sizes.size()));
  }
}

void note_unequal_bytes(const evaluation& run, const method_records& all) {
  for (std::size_t m = 0; m < all.size(); ++m) {
    if (!run.methods()[m].fits()) continue;
    double worst = 0;
    for (const json& r : all[m]) {
      worst = std::max(
          worst, std::abs(r.at("rows_read").get<double>() / r.at("rows_wanted").get<double>() - 1));
    }
    if (worst > 0.01) {
      note(run.methods()[m].name + " reads up to " + decimal(100 * worst, 1) +
           " % more or fewer rows than was asked for: whole rows come no nearer on such texts");
    }
  }
}

struct prepared {
  laid_out text;
  eval::byte_range rated;
  index_t n_tokens = 0;
};

prepared prepare(const evaluation& run, const document& d) {
  prepared p{lay_out(run, d.text, false), {}, 0};
  const auto size = static_cast<index_t>(d.text.size());
  const auto half = static_cast<std::size_t>(p.text.plain.n_rows() / 2);
  const text::gist_layout* const both[] = {&p.text.plain, &p.text.gisted};
  p.rated = {eval::common_cut(both, p.text.plain.text_begin[half], size), size};
  p.n_tokens = eval::n_tokens_in(p.text.plain, p.rated);
  if (p.n_tokens == 0) throw argument_error(d.name + ": has no tokens to rate");
  return p;
}

/// Rows of the plan of a method, and what they are compared with.
json memory_record(const prepared& text, const planned_text& p, const counted_rows& counted) {
  json r;
  r["rows_full"] =
      eval::mean_rows_read(everything, text.text.plain.is_gist, counted(text.text.plain));
  r["rows_read"] = p.mean_rows;
  r["rows_wanted"] = p.wanted_rows;
  const auto rows = eval::rows_read(p.policy, p.rows.is_gist, p.marked);
  r["rows_peak"] = *std::max_element(rows.begin(), rows.end());
  r["n_gist"] = p.rows.n_gist;
  r["n_regular"] = p.rows.n_regular;
  r["n_rated"] = text.n_tokens;
  if (p.policy.rule.window > 0) r["window"] = p.policy.rule.window;
  if (p.policy.eviction != eval::eviction::none) r["rows_kept"] = p.policy.rows;
  return r;
}

/// Memory of gmsa: `n_soft` rows behind a text that is compressed as a whole, and those read since.
json soft_memory(const evaluation& run, const prepared& text, index_t n_compressed,
                 index_t n_read) {
  const index_t n_soft = gmsa::merged_rows(n_compressed, run.soft().rate);
  json r;
  // The mean over the rows that were read, or what the next one finds.
  const double since = static_cast<double>(n_read + 1) / 2;
  r["rows_full"] = static_cast<double>(n_compressed) + (n_read > 0 ? since : 0);
  r["rows_read"] = static_cast<double>(n_soft) + (n_read > 0 ? since : 0);
  r["rows_wanted"] = r["rows_read"];
  r["rows_peak"] = n_soft + n_read;
  r["n_gist"] = n_soft;
  r["n_regular"] = n_compressed;
  r["n_rated"] = text.n_tokens;
  return r;
}

/// The tokens in front of the rated ones become soft tokens, but for the last, which is read as it
/// is, so that the first rated one is predicted behind a token like all others.
json measure_soft(const evaluation& run, const eval_method& m, const document& d) {
  const prepared text = prepare(run, d);
  const std::vector<token_t> ids = run.engine().encode_text(d.text);
  const auto in_front = static_cast<std::size_t>(text.n_tokens) + 1;
  if (ids.size() <= in_front) throw argument_error(d.name + ": has no tokens to compress");
  const std::size_t n = ids.size() - in_front;
  const std::span<const token_t> rest(ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end());
  std::vector<token_t> targets(rest.begin() + 1, rest.end());
  targets.push_back(-1);
  json r = soft_memory(run, text, static_cast<index_t>(n), text.n_tokens);
  const bool past = run.options().method.past_context;
  const stopwatch watch;
  const cache_ptr cache = read_soft(run, {ids.data(), n}, d.name);
  const auto scores = run.model_of(m).read(*cache, {.rule = soft_rule}, {rest, {}, targets},
                                           {run.sag().chunk, past}, [](index_t) {});
  r["seconds"] = watch.seconds();
  double nll = 0;
  index_t n_hits = 0;
  for (const eval::token_score& s : scores) {
    nll += s.nll();
    n_hits += s.logit >= s.best ? 1 : 0;
  }
  r["nll"] = nll;
  r["n_tokens"] = text.n_tokens;
  r["n_scored"] = scores.size();
  r["n_hits"] = n_hits;
  return r;
}

json measure(const evaluation& run, const eval_method& m, const document& d) {
  if (m.soft) return measure_soft(run, m, d);
  const prepared text = prepare(run, d);
  const counted_rows counted = [&](const text::gist_layout& rows) {
    return eval::rated_rows(rows, eval::targets_in(rows, text.rated));
  };
  const planned_text p = plan(run, m, text.text, counted);
  json r = memory_record(text, p, counted);
  const index_t n_buckets = run.options().buckets;
  const eval::byte_range all{n_buckets > 0 ? 0 : text.rated.begin, text.rated.end};
  const auto targets = eval::targets_in(p.rows, all, true);
  const stopwatch watch;
  std::vector<eval::token_score> scores;
  read_planned(run, p, d.name, targets, &scores);
  r["seconds"] = watch.seconds();

  // The tokens that the base tokenizer makes of the bytes, whatever the method made of them.
  const index_t n_plain = text.text.plain.n_rows();
  std::vector<double> bucket_nll(static_cast<std::size_t>(n_buckets), 0.0);
  std::vector<double> bucket_tokens(static_cast<std::size_t>(n_buckets), 0.0);
  std::vector<index_t> bucket_begin;  // Bytes.
  for (index_t b = 0; b < n_buckets; ++b) {
    const auto row = static_cast<std::size_t>(b * n_plain / n_buckets);
    bucket_begin.push_back(text.text.plain.text_begin[row]);
  }
  auto bucket_of = [&](index_t at) {
    return static_cast<std::size_t>(std::upper_bound(bucket_begin.begin(), bucket_begin.end(), at) -
                                    bucket_begin.begin() - 1);
  };
  double nll = 0;
  double nll_counting = 0;
  index_t n_counting = 0;
  index_t n_hits = 0;
  index_t n_scored = 0;
  for (const eval::token_score& s : scores) {
    const auto next = static_cast<std::size_t>(s.row + 1);
    const index_t at = p.rows.text_begin[next];
    const bool gist = p.rows.is_gist[next] != 0;
    const bool rated = gist ? at > text.rated.begin : at >= text.rated.begin;
    if (!gist && n_buckets > 0) bucket_nll[bucket_of(at)] += s.nll();
    if (!rated) continue;
    nll_counting += s.nll_with_gists();
    ++n_counting;
    if (gist) continue;
    nll += s.nll();
    ++n_scored;
    n_hits += s.logit >= s.best ? 1 : 0;
  }
  r["nll"] = nll;
  r["n_tokens"] = text.n_tokens;
  r["n_scored"] = n_scored;
  r["n_hits"] = n_hits;
  r["nll_counting_gists"] = nll_counting;
  r["n_counting_gists"] = n_counting;
  if (n_buckets > 0) {
    for (std::size_t i = 1; i < text.text.plain.ids.size(); ++i) {
      bucket_tokens[bucket_of(text.text.plain.text_begin[i])] += 1;
    }
    r["bucket_nll"] = bucket_nll;
    r["bucket_tokens"] = bucket_tokens;
  }
  return r;
}

void add_buckets(const evaluation& run, const sampled_texts& texts, const method_records& all,
                 std::vector<json>& figures) {
  const index_t n_buckets = run.options().buckets;
  for (std::size_t m = 0; m < all.size(); ++m) {
    for (index_t b = 0; b < n_buckets; ++b) {
      std::vector<double> nll;
      std::vector<double> n;
      for (const json& r : all[m]) {
        nll.push_back(r["bucket_nll"][static_cast<std::size_t>(b)].get<double>());
        n.push_back(r["bucket_tokens"][static_cast<std::size_t>(b)].get<double>());
      }
      json f = figure(
          "ppl_by_position", run.methods()[m].name,
          texts.bootstrap([&](auto items) { return std::exp(eval::ratio_of_sums(nll, n, items)); },
                          run.options().seed),
          texts.sizes.size());
      f["settings"]["bucket"] = std::to_string(b + 1) + "/" + std::to_string(n_buckets);
      f["settings"]["position_begin"] = b * run.options().length / n_buckets;
      f["settings"]["position_end"] = (b + 1) * run.options().length / n_buckets;
      figures.push_back(std::move(f));
    }
  }
}

}  // namespace

void eval_perplexity(evaluation& run) {
  for (const eval_method& m : run.methods()) {
    if (m.soft && run.options().buckets > 0) {
      throw usage_error("--positions has no meaning for gmsa, which rates no token it compresses");
    }
  }
  const sampled_texts texts = sample(run);
  const std::uint64_t seed = run.options().seed;
  const std::size_t n = texts.sizes.size();
  method_records all(run.methods().size());
  {
    progress bar("perplexity", static_cast<index_t>(texts.texts.size() * run.methods().size()));
    index_t done = 0;
    for (const document& d : texts.texts) {
      for (std::size_t m = 0; m < run.methods().size(); ++m) {
        const eval_method& method = run.methods()[m];
        all[m].push_back(run.record(method, sample_key(run, d), [&] {
          json r = measure(run, method, d);
          r["document"] = d.name;
          r["begin"] = d.begin;
          return r;
        }));
        bar(++done);
      }
    }
  }
  std::vector<json> figures;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const std::string& name = run.methods()[m].name;
    json f = figure("ppl_regular", name, perplexity(texts, all[m], "nll", "n_tokens", seed), n);
    double n_tokens = 0;
    for (const double x : column(all[m], "n_tokens")) n_tokens += x;
    f["settings"]["n_tokens"] = n_tokens;
    figures.push_back(std::move(f));
  }
  for (std::size_t b = 0; b < all.size(); ++b) {
    const std::string& against = run.methods()[b].name;
    if (run.methods()[b].saves() && against != "sag") continue;
    for (std::size_t m = 0; m < all.size(); ++m) {
      if (m == b || (against == "sag" && !run.methods()[m].saves())) continue;
      json f = figure("ppl_ratio", run.methods()[m].name,
                      perplexity_ratio(texts, all[m], all[b], seed), n);
      f["settings"]["against"] = against;
      figures.push_back(std::move(f));
    }
  }
  for (std::size_t m = 0; m < all.size(); ++m) {
    if (run.methods()[m].placing == placing::none) continue;
    figures.push_back(
        figure("ppl_counting_gists", run.methods()[m].name,
               perplexity(texts, all[m], "nll_counting_gists", "n_counting_gists", seed), n));
  }
  add_buckets(run, texts, all, figures);
  add_memory(run, texts, all, figures);
  note_unequal_bytes(run, all);
  report(run, std::move(figures));
}

void eval_compression(evaluation& run) {
  const sampled_texts texts = sample(run);
  method_records all(run.methods().size());
  for (const document& d : texts.texts) {
    const prepared text = prepare(run, d);
    const counted_rows counted = [&](const text::gist_layout& rows) {
      return eval::rated_rows(rows, eval::targets_in(rows, text.rated));
    };
    for (std::size_t m = 0; m < run.methods().size(); ++m) {
      const eval_method& method = run.methods()[m];
      if (method.soft) {
        const auto n = static_cast<index_t>(run.engine().encode_text(d.text).size());
        all[m].push_back(soft_memory(run, text, n, 0));
      } else {
        all[m].push_back(memory_record(text, plan(run, method, text.text, counted), counted));
      }
    }
  }
  std::vector<json> figures;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const eval_method& method = run.methods()[m];
    const auto regular = column(all[m], "n_regular");
    const auto gists = column(all[m], "n_gist");
    const bool any = std::any_of(gists.begin(), gists.end(), [](double g) { return g > 0; });
    if ((method.placing == placing::none && !method.soft) || !any) continue;
    figures.push_back(figure(
        "ratio_tokens", method.name,
        texts.bootstrap([&](auto items) { return eval::ratio_of_sums(regular, gists, items); },
                        run.options().seed),
        texts.sizes.size()));
  }
  add_memory(run, texts, all, figures);
  for (std::size_t m = 0; m < all.size(); ++m) {
    const auto peak = column(all[m], "rows_peak");
    figures.push_back(figure("kv_bytes_peak", run.methods()[m].name,
                             texts.bootstrap(
                                 [&](auto items) {
                                   return static_cast<double>(run.bytes_per_row()) *
                                          eval::mean_of(peak, items);
                                 },
                                 run.options().seed),
                             texts.sizes.size()));
  }
  note_unequal_bytes(run, all);
  report(run, std::move(figures));
}

}  // namespace gistkv::cli
