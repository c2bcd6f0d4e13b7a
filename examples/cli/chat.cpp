// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstdint>
#include <deque>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <cli/context_file.hpp>
#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/reading.hpp>
#include <cli/verbs.hpp>
#include <cli/writing.hpp>

namespace gistkv::cli {

namespace {

struct chat_options {
  std::string file;
  model_options model;
  method_options method;
  sampling_options sampling;
};

constexpr std::string_view help_text =
    "/save FILE  write the conversation as it is held\n"
    "/load FILE  go on from a compressed context\n"
    "/stats      what is held\n"
    "/undo       forget the last question and its answer\n"
    "/help       this list\n"
    "/quit       end (as does the end of the input)\n"
    "Everything else is a message.\n";

class conversation {
 public:
  conversation(const engine& e, method_settings settings, const sampling_options& sampling,
               std::uint64_t seed, context start)
      : engine_(e),
        template_(e.chat()),
        settings_(std::move(settings)),
        sampling_(sampling),
        seed_(seed),
        context_(std::move(start)) {
    if (!context_.chat) throw argument_error("chat: the context was made with --no-template");
  }

  /// Reads a message and writes the answer. On an error nothing was said.
  void say(const std::string& message) {
    constexpr std::size_t most_undone = 16;
    past_.push_back(branch());
    if (past_.size() > most_undone) past_.pop_front();
    try {
      answer_to(message);
    } catch (...) {
      undo();
      throw;
    }
  }

  bool undo() {
    if (past_.empty()) return false;
    context_ = std::move(past_.back());
    past_.pop_back();
    return true;
  }

  void save(const std::string& path) {
    if (context_.stage == stage::empty) throw argument_error("/save: nothing was said yet");
    context_.report.update(cache_report(*context_.cache));
    context_.report.update(engine_report(engine_));
    const std::uint64_t n = save_context(context_, path, engine_, settings_, seed_);
    print("wrote " + path + ", " + bytes_text(n) + "\n");
  }

  void load(const std::string& path) {
    context_file file = load_context_file(engine_.be, path);
    std::uint64_t seed = seed_;
    method_settings settings = settings_of(file, path, {}, {{}, adapter_name(), 0}, seed);
    if (settings.n_gist != settings_.n_gist || settings.method != settings_.method) {
      throw argument_error(path + ": was made with method " + settings.method + " and " +
                           std::to_string(settings.n_gist) + " gists, this chat has " +
                           settings_.method + " and " + std::to_string(settings_.n_gist));
    }
    settings.chunk = settings_.chunk;
    settings.past_context = settings_.past_context;
    context loaded = open_context(std::move(file), path, engine_);
    if (!loaded.chat) throw argument_error(path + ": was made with --no-template");
    context_ = std::move(loaded);
    settings_ = std::move(settings);
    past_.clear();
    print("loaded " + path + "\n");
  }

  void stats() const {
    const cache::row_ledger& books = context_.cache->ledger();
    const cache_sizes sizes = context_.cache->sizes();
    const backend_info& info = engine_.be->info();
    const auto full =
        static_cast<std::uint64_t>(books.next_position()) * std::uint64_t{sizes.bytes_per_row};
    print("positions " + std::to_string(books.next_position()) + " of " +
          std::to_string(engine_.model->config().n_context) + ", sentences closed " +
          std::to_string(books.n_closed()) + "\nheld " + std::to_string(sizes.rows_held) +
          " rows, " + bytes_text(sizes.bytes_held) + "; all positions would be " +
          bytes_text(full) + "\nbackend " + info.name + ", cache of " + info.cache_type + ", " +
          threads_text(info) + "\n");
    if (rate_ > 0) print("last answer " + decimal(rate_, 1) + " tokens/s\n");
  }

 private:
  /// What settings_of wants to know of --adapter: whether there is one.
  std::string adapter_name() const { return engine_.gists.trained ? "that of this chat" : ""; }

  context branch() {
    return {context_.cache->fork(), context_.stage, true,
            context_.text,          context_.read,  context_.report};
  }

  void answer_to(const std::string& message) {
    layout_writer writer(engine_, settings_);
    switch (context_.stage) {
      case stage::empty:
        add_opening(engine_, writer, true);
        writer.add_text(message);
        break;
      case stage::text:
        writer.add_text("\n\n" + message);
        break;
      case stage::answer:
        writer.add_template(template_.next_user_opening());
        writer.add_text(message);
        break;
    }
    writer.add_template(template_.user_closing_and_assistant_opening());
    const text::gist_layout rows = writer.take();
    check_context(engine_, context_.cache->ledger().next_position() + rows.n_rows() + 1,
                  settings_.past_context);
    const auto s =
        engine_.model->go_on(std::move(context_.cache), {settings_.chunk, settings_.past_context});
    read_rows(*s, rows, "reading");
    const written w = write(*s, engine_, settings_, sampling_, shown_unless(false));
    print("\n");
    rate_ = writing_rate(w);
    context_.cache = s->take_cache();
    context_.stage = stage::answer;
    context_.text.clear();
    context_.read += engine_.decode(rows.ids) + engine_.decode(w.generation.ids);
  }

  const engine& engine_;
  io::chat_template template_;
  method_settings settings_;
  sampling_options sampling_;
  std::uint64_t seed_;
  context context_;
  std::deque<context> past_;
  double rate_ = 0;
};

/// Does a line of input. False: the end.
bool obey(conversation& talk, const std::string& line) {
  if (!line.starts_with('/')) {
    if (!line.empty()) talk.say(line);
    return true;
  }
  const std::size_t space = line.find(' ');
  const std::string command = line.substr(0, space);
  const std::size_t begin = line.find_first_not_of(' ', space);
  const std::string path =
      begin == std::string::npos || space == std::string::npos ? "" : line.substr(begin);
  const bool wants_path = command == "/save" || command == "/load";
  if (wants_path && path.empty()) throw argument_error(command + ": want a file name behind it");
  if (!wants_path && !path.empty()) throw argument_error(command + ": takes nothing behind it");
  if (command == "/quit" || command == "/exit") return false;
  if (command == "/help") {
    print(help_text);
  } else if (command == "/stats") {
    talk.stats();
  } else if (command == "/undo") {
    print(talk.undo() ? "the last question is forgotten\n" : "there is nothing to undo\n");
  } else if (command == "/save") {
    talk.save(path);
  } else if (command == "/load") {
    talk.load(path);
  } else {
    throw argument_error(command + " is no command; /help lists them");
  }
  return true;
}

void run(chat_options o) {
  require_model(o.model);
  check_sampling(o.sampling);
  std::uint64_t seed = o.sampling.sampler.seed;
  std::optional<context_file> file;
  method_settings settings;
  if (!o.file.empty()) {
    file = load_context_file(o.file, o.method.cache_type, o.model.threads);
    settings = settings_of(*file, o.file, o.method, o.model, seed);
  } else {
    settings = resolve(o.method, o.model);
  }
  if (settings.method == "gmsa") {
    throw usage_error(
        "--method gmsa is for compress and ask: it was never trained on turns of a chat");
  }
  const engine e(file ? file->be : make_backend(o.method.cache_type, o.model.threads), o.model,
                 settings, seed);
  context start = file ? open_context(*std::move(file), o.file, e)
                       : context{make_cache(e, settings),          stage::empty, true, {}, {},
                                 json{{"method", settings.method}}};
  conversation talk(e, settings, o.sampling, seed, std::move(start));
  note_untrained(e, seed);
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  if (terminal) std::cerr << "/help lists the commands\n";
  std::string line;
  int n_failed = 0;
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.ends_with('\r')) line.pop_back();
    try {
      if (!obey(talk, line)) break;
    } catch (const error& failure) {
      std::cerr << "gistkv: " << one_line(failure.what()) << std::endl;
      ++n_failed;
    } catch (const usage_error& failure) {
      std::cerr << "gistkv: " << one_line(failure.what()) << std::endl;
      ++n_failed;
    }
  }
  // A user has seen it; a script looks at the exit status.
  if (!terminal && n_failed > 0) {
    throw error("chat: of the lines read, " + std::to_string(n_failed) + " failed, as said above");
  }
}

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<chat_options>();
  CLI::App& verb =
      add_verb(app, "chat", "Talk with the model, turn after turn on one compressed cache");
  add_option(verb, "FILE", o->file, "Compressed context to go on from", "X.gkv");
  add_model_options(verb, o->model);
  add_method_options(verb, o->method);
  add_sampling_options(verb, o->sampling);
  add_seed(verb, o->sampling.sampler.seed);
  add_example(verb,
              "echo \"What is the capital of France?\" | gistkv chat --method full --model "
              "~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { run(*o); });
}

}  // namespace gistkv::cli
