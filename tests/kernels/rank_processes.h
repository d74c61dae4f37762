#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

// Jobs of real processes, for the tests of what ranks do together.

namespace spectrain {

struct Ended {
  int code = -1;       // exit code; -1: killed by a signal
  bool late = false;   // it had not ended by itself in time and was killed here
  double seconds = 0;  // since the job's start
  std::string out;
  // The line that says how it ended: "done", "reports MESSAGE", "silent MESSAGE", "error MESSAGE".
  std::string last_line() const;
};

// Processes started one by one and waited for together; all are killed when this goes.
class Processes {
 public:
  Processes();
  ~Processes();
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // The program is found on PATH where it has no slash. Output, errors included, is kept.
  void start(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {});
  void signal(int index, int number) const;
  // Until process `index` has written `text`, at most `seconds`.
  bool wait_for_text(int index, const std::string& text, double seconds);
  // Until all but `except` (-1: none) have ended, at most `seconds` from now; the rest are killed.
  std::vector<Ended> wait(double seconds, int except = -1);
  double elapsed() const;

 private:
  struct Process {
    pid_t pid = -1;
    int pipe = -1;
    bool over = false;
    Ended ended;
  };
  void read_all();
  void reap(Process& p, int status);
  std::vector<Process> processes_;
  double begin_;
};

// The ranks of `collectives_rank` over TCP, at a port that is free.
class TcpJob : public Processes {
 public:
  TcpJob(int ranks, double timeout, const std::string& scenario, int number = 0, int absent = -1);
  // The environment's or this rank's own place in another network: "ip netns exec name" before the program.
  static std::vector<std::string> rank_arguments(const std::string& transport, int rank, int ranks,
                                                 const std::string& address, double timeout,
                                                 const std::string& scenario, int number);
  static int free_port();
  int port() const { return port_; }

 private:
  int port_;
};

}  // namespace spectrain
