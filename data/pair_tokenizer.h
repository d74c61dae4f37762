#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "data/pair_merges.h"
#include "data/tokenizer.h"

namespace spectrain {

// Byte-pair encoding over GPT-2's words: what GPT-2's own tokenizer and the ones trained here share. A word's
// ids are found once per thread and remembered: text is mostly words seen before.
class PairTokenizer : public Tokenizer {
 public:
  ~PairTokenizer() override;
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;

 protected:
  PairTokenizer(std::vector<std::string> tokens, std::int32_t end_of_text,
                const std::vector<PairMerges::Merge>& merges);

 private:
  class Session;  // one thread's splitter and memory
  std::unique_ptr<Session> borrow() const;

  PairMerges merges_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Session>> idle_;
};

// Builders of the kinds, each from the directory or file it was saved as (load_tokenizer chooses).
std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::string& directory);
std::unique_ptr<Tokenizer> make_bytes_tokenizer();

}  // namespace spectrain
