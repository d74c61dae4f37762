#include <algorithm>
#include <map>

#include "model/program_impl.h"

// A pass looked at step by step.

namespace spectrain {
namespace {

std::string kind_of(const Step& s) {
  std::string name = s.op ? std::string(s.op->name()) : "gradient sum";
  if (s.partner) name += " + " + std::string(s.partner->name());
  if (is_backward(*s.action)) name += " backward";
  return name;
}

Work work_of(const Step& s) {
  const auto bytes = [](const Tensor& t) { return static_cast<double>(t.bytes()); };
  switch (s.action->kind) {
    case Action::Kind::backward:
      return backward_work(*s.op, s.run);
    case Action::Kind::linear_activation_backward: {
      Work w = backward_work(*s.op, s.run);
      for (const auto* list : {&s.partner_run.in, &s.partner_run.out})
        for (const Tensor& t : *list) w.bytes += t ? bytes(t) : 0;
      return w;
    }
    case Action::Kind::add_gradient:
      return {0, 3 * bytes(s.run.dout[0])};
    case Action::Kind::copy_gradient:
      return {0, 2 * bytes(s.run.dout[0])};
    default:
      break;
  }
  Work w = forward_work(*s.op, s.run);
  // The value between the two goes from one to the other, and to memory only if it is kept.
  if (s.partner)
    for (const Tensor& t : s.partner_run.out) w.bytes += t ? bytes(t) : 0;
  return w;
}

}  // namespace

std::vector<TimedWork> Program::profile(const NowSeconds& now, const MachineRates& rates) {
  constexpr int kTimes = 3;  // the fastest counts
  Impl& m = *impl_;
  std::vector<double> fastest(m.steps.size(), 1e30);
  for (int time = 0; time < kTimes; ++time) {
    m.begin_pass(m.last_scale, false);
    for (std::size_t i = 0; i < m.steps.size(); ++i) {
      m.backend.synchronize();
      const double begin = now();
      m.play(m.steps[i]);
      m.backend.synchronize();
      fastest[i] = std::min(fastest[i], now() - begin);
    }
  }
  std::map<std::string, TimedWork> by_name;
  for (std::size_t i = 0; i < m.steps.size(); ++i) {
    const std::string name = kind_of(m.steps[i]);
    const Work work = work_of(m.steps[i]);
    TimedWork& t = by_name[name];
    t.name = name;
    ++t.calls;
    t.seconds += fastest[i];
    t.work += work;
    t.floor += floor_seconds(work, rates);
  }
  std::vector<TimedWork> list;
  for (auto& [name, t] : by_name) list.push_back(std::move(t));
  std::sort(list.begin(), list.end(),
            [](const TimedWork& a, const TimedWork& b) { return a.seconds > b.seconds; });
  return list;
}

std::string Program::first_nonfinite() {
  Impl& m = *impl_;
  for (std::size_t i = 0; i < m.parameters.size(); ++i)
    if (m.parameters.has_value(i) && !m.backend.all_finite(m.parameters.view(i).value))
      return "parameter " + m.parameters.info(i).name;
  m.begin_pass(m.last_scale, false);
  for (std::size_t k = 0; k < m.steps.size(); ++k) {
    Step& s = m.steps[k];
    m.play(s);
    for (const auto* list : {&s.run.out, &s.partner_run.out, &s.run.din})
      for (const Tensor& t : *list)
        if (t && t.dtype != DType::i32 && !m.backend.all_finite(t)) return m.names[k];
  }
  return "";
}

}  // namespace spectrain
