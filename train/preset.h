#pragma once

#include <string>
#include <vector>

namespace spectrain {

// The path of a configuration somebody named: a file as it is, or a name such as "gpt2-124m" for the file
// configs/gpt2-124m.yaml under the current directory or above the executable. Throws RequestError naming the
// presets there are when it is neither.
std::string find_configuration(const std::string& name);

// The folder configs/<name>, looked for in the same places. Throws RequestError when there is none.
std::string find_configuration_folder(const std::string& name);

// Names of the files in configs/, sorted.
std::vector<std::string> preset_names();

}  // namespace spectrain
