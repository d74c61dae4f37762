#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace spectrain {

// The path of Open MPI's mpirun, the first on PATH. Throws Error where there is none, or another MPI's.
std::string find_mpirun();

struct MpirunEnd {
  int status = 0;      // of waitpid
  int interrupts = 0;  // signals that asked this process to end meanwhile
};

// Runs `arguments` (the path of mpirun first) as a child until it ends, in an environment in which all ranks
// are on this host, not bound to cores and free to share them; a user's own OMPI_MCA_* variables stay.
// `standard_error` gets what it writes there as it comes, and empty bytes at the end. See launch_ranks()
// about signals and about what is left of the ranks when mpirun is gone.
MpirunEnd run_mpirun(const std::vector<std::string>& arguments,
                     const std::function<void(std::string_view)>& standard_error);

}  // namespace spectrain
