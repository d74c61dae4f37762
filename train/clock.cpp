#include "train/clock.h"

#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace spectrain {

TrainingClock::TrainingClock(double already, std::function<double()> now)
    : now_(std::move(now)), sum_(already) {
  if (!now_)
    now_ = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
}

void TrainingClock::start() {
  if (running_) throw std::logic_error("TrainingClock::start: it runs already");
  begun_ = now_();
  running_ = true;
}

void TrainingClock::stop() {
  if (!running_) throw std::logic_error("TrainingClock::stop: it does not run");
  sum_ += now_() - begun_;
  running_ = false;
}

double TrainingClock::seconds() const { return running_ ? sum_ + (now_() - begun_) : sum_; }

double seconds_since_process_start() {
  std::ifstream stat("/proc/self/stat");
  std::string text;
  std::getline(stat, text);
  // The program's name, in brackets, may hold anything; the start, in ticks since the boot, is the 20th field
  // behind it.
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  for (int i = 0; i < 20; ++i) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         std::strtod(field.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::optional<ValidationPoint> first_crossing(std::span<const ValidationPoint> points, double target) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    const ValidationPoint& b = points[i];
    if (!(b.loss <= target)) continue;
    // From a loss that was not finite there is no line to interpolate on.
    if (i == 0 || !std::isfinite(points[i - 1].loss)) return b;
    const ValidationPoint& a = points[i - 1];
    const double share = (a.loss - target) / (a.loss - b.loss);
    return ValidationPoint{a.step + share * (b.step - a.step), a.tokens + share * (b.tokens - a.tokens),
                           a.seconds + share * (b.seconds - a.seconds), target};
  }
  return std::nullopt;
}

}  // namespace spectrain
