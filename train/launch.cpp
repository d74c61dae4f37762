#include "train/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <initializer_list>

#include "kernels/error.h"
#include "kernels/sockets.h"

namespace spectrain {
namespace {

constexpr int kMostRanks = 1 << 20;
constexpr int kFirstPort = 20000, kPorts = 10000;  // below the range Linux gives to outgoing connections

// Reads variables; what is set to nothing counts as not set.
class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  std::optional<std::string> text(const char* name) const {
    std::optional<std::string> value = environment_(name);
    return value && value->empty() ? std::nullopt : value;
  }
  bool has(std::initializer_list<const char*> names) const {
    return std::all_of(names.begin(), names.end(), [&](const char* n) { return text(n).has_value(); });
  }
  std::optional<int> number(const char* name, int lowest = 0, int highest = kMostRanks) const {
    const std::optional<std::string> value = text(name);
    if (!value) return std::nullopt;
    int n = 0;
    const char* end = value->data() + value->size();
    const auto [stop, error] = std::from_chars(value->data(), end, n);
    if (error != std::errc() || stop != end || n < lowest || n > highest)
      throw RequestError(
          fmt::format("the environment variable {} is \"{}\", which is not a number from {} to "
                      "{}; unset it, or let the launcher set it",
                      name, *value, lowest, highest));
    return n;
  }
  int needed(const char* name, const char* because, int lowest = 0) const {
    if (const auto n = number(name, lowest)) return *n;
    throw RequestError(
        fmt::format("the environment variable {} is set but {} is not; set both, or unset the "
                    "first to train with one rank",
                    because, name));
  }

 private:
  const Environment& environment_;
};

struct Names {
  const char *rank, *ranks, *local_rank, *local_ranks;
};

void check_below(const char* rank_name, int rank, const char* ranks_name, int ranks) {
  if (rank >= ranks)
    throw RequestError(
        fmt::format("the environment variable {} is {}, but {} is {}; ranks count from 0 to {}", rank_name,
                    rank, ranks_name, ranks, ranks - 1));
}

// Rank and ranks of a set of which at least one is there.
Launch numbered(const Variables& v, Launcher launcher, const Names& names) {
  Launch l;
  l.launcher = launcher;
  l.rank = v.needed(names.rank, names.ranks);
  l.ranks = v.needed(names.ranks, names.rank, 1);
  check_below(names.rank, l.rank, names.ranks, l.ranks);
  return l;
}

void add_local(const Variables& v, Launch& l, const Names& names) {
  l.local_rank = v.needed(names.local_rank, names.rank);
  l.local_ranks = v.needed(names.local_ranks, names.local_rank, 1);
  check_below(names.local_rank, l.local_rank, names.local_ranks, l.local_ranks);
  if (l.local_ranks > l.ranks)
    throw RequestError(fmt::format("the environment variable {} is {}, but {} is only {}", names.local_ranks,
                                   l.local_ranks, names.ranks, l.ranks));
}

std::optional<int> port(const Variables& v) { return v.number("MASTER_PORT", 1, 65535); }

// ---- one function per launcher; nothing where its variables are not there

std::optional<Launch> openmpi(const Variables& v) {
  constexpr Names kNames = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                            "OMPI_COMM_WORLD_LOCAL_SIZE"};
  if (!v.text(kNames.rank) && !v.text(kNames.ranks)) return std::nullopt;
  Launch l = numbered(v, Launcher::openmpi, kNames);
  add_local(v, l, kNames);
  return l;
}

// The tasks of host `node` in "4(x2),3".
int slurm_tasks_of(const std::string& list, int node, int ranks) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t comma = std::min(list.find(',', at), list.size());
    const std::string_view part = std::string_view(list).substr(at, comma - at);
    int tasks = 0, hosts = 1;
    std::from_chars(part.data(), part.data() + part.size(), tasks);
    if (const std::size_t x = part.find("(x"); x != part.npos)
      std::from_chars(part.data() + x + 2, part.data() + part.size(), hosts);
    if (node < hosts) return std::clamp(tasks, 1, ranks);
    node -= hosts;
    at = comma + 1;
  }
  return ranks;  // unknown: too few threads are better than too many
}

std::optional<Launch> slurm(const Variables& v) {
  constexpr Names kNames = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr};
  const std::optional<std::string> step = v.text("SLURM_STEP_ID");
  if (!step || v.number(kNames.ranks).value_or(1) <= 1) return std::nullopt;
  Launch l = numbered(v, Launcher::slurm, kNames);
  l.local_rank = v.needed(kNames.local_rank, kNames.rank);
  const std::optional<std::string> per_node = v.text("SLURM_STEP_TASKS_PER_NODE");
  l.local_ranks =
      per_node ? slurm_tasks_of(*per_node, v.number("SLURM_NODEID").value_or(0), l.ranks) : l.ranks;
  l.local_ranks = std::max(l.local_ranks, l.local_rank + 1);
  l.cores = v.number("SLURM_CPUS_PER_TASK", 1).value_or(0);

  if (const auto address = v.text("MASTER_ADDR"))
    l.address = *address;
  else if (const auto hosts = v.text("SLURM_STEP_NODELIST"))
    l.address = first_host(*hosts);
  else
    throw RequestError(
        "the environment variable SLURM_PROCID is set but SLURM_STEP_NODELIST is not; set MASTER_ADDR to the "
        "host of rank 0");
  if (const auto given = port(v)) {
    l.port = *given;
  } else {
    constexpr int kMost = 2147483647;
    const std::int64_t job = v.number("SLURM_JOB_ID", 0, kMost).value_or(0);
    const std::int64_t number = v.number("SLURM_STEP_ID", 0, kMost).value_or(0);
    l.port = kFirstPort + static_cast<int>((31 * job + number) % kPorts);
  }
  return l;
}

std::optional<Launch> pmi(const Variables& v) {
  const bool old = v.text("PMI_RANK").has_value();
  const Names names = {old || !v.text("PMIX_RANK") ? "PMI_RANK" : "PMIX_RANK", "PMI_SIZE", "MPI_LOCALRANKID",
                       "MPI_LOCALNRANKS"};
  if (!v.text(names.rank) && !v.text(names.ranks)) return std::nullopt;
  // PMIx has no variable for the number of ranks; where it is one, mpirun and srun say so in their own words.
  const bool alone = v.number("OMPI_COMM_WORLD_SIZE") == 1 || v.number("SLURM_NTASKS") == 1;
  if (!old && !v.text("PMI_SIZE") && alone) return std::nullopt;
  Launch l = numbered(v, Launcher::pmi, names);
  if (l.ranks == 1) return l;
  if (v.text(names.local_rank) || v.text(names.local_ranks)) add_local(v, l, names);
  const auto address = v.text("MASTER_ADDR");
  const auto given = port(v);
  if (!given || (!address && l.local_ranks != l.ranks))
    throw RequestError(fmt::format(
        "{} and {} do not say where the ranks meet; set the environment variable{} for all of them, "
        "or start them with Open MPI's mpirun",
        names.rank, names.ranks,
        l.local_ranks == l.ranks ? " MASTER_PORT" : "s MASTER_ADDR (the host of rank 0) and MASTER_PORT"));
  if (address) l.address = *address;
  l.port = *given;
  return l;
}

bool is_loopback(const std::string& address) {
  return address == "localhost" || address == "::1" || address.starts_with("127.");
}

std::optional<Launch> torchrun(const Variables& v) {
  constexpr Names kNames = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
  if (!v.text(kNames.rank) && !v.text(kNames.ranks)) return std::nullopt;
  Launch l = numbered(v, Launcher::torchrun, kNames);
  if (l.ranks == 1) return l;
  for (const char* name : {"MASTER_ADDR", "MASTER_PORT"})
    if (!v.text(name))
      throw RequestError(fmt::format(
          "the environment variables RANK and WORLD_SIZE are set but {} is not; set it, or unset RANK and "
          "WORLD_SIZE to train with one rank",
          name));
  l.address = *v.text("MASTER_ADDR");
  l.port = *port(v);
  if (l.rank == 0) l.listener = v.number(kListenerVariable).value_or(-1);
  if (v.text("TORCHELASTIC_USE_AGENT_STORE") == "True") l.port += l.port < 65535 ? 1 : -1;
  if (v.text(kNames.local_rank) || v.text(kNames.local_ranks)) {
    add_local(v, l, kNames);
  } else if (is_loopback(l.address)) {
    l.local_rank = l.rank;
    l.local_ranks = l.ranks;
  }
  return l;
}

int cores_of(pid_t process) {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(process, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

}  // namespace

std::string_view name_of(Launcher launcher) {
  switch (launcher) {
    case Launcher::none:
      return "none";
    case Launcher::openmpi:
      return "Open MPI";
    case Launcher::slurm:
      return "Slurm";
    case Launcher::pmi:
      return "PMI";
    case Launcher::torchrun:
      return "torchrun";
  }
  return "unknown";
}

Launch launch_from(const Environment& environment) {
  const Variables v(environment);
  const bool by_torchrun =
      v.has({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"});
  using Reader = std::optional<Launch> (*)(const Variables&);
  for (const Reader read : {by_torchrun ? Reader(torchrun) : Reader(openmpi), Reader(openmpi), Reader(slurm),
                            Reader(pmi), Reader(torchrun)})
    if (const std::optional<Launch> launch = read(v); launch && launch->ranks > 1) return *launch;
  return {};
}

Launch launch_of_this_process() {
  return launch_from([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value ? std::optional<std::string>(value) : std::nullopt;
  });
}

std::string first_host(std::string_view list) {
  std::string host;
  bool in_brackets = false, taken = false;  // taken: the first of this bracket's numbers is complete
  for (const char c : list) {
    if (c == '[') {
      in_brackets = true;
      taken = false;
    } else if (c == ']') {
      in_brackets = false;
    } else if (c == ',' && !in_brackets) {
      break;
    } else if (in_brackets && (c == ',' || c == '-')) {
      taken = true;
    } else if (!in_brackets || !taken) {
      host += c;
    }
  }
  return host;
}

int threads_share(int configured, const Launch& launch, int own, int all) {
  if (configured > 0) return configured;
  int share = std::min(own, std::max(own, all) / std::max(1, launch.local_ranks));
  if (launch.cores > 0) share = std::min(own, launch.cores);
  return std::max(1, share);
}

int threads_share(int configured, const Launch& launch) {
  const int own = cores_of(0);
  return threads_share(configured, launch, own,
                       launch.launcher == Launcher::openmpi ? cores_of(getppid()) : own);
}

bool prints_to_terminal(const Launch& launch) {
  if (launch.launcher != Launcher::openmpi) return isatty(STDOUT_FILENO) == 1;
  const int out =
      open(fmt::format("/proc/{}/fd/1", getppid()).c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (out < 0) return false;
  const bool terminal = isatty(out) == 1;
  close(out);
  return terminal;
}

RankPlace rank_place(const Launch& launch, double timeout) {
  RankPlace place{launch.rank, launch.ranks, launch.address, launch.port, timeout};
  place.last_words = [](const std::string& message) {
    const std::string line = fmt::format("spectrain: {}\n", message);
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
    _exit(1);
  };
  return place;
}

std::unique_ptr<Collectives> make_collectives(const Launch& launch, double timeout) {
  if (launch.ranks == 1) return make_single_collectives();
  RankPlace place = rank_place(launch, timeout);
  if (launch.listener >= 0) {
    // Only if it is what the variable says: that may have been left behind.
    Socket inherited(launch.listener);
    if (near_end(inherited).port == launch.port) place.listener = inherited.fd();
    inherited.release();
  }
  if (place.listener >= 0) fcntl(place.listener, F_SETFD, FD_CLOEXEC);
  return launch.launcher == Launcher::openmpi ? make_mpi_collectives(place) : make_tcp_collectives(place);
}

}  // namespace spectrain
