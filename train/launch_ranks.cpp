#include "train/launch_ranks.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "kernels/collectives.h"
#include "kernels/error.h"
#include "train/child_process.h"
#include "train/config.h"
#include "train/mpirun_output.h"
#include "train/mpirun_process.h"
#include "train/session.h"

namespace spectrain {
namespace {

void check_configuration(const TrainRequest& request) {
  const RunConfig config = with_resolved_model(load_config(request.config, request.overrides));
  share_of_rank(config, request.ranks);
  if (config.compute.device == Device::cuda) make_backend(config.compute);  // says what is missing
}

void check_plugin() {
  const std::string path = mpi_plugin_path();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    throw Error(fmt::format(
        "--ranks needs this program's MPI part, {}, which was not built; install Open MPI (Debian, "
        "Ubuntu: libopenmpi-dev and openmpi-bin) and build again, or start the ranks with torchrun "
        "or srun",
        path.empty() ? "libspectrain_mpi.so" : path));
}

// The same arguments for each rank, without what only this process needs.
std::vector<std::string> rank_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> kept;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--ranks")
      ++i;  // and its number
    else if (!arguments[i].starts_with("--ranks="))
      kept.push_back(arguments[i]);
  }
  return kept;
}

// No rank said why the run ended.
[[noreturn]] void throw_end(const MpirunEnd& end, const std::optional<RankEnd>& first) {
  if (end.interrupts > 1) throw Error("ended at once by the second interrupt; saved checkpoints are intact");
  if (end.interrupts == 1) throw Error("interrupted before the ranks were training; nothing was saved");
  if (first && !first->signal.empty())
    throw Error(fmt::format("rank {} ended by {}; saved checkpoints are intact", first->rank, first->signal));
  if (WIFSIGNALED(end.status))
    throw Error(fmt::format("mpirun ended by signal {}, and the ranks with it; saved checkpoints are intact",
                            WTERMSIG(end.status)));
  const int code = WEXITSTATUS(end.status);
  if (first)
    throw Error(fmt::format("rank {} ended with exit code {} without a message; saved checkpoints are intact",
                            first->rank, first->exit_code != 0 ? first->exit_code : code));
  throw Error(fmt::format("mpirun ended with exit code {}", code));
}

}  // namespace

int launch_ranks(const TrainRequest& request) {
  check_configuration(request);
  const std::string mpirun = find_mpirun();
  check_plugin();
  std::vector<std::string> arguments = {mpirun, "-n", std::to_string(request.ranks), own_path()};
  for (std::string& a : rank_arguments(request.arguments)) arguments.push_back(std::move(a));

  MpirunOutput output;
  const MpirunEnd end = run_mpirun(arguments, [&](std::string_view bytes) {
    const std::string text = bytes.empty() ? output.finish() : output.take(bytes);
    std::fwrite(text.data(), 1, text.size(), stderr);
  });
  const int code = WIFEXITED(end.status) ? WEXITSTATUS(end.status) : 1;
  if (code != 0 && !output.reported()) throw_end(end, output.first_end());
  return code == 0 || code == 2 ? code : 1;
}

}  // namespace spectrain
