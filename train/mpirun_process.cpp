#include "train/mpirun_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/error.h"
#include "train/child_process.h"

namespace spectrain {
namespace {

constexpr const char* kInstall =
    "install Open MPI (Debian, Ubuntu: openmpi-bin), or start the ranks with torchrun or srun";

// ---- the environment of mpirun

// Containers may forbid one process to read another's memory, which Open MPI tries and then fails on.
bool may_read_memory_of_processes() {
  char from = 1, to = 0;
  const iovec local{&to, 1}, remote{&from, 1};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

// As variables, not as options: an Open MPI that does not know one passes over it.
std::vector<std::string> mpirun_environment() {
  std::vector<std::string> out;
  for (char** v = environ; *v != nullptr; ++v) {
    const std::string_view entry(*v);
    if (!belongs_to_a_job(entry.substr(0, entry.find('=')))) out.emplace_back(entry);
  }
  const auto set_default = [&](const std::string& name, const char* value) {
    const bool there = std::any_of(out.begin(), out.end(),
                                   [&](const std::string& entry) { return entry.starts_with(name + "="); });
    if (!there) out.push_back(name + "=" + value);
  };
  set_default("OMPI_ALLOW_RUN_AS_ROOT", "1");  // as in most containers; the ranks run as who we are anyway
  set_default("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  set_default("OMPI_MCA_plm", "isolated");  // this host only, without looking for ssh
  set_default("OMPI_MCA_pml", "ob1");
  set_default("OMPI_MCA_btl", "self,vader");  // shared memory
  set_default("OMPI_MCA_oob_tcp_if_include", "lo");
  set_default("OMPI_MCA_rmaps_base_oversubscribe", "1");  // more ranks than cores are allowed, and slow
  set_default("OMPI_MCA_hwloc_base_binding_policy", "none");
  set_default("OMPI_MCA_mpi_yield_when_idle", "1");
  set_default("PRTE_ALLOW_RUN_AS_ROOT", "1");  // Open MPI 5 has other names for these
  set_default("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  set_default("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
  set_default("PRTE_MCA_hwloc_default_binding_policy", "none");
  if (!may_read_memory_of_processes()) set_default("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
  return out;
}

// ---- children of this process

std::vector<pid_t> children() {
  std::vector<pid_t> out;
  DIR* all = opendir("/proc");
  if (!all) return out;
  while (const dirent* entry = readdir(all)) {
    const pid_t pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    std::FILE* file = std::fopen(fmt::format("/proc/{}/stat", pid).c_str(), "r");
    if (!file) continue;
    std::array<char, 512> text{};
    const std::size_t n = std::fread(text.data(), 1, text.size() - 1, file);
    std::fclose(file);
    // "pid (name) state parent ...", and a name may hold anything.
    const std::string_view line(text.data(), n);
    const std::size_t at = line.rfind(") ");
    if (at != line.npos && std::atoi(text.data() + std::min(n, at + 4)) == getpid()) out.push_back(pid);
  }
  closedir(all);
  return out;
}

// What mpirun left behind became a child of this process (it is a subreaper), and ends with the run.
void end_leftovers(const std::vector<pid_t>& had_before) {
  for (int round = 0; round < 100; ++round) {
    bool found = false;
    for (const pid_t pid : children()) {
      if (std::find(had_before.begin(), had_before.end(), pid) != had_before.end()) continue;
      found = true;
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    if (!found) return;
  }
}

// In the new process: only what is safe between fork and exec.
[[noreturn]] void become_mpirun(pid_t parent, int standard_error, const sigset_t& mask, char* const* argv,
                                char* const* environment) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  setpgid(0, 0);  // Ctrl-C on the terminal is for the parent alone
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(standard_error, STDERR_FILENO);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  if (getppid() == parent) execve(argv[0], argv, environment);  // else it died before the request to be told
  _exit(127);
}

// Until the child has ended.
MpirunEnd supervise(pid_t mpirun, const SignalQueue& signals, int standard_error,
                    const std::function<void(std::string_view)>& sink) {
  MpirunEnd end;
  std::array<pollfd, 2> watched{{{signals.descriptor(), POLLIN, 0}, {standard_error, POLLIN, 0}}};
  while (true) {
    poll(watched.data(), watched.size(), -1);
    if (watched[1].revents != 0 && !drain(standard_error, sink)) watched[1].fd = -1;
    while (const int signal = signals.next()) {
      if (signal == SIGCHLD) continue;
      ++end.interrupts;
      kill(mpirun, end.interrupts == 1 ? SIGUSR1 : SIGTERM);
    }
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
      if (pid == mpirun) {
        end.status = status;
        return end;
      }
  }
}

bool runs(const std::string& path) { return access(path.c_str(), X_OK) == 0; }

std::string first_on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!rest.empty()) {
    const std::size_t colon = std::min(rest.find(':'), rest.size());
    const std::string candidate = std::string(rest.substr(0, colon)) + "/" + program;
    if (runs(candidate)) return candidate;
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return {};
}

std::string version_of(const std::string& program) {
  std::string text;
  std::FILE* out = popen(("'" + program + "' --version 2>&1").c_str(), "r");
  if (!out) return text;
  std::array<char, 512> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), out)) > 0;)
    text.append(buffer.data(), n);
  pclose(out);
  return text;
}

}  // namespace

std::string find_mpirun() {
  const std::string path = first_on_path("mpirun");
  if (path.empty()) throw Error(fmt::format("--ranks needs mpirun, which is not on PATH; {}", kInstall));
  const std::string version = version_of(path);
  if (version.find("Open MPI") == version.npos && version.find("OpenRTE") == version.npos)
    throw Error(fmt::format("--ranks needs Open MPI's mpirun, but {} is another one; {}", path, kInstall));
  return path;
}

MpirunEnd run_mpirun(const std::vector<std::string>& arguments,
                     const std::function<void(std::string_view)>& standard_error) {
  const std::vector<std::string> environment = mpirun_environment();
  const std::vector<char*> argv = pointers(arguments), variables = pointers(environment);
  std::fflush(stdout);
  const SignalQueue signals;
  Pipe pipe;
  const std::vector<pid_t> had_before = children();
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t parent = getpid(), child = fork();
  if (child < 0) throw Error(fmt::format("mpirun cannot be started: {}", std::strerror(errno)));
  if (child == 0) become_mpirun(parent, pipe.to, signals.before(), argv.data(), variables.data());
  setpgid(child, child);  // whoever comes first
  pipe.close_to();
  const MpirunEnd end = supervise(child, signals, pipe.from, standard_error);
  end_leftovers(had_before);
  drain(pipe.from, standard_error);
  standard_error({});
  return end;
}

}  // namespace spectrain
