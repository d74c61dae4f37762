#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "optim/optimizer.h"
#include "train/lab/network.h"
#include "train/session.h"

namespace spectrain::lab {

// The tokens of a text, in documents' order, each document after an end of text.
struct LanguageText {
  std::int64_t vocab = 0;
  std::vector<std::int32_t> train, held_out;
};

// Learns a byte-pair tokenizer of `vocab` ids on the first `bytes` of a file (plain, .gz or .xz; documents
// are separated by <|endoftext|> where it has any) and tokenizes them: the last sixteenth is held out. `file`
// empty: English Wikipedia, text/wikipedia_en/train_00.txt, in the folder `data`. Throws RequestError where
// there is no such file or too little text in it.
LanguageText read_language_text(const std::string& data, const std::string& file, std::int64_t bytes,
                                std::int64_t vocab);

// A text and the size of what is trained on it, as an experiment's options.
struct LanguageTask {
  std::string text = {};  // a file; empty: as above
  std::int64_t text_bytes = 0, vocab = 0, layers = 0, width = 0, context = 0;

  void describe(OptionVisitor& v);
  LanguageText read(const std::string& data) const {
    return read_language_text(data, text, text_bytes, vocab);
  }
  // Rotary positions, RMS norms, no biases, a head of its own; heads of 64 elements, or one.
  TransformerConfig transformer() const;
};

// Which role the optimizer sees in a matrix: `name` is the parameter's, and of a fused one's part with the
// part's number behind it ("h.0.attention.qkv.weight.0", .1, .2: queries, keys, values).
using RoleOf = std::function<Role(std::string_view name, Role role)>;

struct LanguageOptions {
  TransformerConfig model;  // vocab and context are filled in
  std::int64_t context = 256;
  std::int64_t sequences = 8;  // of a step
  std::vector<GroupConfig> groups;
  RoleOf role_of;  // empty: the roles as they are
  std::uint64_t seed = 1;
};

// A small transformer in training, in bf16 with float32 weights. Sequences are drawn without replacement
// from the text's windows, in an order that depends on the seed alone: not on the batch or the rules.
class LanguageModel {
 public:
  LanguageModel(Backend& backend, const LanguageText& text, LanguageOptions options);
  ~LanguageModel();

  // One step on the next sequences: the mean loss before it; NaN, and nothing learned, where the gradient is
  // not finite.
  double step(double lr_factor);
  // Mean loss over the first `tokens` of the text held out, in whole sequences; `each` as in evaluate().
  double held_out(std::int64_t tokens, const EachLoss& each = {});
  ModelCount size() const;

 private:
  void read(std::span<const std::int32_t> from, std::int64_t window, std::size_t row);
  std::int64_t next_window();

  Backend& backend_;
  const LanguageText& text_;
  LanguageOptions options_;
  std::unique_ptr<Session> session_;
  std::vector<std::unique_ptr<ParameterInfo>> parts_;  // what the optimizer's parameters are called
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<std::int64_t> order_;             // of the windows, in this epoch
  std::vector<std::int32_t> tokens_, targets_;  // of one micro-batch
  std::int64_t steps_ = 0, sequences_read_ = 0;
};

}  // namespace spectrain::lab
