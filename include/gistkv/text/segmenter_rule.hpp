// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/text/boundary.hpp>
#include <gistkv/text/english.hpp>
#include <gistkv/text/paper.hpp>
#include <gistkv/text/unicode_sentences.hpp>
#include <gistkv/text/uniform.hpp>

namespace gistkv::text {

/// One of the library's segmenters, chosen at run time; itself a Segmenter. Default: `paper`.
class any_segmenter {
 public:
  using variant = std::variant<paper, unicode_sentences, english, uniform>;
  static constexpr std::string_view name = "any";
  /// Decorator of a rule: placement::before_whitespace.
  static constexpr std::string_view before = "before";

  any_segmenter() = default;

  /// `max_length` and `min_bytes` as the decorators of these names; 0 for none.
  /// @throws argument_error if one is negative.
  explicit any_segmenter(variant segmenter, index_t max_length = 0, index_t min_bytes = 0)
      : segmenter_(std::move(segmenter)),
        max_tokens_(inner_max_tokens()),
        min_bytes_(min_bytes),
        rule_(inner_name()) {
    if (max_tokens_ > 0) rule_.append(":").append(std::to_string(max_tokens_));
    if (lies_before_whitespace()) rule_.append(",").append(before);
    if (min_bytes != 0) {
      detail::checked_min_bytes(min_bytes);
      rule_.append(",min_bytes:").append(std::to_string(min_bytes));
    }
    if (max_length == 0) return;
    detail::checked_max_tokens("max_length", max_length);
    rule_.append(",max_length:").append(std::to_string(max_length));
    if (max_tokens_ == 0 || max_length < max_tokens_) max_tokens_ = max_length;
  }

  void push(std::string_view piece, std::vector<boundary>& out) {
    const std::size_t begin = out.size();
    std::visit([&](auto& segmenter) { segmenter.push(piece, out); }, segmenter_);
    if (min_bytes_ > 0) detail::join_short_sentences(out, begin, min_bytes_, last_);
  }
  void finish(std::vector<boundary>& out) {
    const std::size_t begin = out.size();
    std::visit([&](auto& segmenter) { segmenter.finish(out); }, segmenter_);
    if (min_bytes_ > 0) detail::join_short_sentences(out, begin, min_bytes_, last_);
    last_ = 0;
  }
  index_t max_tokens() const { return max_tokens_; }

  /// The rule as `parse_segmenter_rule` reads it.
  const std::string& rule() const { return rule_; }

 private:
  index_t inner_max_tokens() const {
    return std::visit([](const auto& segmenter) { return segmenter.max_tokens(); }, segmenter_);
  }
  std::string inner_name() const {
    return std::visit([]<Segmenter S>(const S&) { return std::string(S::name); }, segmenter_);
  }

  bool lies_before_whitespace() const {
    return std::visit(
        [](const auto& segmenter) {
          if constexpr (requires { segmenter.options(); }) {
            return segmenter.options().placement == placement::before_whitespace;
          } else {
            return false;
          }
        },
        segmenter_);
  }

  variant segmenter_;
  index_t max_tokens_ = 0;
  index_t min_bytes_ = 0;
  index_t last_ = 0;  ///< Offset of the last boundary, where short sentences are joined.
  std::string rule_ = std::string(paper::name);
};

static_assert(Segmenter<any_segmenter>);

/// Reads `paper`, `unicode` or `english`, each with `,before` behind it if boundaries shall lie in
/// front of white space, and `,min_bytes:B` if shorter sentences shall go on into the next, or
/// `uniform:N`; and behind any of these `,max_length:M`. N and M are numbers of tokens, 1 or more.
/// `options` are for all but `uniform`.
/// @throws argument_error for anything else.
inline any_segmenter parse_segmenter_rule(std::string_view rule, segmenter_options options = {}) {
  const auto reject = [&](const std::string& why) -> argument_error {
    return argument_error(
        "segmenter rule '" + std::string(rule) + "': " + why +
        ", want paper, unicode, english or uniform:N; behind one of the first three ,before if "
        "boundaries shall lie in front of white space and ,min_bytes:B if shorter sentences shall "
        "go on into the next, and behind any ,max_length:M if sentences shall have an end");
  };
  const auto count = [&](std::string_view number, const std::string& what) {
    index_t n = 0;
    const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), n);
    if (code != std::errc() || end != number.data() + number.size() || n < 1) {
      throw reject("'" + std::string(number) + "' is no number of " + what);
    }
    return n;
  };
  std::string_view rest = rule;
  const auto next = [&rest] {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    return part;
  };
  constexpr std::string_view uniform_prefix = "uniform:";
  constexpr std::string_view max_length_prefix = "max_length:";
  constexpr std::string_view min_bytes_prefix = "min_bytes:";
  const std::string_view base = next();
  const bool has_whitespace = !base.starts_with(uniform_prefix);
  index_t max_length = 0;
  index_t min_bytes = 0;
  bool before = false;
  if (rule.ends_with(',')) throw reject("'' is unknown");
  while (!rest.empty()) {
    const std::string_view decorator = next();
    if (max_length == 0 && decorator.starts_with(max_length_prefix)) {
      max_length = count(decorator.substr(max_length_prefix.size()), "tokens for max_length");
    } else if (min_bytes == 0 && max_length == 0 && has_whitespace &&
               decorator.starts_with(min_bytes_prefix)) {
      min_bytes = count(decorator.substr(min_bytes_prefix.size()), "bytes for min_bytes");
    } else if (decorator == any_segmenter::before && has_whitespace && !before && min_bytes == 0 &&
               max_length == 0) {
      before = true;
      options.placement = placement::before_whitespace;
    } else {
      throw reject("'" + std::string(decorator) + "' is unknown here");
    }
  }
  if (base == paper::name) return any_segmenter(paper(options), max_length, min_bytes);
  if (base == unicode_sentences::name) {
    return any_segmenter(unicode_sentences(options), max_length, min_bytes);
  }
  if (base == english::name) return any_segmenter(english(options), max_length, min_bytes);
  if (!has_whitespace) {
    return any_segmenter(uniform(count(base.substr(uniform_prefix.size()), "tokens for uniform")),
                         max_length);
  }
  throw reject("'" + std::string(base) + "' is unknown");
}

}  // namespace gistkv::text
