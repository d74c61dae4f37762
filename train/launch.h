#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/collectives.h"

// Where this process stands among the ranks of its run, as the launcher that started it says in environment
// variables, and what follows from that: how it meets the others and how many threads are its share.

namespace spectrain {

enum class Launcher : std::uint8_t { none, openmpi, slurm, pmi, torchrun };
std::string_view name_of(Launcher launcher);  // "none", "Open MPI", "Slurm", "PMI", "torchrun"

struct Launch {
  Launcher launcher = Launcher::none;
  int rank = 0, ranks = 1;
  int local_rank = 0, local_ranks = 1;  // among the ranks of this host
  std::string address = "127.0.0.1";    // of rank 0, where they meet over TCP
  int port = 0;                         // of rank 0; 0 where MPI brings them together
  int cores = 0;                        // the launcher set aside for this rank; 0: it does not say
  int listener = -1;  // rank 0's socket that listens at `port` already, inherited (local_ranks.h); -1: none

  bool is_first() const { return rank == 0; }
  bool operator==(const Launch&) const = default;
};

// Where a launcher of this program's own leaves the number of that socket.
constexpr const char* kListenerVariable = "SPECTRAIN_LISTENER";

// The value of an environment variable.
using Environment = std::function<std::optional<std::string>(const char* name)>;

// The first of these sets that is there and has more than one rank; without one, the single rank of no
// launcher. (A set of one rank says nothing, for pods and interactive shells leave such behind.)
//
//   torchrun  RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, all six. First,
//             because torchrun is started by the others (one per host), never the other way round.
//   Open MPI  OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE. Before Slurm: inside an allocation
//   mpirun's
//             processes have variables of the step that carries them.
//   Slurm     SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, only with SLURM_STEP_ID: in a batch script outside
//   srun
//             SLURM_NTASKS counts ranks nobody has started. Rank 0 is on the first host of
//             SLURM_STEP_NODELIST, at port 20000 + (31 SLURM_JOB_ID + SLURM_STEP_ID) mod 10000, or where
//             MASTER_ADDR and MASTER_PORT say.
//   PMI       PMI_RANK (or PMIX_RANK) and PMI_SIZE; needs MASTER_PORT, and MASTER_ADDR where MPI_LOCALNRANKS
//             does not say that all ranks are on one host.
//   torchrun  RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, set by hand. Without LOCAL_RANK all ranks are on
//             this host where MASTER_ADDR is a loopback address, else each is on its own.
//
// torchrun's own store may keep MASTER_PORT open (TORCHELASTIC_USE_AGENT_STORE is True): ranks then meet at
// the port beside it. Throws RequestError for a set that is incomplete, contradicts itself or is no numbers.
Launch launch_from(const Environment& environment);
Launch launch_of_this_process();

// The first host of a Slurm list: "rack[1-2]n[04-07,09],x1" -> "rack1n04".
std::string first_host(std::string_view list);

// The threads of compute.threads: `configured` where it is not 0, else this rank's share of the cores, at
// least one: min(own, all / local_ranks), and no more than launch.cores where the launcher says that. `own`
// are the cores this process may run on; `all` those of its host that the ranks share, which are more than
// `own` where the launcher has bound each rank to some of them.
int threads_share(int configured, const Launch& launch, int own, int all);
// The same with what the system says of this process and, under Open MPI, of mpirun, which is not bound
// itself.
int threads_share(int configured, const Launch& launch);

// Whether what this process prints can end on a terminal. mpirun gives every rank a terminal of its own for
// standard output, whatever becomes of it then: under Open MPI the question goes to mpirun's output.
bool prints_to_terminal(const Launch& launch);

// Where this rank stands, for collectives that meet over TCP; last_words say the message and end the process.
RankPlace rank_place(const Launch& launch, double timeout);

// How the ranks meet: one rank, single; Open MPI's, through the MPI plug-in; all others over TCP at
// launch.address and launch.port. These are for memory of the host; for that of GPUs: gpu_ranks.h. `timeout`
// in seconds, for all to come and for each operation.
std::unique_ptr<Collectives> make_collectives(const Launch& launch, double timeout);

}  // namespace spectrain
