#include "tests/train/config_files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

namespace spectrain {
namespace {

// Read without the parser under test: the rest of the first line that begins with `key`.
std::optional<std::string> line_of(const std::string& file, std::string_view key) {
  std::ifstream in(configs_directory() + file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) return line.substr(key.size());
  return std::nullopt;
}

ConfigKind kind_of(const std::string& file) {
  if (line_of(file, "variants:")) return ConfigKind::comparison;
  if (line_of(file, "experiment:")) return ConfigKind::experiment;
  if (line_of(file, "optimizer:")) return ConfigKind::run;
  const std::string base = base_of_config(file);
  return base.empty() ? ConfigKind::part : kind_of(base);
}

}  // namespace

std::string configs_directory() { return SPECTRAIN_SOURCE_DIR "/configs/"; }

std::string base_of_config(const std::string& file) {
  const auto base = line_of(file, "base: ");
  if (!base) return {};
  const std::filesystem::path path = std::filesystem::path(file).parent_path() / *base;
  return path.lexically_normal().generic_string();
}

std::vector<std::string> config_files(ConfigKind kind) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(configs_directory())) {
    if (entry.path().extension() != ".yaml") continue;
    const std::string file = std::filesystem::relative(entry.path(), configs_directory()).generic_string();
    if (kind_of(file) == kind) files.push_back(file);
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace spectrain
