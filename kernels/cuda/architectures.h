#pragma once

#include <charconv>
#include <string_view>

namespace spectrain {

// Does a plug-in made for `architectures` ("90a-real,80-real,90-virtual") have code that a device of compute
// capability major.minor can run? Binary code ("real") runs on its own generation from its minor number on,
// one with the letter a on its own device alone, PTX ("virtual") on every device from it on. (CUDA C++
// programming guide, "binary compatibility" and "PTX compatibility")
inline bool has_cuda_code(std::string_view architectures, int major, int minor) {
  const int device = 10 * major + minor;
  while (!architectures.empty()) {
    const std::string_view entry = architectures.substr(0, architectures.find(','));
    architectures.remove_prefix(entry.size() < architectures.size() ? entry.size() + 1 : entry.size());
    int made_for = 0;
    const char* const end = entry.data() + entry.size();
    const std::from_chars_result number = std::from_chars(entry.data(), end, made_for);
    if (number.ec != std::errc{}) continue;
    const std::string_view kind(number.ptr, static_cast<std::size_t>(end - number.ptr));
    if (kind == "-real" && made_for / 10 == major && made_for <= device) return true;
    if (kind == "-virtual" && made_for <= device) return true;
    if (kind.starts_with('a') && made_for == device) return true;
  }
  return false;
}

}  // namespace spectrain
