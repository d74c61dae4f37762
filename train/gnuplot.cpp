#include "train/gnuplot.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "train/durable_file.h"

extern char** environ;

namespace spectrain {
namespace {

constexpr const char* kColours[kLineStyles] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                               "#56B4E9", "#E69F00", "#000000"};
constexpr int kSymbols[kLineStyles] = {7, 5, 9, 13, 11, 6, 4};

// A temporary file that has no name.
Descriptor unnamed_file(const std::string& contents) {
  std::FILE* file = std::tmpfile();
  if (file == nullptr) throw Error(fmt::format("cannot make a temporary file: {}", std::strerror(errno)));
  Descriptor fd(fcntl(fileno(file), F_DUPFD_CLOEXEC, 3));
  std::fclose(file);
  if (fd.get() < 0) throw Error(fmt::format("cannot make a temporary file: {}", std::strerror(errno)));
  write_all(fd.get(), contents.data(), contents.size(), "a temporary file");
  lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

std::string contents(const Descriptor& fd) {
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return {};
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t got = 0;
  while (got < text.size()) {
    const ssize_t n = pread(fd.get(), text.data() + got, text.size() - got, static_cast<off_t>(got));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += static_cast<std::size_t>(n);
  }
  text.resize(got);
  return text;
}

}  // namespace

GnuplotOutput run_gnuplot(const std::string& script) {
  const Descriptor input = unnamed_file(script), output = unnamed_file(""), words = unnamed_file("");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, output.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, words.get(), 2);
  const char* arguments[] = {"gnuplot", "-", nullptr};
  pid_t pid = -1;
  const int failed = posix_spawnp(&pid, "gnuplot", &actions, nullptr, const_cast<char**>(arguments), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0)
    throw GnuplotMissing(
        fmt::format("pictures are drawn by gnuplot, which cannot be started ({}); install gnuplot-nox",
                    std::strerror(failed)));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, contents(output), contents(words)};
}

std::string gnuplot_text(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += '\'';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "'";
}

std::string gnuplot_data(const std::string& name, std::span<const CurvePoint> points) {
  std::string text = "$" + name + " << END\n";
  for (const CurvePoint& p : points) text += fmt::format("{} {}\n", p.x, p.y);
  return text + "END\n";
}

std::string line_colour(std::size_t i) { return kColours[i % kLineStyles]; }
int line_symbol(std::size_t i) { return kSymbols[i % kLineStyles]; }

}  // namespace spectrain
