#include "train/run_directory.h"

#include <fmt/format.h>

#include <filesystem>

#include "kernels/error.h"
#include "train/directory_lock.h"

namespace spectrain {

namespace fs = std::filesystem;

namespace {

void check_name(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
    throw RequestError(fmt::format(
        "run.name '{}' is not a name for a directory; use letters, digits, '-', '_' and '.'", name));
}

void make_directories(const std::string& path) {
  std::error_code failed;
  fs::create_directories(path, failed);
  if (failed) throw Error(fmt::format("cannot make the run directory {}: {}", path, failed.message()));
}

Descriptor lock(const std::string& path) {
  return lock_directory(path, "wait for it, stop it, or choose another run.name");
}

// A directory holding nothing but a lock is one that somebody only began with.
bool holds_a_run(const std::string& path) {
  std::error_code none;
  for (fs::directory_iterator it(path, none), end; !none && it != end; it.increment(none))
    if (it->path().filename() != ".lock") return true;
  return false;
}

template <class Name>
std::string first_free(Name&& name) {
  int n = 1;
  while (fs::exists(name(n))) ++n;
  return name(n);
}

void move(const std::string& from, const std::string& to) {
  std::error_code failed;
  fs::rename(from, to, failed);
  if (failed) throw Error(fmt::format("cannot rename {} to {}: {}", from, to, failed.message()));
}

}  // namespace

RunDirectory::RunDirectory(const std::string& directory, const std::string& name, ExistingRun existing,
                           std::string_view config) {
  check_name(name);
  path_ = directory.empty() ? name : directory + "/" + name;
  if (fs::exists(path_) && !fs::is_directory(path_))
    throw RequestError(
        fmt::format("{} is a file where the run's directory should be; choose another run.name", path_));
  const auto refuse_existing = [&] {
    if (existing == ExistingRun::refuse && holds_a_run(path_))
      throw RequestError(fmt::format(
          "{} already holds a run; resume it (--resume), set it aside (--force), or choose another run.name",
          path_));
  };
  refuse_existing();  // before anything is written into it
  make_directories(path_);
  lock_ = lock(path_);
  refuse_existing();  // again: another process may have run to its end in between
  existed_ = holds_a_run(path_);
  if (existed_ && existing == ExistingRun::set_aside) {
    old_ = first_free([&](int n) { return fmt::format("{}.old-{}", path_, n); });
    move(path_, old_);
    make_directories(path_);
    lock_ = lock(path_);
    existed_ = false;
  }
  if (fs::exists(config_path())) {
    const std::string before = read_text_file(config_path());
    if (before == config) return;
    replace_file(first_free([&](int n) { return fmt::format("{}/config.old-{}.yaml", path_, n); }), before);
  }
  replace_file(config_path(), config);
}

}  // namespace spectrain
