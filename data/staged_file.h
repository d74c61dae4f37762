#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

namespace spectrain {

// A file that appears under its name only when it is complete: written as "PATH.partial-PID", synced and
// renamed by commit(), removed by the destructor otherwise. Every failure is an Error naming the file and the
// reason.
class StagedFile {
 public:
  explicit StagedFile(std::string path);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  void overwrite(std::int64_t offset, std::span<const std::byte> bytes);  // then goes on at the end
  void commit();

 private:
  [[noreturn]] void fail(const char* what) const;

  std::string path_, partial_;
  std::FILE* file_ = nullptr;
};

}  // namespace spectrain
