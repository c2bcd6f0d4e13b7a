// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/writing.hpp>

#include <algorithm>
#include <utility>

#include <gistkv/io/utf8_stream.hpp>

namespace gistkv::cli {

text_sink shown_unless(bool quiet) {
  if (quiet) return [](std::string_view) {};
  return [](std::string_view text) { print(text); };
}

written write(sequence& s, const engine& e, const method_settings& settings,
              const sampling_options& sampling, const text_sink& sink, std::string_view seen) {
  model::generate_options options;
  options.max_tokens = sampling.max_tokens;
  const auto ends = e.tokens.end_tokens();
  if (!sampling.ignore_eos) options.stop_tokens.assign(ends.begin(), ends.end());
  options.stop_texts = sampling.stop;
  // Room for the pass behind the last token: white space in front of a boundary, and the gists.
  const index_t last_pass = settings.n_gist > 0 ? settings.n_gist + 3 : 0;
  const index_t next = s.ledger().next_position();
  const index_t room = positions_left(e, next, settings.past_context) - last_pass;
  if (room < 1) check_context(e, next + 1 + last_pass, settings.past_context);
  options.max_rows = room;

  text::any_segmenter segmenter = settings.segmenter();
  std::vector<text::boundary> known;
  segmenter.push(seen, known);
  model::sampler sampler(sampling.sampler);
  io::utf8_stream characters;
  const stopwatch watch;
  written w;
  const auto on_text = [&](std::string_view bytes) {
    if (w.seconds_first_token == 0) w.seconds_first_token = watch.seconds();
    const std::string text = characters.push(bytes);
    w.shown += text;
    sink(text);
  };
  w.generation =
      s.write(e.codec(), std::move(segmenter), options, static_cast<index_t>(seen.size()),
              open_tokens(s.ledger()), sampler, on_text);
  const std::string rest = characters.flush();
  w.shown += rest;
  sink(rest);
  w.seconds = watch.seconds();
  if (w.seconds_first_token == 0) w.seconds_first_token = w.seconds;
  const bool ran_out = w.generation.reason == model::stop_reason::max_rows;
  w.stop_reason = ran_out ? "context" : std::string(to_string(w.generation.reason));
  return w;
}

answer ask(const engine& e, context c, const method_settings& settings,
           const sampling_options& sampling, const std::string& question, const text_sink& sink) {
  if (question.empty()) throw argument_error("ask: the question is empty");
  const stopwatch watch;
  layout_writer writer(e, settings);
  if (c.chat) {
    const io::chat_template chat = e.chat();
    const bool in_text = c.stage == stage::text;
    if (!in_text) writer.add_template(chat.next_user_opening());
    writer.add_verbatim((in_text ? "\n\n" : "") + question);
    writer.add_template(chat.user_closing_and_assistant_opening());
  } else if (settings.method == "gmsa" && c.stage == stage::text) {
    writer.add_verbatim(question);  // Soft tokens and prompt, as they are trained.
  } else {
    writer.add_verbatim("\n\n" + question + "\n");
  }
  const text::gist_layout rows = writer.take();
  check_context(e, c.cache->ledger().next_position() + rows.n_rows(), settings.past_context);
  const auto s = e.model->go_on(std::move(c.cache), {settings.chunk, settings.past_context});
  s->read(rows.ids, nullptr, [](index_t) {});
  const double seconds_read = watch.seconds();
  answer a{question, c.read + e.decode(rows.ids), write(*s, e, settings, sampling, sink), 0};
  a.text.seconds_first_token += seconds_read;
  a.seconds = watch.seconds();
  return a;
}

double writing_rate(const written& w) {
  return static_cast<double>(w.generation.n_regular) / std::max(w.seconds, 1e-9);
}

json answer_report(const answer& a) {
  const model::generation& g = a.text.generation;
  json report;
  report["question"] = a.question;
  report["prompt"] = a.prompt;
  report["text"] = g.text;
  report["n_tokens"] = g.n_regular;
  report["n_gist"] = static_cast<index_t>(g.ids.size()) - g.n_regular;
  report["stop_reason"] = a.text.stop_reason;
  report["seconds"] = a.seconds;
  report["seconds_first_token"] = a.text.seconds_first_token;
  report["tokens_per_second"] = writing_rate(a.text);
  return report;
}

}  // namespace gistkv::cli
