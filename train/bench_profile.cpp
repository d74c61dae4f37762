#include "train/bench_profile.h"

#include <fmt/format.h>

#include <algorithm>

#include "train/peak.h"

namespace spectrain {
namespace {

// Entries of one name as one: two groups may have the same rule.
std::vector<TimedWork> by_name(const std::vector<TimedWork>& list) {
  std::vector<TimedWork> merged;
  for (const TimedWork& w : list) {
    const auto same = std::find_if(merged.begin(), merged.end(),
                                   [&](const TimedWork& other) { return other.name == w.name; });
    if (same == merged.end()) {
      merged.push_back(w);
      continue;
    }
    same->calls += w.calls;
    same->seconds += w.seconds;
    same->work += w.work;
    same->floor += w.floor;
  }
  return merged;
}

// Master values are read, matrices in the form that products take are written.
Work weights_work(const Parameters& parameters) {
  Work w;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (parameters.is_prepared(i))
      w.bytes += static_cast<double>(parameters.info(i).shape.numel()) *
                 static_cast<double>(size_of(parameters.backend().master()) + size_of(parameters.compute()));
  return w;
}

using RatesOf = std::function<MachineRates(DType)>;

std::vector<TimedWork> update_once(Session& session, DistributedOptimizer& optimizer, std::int64_t step,
                                   const NowSeconds& now, const RatesOf& rates) {
  std::vector<TimedWork> list = optimizer.profile(step, 1, now, rates);
  Parameters& parameters = session.parameters();
  const Work work = weights_work(parameters);
  const double begin = now();
  parameters.refresh();
  parameters.backend().synchronize();
  list.push_back({"new weights prepared", 1, now() - begin, work, floor_seconds(work, rates(DType::f32))});
  return by_name(list);
}

std::vector<const TimedWork*> all_of(const StepProfile& profile) {
  std::vector<const TimedWork*> all;
  for (const auto* part : {&profile.model, &profile.update})
    for (const TimedWork& w : *part) all.push_back(&w);
  return all;
}

}  // namespace

StepProfile profile_step(Session& session, DistributedOptimizer& optimizer, double peak,
                         const NowSeconds& now) {
  StepProfile p;
  Parameters& parameters = session.parameters();
  p.rates = {peak, measure_bandwidth(parameters.backend())};
  p.f32_rates = parameters.compute() == DType::f32
                    ? p.rates
                    : MachineRates{measure_peak(parameters.backend(), DType::f32), p.rates.bytes};
  const auto rates_of = [&](DType dtype) { return dtype == DType::f32 ? p.f32_rates : p.rates; };
  p.model = session.training().profile(now, p.rates);
  constexpr int kTimes = 3;  // the fastest counts
  for (int time = 0; time < kTimes; ++time) {
    std::vector<TimedWork> again = update_once(session, optimizer, time, now, rates_of);
    for (std::size_t i = 0; i < p.update.size(); ++i)
      again[i].seconds = std::min(again[i].seconds, p.update[i].seconds);
    p.update = std::move(again);
  }
  return p;
}

std::string table_of(const StepProfile& profile) {
  const std::vector<const TimedWork*> all = all_of(profile);
  double seconds = 0, floor = 0;
  for (const TimedWork* w : all) {
    seconds += w->seconds;
    floor += w->floor;
  }
  std::string text = fmt::format("{:<36}{:>10}{:>7}{:>8}{:>11}{:>11}{:>10}{:>8}\n", "kernel by kernel", "ms",
                                 "calls", "share", "GFLOP", "MB", "floor ms", "ratio");
  const auto row = [&](std::string_view name, double s, std::int64_t calls, const Work& w, double least) {
    text += fmt::format("{:<36}{:>10.3f}{:>7}{:>6.1f} %{:>11.2f}{:>11.2f}{:>10.3f}{:>8.2f}\n", name, s * 1e3,
                        calls, s / seconds * 100, w.flops / 1e9, w.bytes / 1e6, least * 1e3, least / s);
  };
  Work together;
  std::int64_t calls = 0;
  for (const TimedWork* w : all) {
    row(w->name, w->seconds, w->calls, w->work, w->floor);
    together += w->work;
    calls += w->calls;
  }
  row("together", seconds, calls, together, floor);
  text += fmt::format(
      "floor: FLOP at {:.0f} GFLOP/s ({:.0f} where a rule multiplies in f32), measured in large products, "
      "or\n"
      "bytes at {:.1f} GB/s, measured in a copy, whichever takes longer. Above 1: it stayed in a cache.\n",
      profile.rates.flops / 1e9, profile.f32_rates.flops / 1e9, profile.rates.bytes / 1e9);
  return text;
}

nlohmann::json json_of(const StepProfile& profile) {
  nlohmann::json kernels = nlohmann::json::array();
  for (const TimedWork* w : all_of(profile))
    kernels.push_back({{"name", w->name},
                       {"calls", w->calls},
                       {"seconds", w->seconds},
                       {"flops", w->work.flops},
                       {"bytes", w->work.bytes},
                       {"floor_seconds", w->floor}});
  return {{"bandwidth_bytes_per_second", profile.rates.bytes},
          {"f32_flops_per_second", profile.f32_rates.flops},
          {"kernels", std::move(kernels)}};
}

}  // namespace spectrain
