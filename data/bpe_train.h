#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer.h"

namespace spectrain {

struct BpeTrainOptions {
  std::int64_t vocab_size = 0;  // 256 bytes + merges + end of text
  std::string split_on;         // as in PackOptions
  int threads = 0;              // 0: all this process may use
  std::vector<std::string> inputs;
};

struct BpeTrainResult {
  std::unique_ptr<Tokenizer> tokenizer;
  std::int64_t documents = 0, bytes = 0, words = 0, distinct_words = 0;
};

// Words of GPT-2's splitting with how often each occurs; sorted by bytes, each once.
using WordCounts = std::vector<std::pair<std::string, std::int64_t>>;

// Byte-pair encoding (Sennrich, Haddow, Birch 2016) over bytes, no merge across words. Each round counts all
// neighbouring ids, over all words times their counts ("aaa" holds the pair a,a twice), joins the most
// frequent pair everywhere from left to right under the next id, and stops after `merges` rounds. Among
// equally frequent pairs the one with the smallest left id wins, then the smallest right id. Returns fewer
// merges only where no pair is left.
std::vector<TokenPair> learn_merges(const WordCounts& words, std::int64_t merges);

// Counts the words of all inputs (on several threads) and learns vocab_size - 257 merges. The same text gives
// the same tokenizer on any number of threads. Throws RequestError for a vocab_size below 257 or one the text
// is too small for (naming the largest possible), and for inputs as pack_documents does.
BpeTrainResult train_bpe(const BpeTrainOptions& options);

}  // namespace spectrain
