#include "optim/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/formulas_update.h"
#include "kernels/repeated_work.h"
#include "optim/after_step.h"
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
  OptimizerConfig config;
  OptimizerPlan plan;
  std::unique_ptr<Buffer> memory;        // all state
  std::vector<std::vector<Part>> parts;  // by group
  std::vector<std::string> names;        // of their updates, for profilers
  std::vector<Tensor> gradients;         // what the norm is over: every trained element once
  std::vector<StateTensor> state;
  // f64: [1] the squares, for step(); [2] clip_factor()'s verdict; the numbers of a late step, of all rules.
  std::unique_ptr<Buffer> total;
  std::vector<double> numbers;  // those of this step
  RepeatedWork late_work;
  std::array<void*, 2> late_inputs = {};  // that it reads
  std::vector<MeasuredPart> measured;

  Impl(Backend& b, OptimizerPlan p, std::span<const Piece> pieces, std::span<const Tensor> weights,
       std::span<const Tensor> gradient_tensors, const OptimizerConfig& c)
      : backend(b), config(c), plan(std::move(p)) {
    numbers.resize(numbers_of(plan));
    total = b.allocate(total_bytes(plan), "the gradient's norm");
    b.fill(verdict(), 0);
    const StateLayout layout = layout_state(plan, pieces);
    if (layout.bytes > 0) {
      memory = b.allocate(layout.bytes, "optimizer state");
      b.fill(memory->view(DType::f32, {static_cast<std::int64_t>(layout.bytes / 4)}), 0);
    }
    parts.resize(plan.groups.size());
    for (const GroupPlan& g : plan.groups) names.push_back(fmt::format("update by {}", g.rule->name()));
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      Part part{weights[i], gradient_tensors[i], {}};
      for (std::size_t k = 0; k < layout.offsets[i].size(); ++k)
        part.state.push_back(memory->view(layout.dtypes[i][k], layout.shapes[i][k], layout.offsets[i][k]));
      gradients.push_back(part.gradient);
      measured.push_back(measured_part(pieces[i], part));
      parts[pieces[i].group].push_back(std::move(part));
    }
    for (const StateRun& r : layout.runs) {
      const bool whole = r.count == r.whole.numel();
      state.push_back({r.name, memory->view(r.dtype, whole ? r.whole : Shape{r.count}, r.offset),
                       whole ? Shape{} : r.whole, r.first});
    }
    for (std::size_t g = 0; g < parts.size(); ++g) {
      std::vector<Shape> shapes;
      for (const Part& part : parts[g]) shapes.push_back(part.weight.shape);
      if (!shapes.empty()) plan.groups[g].rule->prepare(b, shapes);
    }
  }

  static constexpr std::size_t kTotals = 3;  // before the numbers
  static std::size_t numbers_of(const OptimizerPlan& plan) {
    std::size_t sum = 0;
    for (const GroupPlan& g : plan.groups) sum += g.rule->numbers();
    return sum;
  }
  static std::size_t total_bytes(const OptimizerPlan& plan) {
    return (kTotals + numbers_of(plan)) * sizeof(double);
  }
  Tensor verdict() const { return total->view(DType::f64, {2}, sizeof(double)); }
  Tensor late_numbers() const {
    return total->view(DType::f64, {static_cast<std::int64_t>(numbers.size())}, kTotals * sizeof(double));
  }
  void send_numbers(const StepContext& context);
  double sum_of_squares();  // of the gradients; the host waits
  StepContext context_of(std::int64_t step, double lr_factor, double squares) const;
  void update(const StepContext& context);  // of all groups
  std::int64_t matrices() const;            // that a matrix rule updates
  void update(std::size_t group, const StepContext& context);
  Work work_of(std::size_t group) const;

  MeasuredPart measured_part(const Piece& piece, const Part& part) const {
    const GroupPlan& group = plan.groups[piece.group];
    const MemberPlan& member = group.members[piece.member];
    const PartPlan& whole = member.parts[piece.part];
    MeasuredPart out{member.parameter, piece.group,   whole.first_row * whole.shape.cols() + piece.first,
                     part.weight,      part.gradient, {}};
    const std::vector<StateSlot> slots = group.rule->state(piece.shape);
    for (std::size_t k = 0; k < slots.size(); ++k) out.state.emplace_back(slots[k].name, part.state[k]);
    return out;
  }
};

namespace {

Tensor rows_of(const Tensor& whole, const PartPlan& p) {
  if (p.shape.numel() == whole.numel()) return whole.reshaped(p.shape);
  return whole.slice_rows(p.first_row, p.shape.rows());
}

}  // namespace

Optimizer::Optimizer(Backend& backend, OptimizerPlan plan, std::vector<Piece> pieces,
                     std::span<const Tensor> weights, std::span<const Tensor> gradients,
                     const OptimizerConfig& config)
    : impl_(std::make_unique<Impl>(backend, std::move(plan), pieces, weights, gradients, config)) {}

Optimizer::Optimizer(Backend& backend, std::vector<ParameterView> parameters, OptimizerConfig config) {
  OptimizerPlan plan = plan_groups(pointers(parameters), config, backend.master());
  for (const ParameterView& v : parameters) check_view(v, backend.master());
  const std::vector<Piece> pieces = whole_parts(plan);
  std::vector<Tensor> weights, gradients;
  for (const Piece& p : pieces) {
    const MemberPlan& m = plan.groups[p.group].members[p.member];
    weights.push_back(rows_of(parameters[m.parameter].value, m.parts[p.part]));
    gradients.push_back(rows_of(parameters[m.parameter].gradient, m.parts[p.part]));
  }
  impl_ = std::make_unique<Impl>(backend, std::move(plan), pieces, weights, gradients, config);
}

Optimizer::~Optimizer() = default;

void Optimizer::add_gradient_squares(const Tensor& total) const {
  impl_->backend.add_squares(impl_->gradients, total);
}

double Optimizer::Impl::sum_of_squares() {
  const Tensor sum = total->view(DType::f64, {1});
  backend.fill(sum, 0);
  backend.add_squares(gradients, sum);
  double squares = 0;
  backend.copy_to_host(&squares, sum);
  return squares;
}

StepContext Optimizer::Impl::context_of(std::int64_t step, double lr_factor, double squares) const {
  return {step, lr_factor, clip_factor_of(squares, config.clip), config.steps};
}

std::int64_t Optimizer::Impl::matrices() const {
  std::int64_t sum = 0;
  for (std::size_t g = 0; g < parts.size(); ++g)
    if (plan.groups[g].rule->wants_matrices()) sum += static_cast<std::int64_t>(parts[g].size());
  return sum;
}

void Optimizer::Impl::update(const StepContext& context) {
  StepContext own = context;  // with the numbers of one rule
  std::int64_t first = 0;
  for (std::size_t g = 0; g < parts.size(); ++g) {
    const auto count = static_cast<std::int64_t>(plan.groups[g].rule->numbers());
    if (context.numbers) own.numbers = part_of(context.numbers, first, count);
    first += count;
    update(g, own);
  }
}

void Optimizer::Impl::send_numbers(const StepContext& context) {
  std::span<double> left = numbers;
  for (const GroupPlan& g : plan.groups) {
    g.rule->numbers_at(context, left.first(g.rule->numbers()));
    left = left.subspan(g.rule->numbers());
  }
  backend.copy_from_host(late_numbers(), numbers.data());
}

void Optimizer::Impl::update(std::size_t group, const StepContext& context) {
  if (parts[group].empty()) return;
  backend.begin_range(names[group].c_str());
  plan.groups[group].rule->update(context, parts[group]);
  backend.end_range();
}

// Everything that the update of a group reads and writes, once.
Work Optimizer::Impl::work_of(std::size_t group) const {
  Work w;
  for (const Part& part : parts[group]) {
    w.flops += plan.groups[group].rule->flops(part.weight.shape);
    w.bytes += static_cast<double>(2 * part.weight.bytes() + part.gradient.bytes());
    for (const Tensor& s : part.state) w.bytes += 2 * static_cast<double>(s.bytes());
  }
  return w;
}

StepReport Optimizer::update(std::int64_t step, double lr_factor, double squares) {
  StepReport report{std::sqrt(squares), std::isfinite(squares)};
  if (!report.finite) return report;
  impl_->update(impl_->context_of(step, lr_factor, squares));
  report.matrices = impl_->matrices();
  return report;
}

bool Optimizer::updates_late() const {
  return std::all_of(impl_->plan.groups.begin(), impl_->plan.groups.end(),
                     [](const GroupPlan& g) { return g.members.empty() || g.rule->takes_late_scale(); });
}

std::int64_t Optimizer::update_late(std::int64_t step, double lr_factor, const Tensor& squares,
                                    const Tensor& loss, const std::function<void()>& then) {
  Impl& m = *impl_;
  StepContext context{step, lr_factor, 1, m.config.steps};
  m.send_numbers(context);
  context.late_scale = part_of(m.verdict(), 0, 1);
  context.numbers = m.late_numbers();
  const std::array inputs = {squares.data, loss.data};
  if (std::exchange(m.late_inputs, inputs) != inputs) m.late_work.forget();
  m.late_work.run(m.backend, [&] {
    m.backend.clip_factor(squares, loss, m.config.clip, m.verdict());
    m.update(context);
    if (then) then();
  });
  return m.matrices();
}

std::vector<TimedWork> Optimizer::profile(std::int64_t step, double lr_factor, const NowSeconds& now,
                                          const std::function<MachineRates(DType)>& rates) {
  std::vector<TimedWork> list;
  const auto timed = [&](std::string name, const Work& work, DType dtype, const auto& body) {
    const double floor = floor_seconds(work, rates(dtype));
    impl_->backend.synchronize();
    const double begin = now();
    body();
    impl_->backend.synchronize();
    list.push_back({std::move(name), 1, now() - begin, work, floor});
  };
  double squares = 0;
  Work gradients;
  for (const Tensor& g : impl_->gradients) gradients.bytes += static_cast<double>(g.bytes());
  timed("the gradient's norm", gradients, DType::f32, [&] { squares = impl_->sum_of_squares(); });
  const StepContext context = impl_->context_of(step, lr_factor, squares);
  for (std::size_t g = 0; g < impl_->parts.size(); ++g)
    if (!impl_->parts[g].empty())
      timed(impl_->names[g], impl_->work_of(g), impl_->plan.groups[g].rule->multiplies(),
            [&] { impl_->update(g, context); });
  return list;
}

StepReport Optimizer::step(std::int64_t step, double lr_factor) {
  return update(step, lr_factor, impl_->sum_of_squares());
}

bool Optimizer::wants_sampled_gradient(std::int64_t step) const {
  for (std::size_t g = 0; g < impl_->parts.size(); ++g)
    if (impl_->plan.groups[g].rule->wants_sampled_gradient(step)) return true;
  return false;
}

void Optimizer::observe_sampled(std::int64_t step, double lr_factor, double tokens) {
  const StepContext context{step, lr_factor, 1, impl_->config.steps};
  for (std::size_t g = 0; g < impl_->parts.size(); ++g)
    if (!impl_->parts[g].empty() && impl_->plan.groups[g].rule->wants_sampled_gradient(step))
      impl_->plan.groups[g].rule->observe_sampled(context, tokens, impl_->parts[g]);
}

void Optimizer::restart() {
  for (const StateTensor& s : impl_->state) impl_->backend.fill(s.tensor, 0);
  impl_->backend.fill(impl_->verdict(), 0);
  for (const GroupPlan& g : impl_->plan.groups) g.rule->restart();
}

bool Optimizer::has_average(std::int64_t steps) const {
  return impl_->config.average.from > 0 && steps >= impl_->config.average.from;
}

void Optimizer::show_average() {
  for (std::size_t g = 0; g < impl_->parts.size(); ++g)
    if (!impl_->parts[g].empty()) dynamic_cast<Average&>(*impl_->plan.groups[g].rule).show(impl_->parts[g]);
}

void Optimizer::restore_weights() {
  for (std::size_t g = 0; g < impl_->parts.size(); ++g)
    if (!impl_->parts[g].empty())
      dynamic_cast<Average&>(*impl_->plan.groups[g].rule).restore(impl_->parts[g]);
}

std::vector<StateTensor> Optimizer::state() const { return impl_->state; }

std::vector<StateTensor> Optimizer::state_layout() const {
  std::vector<std::pair<std::size_t, StateTensor>> found;
  for (const GroupPlan& g : impl_->plan.groups)
    for (const MemberPlan& m : g.members)
      for (const StatePlan& s : m.state)
        found.push_back({m.parameter, {s.name, Tensor(nullptr, s.dtype, s.shape)}});
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<StateTensor> layout;
  for (auto& [parameter, tensor] : found) layout.push_back(std::move(tensor));
  return layout;
}

std::vector<MeasuredGroup> Optimizer::groups() const {
  std::vector<MeasuredGroup> out;
  for (const GroupPlan& g : impl_->plan.groups) {
    MeasuredGroup group{{}, std::string(g.rule->name()), g.parameters};
    for (const Role role : g.roles)
      group.parameters += fmt::format("{}{}", group.parameters.empty() ? "" : ", ", name_of(role));
    if (g.elementwise) group.parameters += " (small)";
    out.push_back(std::move(group));
  }
  return out;
}

std::vector<MeasuredPart> Optimizer::parts() const { return impl_->measured; }

std::string Optimizer::describe() const {
  return spectrain::describe(impl_->plan, impl_->config.clip, impl_->backend);
}

std::size_t Optimizer::state_bytes(std::span<const ParameterInfo> parameters, const OptimizerConfig& config,
                                   DType master) {
  return plan_groups(pointers(parameters), config, master).state_bytes;
}

std::size_t Optimizer::workspace_bytes(std::span<const ParameterInfo> parameters,
                                       const OptimizerConfig& config, const BackendSizes& backend) {
  const OptimizerPlan plan = plan_groups(pointers(parameters), config, backend.master());
  return spectrain::workspace_bytes(plan, backend) + Impl::total_bytes(plan);
}

}  // namespace spectrain
