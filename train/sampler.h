#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "model/program.h"
#include "model/transformer.h"

namespace spectrain {

struct SamplingOptions {
  double temperature = 1;  // logits are divided by it; 0: always the likeliest token
  std::int64_t top_k = 0;  // only the k likeliest tokens; 0: all
  std::uint64_t seed = 1;
};

// Chooses one token from logits [vocab]. `draw` in [0, 1). Ties go to the smaller id.
std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, double draw);

// Extends a sequence token by token. Each step runs the model over the last at most `context` tokens, in a
// program of the next power of two of their number.
class Sampler {
 public:
  // `parameters` must have been declared by transformer() with the same configuration.
  Sampler(const TransformerConfig& model, Parameters& parameters, DType compute);
  ~Sampler();

  // Logits (after the softcap) of the token that follows `tokens`.
  std::vector<float> next_logits(std::span<const std::int32_t> tokens);

  // Appends `count` tokens to `tokens`, telling `each` (may be empty) every new one; stops after `stop` (-1:
  // never).
  void extend(std::vector<std::int32_t>& tokens, std::int64_t count, const SamplingOptions& options,
              std::int32_t stop, const std::function<void(std::int32_t)>& each);

 private:
  Program& program_for(std::int64_t length, std::int64_t& capacity);

  TransformerConfig model_;
  Parameters& parameters_;
  DType compute_;
  std::map<std::int64_t, std::unique_ptr<Program>> programs_;  // by capacity
  std::unique_ptr<Buffer> logits_;
};

}  // namespace spectrain
