#include "train/interrupt.h"

#include <csignal>

namespace spectrain {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};

volatile std::sig_atomic_t flag = 0;

void on_signal(int signal) {
  flag = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  flag = 0;
  for (const int signal : kSignals) std::signal(signal, on_signal);
}
InterruptGuard::~InterruptGuard() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}
bool InterruptGuard::raised() { return flag != 0; }

}  // namespace spectrain
