#include "tests/model/model_run.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace spectrain::test {
namespace {

std::uint64_t splitmix(std::uint64_t state) {
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

std::uint64_t hashed(std::uint64_t stream, std::uint64_t index) {
  return splitmix(stream + (index + 1) * 0x9E3779B97F4A7C15ull);
}

ProgramOptions without_training(ProgramOptions options) {
  options.training = false;
  return options;
}

}  // namespace

std::vector<double> values_of(Backend& backend, const Tensor& tensor) {
  backend.synchronize();
  const auto n = static_cast<std::size_t>(tensor.numel());
  std::vector<double> values(n);
  if (tensor.dtype == DType::f64) {
    backend.copy_to_host(values.data(), tensor);
  } else if (tensor.dtype == DType::f32) {
    std::vector<float> raw(n);
    backend.copy_to_host(raw.data(), tensor);
    std::copy(raw.begin(), raw.end(), values.begin());
  } else {
    std::vector<bf16> raw(n);
    backend.copy_to_host(raw.data(), tensor);
    std::transform(raw.begin(), raw.end(), values.begin(), [](bf16 x) { return static_cast<float>(x); });
  }
  return values;
}

void set_values(Backend& backend, const Tensor& tensor, const std::vector<double>& values) {
  if (static_cast<std::int64_t>(values.size()) != tensor.numel())
    throw std::logic_error("set_values: wrong number of elements");
  if (tensor.dtype == DType::f64) {
    backend.copy_from_host(tensor, values.data());
  } else {
    std::vector<float> raw(values.size());
    std::transform(values.begin(), values.end(), raw.begin(), [](double x) { return static_cast<float>(x); });
    backend.copy_from_host(tensor, raw.data());
  }
  backend.synchronize();
}

std::vector<double> golden_weight(const ParameterInfo& info) {
  const std::uint64_t stream = stream_of(info.name.c_str());
  const std::int64_t real = info.shape.numel() / info.shape[0] * info.logical_rows;
  std::vector<double> values(static_cast<std::size_t>(info.shape.numel()), 0.0);
  for (std::int64_t i = 0; i < real; ++i) {
    const std::uint64_t h = hashed(stream, static_cast<std::uint64_t>(i));
    const double u = static_cast<double>(h >> 48) / 32768 - 1;
    double& x = values[static_cast<std::size_t>(i)];
    if (info.name.ends_with("gain"))
      x = 1 + u / 8;
    else if (info.name.ends_with("bias"))
      x = u / 8;
    else if (info.shape == Shape{1})
      x = 0.5 + u / 4;
    else
      x = u / 4;
  }
  return values;
}

ModelRun::ModelRun(Backend& backend, const ProgramOptions& options, const Recorder& record)
    : backend_(backend),
      losses_(record(tape_)),
      parameters_(tape_, backend, options.compute, options.training),
      program_(tape_, losses_, parameters_, options),
      evaluation_(tape_, losses_, parameters_, without_training(options)) {}

ModelRun::ModelRun(Backend& backend, const TransformerConfig& config, std::int64_t batch,
                   std::int64_t context, const ProgramOptions& options)
    : ModelRun(backend, options,
               [&](Tape& tape) { return transformer(tape, config.resolved(), batch, context); }) {
  config_ = config.resolved();
  context_ = context;
}

void ModelRun::set_golden_weights() {
  for (const ParameterView& p : parameters_.views()) set_values(backend_, p.value, golden_weight(*p.info));
  parameters_.refresh();
}

void ModelRun::set_batch(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets,
                         double progress) {
  for (Program* program : {&program_, &evaluation_}) {
    if (config_)
      set_tokens(*program, *config_, tokens, context_, progress);
    else
      program->set_input("tokens", tokens);
    program->set_input("targets", targets);
  }
}

Gradients ModelRun::gradients() {
  return gradients(1.0 / static_cast<double>(tape_.shape(losses_).numel()), false);
}

Gradients ModelRun::gradients(double scale, bool accumulate) {
  program_.forward_backward(scale, accumulate);
  Gradients g;
  g.losses = program_.host_result();
  for (const ParameterView& p : parameters_.views()) g.of[p.info->name] = values_of(backend_, p.gradient);
  return g;
}

double ModelRun::mean_loss() {
  evaluation_.forward();
  const std::vector<double> losses = evaluation_.host_result();
  double sum = 0;
  for (const double x : losses) sum += x;
  return sum / static_cast<double>(losses.size());
}

std::vector<std::int32_t> some_tokens(std::int64_t count, std::int64_t vocab, std::uint64_t seed) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>((hashed(seed, static_cast<std::uint64_t>(i)) >> 33) %
                                               static_cast<std::uint64_t>(vocab)));
  return tokens;
}

double largest(const std::vector<double>& x) {
  double most = 0;
  for (const double v : x) most = std::isnan(v) ? INFINITY : std::max(most, std::abs(v));
  return most;
}

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) throw std::logic_error("relative_error: different sizes");
  std::vector<double> difference(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  const double error = largest(difference);
  return error == 0 ? 0 : error / largest(b);
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

}  // namespace spectrain::test
