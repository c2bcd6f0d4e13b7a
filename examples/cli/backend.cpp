// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backend.hpp>

#include <algorithm>

#include <cli/errors.hpp>

namespace gistkv::cli {

namespace {

constexpr std::array<std::string_view, 4> known_cache_types = {"f32", "bf16", "f16", "q8"};

}  // namespace

std::string_view to_string(support s) {
  switch (s) {
    case support::native:
      return "native";
    case support::composed:
      return "composed";
    case support::no:
      break;
  }
  return "no";
}

std::string cache_types() {
  std::string names;
  for (const cache_kind& kind : this_backend().kinds) {
    names += (names.empty() ? "" : " or ") + std::string(kind.name);
  }
  return names;
}

std::string default_cache_type() { return std::string(this_backend().kinds.front().name); }

bool has_cache_type(std::string_view name) {
  const auto kinds = this_backend().kinds;
  return std::any_of(kinds.begin(), kinds.end(),
                     [name](const cache_kind& kind) { return kind.name == name; });
}

void check_cache_type(const std::string& name) {
  if (has_cache_type(name)) return;
  const bool known = std::find(known_cache_types.begin(), known_cache_types.end(), name) !=
                     known_cache_types.end();
  throw usage_error((known ? "--cache-type " + name + " is not part of this program (backend " +
                                 std::string(this_backend().name) + ")"
                           : "--cache-type is '" + name + "'") +
                    ", want " + cache_types());
}

backend_ptr make_backend(const std::optional<std::string>& cache_type, int n_threads) {
  const std::string name = cache_type.value_or(default_cache_type());
  check_cache_type(name);
  const auto kinds = this_backend().kinds;
  const auto kind = std::find_if(kinds.begin(), kinds.end(),
                                 [&name](const cache_kind& k) { return k.name == name; });
  return kind->make(n_threads);
}

std::size_t cache_row_bytes(std::string_view type, index_t head_dim, const std::string& file) {
  using cache::stored_type;
  for (const auto t : {stored_type::f32, stored_type::bf16, stored_type::f16, stored_type::q8}) {
    if (to_string(t) == type) return cache::stored_row_bytes(t, head_dim);
  }
  throw format_error(file + ": cache type '" + std::string(type) +
                     "', expected f32, bf16, f16 or q8");
}

}  // namespace gistkv::cli
