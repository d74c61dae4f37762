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

// A single overflow may pass; the same one again and again is a run that no longer learns.
constexpr std::int64_t kMostSkippedInARow = 10;

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
      config_(with_resolved_model(load_config(request.config, request.overrides))),
      own_(share_of_rank(config_, collectives.ranks())),
      steps_(config_.steps()),
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
  const auto context = static_cast<std::size_t>(config_.batch.context);
  data_->read(0, collectives_.rank() * micro_batches() * session_->micro_batch(), session_->micro_batch(),
              tokens_, targets_);
  validation_->read(0, 0, 1, std::span(tokens_).first(context), std::span(targets_).first(context));
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
             config_.run.name, static_cast<double>(count_.parameters) / 1e6, steps_, config_.batch.tokens,
             several() ? fmt::format("{} ranks x ", collectives_.ranks()) : "", micro_batches(),
             session_->micro_batch(), config_.batch.context, name_of(config_.compute.precision),
             several() ? fmt::format("{} ranks ({}) of ", collectives_.ranks(), collectives_.name()) : "",
             backend_->description());
  fmt::print("data: {:.1f}M training tokens in {} files, {:.1f} epochs; {:.1f}M validation tokens\n",
             static_cast<double>(data_->tokens()) / 1e6, data_->files(),
             static_cast<double>(tokens_after(steps_)) /
                 static_cast<double>(data_->windows() * config_.batch.context),
             static_cast<double>(validation_->tokens()) / 1e6);
  fmt::print("{}", optimizer_->describe());
}

bool Trainer::validates(std::int64_t step) const {
  const std::int64_t every = config_.train.validate.every;
  return step == 0 || step == steps_ || (every > 0 && step % every == 0);
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
  settle();
  MetricsLine line{step, tokens_after(step), clock_.seconds(), {}, {}, {}};
  line.diagnostics = diagnostics_->measure();
  if (first()) metrics_->write(line);
}

void Trainer::read_micro_batch(std::int64_t step, std::int64_t first) {
  data_->read(step, first, session_->micro_batch(), tokens_, targets_);
  session_->set_progress(progress(step));
  session_->set_batch(session_->training(), tokens_, targets_);
}

void Trainer::forward_backward_sampled(std::int64_t step) {
  const std::int64_t sequences = session_->micro_batch(), micros = micro_batches();
  const std::int64_t begin = collectives_.rank() * micros * sequences;
  const double scale = 1.0 / static_cast<double>(config_.batch.tokens);
  // Labels depend on the seed, the step and their place in the step's batch, not on who draws them.
  const RandomKey key{config_.run.seed, stream_of("sampled labels") + static_cast<std::uint64_t>(step)};
  for (std::int64_t micro = 0; micro < micros; ++micro) {
    const std::int64_t first = begin + micro * sequences;
    read_micro_batch(step, first);
    if (micro + 1 == micros) optimizer_->release_gradients();
    session_->training().forward_backward_sampled(scale, micro > 0, {key, first * config_.batch.context});
  }
}

void Trainer::forward_backward(std::int64_t step) {
  const std::int64_t sequences = session_->micro_batch(), micros = micro_batches();
  const std::int64_t begin = collectives_.rank() * micros * sequences;  // of this rank's stretch of the step
  const double scale = 1.0 / static_cast<double>(config_.batch.tokens);
  backend_->fill(loss_sum(), 0);
  for (std::int64_t micro = 0; micro < micros; ++micro) {
    read_micro_batch(step, begin + micro * sequences);
    if (micro + 1 < micros)
      data_->prefetch(step, begin + (micro + 1) * sequences, sequences);
    else
      data_->prefetch(step + 1, begin, sequences);
    if (micro + 1 == micros) optimizer_->release_gradients();
    session_->training().forward_backward(scale, micro > 0);
    session_->training().add_result_to(loss_sum());
  }
}

// A loss that is no number: whose it is ends the run, for all.
void Trainer::check_losses(std::int64_t step, const DistributedOptimizer::StepSums& losses) {
  if (std::isfinite(losses.loss)) return;
  if (std::isfinite(losses.own_loss)) together("the losses of a step");  // until the one it was has said so
  std::string where = session_->training().first_nonfinite();
  // Only the newest micro-batch is there to be looked at.
  where =
      where.empty() ? "in an earlier micro-batch of the step" : "the first value that went bad is " + where;
  throw Error(
      fmt::format("step {}: the training loss is {}; {}. {}", step, losses.own_loss, where, what_is_saved()));
}

void Trainer::train_step(std::int64_t step) {
  const double before = clock_.seconds();
  const Traffic begin = collectives_.traffic();
  clock_.start();
  const double factor = schedule_factor(config_.schedule, step, steps_);
  if (optimizer_->wants_sampled_gradient(step)) {
    forward_backward_sampled(step);
    optimizer_->observe_sampled(step, factor, static_cast<double>(config_.batch.tokens));
  }
  forward_backward(step);
  double votes[] = {InterruptGuard::raised() ? 1.0 : 0.0};
  DistributedOptimizer::StepSums losses;
  const StepReport report = optimizer_->step(step, factor, loss_sum(), votes, losses);
  check_losses(step + 1, losses);
  last_loss_ = losses.loss / static_cast<double>(config_.batch.tokens);
  stop_ = votes[0] > 0;
  clock_.stop();

  const double lr = first_lr_ * factor, seconds = clock_.seconds() - before;
  const double speed = static_cast<double>(config_.batch.tokens) / seconds;
  const Traffic end = collectives_.traffic();
  if (!report.finite) skip(step + 1);
  if (!first()) return;
  for (const std::string& note : backend_->notes()) progress_->note(note);
  if (!report.finite || (step + 1) % config_.train.log_every == 0) {
    MetricsLine line{step + 1, tokens_after(step + 1), clock_.seconds(), last_loss_, {}, {}};
    line.more = {{"lr", lr}, {"gradient_norm", report.gradient_norm}, {"tokens_per_second", speed}};
    if (!report.finite) line.more.emplace_back("skipped", true);
    if (several()) add_traffic(line, seconds, begin, end);
    record(line);
  }
  traffic_ = end;
  show(step + 1, lr, speed);
}

// What was sent and done since the last step's end: the weights of a step travel while the next one, or a
// validation, computes. But only what was waited for within the step belongs to its seconds.
void Trainer::add_traffic(MetricsLine& line, double step_seconds, const Traffic& begin, const Traffic& end) {
  line.more.emplace_back("step_seconds", step_seconds);
  line.more.emplace_back("bytes_sent", static_cast<std::int64_t>(end.bytes_sent - traffic_.bytes_sent));
  line.more.emplace_back("communication_seconds", end.busy_seconds - traffic_.busy_seconds);
  line.more.emplace_back("waited_seconds", end.waited_seconds - begin.waited_seconds);
}

void Trainer::skip(std::int64_t step) {
  skipped_ += 1;
  skipped_in_a_row_ = last_skipped_ == step - 1 ? skipped_in_a_row_ + 1 : 1;
  last_skipped_ = step;
  if (first())
    progress_->note(
        fmt::format("step {}: a gradient is not finite; nothing was updated ({} so far)", step,
                    skipped_ == 1 ? "1 step skipped" : fmt::format("{} steps skipped", skipped_)));
  if (skipped_in_a_row_ >= kMostSkippedInARow)
    throw Error(
        fmt::format("step {}: the gradients of {} steps in a row were not finite, the weights no longer "
                    "change; a smaller learning rate may help. {}",
                    step, skipped_in_a_row_, what_is_saved()));
}

void Trainer::show(std::int64_t step, double lr, double tokens_per_second) {
  ProgressState state;
  state.step = step;
  state.steps = steps_;
  state.tokens = tokens_after(step);
  state.loss = last_loss_;
  if (!validations_.empty()) state.val_loss = validations_.back().loss;
  state.lr = lr;
  state.tokens_per_second = tokens_per_second;
  state.share_of_peak = tokens_per_second * static_cast<double>(count_.flops_per_token) / peak_;
  const double per_step = (clock_.seconds() - session_seconds_) / static_cast<double>(step - first_step_);
  state.seconds_left = per_step * static_cast<double>(steps_ - step);
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

// A device may still be at the update when step() returns: its seconds belong to the training, not to what
// comes between two steps.
void Trainer::settle() {
  if (!backend_->asynchronous()) return;
  clock_.start();
  backend_->synchronize();
  clock_.stop();
}

bool Trainer::stopped() const { return several() ? stop_ : InterruptGuard::raised(); }

void Trainer::run() {
  traffic_ = collectives_.traffic();
  if (first()) {
    print_start();
    progress_ = std::make_unique<Progress>(progress_options_for(stdout));
  }
  session_seconds_ = clock_.seconds();
  const InterruptGuard guard;
  std::int64_t step = first_step_;
  while (step < steps_ && !stopped()) {
    // A resumed run may have the validation of its first step already.
    if (validates(step) && !validated(step)) validate(step);
    const std::int64_t check = config_.distributed.check_every;
    if (check > 0 && step > first_step_ && step % check == 0) optimizer_->compare_weights(step);
    const bool measures = diagnostics_->due(step + 1);
    if (measures) {
      settle();
      diagnostics_->remember_weights();
    }
    train_step(step);
    ++step;
    if (measures && last_skipped_ != step) measure(step);
    const std::int64_t every = config_.train.checkpoint.every;
    if (every > 0 && step % every == 0 && step < steps_) save(step);
  }
  if (step == steps_ && !validated(step)) validate(step);
  optimizer_->compare_weights(step);
  if (last_saved_ != step) save(step);
  if (!first()) return;
  progress_->finish();
  if (step < steps_) fmt::print("interrupted after step {}; saved, go on with --resume\n", step);
  print_end(step);
}

}  // namespace spectrain
