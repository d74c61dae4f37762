#pragma once

#include <span>
#include <string>

// A library of NVIDIA's, opened when it is needed: the plug-in is linked to none of them, so that it loads on
// every machine, and one that is missing is a sentence instead of a loader's error.

namespace spectrain {

class Library {
 public:
  Library() = default;

  // `name` is for messages ("cuDNN"), `soname` what to look for ("libcudnn.so.9"): in `directories` first,
  // then where the loader looks, where the build found it, in the CUDA toolkit's directories and in Python's
  // packages (site-packages/nvidia/*/lib). Never throws: a library that is not there is empty and knows why.
  static Library open(const std::string& name, const std::string& soname,
                      std::span<const std::string> directories = {});

  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& why_not() const { return why_not_; }  // a clause without a full stop
  std::string path() const;                                // of the file that was opened

  // The function of this name: library.function<decltype(&cudnnCreate)>("cudnnCreate"). Throws Error where
  // the library, an old one perhaps, has none.
  template <class F>
  F function(const char* function_name) const {
    return reinterpret_cast<F>(address(function_name));
  }
  bool has(const char* function_name) const;

 private:
  void* address(const char* function_name) const;

  // Never closed: what such a library leaves behind (threads, handlers for the end of the process) would call
  // into memory that is gone.
  void* handle_ = nullptr;
  std::string name_, soname_, why_not_;
};

}  // namespace spectrain
