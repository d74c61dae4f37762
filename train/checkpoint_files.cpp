#include "train/checkpoint_files.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "kernels/error.h"
#include "train/durable_file.h"

namespace spectrain {

namespace fs = std::filesystem;

namespace {

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    throw Error(fmt::format("cannot rename {} to {}: {}", from, to, std::strerror(errno)));
}

std::string parent_of(const std::string& path) { return fs::path(path).parent_path().string(); }

}  // namespace

std::string step_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

std::vector<StepDirectory> step_directories(const std::string& directory) {
  std::vector<StepDirectory> found;
  std::error_code none;
  for (fs::directory_iterator it(directory, none), end; !none && it != end; it.increment(none)) {
    const std::string name = it->path().filename().string();
    constexpr std::string_view kPrefix = "step-";
    std::int64_t step = 0;
    if (!name.starts_with(kPrefix)) continue;
    const char* last = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + kPrefix.size(), last, step);
    if (parsed.ec != std::errc() || parsed.ptr != last || name != step_name(step)) continue;
    found.push_back({directory + "/" + name, step});
  }
  std::sort(found.begin(), found.end(),
            [](const StepDirectory& a, const StepDirectory& b) { return a.step < b.step; });
  return found;
}

void make_directory(const std::string& path) {
  std::error_code failed;
  fs::create_directories(path, failed);
  if (failed) throw Error(fmt::format("cannot make the directory {}: {}", path, failed.message()));
}

void remove_leftovers(const std::string& directory) {
  std::error_code failed;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(directory, failed), end; !failed && it != end; it.increment(failed)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(kWriting) || name.starts_with(kRemoving)) leftovers.push_back(it->path());
  }
  for (const fs::path& path : leftovers) {
    fs::remove_all(path, failed);
    if (failed)
      throw Error(fmt::format("cannot remove the leftover {}: {}", path.string(), failed.message()));
  }
}

void publish(const std::string& writing, const std::string& path) {
  const std::string parent = parent_of(path);
  // The same step written again (a run that went back): exchanging the two names leaves no moment without
  // one. File systems that cannot exchange get a rename aside first; there a kill between the two renames
  // costs this step's old checkpoint, not the others.
  if (::renameat2(AT_FDCWD, writing.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    sync_directory(parent);
    std::error_code ignored;  // what remains is a leftover for the next write
    fs::remove_all(writing, ignored);
    return;
  }
  if (errno != ENOENT && fs::exists(path)) remove_step_directory(path);
  rename_path(writing, path);
  sync_directory(parent);
}

void remove_step_directory(const std::string& path) {
  const std::string doomed =
      parent_of(path) + "/" + std::string(kRemoving) + fs::path(path).filename().string();
  rename_path(path, doomed);
  std::error_code failed;
  fs::remove_all(doomed, failed);
  if (failed) throw Error(fmt::format("cannot remove {}: {}", doomed, failed.message()));
}

void set_aside(const std::string& path) {
  std::string to = path + ".abandoned";
  for (int n = 2; fs::exists(to); ++n) to = fmt::format("{}.abandoned-{}", path, n);
  rename_path(path, to);
}

}  // namespace spectrain
