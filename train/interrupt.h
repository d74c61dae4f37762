#pragma once

namespace spectrain {

// While it lives, the first Ctrl-C (SIGINT) or SIGTERM only raises a flag, so that the step can be finished
// and saved; a second one ends the process as usual.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool raised();
};

}  // namespace spectrain
