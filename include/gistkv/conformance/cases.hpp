// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/mask/visible_spans.hpp>

/// What is tried, as data: tests check these shapes and benchmarks time the same ones. Extents are
/// 1, primes, widths of vector registers and one to either side, and those of real models; `pad`
/// makes every tensor a strided, misaligned part of a larger buffer (guarded.hpp). flops() counts a
/// multiply-add as two; bytes(e) is what must move at least once when elements take e bytes.

namespace gistkv::conformance {

/// Irregular visibility without memory: no two rows alike, some rows empty.
struct irregular_mask {
  GISTKV_HD constexpr bool operator()(index_t q, index_t k) const {
    return q % 5 != 3 && (q * 7 + k * k * 3 + k) % 11 < 6;
  }
};

/// `spans` are random, `sentences` those of a text (sentence_spans).
enum class mask_choice { everything, causal, irregular, spans, sentences, nothing };

inline std::string to_string(mask_choice m) {
  switch (m) {
    case mask_choice::everything:
      return "everything";
    case mask_choice::causal:
      return "causal";
    case mask_choice::irregular:
      return "irregular";
    case mask_choice::spans:
      return "spans";
    case mask_choice::sentences:
      return "sentences";
    case mask_choice::nothing:
      return "nothing";
  }
  return "?";
}

/// What the last n_q of n_local rows see where every 24 tokens are followed by 4 gists, and the
/// last of the anchors are those of the local rows.
inline std::vector<visible_spans> sentence_spans(index_t n_q, index_t n_anchors, index_t n_local) {
  constexpr index_t n_gist = 4;
  constexpr index_t length = 24 + n_gist;
  std::vector<visible_spans> spans;
  for (index_t p = n_local - n_q; p < n_local; ++p) {
    const index_t later = (n_local + length - 1) / length - p / length;
    spans.push_back({static_cast<std::int32_t>(std::max<index_t>(0, n_anchors - n_gist * later)),
                     static_cast<std::int32_t>(p / length * length),
                     static_cast<std::int32_t>(p + 1)});
  }
  return spans;
}

namespace detail {

/// "name=value", joined by spaces.
inline std::string field(const char* name, index_t value) {
  return std::string(name) + "=" + std::to_string(value) + " ";
}
inline std::string flag(const char* name, bool on) { return on ? std::string(name) + " " : ""; }
inline std::string word(norm_kind kind) { return kind == norm_kind::rms ? "rms " : "layer "; }
inline std::string word(activation_kind kind) {
  const char* names[] = {"silu ", "gelu ", "gelu_tanh "};
  return names[static_cast<int>(kind)];
}
inline std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}
inline double product(std::initializer_list<index_t> factors) {
  double p = 1.0;
  for (const index_t f : factors) p *= static_cast<double>(f);
  return p;
}

}  // namespace detail

struct linear_case {
  static constexpr const char* op = "linear";
  index_t n = 1;
  index_t d_in = 1;
  index_t d_out = 1;
  weight_type weight = weight_type::f32;
  bool bias = false;
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 2.0 * detail::product({n, d_in, d_out}); }
  double bytes(double e) const {
    return static_cast<double>(row_bytes(weight, d_in)) * static_cast<double>(d_out) +
           e * (detail::product({n, d_in}) + detail::product({n, d_out}));
  }
  std::string text() const {
    return detail::trimmed(detail::field("n", n) + detail::field("d_in", d_in) +
                           detail::field("d_out", d_out) + std::string(gistkv::to_string(weight)) +
                           " " + detail::flag("bias", bias) + detail::field("pad", pad));
  }
};

struct matmul_case {
  static constexpr const char* op = "matmul";
  index_t batch = 1;
  index_t m = 1;
  index_t n = 1;
  index_t k = 1;
  matmul_options options = {};
  bool share_b = false;  ///< All matrices of the batch have one b: batch stride 0.
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 2.0 * detail::product({batch, m, n, k}); }
  double bytes(double e) const {
    return e * (detail::product({batch, m, k}) + detail::product({share_b ? 1 : batch, n, k}) +
                detail::product({batch, m, n}));
  }
  std::string text() const {
    return detail::trimmed(detail::field("batch", batch) + detail::field("m", m) +
                           detail::field("n", n) + detail::field("k", k) +
                           detail::flag("transpose_b", options.transpose_b) +
                           detail::flag("accumulate", options.accumulate) +
                           detail::flag("alpha=-0.75", options.alpha != 1.0) +
                           detail::flag("share_b", share_b) + detail::field("pad", pad));
  }
};

/// What fills the rows of a norm case.
enum class norm_rows { normal, offset, tiny, zero };

struct norm_case {
  static constexpr const char* op = "norm";
  index_t n = 1;
  index_t d = 1;
  norm_kind kind = norm_kind::rms;
  bool bias = false;
  bool in_place = false;
  norm_rows rows = norm_rows::normal;
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 5.0 * detail::product({n, d}); }
  double bytes(double e) const {
    return e * (2.0 * detail::product({n, d}) + detail::product({d}));
  }
  std::string text() const {
    const char* fill[] = {"", "offset rows ", "tiny rows ", "zero rows "};
    return detail::trimmed(detail::field("n", n) + detail::field("d", d) + detail::word(kind) +
                           detail::flag("bias", bias) + detail::flag("in place", in_place) +
                           fill[static_cast<int>(rows)] + detail::field("pad", pad));
  }
};

struct rope_case {
  static constexpr const char* op = "rope";
  index_t n = 1;
  index_t n_heads = 1;
  index_t head_dim = 2;
  index_t last_position = 64;  ///< Positions are random up to here, and include it.
  double magnitude = 1.0;
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 3.0 * detail::product({n, n_heads, head_dim}); }
  double bytes(double e) const { return e * 2.0 * detail::product({n, n_heads, head_dim}); }
  std::string text() const {
    return detail::trimmed(
        detail::field("n", n) + detail::field("n_heads", n_heads) +
        detail::field("head_dim", head_dim) + detail::field("last_position", last_position) +
        detail::flag("magnitude=1.1", magnitude != 1.0) + detail::field("pad", pad));
  }
};

enum class aliasing { none, first, second };

struct activation_case {
  static constexpr const char* op = "activation";
  index_t n = 1;
  index_t d = 1;
  activation_kind kind = activation_kind::silu;
  bool gated = true;
  bool extreme = false;              ///< Gates up to +-1e4, and -inf.
  aliasing output = aliasing::none;  ///< o is gate (first) or up (second).
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 5.0 * detail::product({n, d}); }
  double bytes(double e) const { return e * (gated ? 3.0 : 2.0) * detail::product({n, d}); }
  std::string text() const {
    return detail::trimmed(detail::field("n", n) + detail::field("d", d) + detail::word(kind) +
                           detail::flag("gated", gated) + detail::flag("extreme", extreme) +
                           detail::flag("o is gate", output == aliasing::first) +
                           detail::flag("o is up", output == aliasing::second) +
                           detail::field("pad", pad));
  }
};

struct add_case {
  static constexpr const char* op = "add";
  index_t n = 1;
  index_t d = 1;
  bool repeat_b = false;
  aliasing output = aliasing::none;
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return detail::product({n, d}); }
  double bytes(double e) const { return e * (repeat_b ? 2.0 : 3.0) * detail::product({n, d}); }
  std::string text() const {
    return detail::trimmed(
        detail::field("n", n) + detail::field("d", d) + detail::flag("repeated b", repeat_b) +
        detail::flag("o is a", output == aliasing::first) +
        detail::flag("o is b", output == aliasing::second) + detail::field("pad", pad));
  }
};

struct softmax_case {
  static constexpr const char* op = "masked_softmax";
  index_t n_heads = 1;
  index_t n_q = 1;
  index_t n_k = 1;
  mask_choice mask = mask_choice::causal;
  double scale = 0.125;
  double magnitude = 8.0;  ///< Scores are normal times this.
  bool poison = false;     ///< Masked scores are NaN.
  bool lse = true;
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 5.0 * detail::product({n_heads, n_q, n_k}); }
  double bytes(double e) const { return e * 2.0 * detail::product({n_heads, n_q, n_k}); }
  std::string text() const {
    return detail::trimmed(detail::field("n_heads", n_heads) + detail::field("n_q", n_q) +
                           detail::field("n_k", n_k) + to_string(mask) + " " +
                           detail::field("magnitude", static_cast<index_t>(magnitude)) +
                           detail::flag("NaN where masked", poison) + detail::flag("lse", lse) +
                           detail::field("pad", pad));
  }
};

/// gather_rows and scatter_rows between a matrix of m rows and one of n.
template <bool Scatter>
struct rows_case {
  static constexpr const char* op = Scatter ? "scatter_rows" : "gather_rows";
  index_t n = 1;
  index_t m = 1;
  index_t d = 1;
  index_t pad = 0;
  std::uint64_t seed = 0;

  double flops() const { return 0.0; }
  double bytes(double e) const { return e * 2.0 * detail::product({n, d}); }
  std::string text() const {
    return detail::trimmed(detail::field("n", n) + detail::field("m", m) + detail::field("d", d) +
                           detail::field("pad", pad));
  }
};
using gather_case = rows_case<false>;
using scatter_case = rows_case<true>;

/// Two-span attention, or the dense form with a mask over the local rows alone.
struct attention_case {
  static constexpr const char* op = "attention";
  index_t n_q = 1;
  index_t n_heads = 1;
  index_t n_kv_heads = 1;
  index_t head_dim = 64;
  index_t n_shared = 0;
  index_t n_own = 0;
  index_t n_local = 1;
  mask_choice mask = mask_choice::spans;  ///< Not spans or nothing: the dense form.
  bool lse = true;
  index_t pad = 0;
  std::uint64_t seed = 0;
  bool composed = false;  ///< Through composed:: even if the backend has a native path.

  index_t n_keys() const { return n_shared + n_own + n_local; }
  bool dense() const {
    return mask != mask_choice::spans && mask != mask_choice::sentences &&
           mask != mask_choice::nothing;
  }
  /// Of the pairs that the mask lets see each other; of all where it is random.
  double flops() const {
    double pairs = detail::product({n_q, n_keys()});
    if (mask == mask_choice::sentences) {
      pairs = 0;
      for (const visible_spans& s : sentence_spans(n_q, n_shared + n_own, n_local)) {
        pairs += static_cast<double>(s.anchors + s.local_end - s.local_begin);
      }
    }
    return 4.0 * pairs * detail::product({n_heads, head_dim});
  }
  double bytes(double e) const {
    return e * 2.0 *
           (detail::product({n_q, n_heads, head_dim}) +
            detail::product({n_kv_heads, n_keys(), head_dim}));
  }
  std::string text() const {
    return detail::trimmed(detail::field("n_q", n_q) + detail::field("n_heads", n_heads) +
                           detail::field("n_kv_heads", n_kv_heads) +
                           detail::field("head_dim", head_dim) +
                           detail::field("n_shared", n_shared) + detail::field("n_own", n_own) +
                           detail::field("n_local", n_local) + to_string(mask) + " " +
                           detail::flag("lse", lse) + detail::field("pad", pad));
  }
};

/// The same on a cache whose elements are of another type than the activations.
template <class KV>
struct cached_attention_case : attention_case {};

/// append_rows of activations to a cache of KV.
template <class KV>
struct append_case : scatter_case {
  static constexpr const char* op = "append_rows";
};

}  // namespace gistkv::conformance
