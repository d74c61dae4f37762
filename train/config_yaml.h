#pragma once

#include <string>

#include "train/config_tree.h"

namespace spectrain {

// YAML into trees, and the few questions about files that go with it. yaml-cpp stays behind this door.

// Throws RequestError when the file cannot be read, is not YAML, holds more than one document, is not a map,
// or gives a key twice. An empty file is an empty map.
ConfigNode read_yaml_file(const std::string& path);

// A value as written behind "--set key="; every place in it is `place`.
ConfigNode read_yaml_text(const std::string& text, const std::string& place);

bool file_exists(const std::string& path);
std::string canonical_path(const std::string& path);  // the same for two names of a file
std::string path_beside(const std::string& file,
                        const std::string& relative);  // as seen from the file's directory

}  // namespace spectrain
