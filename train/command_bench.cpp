#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "optim/optimizer.h"
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

}  // namespace

int run_bench(const BenchRequest& request) {
  const RunConfig config = bench_config(request);
  const std::unique_ptr<Backend> backend = make_backend(config.compute);
  Session session(config, *backend, true);
  session.parameters().initialize(config.run.seed);
  Optimizer optimizer(*backend, session.parameters().views(), config.optimizer);
  session.training().set_input("tokens",
                               random_tokens(config.batch.tokens, config.model.vocab, "bench tokens"));
  session.training().set_input("targets",
                               random_tokens(config.batch.tokens, config.model.vocab, "bench targets"));

  std::vector<double> whole, model;
  for (std::int64_t i = 0; i <= request.steps; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    session.training().forward_backward(1.0 / static_cast<double>(config.batch.tokens), false);
    backend->synchronize();
    const auto middle = std::chrono::steady_clock::now();
    optimizer.step(i, 1);
    session.parameters().refresh();
    backend->synchronize();
    const auto end = std::chrono::steady_clock::now();
    if (i == 0) continue;  // touches memory for the first time
    model.push_back(std::chrono::duration<double>(middle - begin).count());
    whole.push_back(std::chrono::duration<double>(end - begin).count());
  }
  const Timing t = summary(whole);
  const double peak = measure_peak(*backend, config.compute.precision);
  const ModelCount count = spectrain::count(config.model, config.batch.context);
  const double tokens_per_second = static_cast<double>(config.batch.tokens) / t.median;
  const double share = tokens_per_second * static_cast<double>(count.flops_per_token) / peak;
  if (request.profile) {
    const auto wall = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
    for (const Program::OperationTime& o : session.training().profile(wall))
      fmt::print("{:9.2f} ms  {:4} x  {}\n", o.seconds * 1e3, o.calls, o.name);
  }
  if (request.json) {
    const nlohmann::json j = {{"config", request.config},
                              {"device", backend->description()},
                              {"precision", std::string(name_of(config.compute.precision))},
                              {"parameters", count.parameters},
                              {"batch", config.batch.micro_batch},
                              {"context", config.batch.context},
                              {"steps", request.steps},
                              {"step_seconds", t.median},
                              {"step_seconds_fastest", t.fastest},
                              {"step_seconds_slowest", t.slowest},
                              {"forward_backward_seconds", summary(model).median},
                              {"tokens_per_second", tokens_per_second},
                              {"flops_per_token", count.flops_per_token},
                              {"peak_flops_per_second", peak},
                              {"share_of_peak", share},
                              {"allocated_bytes", backend->allocated_bytes()}};
    fmt::print("{}\n", j.dump());
    return 0;
  }
  fmt::print("{}\n", backend->description());
  fmt::print("{:.1f}M parameters, {} sequences of {} tokens, {}\n",
             static_cast<double>(count.parameters) / 1e6, config.batch.micro_batch, config.batch.context,
             name_of(config.compute.precision));
  fmt::print("step           {:9.1f} ms   (fastest {:.1f}, slowest {:.1f}, {} steps)\n", t.median * 1e3,
             t.fastest * 1e3, t.slowest * 1e3, request.steps);
  fmt::print("  model        {:9.1f} ms   forward and backward\n", summary(model).median * 1e3);
  fmt::print("  optimizer    {:9.1f} ms   with preparing the new weights\n",
             (t.median - summary(model).median) * 1e3);
  fmt::print("tokens/s       {:9.0f}\n", tokens_per_second);
  fmt::print("of peak        {:9.1f} %    of {:.0f} GFLOP/s measured in a matrix product\n", share * 100,
             peak / 1e9);
  fmt::print("memory         {:9.1f} MB\n", static_cast<double>(backend->allocated_bytes()) / 1e6);
  return 0;
}

}  // namespace spectrain
