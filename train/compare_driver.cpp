#include "train/compare_driver.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <regex>
#include <thread>

#include "kernels/error.h"
#include "train/compare_config.h"
#include "train/launch.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string duration(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 90 * 60) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

// The program as this process runs it, even when its file has been replaced by a newer build meanwhile.
std::string program() {
  const std::string path = own_path();
  return path.ends_with(" (deleted)") ? "/proc/self/exe" : path;
}

// A run of a comparison that was killed a moment ago ends with it, but not in the same instant.
void wait_until_free(const std::string& directory) {
  constexpr auto kPatience = std::chrono::seconds(20);
  const auto begin = Clock::now();
  while (!directory_is_free(directory) && Clock::now() - begin < kPatience)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

// What a run says that ended because its numbers did, in contrast to a full disk or too little memory.
bool tells_divergence(const std::string& message) {
  static const std::regex number("(loss is -?(nan|inf))|not finite");
  return std::regex_search(message, number);
}

std::uintmax_t size_of(const std::string& path) {
  std::error_code missing;
  const std::uintmax_t size = fs::file_size(path, missing);
  return missing ? 0 : size;
}

std::vector<std::string> gpus_for(const RunConfig& config) {
  if (config.compute.device == Device::cpu) return {};
  return usable_gpus(list_cuda_devices().devices, std::getenv("CUDA_VISIBLE_DEVICES"));
}

}  // namespace

std::vector<std::string> usable_gpus(const std::vector<CudaDevice>& devices, const char* visible) {
  std::vector<std::string> names, out;
  for (std::string_view rest = visible ? visible : ""; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    names.emplace_back(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  for (const CudaDevice& device : devices) {
    const auto i = static_cast<std::size_t>(device.index);
    if (device.problem.empty()) out.push_back(i < names.size() ? names[i] : std::to_string(device.index));
  }
  return out;
}

int processes_for(const ComparePlan& plan, const std::vector<std::string>& gpus) {
  return plan.parallel > 0 ? plan.parallel : std::max(1, static_cast<int>(gpus.size()));
}

CompareDriver::CompareDriver(CompareState& state)
    : state_(state),
      data_(state.check_data()),
      gpus_(gpus_for(state.base())),
      pool_(signals_, processes_for(state.plan(), gpus_)),
      jobs_(static_cast<std::size_t>(processes_for(state.plan(), gpus_))) {
  // Left behind by a process that was killed between the marker and this.
  for (const PlannedRun* run : state_.look().asked)
    if (state_.outcome(*run)) remove_checkpoints(*run);
}

void CompareDriver::remove_checkpoints(const PlannedRun& run) const {
  if (state_.plan().save) return;
  std::error_code ignored;
  fs::remove_all(state_.store().run(run.id) + "/checkpoints", ignored);
}

void CompareDriver::run() {
  bool stopped = false;
  while (true) {
    const CompareState::View view = state_.look();
    expected_ = std::max(view.expected, view.asked.size());
    done_ = static_cast<std::size_t>(std::count_if(view.asked.begin(), view.asked.end(),
                                                   [&](const PlannedRun* r) { return state_.outcome(*r); }));
    const bool ending = pool_.interrupts() > 0 || !failure_.empty();
    if (!failure_.empty() && !stopped) {
      pool_.stop();
      stopped = true;
    }
    while (!ending && start_next(view)) {
    }
    if (pool_.empty()) break;
    if (const auto ended = pool_.wait()) end(*ended);
  }
  if (!failure_.empty() && wrong_request_) throw RequestError(failure_);
  if (!failure_.empty()) throw Error(failure_);
  if (pool_.interrupts() > 0)
    throw Error(
        fmt::format("interrupted with {} of about {} runs done; the same command goes on with the rest",
                    done_, expected_));
}

bool CompareDriver::start_next(const CompareState::View& view) {
  const int slot = pool_.free_slot();
  if (slot < 0) return false;
  for (const PlannedRun* run : view.missing) {
    const bool running = std::any_of(jobs_.begin(), jobs_.end(),
                                     [&](const Job& job) { return job.run && job.run->id == run->id; });
    if (running) continue;
    start(slot, *run);
    return true;
  }
  return false;
}

void CompareDriver::start(int slot, const PlannedRun& run) {
  const CompareStore& store = state_.store();
  wait_until_free(store.run(run.id));
  if (!store.matches(run.id, run.config)) store.set_aside(run.id);
  RunConfig config = run.config;
  config.run.name = run.id;
  config.run.directory = store.runs();
  config.train.tensorboard = config.train.tensorboard || state_.plan().tensorboard;
  replace_file(store.config(run.id), to_yaml(config));

  Launch sharing;  // the cores between the runs beside each other
  sharing.local_ranks = static_cast<int>(jobs_.size());
  ChildPool::Command command;
  command.arguments = {
      program(),  "train",     store.config(run.id),
      "--resume", "--threads", fmt::format("{}", threads_share(config.compute.threads, sharing))};
  command.variables = {"OMP_WAIT_POLICY=PASSIVE"};
  if (!gpus_.empty())
    command.variables.push_back("CUDA_VISIBLE_DEVICES=" +
                                gpus_[static_cast<std::size_t>(slot) % gpus_.size()]);
  command.log = store.log(run.id);
  jobs_[static_cast<std::size_t>(slot)] = {&run, Clock::now(), size_of(command.log)};
  pool_.start(slot, command);
}

// The sentence a run ended with; "" when it said none.
std::string CompareDriver::last_words(const Job& job) const {
  const std::string log = read_text_file(state_.store().log(job.run->id)).substr(job.log_begin);
  constexpr std::string_view kStart = "spectrain: ";
  const std::size_t at = log.rfind(kStart);
  if (at == std::string::npos) return "";
  const std::size_t begin = at + kStart.size();
  return log.substr(begin, std::min(log.find('\n', begin), log.size()) - begin);
}

void CompareDriver::end(const ChildPool::End& end) {
  const Job job = std::exchange(jobs_[static_cast<std::size_t>(end.slot)], {});
  const std::string& id = job.run->id;
  const bool ending = pool_.interrupts() > 0 || !failure_.empty();
  RunOutcome outcome;
  outcome.data = data_;
  outcome.seconds = std::chrono::duration<double>(Clock::now() - job.begun).count();
  const int code = WIFEXITED(end.status) ? WEXITSTATUS(end.status) : -1;
  if (code == 0) {
    if (const auto loss = state_.store().final_loss(id, job.run->config)) {
      outcome.loss = *loss;
      return finish(job, outcome);
    }
    if (!ending)
      remember_failure(false,
                       fmt::format("the run {} was interrupted, by nobody who told this process; the same "
                                   "command goes on with it",
                                   id));
    return;
  }
  outcome.message = last_words(job);
  if (code == 1 && tells_divergence(outcome.message)) {
    outcome.diverged = true;
    outcome.loss = std::numeric_limits<double>::infinity();
    return finish(job, outcome);
  }
  if (ending) return;
  const std::string how = !outcome.message.empty()  ? outcome.message
                          : WIFSIGNALED(end.status) ? fmt::format("signal {} ({})", WTERMSIG(end.status),
                                                                  strsignal(WTERMSIG(end.status)))
                                                    : fmt::format("exit code {} without a message", code);
  remember_failure(code == 2,
                   fmt::format("the run {} failed: {} (its output: {})", id, how, state_.store().log(id)));
}

void CompareDriver::remember_failure(bool wrong_request, const std::string& sentence) {
  if (!failure_.empty()) return;
  failure_ = sentence;
  wrong_request_ = wrong_request;
}

void CompareDriver::finish(const Job& job, RunOutcome outcome) {
  state_.store().finish(job.run->id, outcome);
  state_.remember(*job.run, outcome);
  remove_checkpoints(*job.run);
  // A run that was resumed, or that diverged half way, says little about the others.
  if (job.log_begin == 0 && !outcome.diverged) {
    seconds_ += outcome.seconds;
    ++timed_;
  }
  ++done_;
  const std::string result = outcome.diverged ? fmt::format("diverged: {}", outcome.message)
                                              : fmt::format("validation loss {:.4f}", outcome.loss);
  fmt::print("[{}/{}] {}: {}, {:.1f} s{}\n", done_, expected_, job.run->id, result, outcome.seconds,
             time_left());
  std::fflush(stdout);
}

std::string CompareDriver::time_left() const {
  if (timed_ == 0 || expected_ <= done_) return "";
  const double each = seconds_ / timed_;
  return fmt::format("; about {} for the rest", duration(each * static_cast<double>(expected_ - done_) /
                                                         static_cast<double>(jobs_.size())));
}

}  // namespace spectrain
