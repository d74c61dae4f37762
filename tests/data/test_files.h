#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace spectrain::testing_files {

// An empty directory of the test's own, removed at the end.
class Scratch {
 public:
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "spectrain-data-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The data that lies outside the repository; a file of it may be absent.
inline std::string shared(const std::string& name) {
  const char* place = std::getenv("SPECTRAIN_DATA");
  return (place ? std::string(place) : std::string(SPECTRAIN_SOURCE_DIR "/../shared/data")) + "/" + name;
}

#define SPECTRAIN_NEEDS(file)                                                                \
  if (!std::filesystem::exists(file)) {                                                      \
    GTEST_SKIP() << file << " is absent; point SPECTRAIN_DATA at the test data to run this"; \
  }

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

inline void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline void write_header(const std::string& path, const std::vector<std::int32_t>& words,
                         std::uint64_t total_bytes) {
  std::vector<std::int32_t> header(256);
  std::copy(words.begin(), words.end(), header.begin());
  write_bytes(path, {reinterpret_cast<const char*>(header.data()), 1024});
  std::filesystem::resize_file(path, total_bytes);  // a hole: no disk is used
}

// Overwrites bytes of an existing file.
inline void poke(const std::string& path, std::uint64_t offset, std::string_view bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file << bytes;
}

// The message of the exception of type E that f throws; fails the test where it throws none.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "(nothing was thrown)";
}

}  // namespace spectrain::testing_files
