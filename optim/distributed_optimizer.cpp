#include "optim/distributed_optimizer.h"

#include <fmt/format.h>

#include <cmath>

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
    scalars = backend.allocate((kMostSums + 3) * sizeof(double), "sums over ranks");
    if (collectives.ranks() > 1 && mode == Sharding::owners)
      share(config, o.bucket_bytes);
    else
      optimizer = std::make_unique<Optimizer>(backend, parameters.views(), config);
    if (collectives.ranks() > 1 && mode == Sharding::replicas) pending_replicas.reserve(parameters.size());
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

  Tensor entries(std::int64_t first, std::int64_t count) const {
    return scalars->view(DType::f64, {count}, static_cast<std::size_t>(first) * sizeof(double));
  }

  static constexpr std::size_t kMostSums = 8;

  Backend& backend;
  Parameters& parameters;
  Collectives& collectives;
  Sharding mode;
  ShardPlan plan;
  std::unique_ptr<BucketTraffic> traffic;  // null unless owners share
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Buffer> scalars;
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
  // Between the first micro-batch of a step, which new weights come in for, and the last.
  hooks.idle = [m] { return !m->releasing && (!m->traffic || m->traffic->weights_are_here()); };

StepReport DistributedOptimizer::step(std::int64_t step, double lr_factor, const Tensor& loss_sum,
                                      std::span<double> sums, StepSums& losses) {
  Impl& m = *impl_;
  if (sums.size() > Impl::kMostSums) throw std::logic_error("DistributedOptimizer::step: too many sums");
  const bool several = m.collectives.ranks() > 1;
  m.finish_gradients();
  // In one message, and read by the host at one time: squares, loss, the caller's sums; this rank's loss.
  enum { kSquares, kLoss, kSums };
  const auto count = static_cast<std::int64_t>(kSums + sums.size());
  const Tensor all = m.scalars->view(DType::f64, {count + 1}), added = m.entries(0, count);
  m.add_squares(m.entries(kSquares, 1));
  m.backend.copy(loss_sum, m.entries(kLoss, 1));
  m.backend.copy(loss_sum, m.entries(count, 1));
  if (!sums.empty())
    m.backend.copy_from_host(m.entries(kSums, static_cast<std::int64_t>(sums.size())), sums.data());
  if (several) m.collectives.wait(m.collectives.all_reduce(added, Reduce::sum, "the gradient's norm"));
  double values[kSums + Impl::kMostSums + 1];
  m.backend.copy_to_host(values, all);
  m.collectives.check();  // on a device, only now is it known whether that is what the ranks added
  std::copy(values + kSums, values + count, sums.begin());
  losses = {values[count], values[kLoss]};

  StepReport report{std::sqrt(values[kSquares]), false};
  if (std::isfinite(losses.loss)) report = m.optimizer->update(step, lr_factor, values[kSquares]);
  m.parameters.set_steps(step + 1);
  // Rounded stochastically, weights are what the seed and the step make of them, as if read from a
  // checkpoint.
  if (report.finite || m.parameters.rounds_stochastically()) m.publish();
  return report;
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

const ShardPlan* DistributedOptimizer::plan() const { return impl_->traffic ? &impl_->plan : nullptr; }

}  // namespace spectrain
