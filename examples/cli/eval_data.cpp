// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <filesystem>
#include <utility>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <cli/text_source.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::cli {

namespace {

/// Paragraphs of a text with lines of a fixed width: lines are joined, blank ones stay.
std::string joined_lines(const std::string& text) {
  std::string joined;
  std::size_t at = 0;
  bool blank = true;
  while (at < text.size()) {
    std::size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    std::string_view line(text.data() + at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (line.empty()) {
      if (!blank) joined += "\n\n";
      blank = true;
    } else {
      joined += blank ? "" : " ";
      joined += line;
      blank = false;
    }
    at = end + 1;
  }
  return joined;
}

/// A name that does not depend on the place in a file: samples are drawn by it.
std::string content_name(const std::string& text) {
  constexpr std::size_t n_shown = 32;
  const std::string begin = one_line(text.substr(0, n_shown));
  return begin + " #" + hex(xxh64(0).update(std::string_view(text)).digest());
}

const json& field(const json& line, std::initializer_list<const char*> names,
                  const std::string& where) {
  for (const char* name : names) {
    const auto found = line.find(name);
    if (found != line.end() && !found->is_null()) return *found;
  }
  throw format_error(where + ": field '" + *names.begin() + "' is missing");
}

std::string text_field(const json& line, std::initializer_list<const char*> names,
                       const std::string& where) {
  const json& value = field(line, names, where);
  if (value.is_string()) return value.get<std::string>();
  throw format_error(where + ": field '" + *names.begin() + "' is no string");
}

/// A string, or those of a list.
std::vector<std::string> texts_of(const json& value, const std::string& what) {
  std::vector<std::string> texts;
  if (value.is_string()) {
    texts.push_back(value.get<std::string>());
  } else if (value.is_array()) {
    for (const json& item : value) {
      if (!item.is_string()) throw format_error(what + " holds something other than strings");
      texts.push_back(item.get<std::string>());
    }
  } else if (value.is_number()) {
    texts.push_back(value.dump());
  } else {
    throw format_error(what + " is no string and no list");
  }
  return texts;
}

void require_object(const json& value, const std::string& where) {
  if (!value.is_object()) throw format_error(where + ": is no object");
}

void add_squad(const json& article, const std::string& where, std::vector<question>& out) {
  const json& paragraphs = field(article, {"paragraphs"}, where);
  for (const json& paragraph : paragraphs) {
    require_object(paragraph, where);
    const std::string context = text_field(paragraph, {"context"}, where);
    for (const json& qa : field(paragraph, {"qas"}, where)) {
      question q{{}, context, text_field(qa, {"question"}, where), {}};
      const std::string what = where + ": question '" + q.text + "': an answer";
      for (const json& answer : field(qa, {"answers"}, where)) {
        const auto texts =
            texts_of(answer.is_object() ? field(answer, {"text"}, where) : answer, what);
        if (texts.empty()) throw format_error(what + " is an empty list, want its text");
        q.answers.push_back(texts.front());
      }
      out.push_back(std::move(q));
    }
  }
}

void add_hotpot(const json& line, const std::string& where, std::vector<question>& out) {
  question q{{}, {}, text_field(line, {"question"}, where), {text_field(line, {"answer"}, where)}};
  const json& context = field(line, {"context"}, where);
  const auto titles = texts_of(field(context, {"title"}, where), where + ": title");
  const json& sentences = field(context, {"sentences"}, where);
  if (!sentences.is_array() || sentences.size() != titles.size()) {
    throw format_error(where + ": field 'sentences' has another length than 'title'");
  }
  for (std::size_t i = 0; i < titles.size(); ++i) {
    q.context += (i == 0 ? "" : "\n\n") + titles[i] + "\n";
    for (const std::string& s : texts_of(sentences[i], where + ": sentences")) q.context += s;
  }
  out.push_back(std::move(q));
}

void add_nq(const json& line, const std::string& where, std::vector<question>& out) {
  question q{{},
             {},
             text_field(line, {"question"}, where),
             texts_of(field(line, {"answers"}, where), where + ": answers")};
  for (const json& c : field(line, {"ctxs"}, where)) {
    q.context += (q.context.empty() ? "" : "\n\n") + text_field(c, {"text"}, where);
  }
  out.push_back(std::move(q));
}

void add_records(const json& line, const std::string& where, std::vector<question>& out) {
  const json& records = field(line, {"ordered_kv_records"}, where);
  question q;
  q.context = "JSON data:\n{";
  for (const json& pair : records) {
    const auto texts = texts_of(pair, where + ": a record");
    if (texts.size() != 2) throw format_error(where + ": a record is no pair");
    q.context +=
        (q.context.back() == '{' ? "\"" : ",\n \"") + texts[0] + "\": \"" + texts[1] + "\"";
  }
  q.context += "}";
  q.text = "Key: \"" + text_field(line, {"key"}, where) + "\"\nCorresponding value:";
  q.answers = {text_field(line, {"value"}, where)};
  out.push_back(std::move(q));
}

void add_plain(const json& line, const std::string& where, std::vector<question>& out) {
  question q{{},
             text_field(line, {"context", "passage", "document"}, where),
             text_field(line, {"question", "input", "query"}, where),
             texts_of(field(line, {"answers", "answer", "outputs"}, where), where + ": answers")};
  out.push_back(std::move(q));
}

std::size_t index_of_label(const json& value, const std::vector<std::string>& labels, std::size_t n,
                           const std::string& where) {
  std::string label = value.is_string() ? value.get<std::string>() : value.dump();
  const auto found = std::find(labels.begin(), labels.end(), label);
  if (found != labels.end()) return static_cast<std::size_t>(found - labels.begin());
  if (label.size() == 1 && label[0] >= 'A' && label[0] < static_cast<char>('A' + n)) {
    return static_cast<std::size_t>(label[0] - 'A');
  }
  // Numbers count from 0, but for WinoGrande's strings "1" and "2".
  if (label.size() == 1 && label[0] >= '0' && label[0] <= '9') {
    const auto number = static_cast<std::size_t>(label[0] - '0');
    if (number < n) return number;
  }
  throw format_error(where + ": answer " + value.dump() + " names none of " + std::to_string(n) +
                     " choices");
}

choice_question choice_of(const json& line, const std::string& where) {
  choice_question q;
  if (line.contains("sentence") && line.contains("option1")) {  // WinoGrande
    const std::string sentence = text_field(line, {"sentence"}, where);
    const std::size_t gap = sentence.find('_');
    if (gap == std::string::npos) throw format_error(where + ": field 'sentence' has no '_'");
    q.text = sentence.substr(0, gap);
    const std::string rest = sentence.substr(gap + 1);
    q.choices = {text_field(line, {"option1"}, where) + rest,
                 text_field(line, {"option2"}, where) + rest};
    q.answer = index_of_label(field(line, {"answer"}, where), {"1", "2"}, 2, where);
    return q;
  }
  if (line.contains("endings")) {  // HellaSwag
    q.text = text_field(line, {"ctx", "context"}, where);
    q.choices = texts_of(line["endings"], where + ": endings");
    q.answer = index_of_label(field(line, {"label", "answer"}, where), {}, q.choices.size(), where);
    return q;
  }
  q.text = text_field(line, {"question", "query"}, where);
  const json& choices = field(line, {"choices", "options"}, where);
  std::vector<std::string> labels;
  if (choices.is_object()) {  // ARC
    q.choices = texts_of(field(choices, {"text"}, where), where + ": choices");
    labels = texts_of(field(choices, {"label"}, where), where + ": labels");
  } else {
    q.choices = texts_of(choices, where + ": choices");
  }
  if (line.contains("subject")) q.subject = text_field(line, {"subject"}, where);
  q.answer = index_of_label(field(line, {"answer", "answerKey", "label"}, where), labels,
                            q.choices.size(), where);
  return q;
}

}  // namespace

void for_each_json_line(const std::string& path,
                        const std::function<void(const json&, const std::string&)>& take) {
  text_source source(path);
  std::string line;
  int n = 0;
  for (int number = 1; source.read_line(line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = path + ":" + std::to_string(number);
    const json parsed = json(io::parse_strict_json(line, where));
    require_object(parsed, where);
    take(parsed, where);
    ++n;
  }
  if (n == 0) throw format_error(path + ": has no samples, expected a JSON object a line");
}

std::vector<document> read_documents(const std::string& path, bool keep_lines) {
  namespace fs = std::filesystem;
  std::vector<document> documents;
  auto add_text = [&](const fs::path& file) {
    const std::string text = whole_text(file.string());
    documents.push_back({file.filename().string(), keep_lines ? text : joined_lines(text)});
  };
  std::error_code failure;
  if (fs::is_directory(path, failure)) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() == ".txt") files.push_back(entry.path());
    }
    if (files.empty()) throw format_error(path + ": holds no .txt file, want one a document");
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) add_text(file);
  } else if (is_jsonl(path)) {
    for_each_json_line(path, [&](const json& line, const std::string& where) {
      documents.push_back({{}, text_field(line, {"text"}, where)});
      documents.back().name = content_name(documents.back().text);
    });
  } else {
    add_text(path);
  }
  return documents;
}

std::string listed(std::span<const std::string_view> names) {
  std::string all;
  for (const std::string_view name : names) all += (all.empty() ? "" : ", ") + std::string(name);
  return all;
}

std::vector<question> read_questions(const std::string& path, const std::string& format) {
  std::string kind = format;
  for (const char* name : {"squad", "hotpotqa", "nq", "kv"}) {
    const std::string folder = std::string("/") + name;
    if (kind.empty() && path.find(folder) != std::string::npos) kind = name;
  }
  if (kind.empty()) kind = "plain";
  if (std::ranges::find(question_formats, kind) == question_formats.end()) {
    throw usage_error("--format is '" + kind + "', want one of " + listed(question_formats));
  }
  std::vector<question> questions;
  for_each_json_line(path, [&](const json& line, const std::string& where) {
    const std::size_t first = questions.size();
    if (kind == "squad") add_squad(line, where, questions);
    if (kind == "hotpotqa") add_hotpot(line, where, questions);
    if (kind == "nq") add_nq(line, where, questions);
    if (kind == "kv") add_records(line, where, questions);
    if (kind == "plain") add_plain(line, where, questions);
    for (std::size_t i = first; i < questions.size(); ++i) {
      questions[i].name = content_name(questions[i].text + questions[i].context);
    }
  });
  return questions;
}

std::vector<choice_question> read_choices(const std::string& path) {
  std::vector<choice_question> questions;
  for_each_json_line(path, [&](const json& line, const std::string& where) {
    choice_question q = choice_of(line, where);
    if (q.choices.size() < 2) throw format_error(where + ": has fewer than two choices");
    q.name = q.text;
    for (const std::string& c : q.choices) q.name += "\n" + c;
    q.name = content_name(q.name);
    questions.push_back(std::move(q));
  });
  return questions;
}

}  // namespace gistkv::cli
