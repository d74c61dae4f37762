#include "tests/kernels/rank_processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace spectrain {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> p;
  for (const std::string& t : texts) p.push_back(const_cast<char*>(t.c_str()));
  p.push_back(nullptr);
  return p;
}

}  // namespace

std::string Ended::last_line() const {
  const std::size_t end = out.find_last_not_of('\n');
  if (end == std::string::npos) return {};
  const std::size_t begin = out.rfind('\n', end);
  return out.substr(begin == std::string::npos ? 0 : begin + 1,
                    end - (begin == std::string::npos ? 0 : begin + 1) + 1);
}

Processes::Processes() : begin_(now()) {}

Processes::~Processes() { wait(0); }

double Processes::elapsed() const { return now() - begin_; }

void Processes::start(const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw std::runtime_error("no pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  std::vector<std::string> variables = environment;
  for (char** e = environ; *e != nullptr; ++e) variables.emplace_back(*e);
  Process p;
  const auto argv = pointers(arguments), envp = pointers(variables);
  const int rc = posix_spawnp(&p.pid, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  p.pipe = ends[0];
  if (rc != 0) {
    close(p.pipe);
    throw std::runtime_error("cannot start " + arguments[0]);
  }
  processes_.push_back(p);
}

void Processes::signal(int index, int number) const {
  kill(processes_[static_cast<std::size_t>(index)].pid, number);
}

void Processes::read_all() {
  char some[4096];
  for (Process& p : processes_)
    for (ssize_t n; p.pipe >= 0 && (n = read(p.pipe, some, sizeof some)) > 0;)
      p.ended.out.append(some, static_cast<std::size_t>(n));
}

void Processes::reap(Process& p, int status) {
  p.over = true;
  p.ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  p.ended.seconds = elapsed();
}

bool Processes::wait_for_text(int index, const std::string& text, double seconds) {
  const double end = now() + seconds;
  while (now() < end) {
    read_all();
    if (processes_[static_cast<std::size_t>(index)].ended.out.find(text) != std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

std::vector<Ended> Processes::wait(double seconds, int except) {
  const double end = now() + seconds;
  for (bool all = false; !all && now() < end;) {
    all = true;
    for (std::size_t i = 0; i < processes_.size(); ++i) {
      Process& p = processes_[i];
      int status = 0;
      if (!p.over && waitpid(p.pid, &status, WNOHANG) == p.pid) reap(p, status);
      all = all && (p.over || static_cast<int>(i) == except);
    }
    read_all();
    if (!all) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  std::vector<Ended> ended;
  for (Process& p : processes_) {
    if (!p.over) {
      kill(p.pid, SIGKILL);
      int status = 0;
      waitpid(p.pid, &status, 0);
      reap(p, status);
      p.ended.late = true;
    }
  }
  read_all();
  for (Process& p : processes_) {
    if (p.pipe >= 0) close(p.pipe);
    p.pipe = -1;
    ended.push_back(p.ended);
  }
  return ended;
}

int TcpJob::free_port() {
  // Below the ports that the system gives to outgoing connections: it stays free.
  static std::mt19937 random(std::random_device{}());
  for (;;) {
    const int port = 10000 + static_cast<int>(random() % 20000);
    const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_ANY);
    a.sin_port = htons(static_cast<std::uint16_t>(port));
    const bool is_free = bind(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0;
    close(s);
    if (is_free) return port;
  }
}

std::vector<std::string> TcpJob::rank_arguments(const std::string& transport, int rank, int ranks,
                                                const std::string& address, double timeout,
                                                const std::string& scenario, int number) {
  return {std::string(SPECTRAIN_BINARY_DIR) + "/collectives_rank",
          transport,
          std::to_string(rank),
          std::to_string(ranks),
          address,
          std::to_string(timeout),
          scenario,
          std::to_string(number)};
}

TcpJob::TcpJob(int ranks, double timeout, const std::string& scenario, int number, int absent)
    : port_(free_port()) {
  for (int r = 0; r < ranks; ++r)
    if (r != absent) start(rank_arguments("tcp", r, ranks, std::to_string(port_), timeout, scenario, number));
}

}  // namespace spectrain
