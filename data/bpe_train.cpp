#include "data/bpe_train.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <unordered_map>

#include "data/documents.h"
#include "data/word_splitter.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

struct PairHash {
  std::size_t operator()(const TokenPair& p) const {
    const auto key = static_cast<std::uint64_t>(static_cast<std::uint32_t>(p.left)) << 32 |
                     static_cast<std::uint32_t>(p.right);
    return static_cast<std::size_t>((key ^ key >> 29) * 0x9E3779B97F4A7C15ull >> 7);
  }
};

struct Occurrences {
  std::int64_t count = 0;
  std::vector<std::uint32_t> words;  // that hold it or once held it
};

struct Candidate {
  std::int64_t count;
  TokenPair pair;
  // The order of a heap: the better candidate is the larger.
  bool operator<(const Candidate& other) const {
    if (count != other.count) return count < other.count;
    if (pair.left != other.pair.left) return pair.left > other.pair.left;
    return pair.right > other.pair.right;
  }
};

class MergeLearner {
 public:
  explicit MergeLearner(const WordCounts& words) {
    words_.reserve(words.size());
    for (const auto& [bytes, count] : words) {
      std::vector<std::int32_t> ids;
      for (const char c : bytes) ids.push_back(static_cast<unsigned char>(c));
      const auto index = static_cast<std::uint32_t>(words_.size());
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) add({ids[i], ids[i + 1]}, count, index);
      words_.push_back(std::move(ids));
      counts_.push_back(count);
    }
    for (const auto& [pair, found] : pairs_) heap_.push({found.count, pair});
  }

  // The most frequent pair, or one with count 0 when none is left.
  Candidate best() {
    // A pair that existed before only becomes rarer (merging makes new neighbours only of the new id), so an
    // entry never understates; one that overstates goes back with its true count.
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      const std::int64_t now = pairs_[top.pair].count;
      if (now == top.count) return top;
      heap_.pop();
      if (now > 0) heap_.push({now, top.pair});
    }
    return {0, {}};
  }

  void merge(TokenPair pair, std::int32_t result) {
    const std::vector<std::uint32_t> touched = std::move(pairs_[pair].words);
    new_pairs_.clear();
    std::uint32_t last = UINT32_MAX;
    for (const std::uint32_t word : touched) {
      if (word != last) rewrite(word, pair, result);
      last = word;
    }
    pairs_.erase(pair);
    for (const TokenPair& made : new_pairs_) heap_.push({pairs_[made].count, made});
  }

 private:
  void add(TokenPair pair, std::int64_t count, std::uint32_t word) {
    Occurrences& found = pairs_[pair];
    found.count += count;
    if (found.words.empty() || found.words.back() != word) found.words.push_back(word);
  }

  void rewrite(std::uint32_t index, TokenPair pair, std::int32_t result) {
    std::vector<std::int32_t>& ids = words_[index];
    const std::int64_t count = counts_[index];
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) pairs_[{ids[i], ids[i + 1]}].count -= count;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < ids.size(); ++kept) {
      const bool joins = i + 1 < ids.size() && ids[i] == pair.left && ids[i + 1] == pair.right;
      ids[kept] = joins ? result : ids[i];
      i += joins ? 2 : 1;
    }
    ids.resize(kept);
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const TokenPair now{ids[i], ids[i + 1]};
      if (now.left == result || now.right == result) {
        const auto [place, fresh] = pairs_.try_emplace(now);
        if (fresh) new_pairs_.push_back(now);
        add(now, count, index);
      } else {
        pairs_[now].count += count;  // this word is already in its list
      }
    }
  }

  std::vector<std::vector<std::int32_t>> words_;
  std::vector<std::int64_t> counts_;
  std::unordered_map<TokenPair, Occurrences, PairHash> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<TokenPair> new_pairs_;
};

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using CountMap = std::unordered_map<std::string, std::int64_t, TextHash, std::equal_to<>>;

void count_words(WordSplitter& splitter, std::string_view text, CountMap& counts) {
  splitter.start(text);
  for (std::string_view word; splitter.next(word);) {
    const auto found = counts.find(word);
    if (found != counts.end()) {
      ++found->second;
    } else {
      counts.emplace(word, 1);
    }
  }
}

WordCounts joined(std::vector<CountMap>& counts) {
  CountMap& all = counts.front();
  for (std::size_t i = 1; i < counts.size(); ++i) {
    for (const auto& [word, count] : counts[i]) all[word] += count;
    counts[i].clear();
  }
  WordCounts words(all.begin(), all.end());
  std::sort(words.begin(), words.end());
  return words;
}

}  // namespace

std::vector<TokenPair> learn_merges(const WordCounts& words, std::int64_t merges) {
  MergeLearner learner(words);
  std::vector<TokenPair> learned;
  while (static_cast<std::int64_t>(learned.size()) < merges) {
    const Candidate best = learner.best();
    if (best.count == 0) break;
    learner.merge(best.pair, static_cast<std::int32_t>(256 + learned.size()));
    learned.push_back(best.pair);
  }
  return learned;
}

BpeTrainResult train_bpe(const BpeTrainOptions& options) {
  constexpr std::int64_t kWithoutMerges = 257;
  if (options.vocab_size < kWithoutMerges || options.vocab_size > INT32_MAX) {
    throw RequestError(
        fmt::format("a byte-level vocabulary of {} ids cannot be; ask for at least {} (256 bytes and "
                    "the end of text)",
                    options.vocab_size, kWithoutMerges));
  }
  DocumentReader reader(expand_inputs(options.inputs), options.split_on);
  const int threads = options.threads > 0 ? options.threads : available_threads();
  std::vector<WordSplitter> splitters(static_cast<std::size_t>(threads));
  std::vector<CountMap> counts(static_cast<std::size_t>(threads));
  BpeTrainResult result;
  for_each_piece(
      reader, threads,
      [&](int worker, std::size_t, const DocumentPiece& piece) {
        const auto w = static_cast<std::size_t>(worker);
        count_words(splitters[w], piece.text, counts[w]);
      },
      [&](const std::vector<DocumentPiece>& batch) {
        for (const DocumentPiece& piece : batch) {
          result.documents += piece.begins;
          result.bytes += static_cast<std::int64_t>(piece.text.size());
        }
      });
  const WordCounts words = joined(counts);
  result.distinct_words = static_cast<std::int64_t>(words.size());
  for (const auto& [word, count] : words) result.words += count;
  auto merges = learn_merges(words, options.vocab_size - kWithoutMerges);
  const std::int64_t reached = kWithoutMerges + static_cast<std::int64_t>(merges.size());
  if (reached < options.vocab_size) {
    throw RequestError(
        fmt::format("the text ({} bytes) allows a vocabulary of at most {} ids, not {}; ask for fewer "
                    "or give more text",
                    result.bytes, reached, options.vocab_size));
  }
  result.tokenizer = make_bpe_tokenizer(std::move(merges));
  return result;
}

}  // namespace spectrain
