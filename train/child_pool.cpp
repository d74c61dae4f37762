#include "train/child_pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "kernels/error.h"
#include "train/durable_file.h"

namespace spectrain {
namespace {

std::string_view name_in(std::string_view variable) { return variable.substr(0, variable.find('=')); }

std::vector<std::string> environment_with(const std::vector<std::string>& variables) {
  std::vector<std::string> out = variables;
  for (char** v = environ; *v != nullptr; ++v) {
    const std::string_view name = name_in(*v);
    const bool given = std::any_of(variables.begin(), variables.end(),
                                   [&](const std::string& own) { return name_in(own) == name; });
    if (!given && !belongs_to_a_job(name)) out.emplace_back(*v);
  }
  return out;
}

// In the new process: only what is safe between fork and exec.
[[noreturn]] void become(pid_t parent, int log, const sigset_t& mask, char* const* argv,
                         char* const* environment) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);  // Ctrl-C on the terminal is for the parent alone
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  if (getppid() == parent) execve(argv[0], argv, environment);  // else it died before the request to be told
  _exit(127);
}

}  // namespace

ChildPool::ChildPool(const SignalQueue& signals, int slots)
    : signals_(signals), running_(static_cast<std::size_t>(slots), 0) {}

ChildPool::~ChildPool() {
  send(SIGKILL);
  for (const pid_t pid : running_)
    if (pid > 0) waitpid(pid, nullptr, 0);
}

int ChildPool::free_slot() const {
  const auto free = std::find(running_.begin(), running_.end(), 0);
  return free == running_.end() ? -1 : static_cast<int>(free - running_.begin());
}

bool ChildPool::empty() const {
  return std::all_of(running_.begin(), running_.end(), [](pid_t pid) { return pid == 0; });
}

void ChildPool::send(int signal) const {
  for (const pid_t pid : running_)
    if (pid > 0) kill(pid, signal);
}

void ChildPool::stop() const { send(SIGUSR1); }

void ChildPool::start(int slot, const Command& command) {
  const Descriptor log(::open(command.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (log.get() < 0) throw Error(fmt::format("cannot write {}: {}", command.log, std::strerror(errno)));
  const std::vector<std::string> environment = environment_with(command.variables);
  const std::vector<char*> argv = pointers(command.arguments), variables = pointers(environment);
  std::fflush(stdout);
  const pid_t parent = getpid(), child = fork();
  if (child == 0) become(parent, log.get(), signals_.before(), argv.data(), variables.data());
  if (child < 0) throw Error(fmt::format("no process can be started: {}", std::strerror(errno)));
  setpgid(child, child);  // whoever comes first
  running_[static_cast<std::size_t>(slot)] = child;
}

std::optional<ChildPool::End> ChildPool::reap() {
  for (std::size_t slot = 0; slot < running_.size(); ++slot) {
    int status = 0;
    if (running_[slot] == 0 || waitpid(running_[slot], &status, WNOHANG) != running_[slot]) continue;
    running_[slot] = 0;
    return End{static_cast<int>(slot), status};
  }
  return {};
}

std::optional<ChildPool::End> ChildPool::wait() {
  while (true) {
    // Signals that ended before this call were blocked, not lost: the queue has them.
    bool asked = false;
    while (const int signal = signals_.next()) {
      if (signal == SIGCHLD) continue;
      send(++interrupts_ == 1 ? SIGUSR1 : SIGKILL);
      asked = true;
    }
    if (std::optional<End> end = reap()) return end;
    if (asked || empty()) return {};
    pollfd watched{signals_.descriptor(), POLLIN, 0};
    poll(&watched, 1, -1);
  }
}

}  // namespace spectrain
