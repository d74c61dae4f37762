#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace spectrain {

// Seconds spent training: runs between start() and stop(), stands still during validation and checkpoints.
class TrainingClock {
 public:
  // `already`: seconds of earlier sessions of a resumed run. `now`: a monotonic time in seconds; empty: the
  // system's.
  explicit TrainingClock(double already = 0, std::function<double()> now = {});
  void start();  // std::logic_error when it runs already
  void stop();   // std::logic_error when it stands
  bool running() const { return running_; }
  double seconds() const;

 private:
  std::function<double()> now_;
  double sum_ = 0, begun_ = 0;
  bool running_ = false;
};

// Since this process was started (to 0.01 s): what a user waits for, loading the program included.
double seconds_since_process_start();

struct ValidationPoint {
  double step = 0, tokens = 0, seconds = 0;
  double loss = 0;
};

// Where the validation loss first reaches `target` (loss <= target): between the validation before and the
// first at or below the target, linearly in the loss for step, tokens and seconds alike. When the very first
// validation is there already, that one. Empty when the target is never reached. NaN losses count as above.
std::optional<ValidationPoint> first_crossing(std::span<const ValidationPoint> points, double target);

}  // namespace spectrain
