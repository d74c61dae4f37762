#include "kernels/cuda/library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <glob.h>
#include <link.h>

#include <filesystem>
#include <string_view>
#include <vector>

#include "kernels/error.h"

// Directories in which the build found NVIDIA's libraries, with colons between them (CMakeLists.txt).
#ifndef SPECTRAIN_LIBRARY_DIRECTORIES
#define SPECTRAIN_LIBRARY_DIRECTORIES ""
#endif

namespace spectrain {
namespace {

// The toolkit's installer leaves the loader's configuration alone; pip puts the libraries beside its Python
// packages, up to CUDA 12 each into a directory of its own, since 13 into nvidia/cu13.
constexpr const char* kPatterns[] = {
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
    "/opt/cuda/lib64",
    "/usr/lib/python3*/*-packages/nvidia/*/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/*/lib",
    "/opt/*/lib/python3*/site-packages/nvidia/*/lib",
};
constexpr const char* kSearched =
    "where the loader looks, nor in /usr/local/cuda*/lib64, nor in the nvidia packages of the system's "
    "Python";

std::vector<std::string> matches(const char* pattern) {
  std::vector<std::string> paths;
  glob_t found{};
  if (glob(pattern, 0, nullptr, &found) == 0)
    for (std::size_t i = found.gl_pathc; i > 0; --i)  // in reverse: the highest version first
      paths.emplace_back(found.gl_pathv[i - 1]);
  globfree(&found);
  return paths;
}

std::vector<std::string> build_directories() {
  std::vector<std::string> directories;
  std::string_view rest = SPECTRAIN_LIBRARY_DIRECTORIES;
  while (!rest.empty()) {
    const std::string_view one = rest.substr(0, rest.find(':'));
    rest.remove_prefix(one.size() < rest.size() ? one.size() + 1 : one.size());
    if (!one.empty()) directories.emplace_back(one);
  }
  return directories;
}

// Opens one library; keeps the first reason that is more than "no such file".
class Opener {
 public:
  explicit Opener(const std::string& soname) : soname_(soname) {}

  bool from_loader() {
    // Lazily: a library built for a newer driver still loads, and what is called is looked up one by one.
    handle_ = dlopen(soname_.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (handle_) return true;
    const char* const text = dlerror();
    const std::string error = text ? text : "";
    // The name alone: it is not there. With another library's name or another reason: it is, and unusable.
    if (!error.starts_with(soname_ + ": cannot open shared object file: No such file")) keep(error);
    return false;
  }
  bool from(const std::string& directory) {
    const std::string path = directory + "/" + soname_;
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return false;
    handle_ = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (handle_) return true;
    const char* const text = dlerror();
    keep(text ? text : path);
    return false;
  }
  bool from_first_of(std::span<const std::string> directories) {
    for (const std::string& directory : directories)
      if (from(directory)) return true;
    return false;
  }
  void* handle() const { return handle_; }
  const std::string& damage() const { return damage_; }

 private:
  void keep(const std::string& reason) {
    if (damage_.empty()) damage_ = reason;
  }
  std::string soname_, damage_;
  void* handle_ = nullptr;
};

bool open_somewhere(Opener& opener, std::span<const std::string> directories) {
  if (opener.from_first_of(directories) || opener.from_loader()) return true;
  if (opener.from_first_of(build_directories())) return true;
  for (const char* pattern : kPatterns)
    if (opener.from_first_of(matches(pattern))) return true;
  return false;
}

}  // namespace

Library Library::open(const std::string& name, const std::string& soname,
                      std::span<const std::string> directories) {
  Library library;
  library.name_ = name;
  library.soname_ = soname;
  Opener opener(soname);
  if (open_somewhere(opener, directories)) {
    library.handle_ = opener.handle();
  } else if (!opener.damage().empty()) {
    library.why_not_ = fmt::format("{} cannot be loaded ({})", name, opener.damage());
  } else {
    std::string given;
    for (const std::string& directory : directories) given += "in " + directory + ", nor ";
    library.why_not_ = fmt::format("{} ({}) is neither {}{}", name, soname, given, kSearched);
  }
  return library;
}

std::string Library::path() const {
  link_map* map = nullptr;
  if (!handle_ || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0 || !map) return soname_;
  return map->l_name;
}

bool Library::has(const char* function_name) const {
  return handle_ && dlsym(handle_, function_name) != nullptr;
}

void* Library::address(const char* function_name) const {
  if (!handle_) throw Error(why_not_.empty() ? "a library that was never opened" : why_not_);
  void* const found = dlsym(handle_, function_name);
  if (!found)
    throw Error(fmt::format("{} ({}) has no function {}: it is older than the one this program was built for",
                            name_, path(), function_name));
  return found;
}

}  // namespace spectrain
