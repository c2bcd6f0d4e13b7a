// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <type_traits>

#include <gistkv/conformance/checks.hpp>
#include <gistkv/conformance/checks_append.hpp>
#include <gistkv/conformance/checks_attention.hpp>
#include <gistkv/conformance/checks_few_rows.hpp>
#include <gistkv/conformance/checks_fused.hpp>
#include <gistkv/conformance/report.hpp>
#include <gistkv/conformance/sweep.hpp>
#include <gistkv/core/backend.hpp>

/// The conformance suite: every operation of a backend, on every element type that it supports,
/// against the oracle. See report.hpp for what comes out of it.
///
///   gistkv::conformance::report report;
///   gistkv::conformance::run(be, report);
///   std::cout << gistkv::conformance::format(report);
///   return report.passed() ? 0 : 1;

namespace gistkv::conformance {

struct run_options {
  bool model_shapes = true;  ///< Also the shapes of a real model, which take most of the time.
};

/// Calls that stand for several, by the backend's own path where it declares one.
template <class T, class B>
requires Computes<B, T>
void run_fused(B& be, report& all) {
  const auto path = [](bool native) { return native ? "native" : "composed"; };
  for (const auto& c : linears_cases()) check<T>(be, c, all, path(B::native_linears));
  for (const auto& c : kv_append_cases<T>()) check<T>(be, c, all, path(B::native_append));
  for (const auto& c : attention_batch_cases()) {
    check<T>(be, c, all, path(B::native_attention_batch));
  }
  if constexpr (B::native_few_rows) {
    const auto check_few = [&](const auto& c, index_t n, index_t width) {
      if (ops::takes_few_rows(be, n, c.d_model, width)) return check<T>(be, c, all);
      all.add({.op = c.op,
               .dtype = std::string(dtype_name<T>()),
               .path = "native",
               .case_text = c.text(),
               .skip_reason = "[" + c.text() + "] are not few rows to " + std::string(B::name)});
    };
    for (const auto& c : projection_cases()) check_few(c, c.n(), c.head_dim);
    for (const auto& c : gated_cases()) check_few(c, c.n, c.d_ff);
  }
}

/// All cases on elements of T.
template <class T, class B>
requires Computes<B, T>
void run_type(B& be, report& all, const run_options& options = {}) {
  const auto check_all = [&](const auto& cases) {
    for (const auto& c : cases) check<T>(be, c, all);
  };
  check_all(linear_cases());
  if (options.model_shapes) check_all(model_linear_cases());
  check_all(matmul_cases());
  check_all(norm_cases());
  check_all(rope_cases());
  check_all(activation_cases());
  check_all(add_cases());
  check_all(softmax_cases());
  check_all(gather_cases());
  check_all(scatter_cases());
  for (attention_case c : attention_cases()) {
    const bool native = B::native_attention && !c.dense();
    check<T>(be, c, all, native ? "native" : "composed");
    if (!native) continue;
    // A backend with a path of its own still offers the composition it stands for.
    c.composed = true;
    check<T>(be, c, all, "composed");
  }
  run_fused<T>(be, all);
}

/// What activations of T meet in a cache of KV, if the backend has such caches.
template <class T, class KV, class B>
void run_cache(B& be, report& all) {
  if constexpr (!std::is_same_v<T, KV> && B::template native_cache<KV>) {
    const std::string path = std::string(dtype_name<KV>()) + " cache";
    for (const scatter_case& c : scatter_cases()) check<T>(be, append_case<KV>{c}, all, path);
    for (const auto& c : kv_append_cases<KV>()) check<T>(be, c, all, path);
    for (const attention_case& c : attention_cases()) {
      if (!c.dense()) check<T>(be, cached_attention_case<KV>{c}, all, path);
    }
  }
}

/// All cases on all element types. A type that the backend does not support is a skip with a
/// reason.
template <Backend B>
void run(B& be, report& all, const run_options& options = {}) {
  const auto with_type = [&]<class T>(T) {
    if constexpr (B::template supports<T>) {
      run_type<T>(be, all, options);
      run_cache<T, float>(be, all);
      run_cache<T, bf16>(be, all);
      run_cache<T, f16>(be, all);
      run_cache<T, q8>(be, all);
    } else {
      all.add({.op = "all",
               .dtype = std::string(dtype_name<T>()),
               .path = "native",
               .case_text = "",
               .skip_reason =
                   std::string(B::name) + " does not compute on " + std::string(dtype_name<T>())});
    }
  };
  with_type(double{});
  with_type(float{});
  with_type(bf16{});
  with_type(f16{});
}

}  // namespace gistkv::conformance
