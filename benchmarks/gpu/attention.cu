// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// attention [--quick]: sentence attention on the GPU that is there, one JSON object a line: times,
// what that is in useful operations or bytes, the error against double precision. Useful means
// pairs of query and key that the mask lets see each other; nothing is counted that is only
// executed.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/random.hpp>

#include "device.hpp"

namespace {

using namespace gistkv;
using backend = backends::cuda<bf16>;
using backends::cuda_detail::check;

constexpr int sentence = 24;  ///< Text tokens of a sentence.
constexpr int repetitions = 20;

__device__ __host__ inline float normal_number(std::uint64_t seed) {
  const std::uint64_t bits = splitmix64(seed);
  // The sum of four uniform numbers is near enough to normal for a benchmark.
  float sum = 0.0F;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> (16 * i) & 0xffffU) / 65536.0F;
  return (sum - 2.0F) * 1.7320508F;
}
__global__ void fill(bf16* x, index_t n, std::uint64_t seed) {
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<index_t>(gridDim.x) * blockDim.x) {
    x[i] = bf16(normal_number(seed + static_cast<std::uint64_t>(i)));
  }
}

struct times {
  double median = 0, low = 0, high = 0;  ///< Milliseconds; quartiles.
};

/// Every run finds the second-level cache full of something else.
template <class F>
times measure(backend& be, buffer<std::byte, backend>& flush, F&& f) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  for (int i = 0; i < 3; ++i) f();
  std::vector<double> all;
  for (int i = 0; i < repetitions; ++i) {
    check(cudaMemsetAsync(flush.data(), i, flush.bytes(), be.stream()), "cudaMemsetAsync");
    check(cudaEventRecord(begin, be.stream()), "cudaEventRecord");
    f();
    check(cudaEventRecord(end, be.stream()), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0.0F;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    all.push_back(static_cast<double>(ms));
  }
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  std::sort(all.begin(), all.end());
  return {all[repetitions / 2], all[repetitions / 4], all[3 * repetitions / 4]};
}

struct shape {
  int head_dim = 64, n_heads = 9, n_kv_heads = 3, n_gist = 4;
  index_t n = 8192;  ///< Text tokens.
  index_t n_q = 0;   ///< Queries at the end of the text; 0: all.
  int batch = 1;
};

/// Sequences of equal length, with all rows of the text as local rows and all gists as anchors.
class problem {
 public:
  problem(backend& be, const shape& s) : be_(be), s_(s) {
    const index_t unit = sentence + s.n_gist;
    n_rows_ = s.n / sentence * unit;
    n_q_ = s.n_q == 0 ? n_rows_ : s.n_q;
    n_anchors_ = s.n / sentence * s.n_gist;
    for (index_t i = n_rows_ - n_q_; i < n_rows_; ++i) {
      const index_t number = i / unit;
      spans_.push_back({static_cast<std::int32_t>(number * s.n_gist),
                        static_cast<std::int32_t>(number * unit),
                        static_cast<std::int32_t>(i + 1)});
      pairs_ += static_cast<double>(number * s.n_gist + i + 1 - number * unit);
    }
    // Decoding needs no more local rows than one sentence.
    n_local_ = s.n_q == 0 ? n_rows_ : unit;
    if (s.n_q != 0) {
      for (visible_spans& v : spans_) {
        v.local_begin -= static_cast<std::int32_t>(n_rows_ - n_local_);
        v.local_end -= static_cast<std::int32_t>(n_rows_ - n_local_);
      }
    }
    device_spans_ = buffer<visible_spans, backend>(be, std::span<const visible_spans>(spans_));
    q_ = filled(s.batch * n_q_ * s.n_heads * s.head_dim, 1);
    o_ = filled(s.batch * n_q_ * s.n_heads * s.head_dim, 2);
    for (int i = 0; i < 2; ++i) {
      anchors_[i] = filled(s.batch * n_anchors_ * s.n_kv_heads * s.head_dim, 3 + i);
      local_[i] = filled(s.batch * n_local_ * s.n_kv_heads * s.head_dim, 5 + i);
    }
    for (int b = 0; b < s.batch; ++b) calls_.push_back(call(b));
  }

  void run(backend& be) { be.attention_batch(calls_, scale()); }
  void run_by_library() { be_.attention_by_library(calls_, scale()); }
  double useful_flops() const { return 4.0 * s_.head_dim * s_.n_heads * pairs_ * s_.batch; }
  double kv_bytes() const {
    return 2.0 * 2.0 * s_.head_dim * s_.n_kv_heads * static_cast<double>(s_.batch) *
           static_cast<double>(spans_.back().anchors + spans_.back().local_end -
                               spans_.back().local_begin);
  }

  /// Greatest error of some rows against double precision, as a share of the row's greatest value.
  double error() {
    const std::vector<bf16> q = q_.to_host(), o = o_.to_host();
    const std::vector<bf16> ka = anchors_[0].to_host(), va = anchors_[1].to_host();
    const std::vector<bf16> kl = local_[0].to_host(), vl = local_[1].to_host();
    const int d = s_.head_dim;
    double worst = 0.0;
    random_generator random(7);
    for (int sample = 0; sample < 48; ++sample) {
      const index_t b = random.below(s_.batch), i = random.below(n_q_);
      const index_t h = random.below(s_.n_heads), hk = h / (s_.n_heads / s_.n_kv_heads);
      const visible_spans v = spans_[static_cast<std::size_t>(i)];
      const auto number = [](const bf16& x) { return static_cast<double>(static_cast<float>(x)); };
      const auto at = [&](const std::vector<bf16>& x, index_t rows, index_t row) {
        return x.data() + ((b * s_.n_kv_heads + hk) * rows + row) * d;
      };
      const index_t first = ((b * n_q_ + i) * s_.n_heads + h) * d;
      std::vector<double> weights, sum(static_cast<std::size_t>(d), 0.0);
      std::vector<const bf16*> values;
      const auto add = [&](const bf16* k, const bf16* value) {
        double score = 0.0;
        for (int e = 0; e < d; ++e)
          score += number(q[static_cast<std::size_t>(first + e)]) * number(k[e]);
        weights.push_back(score * scale());
        values.push_back(value);
      };
      for (index_t r = 0; r < v.anchors; ++r) add(at(ka, n_anchors_, r), at(va, n_anchors_, r));
      for (index_t r = v.local_begin; r < v.local_end; ++r)
        add(at(kl, n_local_, r), at(vl, n_local_, r));
      const double top = *std::max_element(weights.begin(), weights.end());
      double total = 0.0, largest = 0.0;
      for (double& w : weights) total += w = std::exp(w - top);
      for (std::size_t r = 0; r < values.size(); ++r) {
        for (int e = 0; e < d; ++e)
          sum[static_cast<std::size_t>(e)] += weights[r] / total * number(values[r][e]);
      }
      for (const double x : sum) largest = std::max(largest, std::abs(x));
      for (int e = 0; e < d; ++e) {
        const double found = number(o[static_cast<std::size_t>(first + e)]);
        const double off = std::abs(found - sum[static_cast<std::size_t>(e)]) / largest;
        worst = std::isnan(off) ? INFINITY : std::max(worst, off);
      }
    }
    return worst;
  }

 private:
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(s_.head_dim)); }
  buffer<bf16, backend> filled(index_t n, std::uint64_t seed) {
    buffer<bf16, backend> x(be_, n);
    if (n > 0) fill<<<1024, 256, 0, be_.stream()>>>(x.data(), n, seed << 40);
    return x;
  }
  backend::attention_call call(int b) {
    const index_t d = s_.head_dim;
    const auto part = [&](buffer<bf16, backend>* kv, index_t rows) {
      const auto view = [&](const buffer<bf16, backend>& x) {
        return tensor_view<const bf16, 3, device_space>(x.data() + b * s_.n_kv_heads * rows * d,
                                                        {s_.n_kv_heads, rows, d});
      };
      return kv_span<bf16, device_space>{view(kv[0]), view(kv[1])};
    };
    const index_t first = b * n_q_ * s_.n_heads * d;
    return {{o_.data() + first, {n_q_, s_.n_heads, d}},
            {q_.data() + first, {n_q_, s_.n_heads, d}},
            {{}, part(anchors_, n_anchors_), part(local_, n_local_)},
            {spans_, device_spans_.data()},
            {}};
  }

  backend& be_;
  shape s_;
  index_t n_rows_ = 0, n_q_ = 0, n_anchors_ = 0, n_local_ = 0;
  double pairs_ = 0;
  std::vector<visible_spans> spans_;
  buffer<visible_spans, backend> device_spans_;
  buffer<bf16, backend> q_, o_, anchors_[2], local_[2];
  std::vector<backend::attention_call> calls_;
};

void print(const char* what, const char* path, const shape& s, const times& t, const char* unit,
           double per_second, double error) {
  std::printf(
      "{\"what\": \"%s\", \"path\": \"%s\", \"head_dim\": %d, \"n_heads\": %d, \"n_kv_heads\": %d, "
      "\"n_gist\": %d, \"n\": %lld, \"batch\": %d, \"ms\": %.5f, \"ms_quartiles\": [%.5f, %.5f], "
      "\"%s\": %.4g, \"error\": %.3g}\n",
      what, path, s.head_dim, s.n_heads, s.n_kv_heads, s.n_gist, static_cast<long long>(s.n),
      s.batch, t.median, t.low, t.high, unit, per_second, error);
  std::fflush(stdout);
}

void ceilings(backend& be, buffer<std::byte, backend>& flush) {
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  const index_t n = index_t{1} << 30;
  buffer<std::byte, backend> from(be, n), to(be, n);
  const times copy = measure(be, flush, [&] { be.copy(to.data(), from.data(), from.bytes()); });
  constexpr index_t m = 8192;
  buffer<bf16, backend> a(be, m * m), b(be, m * m), o(be, m * m);
  fill<<<1024, 256, 0, be.stream()>>>(a.data(), a.size(), 1);
  fill<<<1024, 256, 0, be.stream()>>>(b.data(), b.size(), 2);
  const times product = measure(be, flush, [&] {
    be.matmul(o.view({1, m, m}), a.view({1, m, m}), b.view({1, m, m}), {.transpose_b = true});
  });
  std::printf(
      "{\"what\": \"ceilings\", \"device\": \"%s\", \"processors\": %d, \"copy_gb_s\": %.1f, "
      "\"product_tflop_s\": %.1f}\n",
      device.name, device.multiProcessorCount, 2e-6 * static_cast<double>(n) / copy.median,
      2e-9 * static_cast<double>(m * m) * static_cast<double>(m) / product.median);
  std::fflush(stdout);
}

void forward(const shape& s, backend& wgmma, backend& mma, buffer<std::byte, backend>& flush) {
  for (backend* be : {&wgmma, &mma}) {
    if (be == &wgmma && !wgmma.uses_wgmma()) continue;
    problem p(*be, s);
    const times t = measure(*be, flush, [&] { p.run(*be); });
    print("forward", be == &wgmma ? "wgmma" : "mma", s, t, "useful_tflop_s",
          1e-9 * p.useful_flops() / t.median, p.error());
  }
  if (s.n > 32768 || s.batch > 1) return;
  problem p(mma, s);
  const times t = measure(mma, flush, [&] { p.run_by_library(); });
  print("forward", "library cascade", s, t, "useful_tflop_s", 1e-9 * p.useful_flops() / t.median,
        p.error());
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  if (!has_device()) return 77;
  try {
    backend wgmma, mma({.wgmma = false});
    buffer<std::byte, backend> flush(mma, index_t{256} << 20);
    ceilings(mma, flush);
    const std::vector<index_t> lengths =
        quick ? std::vector<index_t>{2048, 32768} : std::vector<index_t>{2048, 8192, 32768, 131072};
    for (const int head_dim : {64, 128}) {
      const int n_heads = head_dim == 64 ? 9 : 24, n_kv_heads = head_dim == 64 ? 3 : 8;
      const shape base{.head_dim = head_dim, .n_heads = n_heads, .n_kv_heads = n_kv_heads};
      for (const int n_gist : quick ? std::vector<int>{4} : std::vector<int>{1, 2, 4, 8}) {
        for (const index_t n : lengths) {
          for (const int batch : {1, 8}) {
            if (batch > 1 && (quick || n > 8192)) continue;
            shape s = base;
            s.n_gist = n_gist;
            s.n = n;
            s.batch = batch;
            forward(s, wgmma, mma, flush);
          }
        }
      }
      for (const index_t n : lengths) {
        for (const int batch : {1, 8, 32}) {
          for (const index_t n_q : {1, 5}) {  // A decode step; the close of a sentence.
            shape s = base;
            s.n = n;
            s.n_q = n_q;
            s.batch = batch;
            problem p(mma, s);
            const times t = measure(mma, flush, [&] { p.run(mma); });
            print(n_q == 1 ? "decode" : "close", "split", s, t, "kv_gb_s",
                  1e-6 * p.kv_bytes() / t.median, p.error());
          }
        }
      }
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
