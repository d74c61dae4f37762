#include "train/local_ranks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "kernels/error.h"
#include "kernels/sockets.h"
#include "train/child_process.h"
#include "train/launch.h"

namespace spectrain {
namespace {

bool is_set_here(std::string_view name) {
  // The last is a promise of torchrun's about MASTER_PORT, which is not this one.
  for (const char* exact : {"MASTER_ADDR", "MASTER_PORT", kListenerVariable, "TORCHELASTIC_USE_AGENT_STORE"})
    if (name == exact) return true;
  return belongs_to_a_job(name);
}

std::vector<std::string> environment_of(int rank, int ranks, const Socket& listener) {
  std::vector<std::string> out;
  for (char** v = environ; *v != nullptr; ++v) {
    const std::string_view entry(*v);
    if (!is_set_here(entry.substr(0, entry.find('=')))) out.emplace_back(entry);
  }
  for (const char* name : {"RANK", "LOCAL_RANK"}) out.push_back(fmt::format("{}={}", name, rank));
  for (const char* name : {"WORLD_SIZE", "LOCAL_WORLD_SIZE"})
    out.push_back(fmt::format("{}={}", name, ranks));
  out.emplace_back("MASTER_ADDR=127.0.0.1");
  out.push_back(fmt::format("MASTER_PORT={}", near_end(listener).port));
  if (rank == 0) out.push_back(fmt::format("{}={}", kListenerVariable, listener.fd()));
  return out;
}

// In the new process: only what is safe between fork and exec.
[[noreturn]] void become_rank(pid_t parent, int listener, int standard_error, const sigset_t& mask,
                              char* const* argv, char* const* environment) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);  // Ctrl-C on the terminal is for the parent alone
  if (listener >= 0) fcntl(listener, F_SETFD, 0);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(standard_error, STDERR_FILENO);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  if (getppid() == parent) execve(argv[0], argv, environment);  // else it died before the request to be told
  _exit(127);
}

class Ranks {
 public:
  Ranks(const std::vector<std::string>& arguments, int ranks, const SignalQueue& signals, const Pipe& error) {
    const Socket listener = listen_at("127.0.0.1", 0);
    const std::vector<char*> argv = pointers(arguments);
    const pid_t parent = getpid();
    for (int r = 0; r < ranks; ++r) {
      const std::vector<std::string> environment = environment_of(r, ranks, listener);
      const std::vector<char*> variables = pointers(environment);
      const pid_t child = fork();
      if (child == 0)
        become_rank(parent, r == 0 ? listener.fd() : -1, error.to, signals.before(), argv.data(),
                    variables.data());
      if (child < 0) {
        const int problem = errno;
        send(SIGKILL);
        throw Error(fmt::format("rank {} cannot be started: {}", r, std::strerror(problem)));
      }
      setpgid(child, child);  // whoever comes first
      alive_.push_back(child);
    }
  }
  ~Ranks() {
    send(SIGKILL);
    for (const pid_t pid : alive_)
      if (pid > 0) waitpid(pid, nullptr, 0);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  bool over() const {
    return std::all_of(alive_.begin(), alive_.end(), [](pid_t pid) { return pid == 0; });
  }
  void send(int signal) const {
    for (const pid_t pid : alive_)
      if (pid > 0) kill(pid, signal);
  }
  void reap(LocalRanksEnd& end) {
    for (std::size_t r = 0; r < alive_.size(); ++r) {
      int status = 0;
      if (alive_[r] == 0 || waitpid(alive_[r], &status, WNOHANG) != alive_[r]) continue;
      alive_[r] = 0;
      if (status == 0) continue;
      if (!end.first) end.first = LocalRankEnd{static_cast<int>(r), status};
      end.code = end.code == 2 || (WIFEXITED(status) && WEXITSTATUS(status) == 2) ? 2 : 1;
    }
  }

 private:
  std::vector<pid_t> alive_;  // by rank; 0: it has ended
};

// Finds a message in what comes in pieces.
class Report {
 public:
  void take(std::string_view bytes) {
    for (const char c : bytes) {
      if (c == '\n')
        line_.clear();
      else if (line_.size() < kStart.size())
        line_ += c;
      found_ = found_ || line_ == kStart;
    }
  }
  bool found() const { return found_; }

 private:
  static constexpr std::string_view kStart = "spectrain: ";
  std::string line_;
  bool found_ = false;
};

}  // namespace

LocalRanksEnd run_local_ranks(const std::vector<std::string>& arguments, int ranks, double grace,
                              const std::function<void(std::string_view)>& standard_error) {
  std::fflush(stdout);
  const SignalQueue signals;
  Pipe pipe;
  Ranks processes(arguments, ranks, signals, pipe);
  pipe.close_to();
  Report report;
  const auto sink = [&](std::string_view bytes) {
    report.take(bytes);
    standard_error(bytes);
  };
  LocalRanksEnd end;
  std::optional<Clock::time_point> deadline;
  std::array<pollfd, 2> watched{{{signals.descriptor(), POLLIN, 0}, {pipe.from, POLLIN, 0}}};
  while (!processes.over()) {
    poll(watched.data(), watched.size(), deadline ? milliseconds_until(*deadline, 1000) : -1);
    if (watched[1].revents != 0 && !drain(pipe.from, sink)) watched[1].fd = -1;
    while (const int signal = signals.next()) {
      if (signal != SIGCHLD) processes.send(++end.interrupts == 1 ? SIGUSR1 : SIGKILL);
    }
    processes.reap(end);
    if (end.first && !deadline) deadline = after(grace);
    if (deadline && Clock::now() >= *deadline) processes.send(SIGKILL);
  }
  drain(pipe.from, sink);
  end.reported = report.found();
  return end;
}

}  // namespace spectrain
