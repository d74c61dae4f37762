#include <fmt/format.h>
#include <version.h>

#include "kernels/error.h"
#include "train/checkpoint.h"
#include "train/safetensors.h"
#include "train/trainer.h"

// How a run saves itself and goes on.

namespace spectrain {

std::string Trainer::what_is_saved() const {
  return last_saved_ >= 0 ? fmt::format("The checkpoint of step {} is intact.", last_saved_)
                          : "There is no checkpoint yet.";
}

void Trainer::load_newest_checkpoint(const std::string& run_directory) {
  std::vector<std::string> notes;
  const auto found = newest_checkpoint(run_directory + "/checkpoints", Verify::contents, &notes);
  if (first())
    for (const std::string& note : notes) fmt::print("{}\n", note);
  if (found) load(CheckpointReader(found->path));
  if (!first()) return;
  if (found)
    fmt::print("going on from {} after step {}\n", found->path, first_step_);
  else
    fmt::print("{} holds no checkpoint: starting from the beginning\n", run_directory);
}

void Trainer::load(const CheckpointReader& reader) {
  reader.read_model(optimizer_->value_layout(), [&](const SafetensorsFile& file) {
    optimizer_->assign(reader.step(), [&](std::size_t i, const Tensor& whole) {
      file.read(*backend_, {session_->parameters().info(i).name, whole});
    });
  });
  reader.load_optimizer(*backend_, optimizer_->state(), optimizer_->state_layout());
  const nlohmann::json& state = reader.state();
  first_step_ = last_saved_ = reader.step();
  clock_ = TrainingClock(state.at("train_seconds").get<double>());
  skipped_ = state.value("skipped_steps", std::int64_t{0});
  for (const auto& v : state.at("validations"))
    validations_.push_back(
        {v.at(0).get<double>(), v.at(1).get<double>(), v.at(2).get<double>(), v.at(3).get<double>()});
}

void Trainer::save(std::int64_t step) {
  settle();
  CheckpointContents contents{optimizer_->owned_values(), optimizer_->owned_state(), {}};
  // A checkpoint of weights that are no numbers is worth nothing, and older ones are removed for it.
  for (const auto* tensors : {&contents.model, &contents.optimizer})
    for (const StateTensor& t : *tensors)
      if (!backend_->all_finite(t.tensor))
        throw Error(
            fmt::format("step {}: {} is not finite after the update. {}", step, t.name, what_is_saved()));
  nlohmann::json points = nlohmann::json::array();
  for (const ValidationPoint& v : validations_) points.push_back({v.step, v.tokens, v.seconds, v.loss});
  contents.state = {{"step", step},
                    {"tokens", tokens_after(step)},
                    {"train_seconds", clock_.seconds()},
                    {"train_loss", last_loss_},
                    {"seed", config_.run.seed},
                    {"skipped_steps", skipped_},
                    {"validations", std::move(points)},
                    {"version", SPECTRAIN_VERSION}};
  const std::string directory = run_path() + "/checkpoints";
  const int keep = config_.train.checkpoint.keep;
  if (several())
    write_checkpoint(directory, step, contents, *backend_, keep,
                     {collectives_.rank(), optimizer_->value_layout(), optimizer_->state_layout(),
                      [this](const char* what) { together(what); }});
  else
    write_checkpoint(directory, step, contents, *backend_, keep);
  last_saved_ = step;
}

}  // namespace spectrain
