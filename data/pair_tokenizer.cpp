#include "data/pair_tokenizer.h"

#include <array>
#include <cstring>
#include <utility>

#include "data/word_splitter.h"

namespace spectrain {
namespace {

// The id of each single byte, from the tokens' own bytes.
std::array<std::int32_t, 256> byte_ids(const std::vector<std::string>& tokens) {
  std::array<std::int32_t, 256> ids{};
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].size() == 1)
      ids[static_cast<unsigned char>(tokens[id][0])] = static_cast<std::int32_t>(id);
  }
  return ids;
}

// Remembers the ids of short words: direct-mapped, one cache line per word, the newer word wins. 8 MiB a
// thread: frequent words stay in the near caches all the same, and with 2 MiB so many words miss that English
// text goes at about half the speed.
class WordMemory {
 public:
  struct Slot {
    static constexpr std::size_t kBytes = 22, kIds = 10;
    std::uint8_t length = 0, count = 0;
    char bytes[kBytes] = {};
    std::int32_t ids[kIds] = {};
  };
  static_assert(sizeof(Slot) == 64);

  Slot& slot(std::string_view word) {
    std::uint64_t parts[3] = {};
    std::memcpy(parts, word.data(), word.size());
    std::uint64_t h = (parts[0] ^ (parts[1] * 0x9E3779B97F4A7C15ull)) + word.size();
    h = (h ^ (h >> 32) ^ (parts[2] * 0xC2B2AE3D27D4EB4Full)) * 0xD6E8FEB86659FD93ull;
    return slots_[static_cast<std::size_t>(h >> (64 - kBits))];
  }

 private:
  static constexpr int kBits = 17;
  std::vector<Slot> slots_ = std::vector<Slot>(std::size_t{1} << kBits);
};

}  // namespace

class PairTokenizer::Session {
 public:
  void encode(const PairMerges& merges, std::string_view text, std::vector<std::int32_t>& ids) {
    splitter_.start(text);
    for (std::string_view word; splitter_.next(word);) encode_word(merges, word, ids);
  }

 private:
  void encode_word(const PairMerges& merges, std::string_view word, std::vector<std::int32_t>& ids) {
    using Slot = WordMemory::Slot;
    if (word.size() > Slot::kBytes) return merges.encode(word, ids);
    Slot& slot = memory_.slot(word);
    if (slot.length == word.size() && std::memcmp(slot.bytes, word.data(), word.size()) == 0) {
      ids.insert(ids.end(), slot.ids, slot.ids + slot.count);
      return;
    }
    const std::size_t before = ids.size();
    merges.encode(word, ids);
    const std::size_t count = ids.size() - before;
    if (count > Slot::kIds) return;
    slot.length = static_cast<std::uint8_t>(word.size());
    slot.count = static_cast<std::uint8_t>(count);
    std::memcpy(slot.bytes, word.data(), word.size());
    std::memcpy(slot.ids, ids.data() + before, count * sizeof(std::int32_t));
  }

  WordSplitter splitter_;
  WordMemory memory_;
};

PairTokenizer::PairTokenizer(std::vector<std::string> tokens, std::int32_t end_of_text,
                             const std::vector<PairMerges::Merge>& merges)
    : Tokenizer(std::move(tokens), end_of_text), merges_(byte_ids(tokens_), merges) {}

PairTokenizer::~PairTokenizer() = default;

std::unique_ptr<PairTokenizer::Session> PairTokenizer::borrow() const {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto session = std::move(idle_.back());
      idle_.pop_back();
      return session;
    }
  }
  return std::make_unique<Session>();
}

void PairTokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  auto session = borrow();
  session->encode(merges_, text, ids);
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(session));
}

}  // namespace spectrain
