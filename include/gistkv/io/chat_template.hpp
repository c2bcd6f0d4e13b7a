// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <gistkv/core/error.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/jinja_skeleton.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::io {

struct chat_message {
  std::string role;  ///< system, user, assistant.
  std::string content;
};

/// What a template may ask for beside the messages.
struct chat_options {
  bool thinking = true;              ///< Qwen 3: false opens the answer behind an empty thought.
  std::string date = "26 Jul 2024";  ///< Llama 3.1 and 3.2: "Today Date"; here their own default.
};

/// Families of templates. A template is recognised by its whole text or, where it has branches for
/// tools, by all parts that messages without tools pass through.
enum class chat_family : std::uint8_t {
  chatml,  ///< <|im_start|>role\n..<|im_end|>\n; perhaps a default system prompt (SmolLM2, Qwen 2).
  qwen2,   ///< The same with a branch for tools; Qwen 2.5 has a default system prompt.
  qwen3,   ///< The same; thoughts are kept only behind the last question.
  llama3,  ///< <|start_header_id|>role<|end_header_id|>\n\n..<|eot_id|>, bos in front.
  llama3_dated  ///< The same; there always is a system turn, with dates (Llama 3.1, 3.2).
};

/// Turns messages into the text that a model was trained on. Message text is not escaped: a special
/// token in it is one. There is no Jinja here: recognize() knows the common families and refuses
/// others.
///
/// The parts of a conversation for one who holds the rows of earlier turns already:
///   user_opening(), text, user_closing_and_assistant_opening(), answer,
///   next_user_opening(), text, user_closing_and_assistant_opening(), ...
/// equals render(), for texts that the template leaves as they are: Llama 3 trims them, Qwen 3
/// removes earlier thoughts.
class chat_template {
 public:
  /// @param jinja text of the template. @param bos text of the bos token; empty: none.
  /// @throws format_error for a template of another family, saying what was found.
  static chat_template recognize(std::string_view jinja, std::string_view bos = {},
                                 chat_options options = {}) {
    chat_template t;
    t.options_ = std::move(options);
    t.skeleton_ = jinja_skeleton(jinja);
    if (!t.is_chatml() && !t.is_qwen() && !t.is_llama3() && !t.is_llama3_dated()) {
      throw format_error("chat template: begins with " + quote(jinja) + found_markers(jinja) +
                         ", expected ChatML, SmolLM2, Llama 3, Qwen 2.5 or Qwen 3");
    }
    if (t.has_bos_ && bos.empty()) {
      throw format_error("chat template: begins with bos_token, but the tokenizer has none");
    }
    if (t.has_bos_) t.bos_ = bos;
    t.skeleton_.clear();
    return t;
  }

  /// The template of a tokenizer's file.
  /// @throws format_error also if there is none or its markers are no special tokens.
  static chat_template recognize(const tokenizer& tokens, chat_options options = {}) {
    if (tokens.chat_template().empty()) throw format_error("chat template: the file has none");
    const auto bos = tokens.bos() ? tokens.piece(*tokens.bos()) : std::string_view{};
    chat_template t = recognize(tokens.chat_template(), bos, std::move(options));
    const auto markers = t.is_llama() ? llama_markers : chatml_markers;
    for (const std::string_view marker : markers) {
      if (marker.empty()) continue;
      const auto id = tokens.find(marker);
      if (!id || !tokens.is_special(*id)) {
        throw format_error("chat template: uses " + quote(marker) +
                           ", which is no special token of the vocabulary");
      }
    }
    return t;
  }

  chat_family family() const { return family_; }
  /// What stands in for a missing system message.
  const std::optional<std::string>& default_system() const { return default_system_; }
  /// Whether a rendered text begins with bos, so that the caller must not add another.
  bool begins_with_bos() const { return has_bos_; }

  /// @throws argument_error without messages, or for a role that the family prints otherwise.
  std::string render(std::span<const chat_message> messages, bool add_generation_prompt) const {
    if (messages.empty()) throw argument_error("chat template: there are no messages");
    const bool has_system = messages.front().role == "system";
    std::string out = beginning(
        has_system ? std::optional<std::string_view>(messages.front().content) : std::nullopt);
    const std::size_t last_question = last_query(messages);
    for (std::size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
      const chat_message& m = messages[i];
      check_role(m.role);
      out += header(m.role);
      if (is_llama()) {
        out += trim(m.content);
      } else if (family_ == chat_family::qwen3 && m.role == "assistant") {
        out += thoughtful(m.content, i > last_question, i + 1 == messages.size());
      } else {
        out += m.content;
      }
      out += closing();
    }
    if (add_generation_prompt) out += assistant_opening();
    return out;
  }

  /// Everything before the text of the first user turn.
  std::string user_opening(std::optional<std::string_view> system = std::nullopt) const {
    return beginning(system) + header("user");
  }
  std::string user_closing_and_assistant_opening() const {
    return std::string(closing()) + assistant_opening();
  }
  /// From the end of an answer to the text of the next user turn.
  std::string next_user_opening() const { return std::string(closing()) + header("user"); }
  /// End of a turn.
  std::string_view closing() const { return is_llama() ? "<|eot_id|>" : "<|im_end|>\n"; }

 private:
  using marker_list = std::array<std::string_view, 3>;
  static constexpr marker_list chatml_markers = {"<|im_start|>", "<|im_end|>", ""};
  static constexpr marker_list llama_markers = {"<|start_header_id|>", "<|end_header_id|>",
                                                "<|eot_id|>"};

  chat_template() = default;

  bool is_llama() const {
    return family_ == chat_family::llama3 || family_ == chat_family::llama3_dated;
  }

  std::string header(std::string_view role) const {
    const std::string name(role);
    return is_llama() ? "<|start_header_id|>" + name + "<|end_header_id|>\n\n"
                      : "<|im_start|>" + name + "\n";
  }

  /// bos and the system turn, if there is to be one.
  std::string beginning(std::optional<std::string_view> system) const {
    std::string out = bos_;
    if (family_ == chat_family::llama3_dated) {
      return out + header("system") +
             "Cutting Knowledge Date: December 2023\nToday Date: " + options_.date + "\n\n" +
             std::string(trim(system.value_or(""))) + std::string(closing());
    }
    if (!system && default_system_) system = *default_system_;
    if (!system) return out;
    const std::string_view content = is_llama() ? trim(*system) : *system;
    return out + header("system") + std::string(content) + std::string(closing());
  }

  std::string assistant_opening() const {
    const bool empty_thought = family_ == chat_family::qwen3 && !options_.thinking;
    return header("assistant") + (empty_thought ? "<think>\n\n</think>\n\n" : "");
  }

  void check_role(std::string_view role) const {
    const bool known = role == "system" || role == "user" || role == "assistant";
    const bool tool = role == "tool" || role == "ipython";
    const bool good = family_ == chat_family::chatml || family_ == chat_family::llama3 ||
                      (family_ == chat_family::llama3_dated ? !tool : known);
    if (!good) {
      throw argument_error("chat template: role " + quote(role) +
                           ", expected system, user or assistant");
    }
  }

  /// As Python's str.strip(): white space and the four information separators.
  static std::string_view trim(std::string_view s) {
    std::size_t begin = s.size();
    std::size_t end = 0;
    for (std::size_t at = 0; at < s.size();) {
      const text::decoded unit = text::decode_utf8(s.substr(at, 4));
      const auto next = at + static_cast<std::size_t>(unit.length);
      const bool separator = unit.code_point >= 0x1C && unit.code_point <= 0x1F;
      if (!separator && !text::is_space(unit.code_point)) {
        begin = std::min(begin, at);
        end = next;
      }
      at = next;
    }
    return begin < end ? s.substr(begin, end - begin) : std::string_view{};
  }

  static std::string_view strip_newlines(std::string_view s, bool left, bool right) {
    while (left && s.starts_with('\n')) s.remove_prefix(1);
    while (right && s.ends_with('\n')) s.remove_suffix(1);
    return s;
  }

  /// Index of the last user message that is not the result of a tool.
  static std::size_t last_query(std::span<const chat_message> messages) {
    for (std::size_t i = messages.size(); i-- > 0;) {
      const std::string_view text = messages[i].content;
      const bool result = text.starts_with("<tool_response>") && text.ends_with("</tool_response>");
      if (messages[i].role == "user" && !result) return i;
    }
    return messages.size() - 1;
  }

  /// Qwen 3: the thought is taken out of an answer and put back only behind the last question.
  static std::string thoughtful(std::string_view answer, bool behind_question, bool last) {
    constexpr std::string_view open = "<think>";
    constexpr std::string_view close = "</think>";
    std::string_view thought;
    std::string_view content = answer;
    if (answer.find(close) != std::string_view::npos) {
      thought = strip_newlines(answer.substr(0, answer.find(close)), false, true);
      if (const auto at = thought.rfind(open); at != std::string_view::npos) {
        thought.remove_prefix(at + open.size());
      }
      thought = strip_newlines(thought, true, false);
      content = strip_newlines(answer.substr(answer.rfind(close) + close.size()), true, false);
    }
    if (!behind_question || (!last && thought.empty())) return std::string(content);
    return "<think>\n" + std::string(strip_newlines(thought, true, true)) + "\n</think>\n\n" +
           std::string(strip_newlines(content, true, false));
  }

  // Recognition. Each sets what it has learnt and says whether the skeleton is of its family.

  static std::string found_markers(std::string_view jinja) {
    std::string found;
    for (const std::string_view marker :
         {"<|im_start|>", "<|start_header_id|>", "[INST]", "<start_of_turn>", "<|user|>", "<think>",
          "raise_exception"}) {
      if (jinja.find(marker) == std::string_view::npos) continue;
      found += (found.empty() ? " and holds " : ", ") + quote(marker);
    }
    return found;
  }

  bool has(std::string_view part) const { return skeleton_.find(part) != std::string::npos; }

  /// The text that follows `before`, up to `after`, where that is found.
  std::optional<std::string> between(std::string_view before, std::string_view after) const {
    const std::size_t at = skeleton_.find(before);
    if (at == std::string::npos) return std::nullopt;
    const std::size_t end = skeleton_.find(after, at + before.size());
    if (end == std::string::npos) return std::nullopt;
    return skeleton_.substr(at + before.size(), end - at - before.size());
  }

  static constexpr std::string_view chatml_turn =
      "{{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}}";
  static constexpr std::string_view chatml_generation =
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%}";
  static constexpr std::string_view system_open = "{{'<|im_start|>system\n";
  static constexpr std::string_view system_close = "<|im_end|>\n'}}{%endif%}";

  bool is_chatml() {
    std::string_view s = skeleton_;
    const auto take = [&s](std::string_view part) {
      const bool there = s.starts_with(part);
      if (there) s.remove_prefix(part.size());
      return there;
    };
    take("{%ifnotadd_generation_promptisdefined%}{%setadd_generation_prompt=false%}{%endif%}");
    const bool begins_with_bos = take("{{bos_token}}");
    if (!take("{%formessageinmessages%}")) return false;
    std::optional<std::string> system;
    if (take("{%ifloop.firstandmessages[0]['role']!='system'%}")) {
      if (!take(system_open)) return false;
      const std::size_t end = s.find(system_close);
      if (end == std::string_view::npos) return false;
      system = s.substr(0, end);
      s.remove_prefix(end + system_close.size());
    }
    if (!take(chatml_turn) || !take("{%endfor%}") || s != chatml_generation) return false;
    family_ = chat_family::chatml;
    has_bos_ = begins_with_bos;
    default_system_ = std::move(system);
    return true;
  }

  bool is_qwen() {
    const std::string given =
        "{%ifmessages[0]['role']=='system'%}{{'<|im_start|>system\n'+"
        "messages[0]['content']+'<|im_end|>\n'}}";
    if (!skeleton_.starts_with("{%iftools%}") || !has("{%else%}" + given)) return false;
    const bool no_default = has(given + "{%endif%}{%endif%}");
    const auto system = between(given + "{%else%}" + std::string(system_open), system_close);
    if (no_default == system.has_value()) return false;
    default_system_ = system;
    const std::string user_turns =
        "{%if(message['role']=='user')or(message['role']=='system'andnotloop.first)";
    if (has(user_turns + "or(message['role']=='assistant'andnotmessage.tool_calls)%}" +
            std::string(chatml_turn))) {
      family_ = chat_family::qwen2;
      return skeleton_.ends_with(chatml_generation) && !has("<think>");
    }
    family_ = chat_family::qwen3;
    const std::string plain = "{{'<|im_start|>'+message['role']+'\n'+content}}";
    const std::string_view part[] = {
        "ns.last_query_index=index%}",
        "'</think>'in",
        ".split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')%}",
        "split('</think>')[-1].lstrip('\n')%}",
        "{%ifloop.index0>ns.last_query_index%}{%ifloop.lastor(notloop.lastandreasoning_content)%}"
        "{{'<|im_start|>'+message['role']+'\n<think>\n'+reasoning_content.strip('\n')+"
        "'\n</think>\n\n'+content.lstrip('\n')}}",
    };
    const bool user_turn =
        has(user_turns + "%}" + std::string(chatml_turn)) ||
        has(user_turns + "%}{{'<|im_start|>'+message['role']+'\n'+content+'<|im_end|>\n'}}");
    return user_turn &&
           std::all_of(std::begin(part), std::end(part),
                       [this](std::string_view p) { return has(p); }) &&
           has("{%else%}" + plain + "{%endif%}{%else%}" + plain + "{%endif%}") &&
           skeleton_.ends_with(
               "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\n'}}"
               "{%ifenable_thinkingisdefinedandenable_thinkingisfalse%}"
               "{{'<think>\n\n</think>\n\n'}}{%endif%}{%endif%}");
  }

  static constexpr std::string_view llama_generation =
      "{%ifadd_generation_prompt%}{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}{%endif%}";

  bool is_llama3() {
    if (skeleton_ !=
        "{%setloop_messages=messages%}{%formessageinloop_messages%}"
        "{%setcontent='<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+"
        "message['content']|trim+'<|eot_id|>'%}{%ifloop.index0==0%}"
        "{%setcontent=bos_token+content%}{%endif%}{{content}}{%endfor%}" +
            std::string(llama_generation)) {
      return false;
    }
    family_ = chat_family::llama3;
    has_bos_ = true;
    default_system_.reset();
    return true;
  }

  bool is_llama3_dated() {
    const std::string_view part[] = {
        "{%setsystem_message=messages[0]['content']|trim%}{%setmessages=messages[1:]%}{%else%}"
        "{%setsystem_message=''%}{%endif%}{{'<|start_header_id|>system<|end_header_id|>\n\n'}}",
        "{{'Cutting Knowledge Date: December 2023\n'}}{{'Today Date: '+date_string+'\n\n'}}",
        "{{system_message}}{{'<|eot_id|>'}}",
        "{{'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|trim+"
        "'<|eot_id|>'}}",
    };
    family_ = chat_family::llama3_dated;
    has_bos_ = true;
    default_system_.reset();
    return skeleton_.starts_with("{{bos_token}}") && skeleton_.ends_with(llama_generation) &&
           std::all_of(std::begin(part), std::end(part),
                       [this](std::string_view p) { return has(p); });
  }

  chat_family family_ = chat_family::chatml;
  bool has_bos_ = false;
  std::string bos_;
  std::optional<std::string> default_system_;
  chat_options options_;
  std::string skeleton_;  ///< Only while recognising.
};

}  // namespace gistkv::io
