// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/train/batch.hpp>

/// Texts to train on, as one array of numbers that knows nothing of the number of gists: a token of
/// the base vocabulary stands for itself, -1 for a sentence end, -2 for the end of a document, and
/// -3 - t for a token t that is read but no target: one that the sentence rule inserted and the
/// text does not have, or one of a part of a document that is not to be learned.

namespace gistkv::train {

inline constexpr std::int32_t sentence_end = -1;
inline constexpr std::int32_t document_end = -2;
inline constexpr std::int32_t read_token(token_t t) { return -3 - t; }

/// Appends one document, laid out with one gist a sentence and the lengths of tokens.
/// @param learned  an entry a row: 0 for a token that is no target; empty: all are
/// @throws argument_error for entries of another number.
inline void append_document(const text::gist_layout& rows, std::span<const std::uint8_t> learned,
                            std::vector<std::int32_t>& stream) {
  if (!learned.empty() && learned.size() != rows.ids.size()) {
    throw argument_error("training document: " + std::to_string(learned.size()) +
                         " entries say what is learned, expected one of each of " +
                         std::to_string(rows.ids.size()) + " rows");
  }
  for (index_t i = 0; i < rows.n_rows(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (rows.is_gist[at] != 0) {
      stream.push_back(sentence_end);
      continue;
    }
    // What begins at the boundary behind it has no bytes of the text.
    const bool inserted = at + 1 < rows.ids.size() && rows.is_gist[at + 1] != 0 &&
                          rows.text_begin[at] >= 0 &&
                          rows.text_begin[at] == rows.text_begin[at + 1];
    const bool target = !inserted && (learned.empty() || learned[at] != 0);
    stream.push_back(target ? rows.ids[at] : read_token(rows.ids[at]));
  }
  stream.push_back(document_end);
}

/// How a stream becomes training sequences.
struct window_options {
  index_t n_gist = 4;
  token_t first_gist = 0;    ///< The size of the base vocabulary.
  index_t length = 1024;     ///< Rows of a window at most, gists included.
  bool gist_targets = true;  ///< Predicting a gist counts; false is the published `flexible`.
  std::optional<token_t> bos = {};  ///< Put in front of every sequence.
  /// Recent sentences that stay raw, of which documents take turns; empty: nothing is said.
  std::vector<index_t> recent = {};
};

/// A piece of the stream, [begin, end).
struct window {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t document = 0;  ///< The number of the one it begins in.
};

/// Documents that end in a piece of a stream.
inline std::size_t n_documents(std::span<const std::int32_t> piece) {
  return static_cast<std::size_t>(std::count(piece.begin(), piece.end(), document_end));
}

/// Cuts a stream into windows of at most `length` rows, one behind the other. Documents share
/// windows; one that fits into a window is never cut, since what is asked at its end may stand at
/// its beginning. A longer one is cut behind a sentence, a sentence longer than a window anywhere.
/// @throws argument_error if a window has no room for a token and its gists.
inline std::vector<window> cut_windows(std::span<const std::int32_t> stream,
                                       const window_options& o) {
  const index_t extra = o.bos ? 1 : 0;
  if (o.length < o.n_gist + 2 + extra) {
    throw argument_error("training windows: length " + std::to_string(o.length) +
                         ", expected at least " + std::to_string(o.n_gist + 2 + extra));
  }
  const auto rows_of = [&o](std::int32_t x) {
    return x == document_end ? index_t{0} : x == sentence_end ? o.n_gist : index_t{1};
  };
  /// Whether the document that begins at i fits into a window, but not behind so many rows.
  const auto wants_own = [&](std::size_t i, index_t rows) {
    index_t all = extra;
    for (; i < stream.size() && stream[i] != document_end && all <= o.length; ++i) {
      all += rows_of(stream[i]);
    }
    return all <= o.length && rows + all > o.length;
  };
  std::vector<window> found;
  std::size_t begin = 0;
  std::size_t document = 0;
  std::size_t cut = 0;  // Behind the last sentence that fits; begin: there is none yet.
  index_t rows = extra;
  for (std::size_t i = 0; i < stream.size(); ++i) {
    const std::int32_t x = stream[i];
    const bool joins = i > begin && stream[i - 1] == document_end;
    const index_t more = rows_of(x) + (joins ? extra : 0);
    if (rows + more > o.length || (joins && wants_own(i, rows))) {
      const std::size_t end = cut > begin ? cut : i;
      found.push_back({begin, end, document});
      document += n_documents(stream.subspan(begin, end - begin));
      begin = end;
      cut = end;
      rows = extra;
      i = end - 1;  // Count again from there.
      continue;
    }
    rows += more;
    if (x < 0 && x >= document_end) cut = i + 1;
  }
  if (begin < stream.size()) found.push_back({begin, stream.size(), document});
  return found;
}

/// The sequences of a window: one a document, of at least two tokens.
inline std::vector<sequence> sequences_of(std::span<const std::int32_t> stream, window w,
                                          const window_options& o) {
  std::vector<sequence> found;
  sequence open;
  std::size_t document = w.document;
  const auto put = [&open](token_t t, bool counts) {
    open.tokens.push_back(t);
    open.weights.push_back(counts && open.tokens.size() > 1 ? 1.0F : 0.0F);
  };
  const auto close = [&] {
    if (!o.recent.empty()) open.recent = o.recent[document++ % o.recent.size()];
    if (open.tokens.size() >= 2) found.push_back(std::move(open));
    open = {};
    if (o.bos) put(*o.bos, false);
  };
  if (o.bos) put(*o.bos, false);
  for (std::size_t i = w.begin; i < w.end; ++i) {
    const std::int32_t x = stream[i];
    if (x == document_end) {
      close();
    } else if (x == sentence_end) {
      // A piece that begins behind a cut sentence may begin with its end.
      if (open.tokens.size() == (o.bos ? 1U : 0U)) continue;
      for (index_t g = 0; g < o.n_gist; ++g) {
        put(static_cast<token_t>(o.first_gist + g), o.gist_targets);
      }
    } else if (x < document_end) {
      put(-3 - x, false);
    } else {
      put(x, true);
    }
  }
  close();
  return found;
}

/// A permutation of [0, n) that depends on seed and epoch only.
inline std::vector<std::int32_t> shuffled(index_t n, std::uint64_t seed, index_t epoch) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  random_generator random(splitmix64(seed) + static_cast<std::uint64_t>(epoch));
  for (index_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<std::size_t>(i)],
              order[static_cast<std::size_t>(random.below(i + 1))]);
  }
  return order;
}

}  // namespace gistkv::train
