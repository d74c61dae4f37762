#include "tests/train/rank_job.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <sstream>
#include <thread>

#include "kernels/error.h"
#include "kernels/sockets.h"

namespace spectrain {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Below the ports that the system gives to outgoing connections: it stays free.
int free_port() {
  static std::mt19937 random(std::random_device{}());
  for (;;) {
    const int port = 10000 + static_cast<int>(random() % 20000);
    try {
      listen_at("127.0.0.1", port);
      return port;
    } catch (const Error&) {
      // taken
    }
  }
}

}  // namespace

RankJob::RankJob(const TinyRun& tiny, int ranks)
    : port_(free_port()), processes_(static_cast<std::size_t>(ranks)), begin_(now()) {
  static int jobs = 0;
  outputs_ = tiny / fmt::format("job-{}-rank-", ++jobs);
}

RankJob::~RankJob() { wait(0); }

std::string RankJob::output(int rank) const { return outputs_ + std::to_string(rank); }

double RankJob::elapsed() const { return now() - begin_; }

void RankJob::start(int rank, const std::vector<std::string>& arguments, const std::string& before) {
  std::string set = fmt::format(
      "export RANK={} WORLD_SIZE={} MASTER_ADDR=127.0.0.1 MASTER_PORT={} OMP_WAIT_POLICY=PASSIVE; ", rank,
      processes_.size(), port_);
  std::vector<std::string> all = {"/bin/sh", "-c", set + before + "exec \"$0\" \"$@\"",
                                  SPECTRAIN_BINARY_DIR "/spectrain"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& a : all) argv.push_back(a.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, (output(rank) + ".out").c_str(), kFlags, 0666);
  posix_spawn_file_actions_addopen(&files, 2, (output(rank) + ".err").c_str(), kFlags, 0666);
  Process& p = processes_[static_cast<std::size_t>(rank)];
  EXPECT_EQ(posix_spawn(&p.pid, argv[0], &files, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&files);
}

void RankJob::start_all(const std::vector<std::string>& arguments) {
  for (std::size_t r = 0; r < processes_.size(); ++r) start(static_cast<int>(r), arguments);
}

void RankJob::signal(int rank, int number) const {
  const Process& p = processes_[static_cast<std::size_t>(rank)];
  if (p.pid > 0 && !p.over) kill(p.pid, number);
}

std::vector<EndedRank> RankJob::wait(double seconds, int except) {
  const double deadline = now() + seconds;
  const auto reap = [this](Process& p, int flags) {
    int status = 0;
    if (p.pid <= 0 || p.over || waitpid(p.pid, &status, flags) != p.pid) return;
    p.over = true;
    p.end.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    p.end.seconds = elapsed();
  };
  for (bool all = false; !all && now() < deadline;) {
    all = true;
    for (std::size_t r = 0; r < processes_.size(); ++r) {
      reap(processes_[r], WNOHANG);
      all = all && (processes_[r].over || processes_[r].pid <= 0 || static_cast<int>(r) == except);
    }
    if (!all) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  std::vector<EndedRank> ends;
  for (std::size_t r = 0; r < processes_.size(); ++r) {
    Process& p = processes_[r];
    if (p.pid > 0 && !p.over) {
      kill(p.pid, SIGKILL);
      reap(p, 0);
      p.end.late = true;
    }
    p.end.out = contents_of(output(static_cast<int>(r)) + ".out");
    p.end.err = contents_of(output(static_cast<int>(r)) + ".err");
    ends.push_back(p.end);
  }
  return ends;
}

void train_on_ranks(const TinyRun& tiny, int ranks, const std::string& config,
                    const std::vector<std::string>& overrides, Existing existing) {
  SCOPED_TRACE(fmt::format("{} ranks", ranks));
  RankJob job(tiny, ranks);
  job.start_all(train_arguments(config, overrides, existing));
  const auto ends = job.wait(60);
  for (std::size_t r = 0; r < ends.size(); ++r) {
    EXPECT_EQ(ends[r].code, 0) << "rank " << r << (ends[r].late ? " did not end: " : ": ") << ends[r].err;
    EXPECT_EQ(ends[r].err, "") << "rank " << r;
    EXPECT_EQ(ends[r].out.empty(), r != 0) << "rank " << r << " printed " << ends[r].out;
  }
}

std::string prepare_mpirun() {
#ifdef __SANITIZE_THREAD__
  return "Open MPI takes its own locks in two orders, which ends every rank under this sanitizer";
#endif
#ifdef __SANITIZE_ADDRESS__
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // Open MPI's own, at the end of every rank
#endif
  if (!SPECTRAIN_MPI) return "this build has no MPI";
  if (std::system("mpirun --version > /dev/null 2>&1") != 0) return "mpirun is not on PATH";
  return {};
}

std::vector<std::string> lines_on_stderr(const std::vector<EndedRank>& ends) {
  std::vector<std::string> lines;
  for (const EndedRank& e : ends) {
    if (e.code < 0 && !e.late) continue;
    std::istringstream text(e.err);
    for (std::string line; std::getline(text, line);) lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> twelve_sequences(const TinyRun& tiny, const std::string& run,
                                          std::vector<std::string> more) {
  more.insert(more.begin(),
              {"batch.tokens=192", "batch.micro_batch=1", "data.train=" + (tiny / "long/train_*.bin")});
  return named(run, std::move(more));
}

}  // namespace spectrain
