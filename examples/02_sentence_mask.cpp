// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Who sees whom. The mask is a predicate on two positions; a kernel reads the same set as two
// contiguous ranges: the first so many anchors, and the last so many rows.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <gistkv/mask/sentence.hpp>

int main() {
  using gistkv::index_t;
  // Row 0 is the beginning-of-text token; then two sentences with two gists each, and an open one.
  const std::vector<std::uint8_t> is_gist{0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0};
  const gistkv::sentence_structure rows(is_gist, {.n_gist = 2, .recent = 0, .n_sink = 1});
  const gistkv::sentence_mask visible = rows.mask();
  const std::vector<index_t> anchors = rows.anchors();

  bool equal = true;
  std::puts(" q  k: 0 1 2 3 g g 6 7 g g A B   anchors  rows");
  for (index_t q = 0; q < rows.size(); ++q) {
    const gistkv::visible_spans spans = rows.spans(q);
    std::vector<bool> from_spans(is_gist.size(), false);
    for (int a = 0; a < spans.anchors; ++a) {
      from_spans[static_cast<std::size_t>(anchors[static_cast<std::size_t>(a)])] = true;
    }
    for (int k = spans.local_begin; k < spans.local_end; ++k) {
      from_spans[static_cast<std::size_t>(k)] = true;
    }
    std::printf("%2d    ", static_cast<int>(q));
    for (index_t k = 0; k < rows.size(); ++k) {
      std::printf(" %c", visible(q, k) ? '#' : '.');
      equal = equal && visible(q, k) == from_spans[static_cast<std::size_t>(k)];
    }
    std::printf("   first %d  [%d, %d)\n", spans.anchors, spans.local_begin, spans.local_end);
  }
  std::printf("the predicate and the two spans name %s rows\n", equal ? "the same" : "different");
  return equal ? 0 : 1;
}
