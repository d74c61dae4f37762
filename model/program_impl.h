#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/repeated_work.h"
#include "model/operations.h"
#include "model/plan.h"
#include "model/program.h"

// Inside Program: only for program*.cpp.

namespace spectrain {

inline DType leaf_dtype(const Tape::Recording::ValueInfo& v, DType master, DType compute) {
  if (v.kind == Tape::Recording::Kind::constant) return master;
  return v.real ? compute : DType::i32;
}

inline bool is_backward(const Action& a) {
  return a.kind == Action::Kind::backward || a.kind == Action::Kind::linear_activation_backward;
}

// An action with its tensors resolved, ready to be replayed.
struct Step {
  const Action* action = nullptr;
  const Operation* op = nullptr;
  const Operation* partner = nullptr;
  Run run, partner_run;
  std::vector<std::size_t> first_uses, completes;  // parameters, as ProgramHooks counts them
};

// Names what a backend is asked for while it lives.
class Range {
 public:
  Range(Backend& backend, const char* name) : backend_(backend) { backend_.begin_range(name); }
  ~Range() { backend_.end_range(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  Backend& backend_;
};

struct Program::Impl {
  using Kind = Tape::Recording::Kind;

  Impl(const Tape& t, Value result, Parameters& p, const ProgramOptions& o)
      : recording(t.share()),
        parameters(p),
        backend(p.backend()),
        options(o),
        plan(make_plan(t, result, backend.master(), backend.logits(o.compute), o)),
        result_tensor() {
    allocate(t);
    for (const Action& a : plan.actions) steps.push_back(resolve(t, a));
    find_hook_points();
    result_tensor = tensor(plan.result);
  }

  void allocate(const Tape& t) {
    if (plan.arena_bytes) arena = backend.allocate(plan.arena_bytes, "activations");
    if (plan.workspace_bytes) workspace = backend.allocate(plan.workspace_bytes, "workspace");
    if (const std::size_t bytes = leaf_bytes(t, backend.master(), options.compute))
      leaves = backend.allocate(bytes, "inputs");
    const Tape::Recording& r = t.recording();
    leaf_tensors.resize(r.values.size());
    std::size_t offset = 0;
    for (std::size_t i = 0; i < r.values.size(); ++i) {
      const Tape::Recording::ValueInfo& v = r.values[i];
      if (v.kind == Kind::parameter) {
        const ParameterInfo& own = r.parameters[static_cast<std::size_t>(v.index)];
        const int index = parameters.find(own.name);
        if (index < 0 || parameters.info(static_cast<std::size_t>(index)).shape != own.shape)
          throw std::logic_error(
              fmt::format("parameter {} {} is not among those of the model", own.name, own.shape.str()));
        parameter_index.push_back(static_cast<std::size_t>(index));
        leaf_tensors[i] = parameters.view(static_cast<std::size_t>(index)).value;
      } else if (v.kind != Kind::result) {
        leaf_tensors[i] = leaves->view(leaf_dtype(v, backend.master(), options.compute), v.shape, offset);
        offset += align_up(leaf_tensors[i].bytes());
        if (v.kind == Kind::input) inputs.emplace(v.name, leaf_tensors[i]);
        if (v.kind == Kind::constant)
          set_constant(leaf_tensors[i], r.constants[static_cast<std::size_t>(v.index)]);
      }
    }
  }

  void set_constant(const Tensor& x, const Tape::Recording::Constant& c) {
    if (x.dtype == DType::f64) {
      backend.copy_from_host(x, c.values.data());
    } else {
      const std::vector<float> narrow(c.values.begin(), c.values.end());
      backend.copy_from_host(x, narrow.data());
    }
  }

  Tensor tensor(const Place& p) const {
    const DType dtype = p.master ? backend.master() : options.compute;
    const auto i = static_cast<std::size_t>(p.index);
    switch (p.kind) {
      case Place::Kind::none:
        return {};
      case Place::Kind::value:
        return leaf_tensors[i];
      case Place::Kind::storage:
        return arena->view(dtype, p.shape, plan.storages[i].offset);
      case Place::Kind::parameter_gradient:
        return parameters.view(parameter_index[i]).gradient;
    }
    throw std::logic_error("unknown place");
  }
  std::vector<Tensor> tensors(const std::vector<Place>& places) const {
    std::vector<Tensor> list;
    for (const Place& p : places) list.push_back(tensor(p));
    return list;
  }

  void resolve_prepared(const Tape::Recording& r, int node, const Operation& op, Run& run) const {
    const std::vector<int>& in = r.nodes[static_cast<std::size_t>(node)].inputs;
    run.prepared.assign(in.size(), nullptr);
    run.rounded.assign(in.size(), nullptr);
    for (std::size_t k = 0; k < in.size(); ++k)
      if (in[k] >= 0 && op.prepared_input(k)) {
        const auto declared = static_cast<std::size_t>(r.values[static_cast<std::size_t>(in[k])].index);
        run.prepared[k] = &parameters.prepared(parameter_index[declared]);
        if (options.training && op.rounded_input(k) > 0)
          run.rounded[k] = &parameters.rounded(parameter_index[declared]);
      }
  }

  Step resolve(const Tape& t, const Action& a) const {
    const Tape::Recording& r = t.recording();
    Step s;
    s.action = &a;
    s.run.backend = s.partner_run.backend = &backend;
    s.run.compute = s.partner_run.compute = options.compute;
    s.run.training = s.partner_run.training = options.training;
    s.run.in = tensors(a.in);
    s.run.out = tensors(a.out);
    s.run.dout = tensors(a.dout);
    s.run.din = tensors(a.din);
    s.run.accumulate = a.accumulate;
    if (workspace)
      s.run.workspace =
          workspace->view(DType::i32, Shape{static_cast<std::int64_t>(plan.workspace_bytes / 4)});
    if (a.node >= 0) {
      s.op = r.nodes[static_cast<std::size_t>(a.node)].op.get();
      resolve_prepared(r, a.node, *s.op, s.run);
    }
    if (a.partner >= 0) {
      s.partner = r.nodes[static_cast<std::size_t>(a.partner)].op.get();
      s.partner_run.in = tensors(a.partner_in);
      s.partner_run.out = tensors(a.partner_out);
    }
    return s;
  }

  // Declared parameters an action reads, as master values or prepared, and whose gradients it writes.
  std::vector<std::size_t> reads(const Action& a) const {
    std::vector<std::size_t> list;
    const auto add = [&](const std::vector<Place>& places) {
      for (const Place& p : places)
        if (p.kind == Place::Kind::value)
          if (const auto& v = recording->values[static_cast<std::size_t>(p.index)]; v.kind == Kind::parameter)
            list.push_back(parameter_index[static_cast<std::size_t>(v.index)]);
    };
    add(a.in);
    add(a.partner_in);
    if (a.node < 0) return list;
    const Tape::Recording::Node& node = recording->nodes[static_cast<std::size_t>(a.node)];
    for (std::size_t k = 0; k < node.inputs.size(); ++k)
      if (node.inputs[k] >= 0 && node.op->prepared_input(k)) {
        const auto& v = recording->values[static_cast<std::size_t>(node.inputs[k])];
        list.push_back(parameter_index[static_cast<std::size_t>(v.index)]);
      }
    return list;
  }

  void find_hook_points() {
    std::vector<std::uint8_t> used(parameters.size(), 0), done(parameters.size(), 0);
    for (Step& s : steps)
      for (const std::size_t i : reads(*s.action))
        if (!used[i]) {
          used[i] = 1;
          s.first_uses.push_back(i);
        }
    for (auto s = steps.rbegin(); s != steps.rend(); ++s)
      for (const Place& p : s->action->din)
        if (p.kind == Place::Kind::parameter_gradient)
          if (const std::size_t i = parameter_index[static_cast<std::size_t>(p.index)]; !done[i]) {
            done[i] = 1;
            s->completes.push_back(i);
          }
  }

  void play_with_hooks(Step& s) {
    const Range range(backend, names[static_cast<std::size_t>(&s - steps.data())].c_str());
    if (hooks.before_use)
      for (const std::size_t i : s.first_uses) hooks.before_use(i);
    play(s);
    if (hooks.gradient_done)
      for (const std::size_t i : s.completes) hooks.gradient_done(i);
  }

  void play(Step& s) {
    switch (s.action->kind) {
      case Action::Kind::forward:
        s.op->forward(s.run);
        break;
      case Action::Kind::linear_activation:
        linear_activation_forward(s.run, *activation_of(*s.partner), s.run.out[0], s.partner_run.out[0]);
        break;
      case Action::Kind::add_norm:
        add_norm_forward(s.run, *norm_of(*s.partner), s.partner_run);
        break;
      case Action::Kind::backward:
        s.op->backward(s.run);
        break;
      case Action::Kind::linear_activation_backward: {
        const Activation act = *activation_of(*s.partner);
        linear_activation_backward(s.run, act,
                                   saves_output(act) ? s.partner_run.out[0] : s.partner_run.in[0]);
        break;
      }
      case Action::Kind::add_gradient:
        backend.add(s.run.din[0], s.run.dout[0], s.run.din[0]);
        break;
      case Action::Kind::copy_gradient:
        backend.copy(s.run.dout[0], s.run.din[0]);
        break;
    }
  }

  void begin_pass(double gradient_scale, bool accumulate) {
    for (Step& s : steps) {
      s.run.gradient_scale = gradient_scale;
      for (const int k : s.action->first_writes) s.run.accumulate[static_cast<std::size_t>(k)] = accumulate;
    }
    if (!accumulate)
      for (const int p : plan.zeroed_parameters)
        backend.fill(parameters.view(parameter_index[static_cast<std::size_t>(p)]).gradient, 0);
  }

  std::shared_ptr<const Tape::Recording> recording;  // the steps point into it
  Parameters& parameters;
  Backend& backend;
  ProgramOptions options;
  Plan plan;
  std::unique_ptr<Buffer> arena, workspace, leaves;
  std::vector<Tensor> leaf_tensors;          // by value; empty for results
  std::vector<std::size_t> parameter_index;  // of this tape's parameters in `parameters`
  std::map<std::string, Tensor, std::less<>> inputs;
  std::vector<Step> steps;
  Tensor result_tensor;
  // A kind of pass, and what was recorded of it.
  struct Recorded {
    double gradient_scale = 0;
    RepeatedWork work;
  };
  enum PassKind { evaluation, overwriting, accumulating };
  Recorded recorded[3];

  void play_all() {
    for (Step& s : steps) play_with_hooks(s);
  }

  // Runs `pass`, or replays what was recorded of it. Its numbers are part of a recording.
  template <class Pass>
  void run(PassKind kind, double gradient_scale, const Pass& pass) {
    Recorded& r = recorded[kind];
    const Range range(backend, kind == evaluation ? "forward" : "forward and backward");
    const bool hooked = (hooks.before_use || hooks.gradient_done) && !(hooks.idle && hooks.idle());
    if (hooked) return pass();
    if (std::exchange(r.gradient_scale, gradient_scale) != gradient_scale) r.work.forget();
    r.work.run(backend, pass);
  }

  std::vector<std::string> names;  // of the values each step makes, for messages
  double last_scale = 1;
  ProgramHooks hooks;
};

}  // namespace spectrain
