#pragma once

#include <bit>
#include <cstdint>

#include "kernels/random.h"

namespace spectrain {

// A keyed permutation of 0 .. size - 1 that needs no table: shuffling 10^8 windows costs no memory and no
// start-up time, and position i of epoch e is known without the positions before it. A balanced Feistel
// network over the smallest even number of bits that holds `size`, its round function a Philox word, walking
// the cycle until the value lies below `size` (Black and Rogaway, "Ciphers with arbitrary finite domains",
// 2002: fewer than 4 walks on average, because the domain is less than 4 times as large).
class KeyedPermutation {
 public:
  KeyedPermutation(std::uint64_t size, RandomKey key)
      : size_(size),
        half_bits_(half_bits_for(size)),
        mask_((std::uint64_t{1} << half_bits_) - 1),
        key_(key) {}

  std::uint64_t operator()(std::uint64_t index) const {
    do index = encrypt(index);
    while (index >= size_);
    return index;
  }

 private:
  static constexpr std::uint64_t kRounds = 8;

  static int half_bits_for(std::uint64_t size) {
    const int bits = size > 1 ? std::bit_width(size - 1) : 1;
    return (bits + 1) / 2;
  }

  std::uint64_t encrypt(std::uint64_t value) const {
    std::uint64_t left = value >> half_bits_, right = value & mask_;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (philox(key_, round << 32 | right).v[0] & mask_);
      left = right;
      right = mixed;
    }
    return left << half_bits_ | right;
  }

  std::uint64_t size_;
  int half_bits_;
  std::uint64_t mask_;
  RandomKey key_;
};

}  // namespace spectrain
