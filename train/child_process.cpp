#include "train/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "kernels/error.h"

namespace spectrain {

std::string own_path() {
  std::array<char, PATH_MAX> path{};
  const ssize_t n = readlink("/proc/self/exe", path.data(), path.size());
  if (n <= 0) throw Error(fmt::format("the path of this program is unknown: {}", std::strerror(errno)));
  return {path.data(), static_cast<std::size_t>(n)};
}

bool belongs_to_a_job(std::string_view name) {
  static const bool in_openmpi = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  for (const char* prefix : {"OMPI_COMM_WORLD_", "PMI_", "PMIX_", "SLURM_", "PBS_", "LSB_", "PRTE_"})
    if (name.starts_with(prefix)) return true;
  for (const char* exact : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PE_HOSTFILE"})
    if (name == exact) return true;
  return in_openmpi && name.starts_with("OMPI_");
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

SignalQueue::SignalQueue() {
  sigset_t set;
  sigemptyset(&set);
  for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, s);
  sigprocmask(SIG_BLOCK, &set, &before_);
  fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd_ < 0) throw Error(fmt::format("the system gives no signal queue: {}", std::strerror(errno)));
}

SignalQueue::~SignalQueue() {
  close(fd_);
  sigprocmask(SIG_SETMASK, &before_, nullptr);
}

int SignalQueue::next() const {
  signalfd_siginfo info{};
  return read(fd_, &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

Pipe::Pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw Error(fmt::format("no pipe for the ranks: {}", std::strerror(errno)));
  from = ends[0];
  to = ends[1];
  fcntl(from, F_SETFL, O_NONBLOCK);
}

Pipe::~Pipe() {
  close(from);
  close_to();
}

void Pipe::close_to() {
  if (to >= 0) close(std::exchange(to, -1));
}

bool drain(int from, const std::function<void(std::string_view)>& sink) {
  std::array<char, 4096> buffer;
  while (true) {
    const ssize_t n = read(from, buffer.data(), buffer.size());
    if (n > 0)
      sink({buffer.data(), static_cast<std::size_t>(n)});
    else if (n == 0 || errno != EINTR)
      return n < 0 && errno == EAGAIN;
  }
}

}  // namespace spectrain
