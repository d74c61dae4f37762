#include "optim/distributed_optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/error.h"
#include "model/plan.h"
#include "optim/bucket_traffic.h"

namespace spectrain {
namespace {

std::vector<const ParameterInfo*> infos_of(const std::vector<ParameterInfo>& parameters) {
  std::vector<const ParameterInfo*> infos;
  for (const ParameterInfo& p : parameters) infos.push_back(&p);
  return infos;
}

std::vector<const ParameterInfo*> infos_of(const Parameters& parameters) {
  std::vector<const ParameterInfo*> infos;
  for (std::size_t i = 0; i < parameters.size(); ++i) infos.push_back(&parameters.info(i));
  return infos;
}

// In what dtype a parameter's new weights are sent: `read`, an operation reads its master values.
DType travelling(bool read, DType compute, DType master) {
  return read || master == DType::f64 ? master : compute;
}

}  // namespace

ShardPlan shard_plan_of(const Tape& tape, const OptimizerConfig& config, DType compute, DType master,
                        int ranks, std::int64_t bucket_bytes) {
  const std::vector<const ParameterInfo*> infos = infos_of(tape.parameters());
  const std::vector<std::uint8_t> read = read_parameters(tape), prepared = prepared_parameters(tape);
  std::vector<DType> weights;
  for (std::size_t i = 0; i < infos.size(); ++i)
    weights.push_back(travelling(read[i] || !prepared[i], compute, master));
  ShardOptions options;
  options.bucket_bytes = bucket_bytes;
  options.master = master;
  return plan_shards(infos, plan_groups(infos, config, master), weights, ranks, options);
}

struct DistributedOptimizer::Impl {
  Impl(Backend& b, Parameters& p, const OptimizerConfig& config, Collectives& c, const DistributedOptions& o)
      : backend(b), parameters(p), collectives(c), mode(o.sharding) {
    scalars = backend.allocate(kEntries * sizeof(double), "sums over ranks");
    backend.fill(entries(0, kEntries), 0);
    if (collectives.ranks() > 1 && mode == Sharding::owners)
      share(config, o.bucket_bytes);
    else
      optimizer = std::make_unique<Optimizer>(backend, parameters.views(), config);
    if (collectives.ranks() > 1 && mode == Sharding::replicas) pending_replicas.reserve(parameters.size());
    late = backend.asynchronous() && optimizer->updates_late();
    if (late)
      for (LateStep& step : late_steps) step.read = backend.late_read(kEntries * sizeof(double));
  }

  void share(const OptimizerConfig& config, std::int64_t bucket_bytes) {
    const std::vector<const ParameterInfo*> infos = infos_of(parameters);
    OptimizerPlan groups = plan_groups(infos, config, backend.master());
    std::vector<DType> weights;
    for (std::size_t i = 0; i < infos.size(); ++i)
      weights.push_back(travelling(parameters.has_value(i), parameters.compute(), backend.master()));
    ShardOptions options;
    options.bucket_bytes = bucket_bytes;
    options.master = backend.master();
    plan = plan_shards(infos, groups, weights, collectives.ranks(), options);
    traffic = std::make_unique<BucketTraffic>(backend, parameters, collectives, plan);
    std::vector<Piece> pieces;
    std::vector<Tensor> masters, gradients;
    for (const ShardPiece& p : plan.pieces_of(collectives.rank())) {
      pieces.push_back(p.piece);
      masters.push_back(traffic->master(p));
      gradients.push_back(traffic->gradient(p));
    }
    optimizer = std::make_unique<Optimizer>(backend, std::move(groups), std::move(pieces), masters, gradients,
                                            config);
  }

  // Replicas: every gradient by itself, in the order in which they are done.
  void reduce_replica(std::size_t i) {
    pending_replicas.push_back(
        collectives.all_reduce(parameters.view(i).gradient, Reduce::sum, parameters.info(i).name));
    reduced[i] = 1;
  }

  // The gradients of all ranks together, where this rank's part of them is.
  void finish_gradients() {
    releasing = false;
    if (collectives.ranks() == 1) return;
    if (traffic) {
      traffic->finish_gradients();
      return;
    }
    for (std::size_t i = 0; i < parameters.size(); ++i)
      if (!reduced[i]) reduce_replica(i);
    for (const Event e : pending_replicas) collectives.wait(e);
  }

  // Of this rank's part of the gradients, into total [1]: what ranks have to add.
  void add_squares(const Tensor& total) {
    backend.fill(total, 0);
    optimizer->add_gradient_squares(total);
    // Replicas have the whole gradient, each of them.
    if (collectives.ranks() > 1 && !traffic && collectives.rank() > 0) backend.fill(total, 0);
  }

  // Weights that have changed, to the programs of all ranks.
  void publish() {
    if (traffic)
      traffic->send_weights();
    else
      parameters.refresh();
  }

  StepResult update(std::int64_t step, double lr_factor);
  std::optional<StepResult> update_late(std::int64_t step, double lr_factor);

  Tensor entries(std::int64_t first, std::int64_t count) const {
    return scalars->view(DType::f64, {count}, static_cast<std::size_t>(first) * sizeof(double));
  }

  // The entries of `scalars`: of all ranks the squares, the loss and the caller's sums, in one message; then
  // this rank's loss. The host reads them at one time.
  enum : std::int64_t { kSquares, kLoss, kSums, kOwnLoss = kSums + kMostSums, kEntries };

  // A step whose entries are asked for.
  struct LateStep {
    std::unique_ptr<LateRead> read;
    bool asked = false;
    std::int64_t step = 0, matrices = 0;
  };

  // Into the entries; `sums` may be fewer than there is room for.
  void add_up(const Tensor& loss_sum, std::span<const double> sums) {
    const auto count = static_cast<std::int64_t>(sums.size());
    add_squares(entries(kSquares, 1));
    backend.copy(loss_sum, entries(kLoss, 1));
    backend.copy(loss_sum, entries(kOwnLoss, 1));
    if (count > 0) backend.copy_from_host(entries(kSums, count), sums.data());
    if (collectives.ranks() > 1)
      collectives.wait(
          collectives.all_reduce(entries(kSquares, kSums + count), Reduce::sum, "the gradient's norm"));
  }

  static StepResult result_of(std::int64_t step, const double* values) {
    StepResult r{step, {std::sqrt(values[kSquares])}, values[kOwnLoss], values[kLoss], {}};
    r.report.finite = std::isfinite(values[kSquares]) && std::isfinite(r.loss);
    std::copy_n(values + kSums, kMostSums, r.sums);
    return r;
  }

  std::optional<StepResult> take(LateStep& late_step) {
    if (!std::exchange(late_step.asked, false)) return {};
    const auto* const values = static_cast<const double*>(late_step.read->wait());
    collectives.check();  // on a device, only now is it known whether that is what the ranks added
    StepResult r = result_of(late_step.step, values);
    if (r.report.finite) r.report.matrices = late_step.matrices;
    return r;
  }

  Backend& backend;
  Parameters& parameters;
  Collectives& collectives;
  Sharding mode;
  ShardPlan plan;
  std::unique_ptr<BucketTraffic> traffic;  // null unless owners share
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Buffer> scalars;
  bool late = false;       // the device decides whether a step counts
  LateStep late_steps[2];  // take turns
  std::size_t next_late = 0;
  bool releasing = false;
  std::vector<Event> pending_replicas;
  std::vector<std::uint8_t> reduced;
};

DistributedOptimizer::DistributedOptimizer(Backend& backend, Parameters& parameters,
                                           const OptimizerConfig& config, Collectives& collectives,
                                           const DistributedOptions& options)
    : impl_(std::make_unique<Impl>(backend, parameters, config, collectives, options)) {}

DistributedOptimizer::~DistributedOptimizer() = default;

ProgramHooks DistributedOptimizer::hooks() {
  Impl* m = impl_.get();
  if (m->collectives.ranks() == 1) return {};
  ProgramHooks hooks;
  if (m->traffic) hooks.before_use = [m](std::size_t i) { m->traffic->need(i); };
  hooks.gradient_done = [m](std::size_t i) {
    if (!m->releasing) return;
    if (m->traffic)
      m->traffic->gradient_done(i);
    else
      m->reduce_replica(i);
  };
  // Between the first micro-batch of a step, which new weights come in for, and the last.
  hooks.idle = [m] { return !m->releasing && (!m->traffic || m->traffic->weights_are_here()); };
  return hooks;
}

void DistributedOptimizer::initialize(std::uint64_t seed) {
  impl_->parameters.set_steps(0);
  impl_->parameters.initialize(seed, [this](std::size_t i, const Tensor& whole) {
    if (impl_->traffic) impl_->traffic->take(i, whole);
  });
}

void DistributedOptimizer::restart(std::uint64_t seed) {
  finish_weights();
  initialize(seed);
  impl_->optimizer->restart();
}

void DistributedOptimizer::assign(std::int64_t steps,
                                  const std::function<void(std::size_t i, const Tensor& whole)>& read) {
  impl_->parameters.set_steps(steps);
  impl_->parameters.assign(read, [this](std::size_t i, const Tensor& whole) {
    if (impl_->traffic) impl_->traffic->take(i, whole);
  });
}

void DistributedOptimizer::release_gradients() {
  Impl& m = *impl_;
  if (m.collectives.ranks() == 1) return;
  m.releasing = true;
  m.pending_replicas.clear();
  m.reduced.assign(m.parameters.size(), 0);
  if (m.traffic) m.traffic->begin();
}

bool DistributedOptimizer::wants_sampled_gradient(std::int64_t step) const {
  return impl_->optimizer->wants_sampled_gradient(step);
}

void DistributedOptimizer::observe_sampled(std::int64_t step, double lr_factor, double tokens) {
  Impl& m = *impl_;
  m.finish_gradients();
  const Tensor total = m.entries(0, 1);
  m.add_squares(total);
  if (m.collectives.ranks() > 1)
    m.collectives.wait(m.collectives.all_reduce(total, Reduce::sum, "the norm of a sampled gradient"));
  double squares = 0;
  m.backend.copy_to_host(&squares, total);
  m.collectives.check();
  if (std::isfinite(squares)) m.optimizer->observe_sampled(step, lr_factor, tokens);
}

std::optional<DistributedOptimizer::StepResult> DistributedOptimizer::step(std::int64_t step,
                                                                           double lr_factor,
                                                                           const Tensor& loss_sum,
                                                                           std::span<const double> sums) {
  Impl& m = *impl_;
  if (sums.size() > kMostSums) throw std::logic_error("DistributedOptimizer::step: too many sums");
  m.finish_gradients();
  m.add_up(loss_sum, sums);
  return m.late ? m.update_late(step, lr_factor) : m.update(step, lr_factor);
}

DistributedOptimizer::StepResult DistributedOptimizer::Impl::update(std::int64_t step, double lr_factor) {
  double values[kEntries];
  backend.copy_to_host(values, entries(0, kEntries));
  collectives.check();
  StepResult result = result_of(step, values);
  if (result.report.finite) result.report = optimizer->update(step, lr_factor, values[kSquares]);
  parameters.set_steps(step + 1);
  // Rounded stochastically, weights are what the seed and the step make of them, as if read from a
  // checkpoint.
  if (result.report.finite || parameters.rounds_stochastically()) publish();
  return result;
}

std::optional<DistributedOptimizer::StepResult> DistributedOptimizer::Impl::update_late(std::int64_t step,
                                                                                        double lr_factor) {
  LateStep &now = late_steps[next_late], &before = late_steps[next_late ^= 1];
  now.read->ask(entries(0, kEntries));
  now.step = step;
  now.asked = true;
  parameters.set_steps(step + 1);
  // What is sent, or rounded by the step's number, cannot be recorded.
  const bool by_itself = traffic || parameters.rounds_stochastically();
  now.matrices = optimizer->update_late(
      step, lr_factor, entries(kSquares, 1), entries(kLoss, 1),
      by_itself ? std::function<void()>() : [this] { publish(); });
  if (by_itself) publish();
  return take(before);
}

std::optional<DistributedOptimizer::StepResult> DistributedOptimizer::finish_step() {
  return impl_->take(impl_->late_steps[impl_->next_late ^ 1]);
}

bool DistributedOptimizer::has_average(std::int64_t steps) const {
  return impl_->optimizer->has_average(steps);
}

void DistributedOptimizer::show_average() {
  finish_weights();
  impl_->optimizer->show_average();
  impl_->publish();
}

void DistributedOptimizer::restore_weights() {
  finish_weights();
  impl_->optimizer->restore_weights();
  impl_->publish();
}

void DistributedOptimizer::finish_weights() {
  if (impl_->traffic) impl_->traffic->finish_weights();
}

void DistributedOptimizer::compare_weights(std::int64_t step) {
  Impl& m = *impl_;
  const int ranks = m.collectives.ranks();
  if (ranks == 1) return;
  finish_weights();
  const std::size_t count = m.parameters.size();
  std::vector<std::uint64_t> own(count), all(count * static_cast<std::size_t>(ranks));
  for (std::size_t i = 0; i < count; ++i) own[i] = m.parameters.hash(i);
  // As float64 only in name: nothing is computed with them.
  const auto n = static_cast<std::int64_t>(count);
  const auto memory =
      m.backend.allocate((count + all.size()) * sizeof(std::uint64_t), "hashes of the weights");
  const Tensor from = memory->view(DType::f64, {n}), to = memory->view(DType::f64, {n * ranks}, from.bytes());
  m.backend.copy_from_host(from, own.data());
  m.collectives.wait(m.collectives.all_gather(from, to, "hashes of the weights"));
  m.backend.copy_to_host(all.data(), to);
  m.collectives.check();
  for (std::size_t i = 0; i < count; ++i)
    for (int r = 1; r < ranks; ++r)
      if (all[static_cast<std::size_t>(r) * count + i] != all[i])
        throw Error(
            fmt::format("step {}: the weights {} of rank {} are not those of rank 0; memory or the network "
                        "of one of them may "
                        "be at fault",
                        step, m.parameters.info(i).name, r));
}

std::vector<StateTensor> DistributedOptimizer::owned_values() const {
  Impl& m = *impl_;
  if (m.traffic) return m.traffic->owned_values();
  std::vector<StateTensor> values;
  if (m.collectives.rank() == 0)
    for (const ParameterView& p : m.parameters.views()) values.push_back({p.info->name, p.value});
  return values;
}

std::vector<StateTensor> DistributedOptimizer::owned_state() const {
  if (!impl_->traffic && impl_->collectives.rank() != 0) return {};
  return impl_->optimizer->state();
}

std::vector<StateTensor> DistributedOptimizer::value_layout() const {
  std::vector<StateTensor> layout;
  for (std::size_t i = 0; i < impl_->parameters.size(); ++i) {
    const ParameterInfo& info = impl_->parameters.info(i);
    layout.push_back({info.name, Tensor(nullptr, impl_->backend.master(), info.shape)});
  }
  return layout;
}

std::vector<StateTensor> DistributedOptimizer::state_layout() const {
  return impl_->optimizer->state_layout();
}

std::vector<StateTensor> DistributedOptimizer::state() const { return impl_->optimizer->state(); }

std::vector<MeasuredGroup> DistributedOptimizer::groups() const { return impl_->optimizer->groups(); }

std::vector<MeasuredPart> DistributedOptimizer::parts() const { return impl_->optimizer->parts(); }

std::string DistributedOptimizer::describe() const {
  std::string text = impl_->optimizer->describe();
  if (impl_->traffic) text += spectrain::describe(impl_->plan, impl_->backend.master());
  return text;
}

std::vector<TimedWork> DistributedOptimizer::profile(std::int64_t step, double lr_factor,
                                                     const NowSeconds& now,
                                                     const std::function<MachineRates(DType)>& rates) {
  return impl_->optimizer->profile(step, lr_factor, now, rates);
}

const ShardPlan* DistributedOptimizer::plan() const { return impl_->traffic ? &impl_->plan : nullptr; }

}  // namespace spectrain
