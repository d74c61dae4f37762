#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "kernels/collectives.h"
#include "train/command_line.h"
#include "train/failure.h"

namespace {

// Threads that wait must sleep: with libgomp's default they spin, and on cores shared with another busy
// process every parallel region then ends on a descheduled thread (five times slower where this was
// measured). libgomp reads the variable in its constructor, before main, so the program starts itself once
// more (about 2 ms).
void wait_passively(char** argv) {
  constexpr const char* kGuard = "SPECTRAIN_RESTARTED";  // were the variable lost on the way, once is enough
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv(kGuard)) return;
  setenv("OMP_WAIT_POLICY", "PASSIVE", 1);
  setenv(kGuard, "1", 1);
  // By its own path, for a process started as /proc/self/exe is called "exe" in every list of processes.
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length > 0) {
    path[length] = '\0';
    execv(path, argv);
  }
  execv("/proc/self/exe", argv);
  // Still here: the system does not allow it; the program is slower on shared cores, not wrong.
}

int failed(int code, const char* what) {
  std::fflush(stdout);
  std::fprintf(stderr, "spectrain: %s\n", what);
  return code;
}

}  // namespace

// Exit codes: 0 done, 1 the run failed, 2 the request was wrong.
int main(int argc, char** argv) {
  wait_passively(argv);
  try {
    const int code = spectrain::run_command_line(argc, argv);
    // Output that did not reach the disk is a failure too.
    if (code == 0 && (std::fflush(stdout) != 0 || std::ferror(stdout)))
      return failed(1, "standard output cannot be written");
    return code;
  } catch (const spectrain::PeerFailure& e) {
    return e.reports ? failed(1, e.what()) : 1;
  } catch (const std::exception& e) {
    return failed(spectrain::exit_code_of(e), spectrain::failure_sentence(e).c_str());
  }
}
