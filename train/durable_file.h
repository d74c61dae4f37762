#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "train/checksum.h"

// Files that are either wholly on the disk or reported as failed. Every failure is an Error with the path and
// the system's reason.

namespace spectrain {

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_ = -1;
};

// A new file (an existing one of that name is emptied) written from front to back, counted and checksummed.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Room for `bytes` more, all zero, that PatchedFile may fill; neither counted nor checksummed.
  void reserve(std::uint64_t bytes);
  void finish();  // fsync and close; without it the file is an unfinished leftover
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t checksum() const { return sum_.digest(); }

 private:
  std::string path_;
  Descriptor fd_;
  Checksum sum_;
  std::uint64_t bytes_ = 0;
};

// An existing file of which some parts are written anew; other processes may write other parts of it.
class PatchedFile {
 public:
  explicit PatchedFile(std::string path);
  void write(std::uint64_t offset, const void* data, std::size_t bytes);
  void finish();  // fsync and close

 private:
  std::string path_;
  Descriptor fd_;
};

// A file opened for reading at any offset, thread-safe.
class InputFile {
 public:
  explicit InputFile(std::string path);
  const std::string& path() const { return path_; }
  std::uint64_t bytes() const { return bytes_; }
  // Reads exactly `count` bytes from `offset`; a shorter file is an Error.
  void read(std::uint64_t offset, void* to, std::size_t count) const;

 private:
  std::string path_;
  Descriptor fd_;
  std::uint64_t bytes_ = 0;
};

void write_all(int fd, const void* data, std::size_t bytes, const std::string& path);
void sync_directory(const std::string& path);
// Written beside, synced, renamed: readers see the old text or the new one, never a part.
void replace_file(const std::string& path, std::string_view text);
std::string read_text_file(const std::string& path);

}  // namespace spectrain
