#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "kernels/collectives.h"
#include "kernels/gpu_peaks.h"
#include "optim/distributed_optimizer.h"
#include "train/bench_profile.h"
#include "train/clock.h"
#include "train/commands.h"
#include "train/peak.h"
#include "train/session.h"

namespace spectrain {
namespace {

struct Timing {
  double median = 0, fastest = 0, slowest = 0;  // seconds per step
};

Timing summary(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

// Tokens nobody learned anything from, spread over the vocabulary.
std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, const char* name) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(
        random_u32({1, stream_of(name)}, static_cast<std::uint64_t>(i)) % static_cast<std::uint32_t>(vocab)));
  return tokens;
}

RunConfig bench_config(const BenchRequest& request) {
  RunConfig c = with_resolved_model(load_config(request.config, request.overrides, ConfigUse::model));
  if (c.optimizer.groups.empty()) throw RequestError("bench needs an optimizer in the configuration");
  if (request.context > 0) c.batch.context = request.context;
  if (c.batch.context > c.model.context)
    throw RequestError(fmt::format("--context {} is longer than the model's context of {}", c.batch.context,
                                   c.model.context));
  if (request.batch > 0)
    c.batch.micro_batch = request.batch;
  else
    c.batch.micro_batch = c.micro_batch();
  c.batch.tokens = c.batch.micro_batch * c.batch.context;
  return c;
}

struct BenchResult {
  Timing step, model, update;
  double first_step = 0;  // seconds from the program's start to the end of the first step
  double peak = 0;        // FLOP/s measured in a matrix product
  ModelCount count;
  double tokens_per_second = 0;
  double share_of_peak = 0;
  std::optional<StepProfile> profile;
  std::optional<double> mfu;  // share of the data sheet's peak, where there is one
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of what the data sheet promises. Of a CPU, of a GPU that is not in the table and of float32 nobody promised
// anything.
std::optional<double> model_flops_utilization(const RunConfig& config, const Backend& backend, double flops) {
  if (backend.name() != "cuda" || config.compute.precision != DType::bf16) return std::nullopt;
  const std::string device = backend.description();
  const auto peaks = gpu_peaks(std::string_view(device).substr(0, device.find(", ")));
  return peaks ? std::optional(flops / peaks->bf16_flops) : std::nullopt;
}

// The steps of one rank, as `train` makes them.
class Steps {
 public:
  Steps(const RunConfig& config, Backend& backend, Session& session)
      : config_(config),
        backend_(backend),
        session_(session),
        optimizer_(backend, session.parameters(), config.optimizer, *alone_, {}),
        loss_(backend.allocate(sizeof(double), "the loss of a step")),
        tokens_(random_tokens(config.batch.tokens, config.model.vocab, "bench tokens")),
        targets_(random_tokens(config.batch.tokens, config.model.vocab, "bench targets")) {
    optimizer_.initialize(config.run.seed);
  }

  void gradients() {
    const Tensor loss = loss_->view(DType::f64, {1});
    backend_.fill(loss, 0);
    session_.set_training_batch(tokens_, targets_);
    session_.training().forward_backward(1.0 / static_cast<double>(config_.batch.tokens), false);
    session_.training().add_result_to(loss);
  }
  void update() { optimizer_.step(step_++, 1, loss_->view(DType::f64, {1}), {}); }
  void settle() {
    optimizer_.finish_step();
    backend_.synchronize();
  }
  DistributedOptimizer& optimizer() { return optimizer_; }

 private:
  const RunConfig& config_;
  Backend& backend_;
  Session& session_;
  std::unique_ptr<Collectives> alone_ = make_single_collectives();
  DistributedOptimizer optimizer_;
  std::unique_ptr<Buffer> loss_;
  std::vector<std::int32_t> tokens_, targets_;
  std::int64_t step_ = 0;
};

BenchResult measure(const BenchRequest& request, const RunConfig& config, Backend& backend,
                    Session& session) {
  Steps steps(config, backend, session);
  BenchResult r;
  steps.gradients();  // memory is touched for the first time
  steps.update();
  steps.settle();
  r.first_step = seconds_since_process_start();
  std::vector<double> whole, model, update;
  if (backend.asynchronous()) {
    // The host is a step ahead. When it hears of the step before, another is over.
    constexpr int kWarmup = 3;  // a device records work in the second step, and begins to repeat it
    for (int i = 0; i < kWarmup; ++i) {
      steps.gradients();
      steps.update();
    }
    double begin = now();
    for (std::int64_t i = 0; i < request.steps; ++i) {
      steps.gradients();
      steps.update();
      const double end = now();
      whole.push_back(end - std::exchange(begin, end));
    }
    steps.settle();
  }
  for (std::int64_t i = 0; i < request.steps; ++i) {
    const double begin = now();
    steps.gradients();
    backend.synchronize();
    const double middle = now();
    steps.update();
    steps.settle();
    const double end = now();
    model.push_back(middle - begin);
    update.push_back(end - middle);
    if (!backend.asynchronous()) whole.push_back(end - begin);
  }
  r.step = summary(whole);
  r.model = summary(model);
  r.update = summary(update);
  r.peak = measure_peak(backend, config.compute.precision);
  r.count = spectrain::count(config.model, config.batch.context);
  r.tokens_per_second = static_cast<double>(config.batch.tokens) / r.step.median;
  const double flops = r.tokens_per_second * static_cast<double>(r.count.flops_per_token);
  r.share_of_peak = flops / r.peak;
  r.mfu = model_flops_utilization(config, backend, flops);
  if (request.profile) r.profile = profile_step(session, steps.optimizer(), r.peak, now);
  return r;
}

void print_json(const BenchRequest& request, const RunConfig& config, const Backend& backend,
                const BenchResult& r) {
  nlohmann::json j = {{"config", request.config},
                      {"device", backend.description()},
                      {"precision", std::string(name_of(config.compute.precision))},
                      {"parameters", r.count.parameters},
                      {"batch", config.batch.micro_batch},
                      {"context", config.batch.context},
                      {"steps", request.steps},
                      {"step_seconds", r.step.median},
                      {"step_seconds_fastest", r.step.fastest},
                      {"step_seconds_slowest", r.step.slowest},
                      {"forward_backward_seconds", r.model.median},
                      {"optimizer_seconds", r.update.median},
                      {"first_step_seconds", r.first_step},
                      {"tokens_per_second", r.tokens_per_second},
                      {"flops_per_token", r.count.flops_per_token},
                      {"peak_flops_per_second", r.peak},
                      {"share_of_peak", r.share_of_peak},
                      {"mfu", r.mfu ? nlohmann::json(*r.mfu) : nlohmann::json()},
                      {"allocated_bytes", backend.allocated_bytes()}};
  if (r.profile) j.update(json_of(*r.profile));
  fmt::print("{}\n", j.dump());
}

void print_text(const BenchRequest& request, const RunConfig& config, const Backend& backend,
                const BenchResult& r) {
  fmt::print("{}\n", backend.description());
  fmt::print("{:.1f}M parameters, {} sequences of {} tokens, {}\n",
             static_cast<double>(r.count.parameters) / 1e6, config.batch.micro_batch, config.batch.context,
             name_of(config.compute.precision));
  fmt::print("step           {:9.1f} ms   (fastest {:.1f}, slowest {:.1f}, {} steps)\n", r.step.median * 1e3,
             r.step.fastest * 1e3, r.step.slowest * 1e3, request.steps);
  fmt::print("  model        {:9.1f} ms   forward and backward\n", r.model.median * 1e3);
  fmt::print("  optimizer    {:9.1f} ms   {:.1f} % of the step, with preparing the new weights\n",
             r.update.median * 1e3, r.update.median / r.step.median * 100);
  fmt::print("tokens/s       {:9.0f}\n", r.tokens_per_second);
  fmt::print("of peak        {:9.1f} %    of {:.0f} GFLOP/s measured in a matrix product\n",
             r.share_of_peak * 100, r.peak / 1e9);
  if (backend.name() == "cuda")
    fmt::print("MFU            {:>9}      of the data sheet's dense bf16 peak\n",
               r.mfu ? fmt::format("{:.1f} %", *r.mfu * 100) : "n/a");
  fmt::print("first step     {:9.1f} s    after the program was started\n", r.first_step);
  fmt::print("memory         {:9.1f} MB\n", static_cast<double>(backend.allocated_bytes()) / 1e6);
  if (r.profile) fmt::print("\n{}", table_of(*r.profile));
}

}  // namespace

int run_bench(const BenchRequest& request) {
  const RunConfig config = bench_config(request);
  const std::unique_ptr<Backend> backend = make_backend(config.compute);
  Session session(config, *backend, true);
  const BenchResult result = measure(request, config, *backend, session);
  if (request.json)
    print_json(request, config, *backend, result);
  else
    print_text(request, config, *backend, result);
  return 0;
}

}  // namespace spectrain
