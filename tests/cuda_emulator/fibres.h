#pragma once

#include <cstddef>
#include <memory>

// Fibres: stacks that take turns on one operating-system thread.

namespace spectrain::emulator {

class Fibre {
 public:
  explicit Fibre(std::size_t stack_bytes);
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // Makes ready to run entry(argument) from the start; the fibre must have ended, or never begun.
  void prepare(void (*entry)(void*), void* argument);
  // Runs until the fibre pauses or ends. Called by the scheduler.
  void resume();
  // Back to the scheduler; called inside the fibre.
  void pause();
  bool ended() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain::emulator
