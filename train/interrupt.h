#pragma once

namespace spectrain {

// While it lives, the first Ctrl-C (SIGINT), SIGTERM or SIGUSR1 only raises a flag, so that the step can be
// finished and saved; a second one ends the process as usual. SIGUSR1 is what mpirun hands on to its ranks,
// and what a batch system can be told to send before the time is up.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool raised();
};

}  // namespace spectrain
