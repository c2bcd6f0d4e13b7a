// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/train/parameters.hpp>

namespace gistkv::train {

/// Processes that train one model together, each on its own share of a batch. `sum` replaces values
/// by their sum over all processes, with the same bits in each; all of them call it in the same
/// order with the same number of values. gistkv/mpi/process_group.hpp is one.
template <class G, class T>
concept ProcessGroup = requires(G& g, const G& c, std::span<T> values) {
  { c.rank() } -> std::convertible_to<index_t>;  // 0 to n_ranks() - 1
  { c.n_ranks() } -> std::convertible_to<index_t>;
  g.sum(values);
};

/// Processes that add up gradients where these lie, in the memory of backend B, without a way
/// through the host's. `sum_all` does for each of several vectors what `sum` of a ProcessGroup
/// does, behind what the backend was told before and ahead of what it is told then.
/// gistkv/nccl/device_group.cuh is one.
template <class G, class B, class T>
concept DeviceGroup = requires(
    G& g, const G& c, std::span<const vector_view<accumulate_t<T>, space_of<B>>> gradients) {
  { c.n_ranks() } -> std::convertible_to<index_t>;
  g.sum_all(gradients);
};

/// One process by itself.
struct single_process {
  index_t rank() const { return 0; }
  index_t n_ranks() const { return 1; }
  template <class T>
  void sum(std::span<T>) const {}
};

/// Gradients of all parameters <- their sum over the group. They travel in buckets of `bucket`
/// elements, whatever the sizes of the parameters: few messages for many small ones, and no more
/// than a bucket in host memory at a time. @throws argument_error for bucket < 1.
template <Storage B, class T, class G>
requires ProcessGroup<G, accumulate_t<T>>
void sum_gradients(parameter_set<B, T>& set, G& group, index_t bucket = index_t{1} << 20) {
  if (bucket < 1) {
    throw argument_error("sum_gradients: bucket is " + std::to_string(bucket) +
                         " elements, expected at least 1");
  }
  if (group.n_ranks() == 1) return;
  using number = accumulate_t<T>;
  struct piece {
    number* gradient;
    number* copy;
    std::size_t bytes;
  };
  B& be = set.backend();
  std::vector<number> values(static_cast<std::size_t>(std::min(bucket, set.n_elements())));
  std::vector<piece> pieces;
  index_t filled = 0;
  const auto send = [&] {
    group.sum(std::span<number>(values.data(), static_cast<std::size_t>(filled)));
    for (const piece& p : pieces) be.upload(p.gradient, p.copy, p.bytes);
    pieces.clear();
    filled = 0;
  };
  for (std::size_t i = 0; i < set.size(); ++i) {
    if (!set[i].trained) continue;
    buffer<number, B>& gradient = set[i].gradient;
    for (index_t begin = 0; begin < gradient.size();) {
      const index_t n = std::min(gradient.size() - begin, bucket - filled);
      const piece p{gradient.data() + begin, values.data() + filled,
                    static_cast<std::size_t>(n) * sizeof(number)};
      be.download(p.copy, p.gradient, p.bytes);
      pieces.push_back(p);
      begin += n;
      filled += n;
      if (filled == bucket) send();
    }
  }
  if (filled > 0) send();
}

/// The same where they lie.
template <Storage B, class T, class G>
requires DeviceGroup<G, B, T>
void sum_gradients(parameter_set<B, T>& set, G& group) {
  if (group.n_ranks() == 1) return;
  std::vector<vector_view<accumulate_t<T>, space_of<B>>> gradients;
  for (std::size_t i = 0; i < set.size(); ++i) {
    if (set[i].trained) gradients.push_back(set[i].flat(set[i].gradient));
  }
  group.sum_all(std::span<const vector_view<accumulate_t<T>, space_of<B>>>(gradients));
}

}  // namespace gistkv::train
