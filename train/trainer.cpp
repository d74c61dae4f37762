#include "train/trainer.h"

#include <fmt/format.h>
#include <version.h>

#include <cmath>

#include "kernels/error.h"
#include "optim/rule.h"
#include "train/checksum.h"
#include "train/interrupt.h"
#include "train/peak.h"

namespace spectrain {
namespace {

// For legends and tables: the first group's rule, "muon 0.02".
std::string label(const OptimizerConfig& optimizer) {
  const GroupConfig& first = optimizer.groups.front();
  const std::unique_ptr<UpdateRule> rule = first.rule.make(first.finish);
  return fmt::format("{} {}", rule->name(), rule->lr());
}

std::string config_hash(const RunConfig& config) {
  const std::string yaml = to_yaml(config);
  return checksum_text(checksum_of(yaml.data(), yaml.size()));
}

}  // namespace

Trainer::Trainer(const TrainRequest& request, Collectives& collectives, const Launch& launch,
                 Backend& backend)
    : collectives_(collectives),
      config_(configuration_of(request)),
      own_(share_of_rank(config_, collectives.ranks())),
      steps_(config_.steps()),
      last_(config_.last_step()),
      count_(count(config_.model, config_.batch.context)),
      first_lr_(config_.optimizer.groups.front().rule.make(config_.optimizer.groups.front().finish)->lr()),
      backend_(&backend) {
  own_.compute.threads = threads_share(config_.compute.threads, launch);
  data_ = training_loader(own_);
  validation_ = validation_loader(own_);
  const DistributedOptions options{config_.distributed.sharding, config_.distributed.bucket_mib << 20};
  const bool shared = several() && options.sharding == Sharding::owners;
  session_ = std::make_unique<Session>(own_, *backend_, true,
                                       shared ? Parameters::Values::read : Parameters::Values::all);
  optimizer_ = std::make_unique<DistributedOptimizer>(*backend_, session_->parameters(), config_.optimizer,
                                                      collectives_, options);
  session_->set_hooks(optimizer_->hooks());  // all memory is taken now, not an hour into the run
  loss_memory_ = backend_->allocate(sizeof(double), "the loss of a step");
  diagnostics_ =
      std::make_unique<Diagnostics>(*backend_, collectives_, session_->parameters(), *optimizer_, config_);
  optimizer_->initialize(config_.run.seed);
  const auto micro_tokens = static_cast<std::size_t>(session_->micro_batch() * config_.batch.context);
  tokens_.resize(micro_tokens);
  targets_.resize(micro_tokens);
  try_data();
  // Before the directory takes the new configuration: a checkpoint of another model is refused, and the run
  // stays as it was.
  if (request.resume) load_newest_checkpoint(run_path());
  optimizer_->compare_weights(first_step_);
  // By all at once, as they will train: alone one would be quicker, and would let the others wait.
  peak_ = measure_peak(*backend_, config_.compute.precision) * collectives_.ranks();
  if (first()) begin_run(request);
  agree_on_validations();
  if (request.speedrun) begin_speedrun();
}

// The run directory and what rank 0 keeps in it.
void Trainer::begin_run(const TrainRequest& request) {
  const ExistingRun existing = request.resume  ? ExistingRun::resume
                               : request.force ? ExistingRun::set_aside
                                               : ExistingRun::refuse;
  directory_ =
      std::make_unique<RunDirectory>(config_.run.directory, config_.run.name, existing, to_yaml(config_));
  if (!directory_->set_aside_to().empty()) fmt::print("the old run is now {}\n", directory_->set_aside_to());
  begin_metrics();
}

// Rank 0 may know of one from metrics.jsonl; what is measured again must be the same for all.
void Trainer::agree_on_validations() {
  if (!several()) return;
  const double own = validations_.empty() ? -1 : validations_.back().step;
  double last = own;
  const auto memory = backend_->allocate(sizeof last, "the last validation");
  const Tensor x = memory->view(DType::f64, {1});
  backend_->copy_from_host(x, &last);
  collectives_.wait(collectives_.all_reduce(x, Reduce::max, "the start of the run"));
  backend_->copy_to_host(&last, x);
  collectives_.check();
  if (last > own) remember(static_cast<std::int64_t>(last), 0, 0);
}

void Trainer::together(const char* what) { collectives_.wait(collectives_.barrier(what)); }

// Token ids that the vocabulary does not have, where the first sequences show them: shards of another
// tokenizer are refused before the run has a directory.
void Trainer::try_data() {
  data_->read(0, collectives_.rank() * micro_batches() * session_->micro_batch(), session_->micro_batch(),
              tokens_, targets_);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(config_.validation_context())),
      targets(tokens.size());
  validation_->read(0, 0, 1, tokens, targets);
}

void Trainer::record(const MetricsLine& line) {
  metrics_->write(line);
  if (tensorboard_) tensorboard_->write(line);
}

void Trainer::begin_metrics() {
  if (config_.train.tensorboard)
    tensorboard_ = std::make_unique<TensorboardWriter>(directory_->path(), first_step_);
  MetricsHeader header;
  header.run = config_.run.name;
  header.optimizer = label(config_.optimizer);
  header.config_hash = config_hash(config_);
  header.version = SPECTRAIN_VERSION;
  header.device = backend_->description();
  header.model_parameters = count_.parameters;
  header.target = config_.train.target;
  header.started = utc_now();
  if (!directory_->existed()) {
    metrics_ = std::make_unique<MetricsWriter>(directory_->metrics_path(), header);
    return;
  }
  // Without a checkpoint everything is measured again, the validation before the first step included.
  const std::int64_t kept = last_saved_ >= 0 ? first_step_ : -1;
  metrics_ = std::make_unique<MetricsWriter>(MetricsWriter::resume(directory_->metrics_path(), header, kept));
  // A run that was killed after the validation that follows its checkpoint has that line already: these are
  // the weights it was measured with.
  for (const MetricsLine& line : read_metrics(directory_->metrics_path()).lines)
    if (line.val_loss && !validated(line.step)) remember(line.step, line.train_seconds, *line.val_loss);
}

void Trainer::print_start() const {
  fmt::print("{}: {:.2f}M parameters, {} steps of {} tokens ({}{} x {} sequences of {}), {} on {}{}\n",
             config_.run.name, static_cast<double>(count_.parameters) / 1e6, last_, config_.batch.tokens,
             several() ? fmt::format("{} ranks x ", collectives_.ranks()) : "", micro_batches(),
             session_->micro_batch(), config_.batch.context, name_of(config_.compute.precision),
             several() ? fmt::format("{} ranks ({}) of ", collectives_.ranks(), collectives_.name()) : "",
             backend_->description());
  fmt::print("data: {:.1f}M training tokens in {} files, {:.1f} epochs; {:.1f}M validation tokens\n",
             static_cast<double>(data_->tokens()) / 1e6, data_->files(),
             static_cast<double>(tokens_after(last_)) /
                 static_cast<double>(data_->windows() * config_.batch.context),
             static_cast<double>(validation_->tokens()) / 1e6);
  fmt::print("{}", optimizer_->describe());
}

bool Trainer::validated(std::int64_t step) const {
  return !validations_.empty() && validations_.back().step >= static_cast<double>(step);
}

void Trainer::remember(std::int64_t step, double seconds, double loss) {
  validations_.push_back({static_cast<double>(step), static_cast<double>(tokens_after(step)), seconds, loss});
}

Evaluation Trainer::evaluation() {
  EachLoss each;
  if (DecileLosses* deciles = diagnostics_->deciles()) {
    deciles->begin();
    each = [deciles](auto targets, auto losses) { deciles->add(targets, losses); };
  }
  return evaluate(*session_, *validation_, config_.train.validate.tokens, &collectives_, each);
}

double Trainer::progress(std::int64_t step) const {
  return static_cast<double>(step) / static_cast<double>(steps_);
}

void Trainer::validate(std::int64_t step) {
  settle();
  session_->set_progress(progress(step));
  Evaluation e = evaluation();
  if (!std::isfinite(e.loss))
    throw Error(fmt::format("step {}: the validation loss is {}; the first value that went bad is {}. {}",
                            step, e.loss, session_->evaluation().first_nonfinite(), what_is_saved()));
  MetricsFields more = {{"val_tokens", e.tokens}};
  if (optimizer_->has_average(step)) {
    more.emplace_back("val_loss_last_weights", e.loss);
    optimizer_->show_average();
    e = evaluation();
    optimizer_->restore_weights();
  }
  remember(step, clock_.seconds(), e.loss);
  MetricsLine line{step, tokens_after(step), clock_.seconds(), {}, e.loss, std::move(more)};
  if (diagnostics_->deciles()) line.diagnostics = diagnostics_->decile_record();
  if (first()) record(line);
}

// Between the clock's seconds, as validations are.
void Trainer::measure(std::int64_t step) {
  MetricsLine line{step, tokens_after(step), clock_.seconds(), {}, {}, {}};
  line.diagnostics = diagnostics_->measure();
  if (first()) metrics_->write(line);
}

void Trainer::show(std::int64_t step, double lr, double tokens_per_second) {
  ProgressState state;
  state.step = step;
  state.steps = last_;
  state.tokens = tokens_after(step);
  state.loss = last_loss_;
  if (!validations_.empty()) state.val_loss = validations_.back().loss;
  state.lr = lr;
  state.tokens_per_second = tokens_per_second;
  state.share_of_peak = tokens_per_second * static_cast<double>(count_.flops_per_token) / peak_;
  const double per_step = (clock_.seconds() - session_seconds_) / static_cast<double>(step - first_step_);
  state.seconds_left = per_step * static_cast<double>(last_ - step);
  progress_->update(state);
}

void Trainer::print_end(std::int64_t step) const {
  if (skipped_ > 0)
    fmt::print("{} skipped because a gradient was not finite\n",
               skipped_ == 1 ? "1 step was" : fmt::format("{} steps were", skipped_));
  if (validations_.empty()) return;
  fmt::print("{}: validation loss {:.4f} after {} tokens, {:.1f} s of training\n", config_.run.name,
             validations_.back().loss, tokens_after(step), clock_.seconds());
  if (config_.train.target <= 0) return;
  if (const auto at = first_crossing(validations_, config_.train.target))
    fmt::print("target {} reached at {:.0f} tokens (step {:.1f}), {:.1f} s\n", config_.train.target,
               at->tokens, at->step, at->seconds);
  else
    fmt::print("target {} not reached\n", config_.train.target);
}

bool Trainer::stopped() const { return several() ? stop_ : InterruptGuard::raised(); }

void Trainer::run() {
  if (speedrun_) warm_up();
  traffic_ = collectives_.traffic();
  if (first()) {
    print_start();
    progress_ = std::make_unique<Progress>(progress_options_for(stdout));
  }
  session_seconds_ = known_at_ = clock_.seconds();
  const InterruptGuard guard;
  std::int64_t step = first_step_;
  while (step < last_ && !stopped()) {
    // A resumed run may have the validation of its first step already.
    if (config_.validates(step) && !validated(step)) validate(step);
    const std::int64_t check = config_.distributed.check_every;
    if (check > 0 && step > first_step_ && step % check == 0) optimizer_->compare_weights(step);
    const bool measures = diagnostics_->due(step + 1);
    if (measures) {
      settle();
      diagnostics_->remember_weights();
    }
    train_step(step);
    ++step;
    if (measures) {
      settle();
      if (last_skipped_ != step) measure(step);
    }
    const std::int64_t every = config_.train.checkpoint.every;
    if (every > 0 && step % every == 0 && step < last_) save(step);
  }
  if (step == last_ && !validated(step)) validate(step);
  optimizer_->compare_weights(step);
  if (last_saved_ != step) save(step);
  if (!first()) return;
  progress_->finish();
  if (step < last_) fmt::print("interrupted after step {}; saved, go on with --resume\n", step);
  print_end(step);
  if (speedrun_) write_speedrun_log();
}

}  // namespace spectrain
