#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "model/operation.h"

namespace spectrain {

// What some work takes at the least, whoever does it: floating-point operations (two for each multiplication
// with addition) of its matrix products, and bytes read and written once. Work that stays inside one
// operation, such as logits, is not counted: it could be avoided.
struct Work {
  double flops = 0, bytes = 0;
  Work& operator+=(const Work& w) {
    flops += w.flops;
    bytes += w.bytes;
    return *this;
  }
};

// How fast a machine can work: measured, or from a data sheet.
struct MachineRates {
  double flops = 0, bytes = 0;  // per second
};
// Seconds below which no program gets: it computes while it reads and writes.
double floor_seconds(const Work& work, const MachineRates& rates);

// A kind of work that was done some times, one by one.
struct TimedWork {
  std::string name;
  std::int64_t calls = 0;
  double seconds = 0;
  Work work;
  double floor = 0;  // sum over the calls
};

// Of one execution of the operation (with the gradient of output 0 in run.dout: of its backward pass).
Work forward_work(const Operation& op, const Run& run);
Work backward_work(const Operation& op, const Run& run);

using NowSeconds = std::function<double()>;

}  // namespace spectrain
