// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace gistkv {

/// XXH64 (Y. Collet, the xxHash fast digest algorithm, specification 0.1.1) over bytes that arrive
/// in pieces; the digest does not depend on the cuts. Several GB/s on one core. It finds accidents,
/// not forgeries: it is no cryptographic hash.
class xxh64 {
 public:
  explicit constexpr xxh64(std::uint64_t seed = 0)
      : lanes_{seed + prime_1 + prime_2, seed + prime_2, seed, seed - prime_1}, seed_(seed) {}

  xxh64& update(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    if (n_pending_ != 0) {
      const std::size_t n = std::min(bytes.size(), stripe - n_pending_);
      std::copy_n(bytes.begin(), n, pending_.begin() + static_cast<std::ptrdiff_t>(n_pending_));
      n_pending_ += n;
      bytes = bytes.subspan(n);
      if (n_pending_ < stripe) return *this;
      consume(pending_.data(), stripe);
      n_pending_ = 0;
    }
    const std::size_t whole = bytes.size() - bytes.size() % stripe;
    consume(bytes.data(), whole);
    const auto rest = bytes.subspan(whole);
    std::copy(rest.begin(), rest.end(), pending_.begin());
    n_pending_ = rest.size();
    return *this;
  }

  xxh64& update(std::string_view text) { return update(std::as_bytes(std::span(text))); }

  /// Digest of all bytes so far; more may follow.
  std::uint64_t digest() const {
    std::uint64_t h = seed_ + prime_5;
    if (length_ >= stripe) {
      h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
          std::rotl(lanes_[3], 18);
      for (const std::uint64_t lane : lanes_) h = (h ^ round(0, lane)) * prime_1 + prime_4;
    }
    h += length_;
    const std::byte* at = pending_.data();
    std::size_t n = n_pending_;
    for (; n >= 8; n -= 8, at += 8) {
      h = std::rotl(h ^ round(0, load<std::uint64_t>(at)), 27) * prime_1 + prime_4;
    }
    if (n >= 4) {
      h = std::rotl(h ^ (load<std::uint32_t>(at) * prime_1), 23) * prime_2 + prime_3;
      n -= 4;
      at += 4;
    }
    for (; n > 0; --n, ++at) {
      h = std::rotl(h ^ (std::to_integer<std::uint64_t>(*at) * prime_5), 11) * prime_1;
    }
    h = (h ^ (h >> 33)) * prime_2;
    h = (h ^ (h >> 29)) * prime_3;
    return h ^ (h >> 32);
  }

 private:
  static constexpr std::size_t stripe = 32;
  static constexpr std::uint64_t prime_1 = 0x9E3779B185EBCA87ULL;
  static constexpr std::uint64_t prime_2 = 0xC2B2AE3D27D4EB4FULL;
  static constexpr std::uint64_t prime_3 = 0x165667B19E3779F9ULL;
  static constexpr std::uint64_t prime_4 = 0x85EBCA77C2B2AE63ULL;
  static constexpr std::uint64_t prime_5 = 0x27D4EB2F165667C5ULL;

  /// The algorithm reads words in little-endian order on every host.
  template <class Word>
  static Word load(const std::byte* at) {
    Word word = 0;
    if constexpr (std::endian::native == std::endian::little) {
      std::memcpy(&word, at, sizeof word);
    } else {
      for (std::size_t i = sizeof word; i > 0; --i) {
        word = static_cast<Word>((word << 8) | std::to_integer<Word>(at[i - 1]));
      }
    }
    return word;
  }

  static constexpr std::uint64_t round(std::uint64_t lane, std::uint64_t word) {
    return std::rotl(lane + word * prime_2, 31) * prime_1;
  }

  void consume(const std::byte* at, std::size_t n) {
    std::array<std::uint64_t, 4> lanes = lanes_;  // Locals, so that they stay in registers.
    for (const std::byte* end = at + n; at != end; at += stripe) {
      lanes[0] = round(lanes[0], load<std::uint64_t>(at));
      lanes[1] = round(lanes[1], load<std::uint64_t>(at + 8));
      lanes[2] = round(lanes[2], load<std::uint64_t>(at + 16));
      lanes[3] = round(lanes[3], load<std::uint64_t>(at + 24));
    }
    lanes_ = lanes;
  }

  std::array<std::uint64_t, 4> lanes_;
  std::uint64_t seed_;
  std::uint64_t length_ = 0;
  std::array<std::byte, stripe> pending_{};
  std::size_t n_pending_ = 0;
};

/// XXH64 of a sequence of bytes.
inline std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed = 0) {
  return xxh64(seed).update(bytes).digest();
}

}  // namespace gistkv
