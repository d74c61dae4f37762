#pragma once

#include <cstdint>
#include <functional>
#include <string>

// Timings against what the machine can do at the same moment. Clocks and neighbours change a machine's speed
// by half for minutes at a time, so a number means something only next to a yardstick measured beside it.

namespace spectrain::bench {

// Processor seconds of all threads together: what a busy machine takes away in between does not count,
// threads that wait asleep do not either. Rates below are therefore per core.
double seconds_of(const std::function<void()>& work);

// float32 fused multiply-adds from registers, flop per core second with `threads` threads at work (about 5
// ms).
double fma_peak(int threads);
// a[i] = b[i] + s c[i] over arrays far larger than the caches, bytes per core second (3 * 4 bytes an
// element).
double triad_bandwidth(int threads);

// Medians over interleaved runs of work() and the yardstick.
struct Against {
  double seconds;  // of work()
  double rate;     // amount / seconds
  double ratio;    // rate / yardstick measured just before
};
Against against(double amount, const std::function<double()>& yardstick, const std::function<void()>& work,
                int repeats = 9);

// A line `ratio <name> <value>` at the end of the program.
void report_ratio(const std::string& name, double value);

}  // namespace spectrain::bench
