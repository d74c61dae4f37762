#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "kernels/cuda_plugin.h"
#include "train/child_pool.h"
#include "train/compare_state.h"

namespace spectrain {

// Trains what a comparison misses, each run in a process of its own, and prints a line when one is over.
//
// A run counts as over when its marker is on the disk, not earlier: however this process ends, nothing that
// was over is trained again, and what was not goes on from its newest checkpoint or begins anew.
class CompareDriver {
 public:
  // The comparison must be locked (CompareStore::lock).
  explicit CompareDriver(CompareState& state);

  // To the end. Throws RequestError and Error when a run fails otherwise than by a loss that is not finite,
  // and Error when somebody interrupts; the runs that are on their way save what they have first.
  void run();

 private:
  struct Job {
    const PlannedRun* run = nullptr;
    std::chrono::steady_clock::time_point begun;
    std::uintmax_t log_begin = 0;  // bytes that were in its log before
  };

  bool start_next(const CompareState::View& view);
  void start(int slot, const PlannedRun& run);
  void end(const ChildPool::End& end);
  std::string last_words(const Job& job) const;
  void finish(const Job& job, RunOutcome outcome);
  void remember_failure(bool wrong_request, const std::string& sentence);
  std::string time_left() const;
  void remove_checkpoints(const PlannedRun& run) const;

  SignalQueue signals_;  // before anything that starts threads, as a GPU's driver does
  CompareState& state_;
  std::string data_;               // fingerprint
  std::vector<std::string> gpus_;  // as CUDA_VISIBLE_DEVICES names them; empty: the CPU
  ChildPool pool_;
  std::vector<Job> jobs_;  // by slot
  double seconds_ = 0;     // of the runs that this process saw from their beginning to their end
  int timed_ = 0;
  std::size_t expected_ = 0, done_ = 0;
  std::string failure_;
  bool wrong_request_ = false;
};

// The usable ones of the devices that this process sees, as CUDA_VISIBLE_DEVICES must name them to a child;
// `visible` is that variable here, null where it is not set.
std::vector<std::string> usable_gpus(const std::vector<CudaDevice>& devices, const char* visible);
// How many runs go beside each other.
int processes_for(const ComparePlan& plan, const std::vector<std::string>& gpus);

}  // namespace spectrain
