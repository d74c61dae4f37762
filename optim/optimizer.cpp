#include "optim/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optim/groups.h"

namespace spectrain {

namespace {

std::vector<const ParameterInfo*> pointers(std::span<const ParameterInfo> parameters) {
  std::vector<const ParameterInfo*> infos;
  for (const ParameterInfo& p : parameters) infos.push_back(&p);
  return infos;
}

std::vector<const ParameterInfo*> pointers(std::span<const ParameterView> views) {
  std::vector<const ParameterInfo*> infos;
  for (const ParameterView& v : views) infos.push_back(v.info);
  return infos;
}

void check_view(const ParameterView& v, DType master) {
  if (!v.value || !v.gradient || v.value.dtype != master || v.gradient.dtype != master ||
      v.value.shape != v.info->shape || v.gradient.shape != v.info->shape)
    throw std::logic_error(fmt::format("the optimizer needs a value and a gradient of '{}', both {} {}",
                                       v.info->name, name_of(master), v.info->shape.str()));
}

}  // namespace

struct Optimizer::Impl {
  Backend& backend;
  double clip;
  OptimizerPlan plan;
  std::unique_ptr<Buffer> memory;               // all state
  std::vector<std::vector<Part>> parts;         // by group
  std::vector<Tensor> gradients;                // what the norm is over: every trained row once
  std::vector<std::vector<StateTensor>> state;  // by parameter

  Impl(Backend& b, const std::vector<ParameterView>& parameters, const OptimizerConfig& config)
      : backend(b), clip(config.clip), plan(plan_groups(pointers(parameters), config, b.master())) {
    for (const ParameterView& v : parameters) check_view(v, b.master());
    if (plan.state_bytes > 0) {
      memory = b.allocate(plan.state_bytes, "optimizer state");
      b.fill(memory->view(DType::f32, {static_cast<std::int64_t>(plan.state_bytes / 4)}), 0);
    }
    state.resize(parameters.size());
    for (GroupPlan& g : plan.groups) {
      parts.emplace_back();
      if (g.members.empty()) continue;
      for (const MemberPlan& m : g.members) add_member(m, parameters[m.parameter]);
      g.rule->prepare(b, g.part_shapes());
    }
  }

  void add_member(const MemberPlan& m, const ParameterView& v) {
    for (const PartPlan& p : m.parts) {
      Part part;
      part.weight = rows_of(v.value, p);
      part.gradient = rows_of(v.gradient, p);
      for (std::size_t k = 0; k < p.state_shapes.size(); ++k)
        part.state.push_back(memory->view(v.value.dtype, p.state_shapes[k], p.state_offsets[k]));
      gradients.push_back(part.gradient);
      parts.back().push_back(std::move(part));
    }
    for (const StatePlan& s : m.state)
      state[m.parameter].push_back({s.name, memory->view(v.value.dtype, s.shape, s.offset)});
  }

  static Tensor rows_of(const Tensor& whole, const PartPlan& p) {
    if (p.shape == whole.shape) return whole;
    return whole.slice_rows(p.first_row, p.shape.rows());
  }
};

Optimizer::Optimizer(Backend& backend, std::vector<ParameterView> parameters, OptimizerConfig config)
    : impl_(std::make_unique<Impl>(backend, parameters, config)) {}

Optimizer::~Optimizer() = default;

StepReport Optimizer::step(std::int64_t step, double lr_factor) {
  double squares = 0;
  for (const Tensor& g : impl_->gradients) squares += impl_->backend.sum_of_squares(g);
  StepReport report{std::sqrt(squares), std::isfinite(squares)};
  if (!report.finite) return report;

  StepContext context{step, lr_factor, 1};
  // By the norm, not its square, and only ever downward.
  if (impl_->clip > 0 && report.gradient_norm > impl_->clip)
    context.gradient_scale = impl_->clip / report.gradient_norm;
  for (std::size_t g = 0; g < impl_->parts.size(); ++g)
    if (!impl_->parts[g].empty()) impl_->plan.groups[g].rule->update(context, impl_->parts[g]);
  return report;
}

std::vector<StateTensor> Optimizer::state() const {
  std::vector<StateTensor> all;
  for (const auto& tensors : impl_->state) all.insert(all.end(), tensors.begin(), tensors.end());
  return all;
}

std::string Optimizer::describe() const { return spectrain::describe(impl_->plan, impl_->clip); }

std::size_t Optimizer::state_bytes(std::span<const ParameterInfo> parameters, const OptimizerConfig& config,
                                   DType master) {
  return plan_groups(pointers(parameters), config, master).state_bytes;
}

std::size_t Optimizer::workspace_bytes(std::span<const ParameterInfo> parameters,
                                       const OptimizerConfig& config, DType master) {
  return plan_groups(pointers(parameters), config, master).workspace_bytes;
}

}  // namespace spectrain
