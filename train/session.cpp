#include "train/session.h"

#include <algorithm>

#include "fmt/format.h"
#include "kernels/cuda_plugin.h"
#include "kernels/error.h"

namespace spectrain {

RunConfig with_resolved_model(RunConfig config) {
  config.model = config.model.resolved();
  return config;
}

std::unique_ptr<Backend> make_backend(const ComputeSection& compute, int gpu) {
  if (compute.device != Device::cpu) {
    std::string reason;
    CudaOptions options;
    options.device = gpu;
    std::unique_ptr<Backend> cuda = make_cuda_backend(options, reason);
    if (cuda) return cuda;
    if (compute.device == Device::cuda)
      throw RequestError(fmt::format("compute.device is cuda, but {}; use --device cpu", reason));
  }
  return make_cpu_backend({compute.threads, true});
}

ProgramOptions program_options(const RunConfig& config, bool training) {
  ProgramOptions o;
  o.compute = config.compute.precision;
  o.training = training;
  o.stochastic_rounding = training && config.compute.rounding == Rounding::stochastic;
  o.recompute = config.compute.recompute;
  o.logits_budget = static_cast<std::size_t>(config.compute.logits_budget_mib) << 20;
  return o;
}

Session::Session(const RunConfig& config, Backend& backend, bool training, Parameters::Values values)
    : config_(config), backend_(backend) {
  Tape tape;
  const Value losses = transformer(tape, config.model, micro_batch(), config.batch.context);
  parameters_ = std::make_unique<Parameters>(tape, backend, config.compute.precision, training, values);
  if (program_options(config, training).stochastic_rounding)
    parameters_->round_stochastically(config.run.seed);
  if (training)
    training_ = std::make_unique<Program>(tape, losses, *parameters_, program_options(config, true));
}

Program& Session::evaluation() {
  if (!evaluation_) {
    Tape tape;
    const Value losses =
        transformer(tape, config_.model, config_.validation_batch(), config_.validation_context());
    evaluation_ = std::make_unique<Program>(tape, losses, *parameters_, program_options(config_, false));
  }
  return *evaluation_;
}

void Session::set_batch(Program& program, std::int64_t context, std::span<const std::int32_t> tokens,
                        std::span<const std::int32_t> targets) {
  set_tokens(program, config_.model, tokens, context, progress_);
  program.set_input("targets", targets);
}
void Session::set_training_batch(std::span<const std::int32_t> tokens,
                                 std::span<const std::int32_t> targets) {
  set_batch(training(), config_.batch.context, tokens, targets);
}
void Session::set_evaluation_batch(std::span<const std::int32_t> tokens,
                                   std::span<const std::int32_t> targets) {
  set_batch(evaluation(), config_.validation_context(), tokens, targets);
}

void Session::set_hooks(const ProgramHooks& hooks) {
  training_->set_hooks(hooks);
  evaluation().set_hooks({hooks.before_use, {}, hooks.idle});
}

namespace {

LoaderConfig loader_config(const RunConfig& config, const std::vector<std::string>& files,
                           std::int64_t context, std::int64_t sequences) {
  LoaderConfig l;
  l.files = expand_shards(files);
  l.context = context;
  l.sequences = sequences;
  l.seed = config.run.seed;
  l.vocab = config.model.vocab;
  return l;
}

}  // namespace

std::unique_ptr<TokenLoader> training_loader(const RunConfig& config) {
  LoaderConfig l =
      loader_config(config, config.data.train, config.batch.context, config.sequences_per_step());
  l.order = config.data.order;
  l.layout = config.data.layout;
  l.layout_ranks = config.data.layout_ranks;
  l.document_token = config.data.document_token;
  l.document_length = config.data.document_length;
  l.replay_first_batch = config.data.replay_first_batch;
  return std::make_unique<TokenLoader>(std::move(l));
}

std::unique_ptr<TokenLoader> validation_loader(const RunConfig& config) {
  return std::make_unique<TokenLoader>(
      loader_config(config, config.data.validation, config.validation_context(), config.validation_batch()));
}

Evaluation evaluate(Session& session, TokenLoader& validation, std::int64_t tokens, Collectives* collectives,
                    const EachLoss& each) {
  const std::int64_t context = session.config().validation_context(),
                     batch = session.config().validation_batch();
  const std::int64_t wanted = tokens > 0 ? std::max<std::int64_t>(1, tokens / context) : validation.windows();
  const std::int64_t sequences = std::min(wanted, validation.windows());
  Program& program = session.evaluation();
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(batch * context)), targets(inputs.size());
  const auto memory = session.backend().allocate(sizeof(double), "the validation loss");
  const Tensor total = memory->view(DType::f64, {1});
  session.backend().fill(total, 0);
  const std::int64_t rank = collectives ? collectives->rank() : 0,
                     ranks = collectives ? collectives->ranks() : 1;
  for (std::int64_t first = rank * batch; first < sequences; first += ranks * batch) {
    const std::int64_t count = std::min(batch, sequences - first);
    const auto used = static_cast<std::size_t>(count * context);
    validation.read(first / batch, 0, count, std::span(inputs).first(used), std::span(targets).first(used));
    std::fill(inputs.begin() + static_cast<std::ptrdiff_t>(used), inputs.end(), 0);
    std::fill(targets.begin() + static_cast<std::ptrdiff_t>(used), targets.end(), -1);
    session.set_evaluation_batch(inputs, targets);
    program.forward();
    program.add_result_to(total);
    if (each) each(targets, program.host_result());
  }
  if (ranks > 1) collectives->wait(collectives->all_reduce(total, Reduce::sum, "the validation loss"));
  double sum = 0;
  session.backend().copy_to_host(&sum, total);
  if (ranks > 1) collectives->check();
  const std::int64_t predicted = sequences * context;
  return {sum / static_cast<double>(predicted), predicted};
}

}  // namespace spectrain
