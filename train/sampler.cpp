#include "train/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace spectrain {

std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, double draw) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  };
  if (options.temperature <= 0) return *std::min_element(order.begin(), order.end(), likelier);
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(order.size())) {
    std::nth_element(order.begin(), order.begin() + options.top_k - 1, order.end(), likelier);
    order.resize(static_cast<std::size_t>(options.top_k));
    std::sort(order.begin(), order.end());  // one order of summation, whatever nth_element left
  }
  const float top = logit(*std::min_element(order.begin(), order.end(), likelier));
  std::vector<double> cumulative;
  double sum = 0;
  for (const std::int32_t id : order)
    cumulative.push_back(sum += std::exp((static_cast<double>(logit(id)) - top) / options.temperature));
  const auto it = std::upper_bound(cumulative.begin(), cumulative.end(), draw * sum);
  return order[static_cast<std::size_t>(std::min(it, cumulative.end() - 1) - cumulative.begin())];
}

Sampler::Sampler(const TransformerConfig& model, Parameters& parameters, DType compute)
    : model_(model), parameters_(parameters), compute_(compute) {
  logits_ = parameters.backend().allocate(static_cast<std::size_t>(model.padded_vocab) * 4, "logits");
}

Sampler::~Sampler() = default;

Program& Sampler::program_for(std::int64_t length, std::int64_t& capacity) {
  capacity = 16;
  while (capacity < length) capacity *= 2;
  capacity = std::min(capacity, model_.context);
  std::unique_ptr<Program>& program = programs_[capacity];
  if (!program) {
    Tape tape;
    const Value hidden = transformer_hidden(tape, model_, 1, capacity);
    ProgramOptions options;
    options.compute = compute_;
    options.training = false;
    program = std::make_unique<Program>(tape, hidden, parameters_, options);
  }
  return *program;
}

std::vector<float> Sampler::next_logits(std::span<const std::int32_t> tokens) {
  if (tokens.empty()) throw std::logic_error("sampling needs at least one token to go on from");
  const auto longest = static_cast<std::size_t>(model_.context);
  const auto seen = tokens.last(std::min(tokens.size(), longest));
  std::int64_t capacity = 0;
  Program& program = program_for(static_cast<std::int64_t>(seen.size()), capacity);
  std::vector<std::int32_t> padded(seen.begin(), seen.end());
  padded.resize(static_cast<std::size_t>(capacity), 0);  // later positions cannot be seen by earlier ones
  set_tokens(program, model_, padded, capacity, 1);
  program.forward();

  Backend& backend = parameters_.backend();
  const auto head = static_cast<std::size_t>(parameters_.find(model_.tied ? "wte" : "head"));
  const int bias = model_.head_bias ? parameters_.find("head.bias") : -1;
  const Tensor row = program.result().slice_rows(static_cast<std::int64_t>(seen.size()) - 1, 1);
  const Tensor logits = logits_->view(DType::f32, Shape{1, model_.padded_vocab});
  backend.linear(row, parameters_.prepared(head),
                 bias < 0 ? Tensor{} : parameters_.view(static_cast<std::size_t>(bias)).value,
                 Activation::none, {}, logits);
  std::vector<float> values(static_cast<std::size_t>(model_.padded_vocab));
  backend.copy_to_host(values.data(), logits);
  values.resize(static_cast<std::size_t>(model_.vocab));
  for (float& z : values) z = static_cast<float>(softcapped(model_.softcap, z));
  return values;
}

void Sampler::extend(std::vector<std::int32_t>& tokens, std::int64_t count, const SamplingOptions& options,
                     std::int32_t stop, const std::function<void(std::int32_t)>& each) {
  const RandomKey key{options.seed, stream_of("sample")};
  for (std::int64_t i = 0; i < count; ++i) {
    const double draw = static_cast<double>(random_u64(key, static_cast<std::uint64_t>(i)) >> 11) * 0x1p-53;
    const std::int32_t next = choose_token(next_logits(tokens), options, draw);
    if (next == stop) return;
    tokens.push_back(next);
    if (each) each(next);
  }
}

}  // namespace spectrain
