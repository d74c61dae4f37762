#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <filesystem>

#include "data/loader.h"
#include "kernels/error.h"

namespace spectrain {
namespace fs = std::filesystem;
namespace {

std::vector<std::string> shards_in(const std::string& directory) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.is_regular_file() && entry.path().extension() == ".bin") found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  if (found.empty()) {
    throw RequestError(fmt::format("{}: the directory holds no *.bin shards; name another", directory));
  }
  return found;
}

std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t matches{};
  const int failed = ::glob(pattern.c_str(), 0, nullptr, &matches);
  std::vector<std::string> found;
  for (std::size_t i = 0; failed == 0 && i < matches.gl_pathc; ++i) found.emplace_back(matches.gl_pathv[i]);
  ::globfree(&matches);
  std::sort(found.begin(), found.end());  // by bytes, whatever the locale sorts by
  if (found.empty()) {
    throw RequestError(
        fmt::format("{}: no token shard matches; check the path (shards end in .bin)", pattern));
  }
  return found;
}

}  // namespace

std::vector<std::string> expand_shards(const std::vector<std::string>& patterns) {
  std::vector<std::string> files;
  for (const std::string& pattern : patterns) {
    std::error_code ignored;
    if (fs::is_regular_file(pattern, ignored)) {
      files.push_back(pattern);
      continue;
    }
    const auto found = fs::is_directory(pattern, ignored) ? shards_in(pattern) : matches_of(pattern);
    files.insert(files.end(), found.begin(), found.end());
  }
  if (files.empty()) throw RequestError("no token shards were named; give a file, a pattern or a directory");
  return files;
}

}  // namespace spectrain
