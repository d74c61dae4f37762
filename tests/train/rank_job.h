#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/train/tiny_run.h"

// Ranks of the program itself, started one by one by their environment (RANK, WORLD_SIZE, MASTER_ADDR,
// MASTER_PORT), which meet over TCP.

namespace spectrain {

struct EndedRank : Finished {
  bool late = false;   // it had not ended by itself in time and was killed here
  double seconds = 0;  // since the job's start
};

// All that still run are killed when this goes.
class RankJob {
 public:
  RankJob(const TinyRun& tiny, int ranks);
  ~RankJob();
  RankJob(const RankJob&) = delete;
  RankJob& operator=(const RankJob&) = delete;

  // `before` is shell that the process runs before it becomes the program: "cd /; ".
  void start(int rank, const std::vector<std::string>& arguments, const std::string& before = {});
  void start_all(const std::vector<std::string>& arguments);
  void signal(int rank, int number) const;
  double elapsed() const;
  // Until all but `except` (-1: none) have ended, at most `seconds` from now; the rest are killed.
  std::vector<EndedRank> wait(double seconds, int except = -1);

 private:
  struct Process {
    pid_t pid = -1;
    bool over = false;
    EndedRank end;
  };
  std::string output(int rank) const;

  std::string outputs_;
  int port_;
  std::vector<Process> processes_;
  double begin_;
};

// `spectrain train` on so many ranks to its end. All must end with 0, and only rank 0 may print.
void train_on_ranks(const TinyRun& tiny, int ranks, const std::string& config,
                    const std::vector<std::string>& overrides, Existing existing = Existing::refuse);

// Before a test that starts mpirun: why it must be skipped, or nothing.
std::string prepare_mpirun();

// Lines in standard error of all, those killed by a signal left out.
std::vector<std::string> lines_on_stderr(const std::vector<EndedRank>& ends);

// Twelve sequences per step, one at a time: 1, 2, 3, 4, 6 and 12 ranks can share them. From the long corpus.
std::vector<std::string> twelve_sequences(const TinyRun& tiny, const std::string& run,
                                          std::vector<std::string> more = {});

}  // namespace spectrain
