#include "train/preset.h"

#include <algorithm>
#include <filesystem>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

// From build/cpu/spectrain the repository is two levels up; one more for an installed bin/.
constexpr int kLevelsUp = 3;

std::vector<fs::path> preset_directories() {
  std::vector<fs::path> directories{"configs"};
  std::error_code failed;
  fs::path above = fs::read_symlink("/proc/self/exe", failed).parent_path();
  for (int level = 0; level < kLevelsUp && !failed && !above.empty(); ++level) {
    directories.push_back(above / "configs");
    above = above.parent_path();
  }
  return directories;
}

}  // namespace

std::string find_configuration_folder(const std::string& name) {
  std::error_code ignored;
  for (const fs::path& directory : preset_directories())
    if (fs::is_directory(directory / name, ignored)) return (directory / name).string();
  throw RequestError(
      fmt::format("there is no folder configs/{} here or beside the program; name one with --configs", name));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const fs::path& directory : preset_directories()) {
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored))
      if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::string find_configuration(const std::string& name) {
  std::error_code ignored;
  // A path stays a path even when the file is missing: the reader's error names it then.
  if (fs::exists(name, ignored) || name.find('/') != std::string::npos || fs::path(name).has_extension())
    return name;
  for (const fs::path& directory : preset_directories())
    if (const fs::path file = directory / (name + ".yaml"); fs::exists(file, ignored)) return file.string();
  const std::vector<std::string> presets = preset_names();
  if (presets.empty())
    throw RequestError(
        fmt::format("no configuration \"{}\": there is no such file, and no configs/ directory here or "
                    "beside the program",
                    name));
  throw RequestError(fmt::format("no configuration \"{}\": it is neither a file nor a preset{} (presets: {})",
                                 name, did_you_mean(name, presets), listed(presets, ", ")));
}

}  // namespace spectrain
