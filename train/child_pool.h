#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "train/child_process.h"

namespace spectrain {

// Processes of this host that run beside each other, each in a slot of its own, and end with this process
// however it ends.
class ChildPool {
 public:
  // `signals` must be older than every other thread of this process.
  ChildPool(const SignalQueue& signals, int slots);
  ~ChildPool();  // ends those that still run, at once
  ChildPool(const ChildPool&) = delete;
  ChildPool& operator=(const ChildPool&) = delete;

  struct Command {
    std::vector<std::string> arguments;  // a program's path first
    std::vector<std::string> variables;  // of the environment, "NAME=value", in place of what is there
    std::string log;                     // its standard output and error are appended to this file
  };
  struct End {
    int slot = 0;
    int status = 0;  // of waitpid
  };

  int free_slot() const;  // -1: none
  bool empty() const;
  void start(int slot, const Command& command);  // Error when the system gives no process

  // Waits until a process has ended, or this one is asked to end: then it is empty. The first SIGINT, SIGTERM
  // or SIGHUP goes to the processes as SIGUSR1, at which a training run saves and ends; another one ends them
  // at once.
  std::optional<End> wait();
  int interrupts() const { return interrupts_; }
  void stop() const;  // as the first signal would

 private:
  std::optional<End> reap();
  void send(int signal) const;

  const SignalQueue& signals_;
  std::vector<pid_t> running_;  // by slot; 0: free
  int interrupts_ = 0;
};

}  // namespace spectrain
