#include "tests/train/tiny_run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdlib>

#include "data/pack.h"
#include "kernels/random.h"
#include "train/checkpoint.h"
#include "train/session.h"
#include "train/trainer.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

// Words drawn by a fixed chain: something to learn, the same every time.
std::string text_of(std::size_t bytes, std::uint64_t seed) {
  static const char* const words[] = {"the",   "quick", "river", "runs",  "under", "stone", "and",  "wind",
                                      "falls", "over",  "green", "field", "when",  "light", "ends", "soon"};
  std::string text;
  std::size_t word = 0;
  for (std::uint64_t i = 0; text.size() < bytes; ++i) {
    text += words[word];
    text += word == 14 ? ". " : " ";
    word = (word * 5 + 3 + random_u32({seed, 1}, i) % 3) % 16;
  }
  text.resize(bytes);
  return text;
}

// One document: the end of text and then its bytes, so `tokens` tokens in all.
void pack(const ScratchDirectory& scratch, const std::string& directory, const std::string& prefix,
          std::int64_t tokens, std::int64_t shard_tokens, std::uint64_t seed) {
  const std::string file = scratch / (directory + "-" + prefix + ".txt");
  put_contents(file, text_of(static_cast<std::size_t>(tokens - 1), seed));
  PackOptions options;
  options.tokenizer = "bytes";
  options.out = scratch / directory;
  options.prefix = prefix;
  options.shard_tokens = shard_tokens;
  options.threads = 1;
  options.inputs = {file};
  pack_documents(options);
}

constexpr const char* kConfig = R"(
run: {{name: tiny, directory: {0}/runs, seed: 7}}
model:
  vocab: 257
  context: 16
  layers: 2
  width: 32
  heads: 2
  positions: rotary
  norm: rms
  norm_gain: true
  norm_bias: false
  qk_norm: true
  mlp: relu2
  linear_bias: false
  tied: false
  init: fan_in_uniform
  init_std: 0.57735
  embedding_std: 1
  residual_scaling: false
  zero_init_projections: true
  zero_init_head: true
data: {{train: {0}/short/train_*.bin, validation: {0}/short/val_*.bin}}
batch: {{tokens: 64, context: 16, micro_batch: 2}}
compute: {{precision: f32, device: cpu, threads: 1}}
optimizer:
  - {{parameters: hidden, rule: muon, lr: 0.02, weight_decay: 0.01, momentum_warmup: {{start: 0.8, steps: 9}}}}
  - {{parameters: [embedding, head, gain, bias, scalar], rule: adamw, lr: 0.01, betas: [0.9, 0.95]}}
schedule: {{shape: trapezoid, warmup: 4, cooldown: 0.4}}
train:
  steps: 20
  validate: {{every: 6, tokens: 0}}
  checkpoint: {{every: 0, keep: 2}}
)";

constexpr const char* kAdamW = R"(
base: tiny.yaml
optimizer:
  - {parameters: [hidden, embedding, head], rule: adamw, lr: 0.01, betas: [0.9, 0.95], weight_decay: 0.1}
  - {parameters: [gain, bias, scalar], rule: adamw, lr: 0.01, betas: [0.9, 0.95]}
)";

// Takes what is printed while it lives; output that a failing run leaves behind does not swallow the test's.
class Captured {
 public:
  Captured() { testing::internal::CaptureStdout(); }
  ~Captured() {
    if (!taken_) testing::internal::GetCapturedStdout();
  }
  std::string take() {
    taken_ = true;
    return testing::internal::GetCapturedStdout();
  }

 private:
  bool taken_ = false;
};

}  // namespace

TinyRun::TinyRun() {
  pack(scratch_, "short", "train", 452, 161, 1);
  pack(scratch_, "short", "val", 18 * 16 + 1, 1000, 2);
  pack(scratch_, "long", "train", 16001, 20000, 3);
  pack(scratch_, "long", "val", 18 * 16 + 1, 1000, 4);
  put_contents(config(), fmt::format(kConfig, scratch_.path()));
  put_contents(adamw_config(), kAdamW);
}

std::vector<std::string> named(const std::string& run, std::vector<std::string> overrides) {
  overrides.push_back("run.name=" + run);
  return overrides;
}

std::string train(const std::string& config, const std::vector<std::string>& overrides, Existing existing) {
  const auto backend = make_backend(load_config(config, overrides).compute);
  return train_on(*backend, config, overrides, existing);
}

std::string train_on(Backend& backend, const std::string& config, const std::vector<std::string>& overrides,
                     Existing existing) {
  Captured captured;
  const auto collectives = make_single_collectives();
  const TrainRequest request{config, overrides, existing == Existing::resume, existing == Existing::force};
  Trainer(request, *collectives, Launch{}, backend).run();
  return captured.take();
}

void copy_run(const TinyRun& tiny, const std::string& from, const std::string& to, std::int64_t step) {
  fs::copy(tiny.directory(from), tiny.directory(to), fs::copy_options::recursive);
  for (const FoundCheckpoint& c : list_checkpoints(tiny.checkpoints(to)))
    if (c.step > step) fs::remove_all(c.path);
}

std::vector<std::string> timeless_metrics(const std::string& run_directory) {
  std::vector<std::string> lines;
  for (const MetricsLine& line : read_metrics(run_directory + "/metrics.jsonl").lines) {
    std::string text = fmt::format("{} {}", line.step, line.tokens);
    if (line.train_loss) text += fmt::format(" train {}", *line.train_loss);
    if (line.val_loss) text += fmt::format(" val {}", *line.val_loss);
    for (const auto& [name, value] : line.more)
      if (name == "gradient_norm" || name == "lr")
        text += fmt::format(" {} {}", name, std::get<double>(value));
    lines.push_back(std::move(text));
  }
  return lines;
}

SavedBytes newest_saved(const std::string& checkpoints) {
  const auto found = newest_checkpoint(checkpoints, Verify::contents);
  if (!found) {
    ADD_FAILURE() << checkpoints << " holds no checkpoint";
    return {};
  }
  return {found->step, contents_of(found->path + "/model.safetensors"),
          contents_of(found->path + "/optimizer.safetensors")};
}

void expect_same_bytes(const SavedBytes& a, const SavedBytes& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_GT(a.model.size(), 10'000u);
  EXPECT_GT(a.optimizer.size(), 10'000u);
  EXPECT_TRUE(a.model == b.model) << "the weights differ";
  EXPECT_TRUE(a.optimizer == b.optimizer) << "the optimizer's state differs";
}

void change_weights(const std::string& config, const std::vector<std::string>& overrides,
                    const std::string& checkpoints,
                    const std::function<void(const std::string&, std::span<float>)>& change) {
  const RunConfig c = with_resolved_model(load_config(config, overrides));
  const auto backend = make_backend(c.compute);
  Session session(c, *backend, true);
  Optimizer optimizer(*backend, session.parameters().views(), c.optimizer);
  const auto found = newest_checkpoint(checkpoints);
  ASSERT_TRUE(found);
  const CheckpointReader reader(found->path);
  std::vector<StateTensor> model;
  for (const ParameterView& p : session.parameters().views()) model.push_back({p.info->name, p.value});
  reader.load_model(*backend, model);
  reader.load_optimizer(*backend, optimizer.state());
  for (const StateTensor& t : model) change(t.name, t.tensor.span<float>());
  const nlohmann::json state = reader.state();
  std::filesystem::remove_all(found->path);
  write_checkpoint(checkpoints, found->step, {model, optimizer.state(), state}, *backend, 0);
}

void spoil_gradients(const TinyRun& tiny, const std::string& run) {
  change_weights(tiny.config(), named(run), tiny.checkpoints(run),
                 [](const std::string& name, std::span<float> values) {
                   const auto all = [&](float factor) {
                     for (float& v : values) v *= factor;
                   };
                   if (name == "h.1.norm2.gain") all(1e29f);
                   if (name == "h.1.mlp.up.weight") all(1e-29f);
                   if (name == "norm.gain") all(1e25f);
                   if (name == "head") all(1e-8f);
                 });
}

pid_t start_program(const std::vector<std::string>& arguments, const std::string& output) {
  const std::string program = std::string(SPECTRAIN_BINARY_DIR) + "/spectrain";
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);  // else it starts itself a second time
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&files, 1, (output + ".out").c_str(), kFlags, 0666);
  posix_spawn_file_actions_addopen(&files, 2, (output + ".err").c_str(), kFlags, 0666);
  pid_t pid = -1;
  if (posix_spawn(&pid, program.c_str(), &files, nullptr, argv.data(), environ) != 0) {
    ADD_FAILURE() << "cannot start " << program;
    pid = -1;
  }
  posix_spawn_file_actions_destroy(&files);
  return pid;
}

Finished wait_for(pid_t pid, const std::string& output) {
  int status = 0;
  if (pid <= 0) return {};
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents_of(output + ".out"),
          contents_of(output + ".err")};
}

Finished run_program(const std::vector<std::string>& arguments, const std::string& output) {
  return wait_for(start_program(arguments, output), output);
}

std::vector<std::string> train_arguments(const std::string& config, const std::vector<std::string>& overrides,
                                         Existing existing) {
  std::vector<std::string> arguments{"train", config};
  for (const std::string& o : overrides) arguments.insert(arguments.end(), {"--set", o});
  if (existing == Existing::resume) arguments.emplace_back("--resume");
  if (existing == Existing::force) arguments.emplace_back("--force");
  return arguments;
}

}  // namespace spectrain
