#pragma once

#include <csignal>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

// What both launchers of ranks (mpirun_process.h, local_ranks.h) need to look after their processes.

namespace spectrain {

// The path of the running program.
std::string own_path();

// Whether an environment variable says where a process stands in somebody's job. Ranks started by this
// process, itself perhaps in a job of one rank, must not take themselves for a part of that, nor be spread
// over the hosts of an allocation.
bool belongs_to_a_job(std::string_view name);

// As execve() wants them; they live as long as the texts.
std::vector<char*> pointers(const std::vector<std::string>& texts);

// While it lives, SIGINT, SIGTERM, SIGHUP and SIGCHLD are read from a descriptor instead of doing what they
// do.
class SignalQueue {
 public:
  SignalQueue();
  ~SignalQueue();
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  int descriptor() const { return fd_; }
  const sigset_t& before() const { return before_; }  // what was blocked without it
  int next() const;                                   // 0: none is left

 private:
  sigset_t before_;
  int fd_ = -1;
};

// Reading from it does not wait, and children get only what is handed to them.
struct Pipe {
  int from = -1, to = -1;
  Pipe();
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_to();
};

// What there is to read now. Returns false at the end of the stream.
bool drain(int from, const std::function<void(std::string_view)>& sink);

}  // namespace spectrain
