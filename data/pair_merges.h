#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace spectrain {

// The merges of a byte-pair encoding as a hash table, and the encoding of one word by them: begin with the
// ids of its bytes; while any two neighbours have a merge, replace the leftmost pair of smallest rank
// (Sennrich, Haddow, Birch 2016).
class PairMerges {
 public:
  struct Merge {
    std::int32_t left = 0, right = 0, result = 0;  // its rank is its place in the list
  };
  PairMerges(const std::array<std::int32_t, 256>& byte_ids, const std::vector<Merge>& merges);

  // Appends the ids of the word. O(n^2) for the short words that text is made of, O(n log n) from kLongWord
  // bytes on.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  static constexpr std::int32_t kNone = INT32_MAX;
  static constexpr std::size_t kLongWord = 64;

  struct Entry {
    std::uint64_t pair = 0;
    std::int32_t rank = kNone;  // kNone: a free place
    std::int32_t result = 0;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t place(std::uint64_t pair) const {
    return static_cast<std::size_t>(pair * 0x9E3779B97F4A7C15ull >> shift_);
  }
  const Entry& find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t pair = key(left, right);
    std::size_t i = place(pair);
    while (table_[i].rank != kNone && table_[i].pair != pair) i = (i + 1) & (table_.size() - 1);
    return table_[i];
  }
  void encode_short(std::string_view word, std::vector<std::int32_t>& ids) const;
  void encode_long(std::string_view word, std::vector<std::int32_t>& ids) const;

  std::array<std::int32_t, 256> byte_ids_;
  std::vector<Entry> table_;  // open addressing, at most half full
  int shift_ = 0;
};

}  // namespace spectrain
