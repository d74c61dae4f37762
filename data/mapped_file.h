#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace spectrain {

// A file mapped read-only, whole, with 64-bit sizes. Move-only; unmapped by the destructor. The descriptor is
// closed after mapping, so a thousand shards do not use up the process's open files.
class MappedFile {
 public:
  // Throws RequestError "PATH: cannot be opened: REASON" (missing, unreadable, a directory).
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::int64_t size() const { return size_; }  // bytes
  std::span<const std::byte> bytes() const { return {data_, static_cast<std::size_t>(size_)}; }

  // Throws Error where the file on disk has become shorter than the mapping (reading there would kill the
  // process) or has vanished from a file system that cannot serve it any more.
  void check_still_whole() const;

 private:
  void release() noexcept;

  std::string path_;
  const std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace spectrain
