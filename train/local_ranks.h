#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace spectrain {

// How a rank ended that did not end well.
struct LocalRankEnd {
  int rank = 0;
  int status = 0;  // of waitpid
};

struct LocalRanksEnd {
  int code = 0;                       // 0 when all ended with 0, 2 when one did with 2, else 1
  int interrupts = 0;                 // signals that asked this process to end meanwhile
  bool reported = false;              // a rank said "spectrain: ..." on standard error
  std::optional<LocalRankEnd> first;  // not well
};

// Runs `arguments` (a program's path first) as `ranks` processes of this host until all have ended. Each
// finds its place in RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and rank 0
// the socket that listens there in kListenerVariable (launch.h): it has been open since before the first was
// started, so no other program gets the port. Standard output is this process's, `standard_error` gets what
// they write there.
//
// - The first SIGINT, SIGTERM or SIGHUP goes to every rank as SIGUSR1, another one ends them at once.
// - When one has not ended well the others have `grace` seconds to say why and end, then they are ended: what
//   they know of each other lets them end sooner, but not before they have met.
// - No rank outlives this process, however it ends.
LocalRanksEnd run_local_ranks(const std::vector<std::string>& arguments, int ranks, double grace,
                              const std::function<void(std::string_view)>& standard_error);

}  // namespace spectrain
