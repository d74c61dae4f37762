#include "data/staged_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/error.h"

namespace spectrain {

StagedFile::StagedFile(std::string path)
    : path_(std::move(path)), partial_(fmt::format("{}.partial-{}", path_, ::getpid())) {
  file_ = std::fopen(partial_.c_str(), "wbe");
  if (!file_) fail("created");
}

StagedFile::~StagedFile() {
  if (!file_) return;
  std::fclose(file_);
  std::remove(partial_.c_str());
}

void StagedFile::fail(const char* what) const {
  throw Error(fmt::format("{}: cannot be {}: {}", path_, what, std::strerror(errno)));
}

void StagedFile::write(std::span<const std::byte> bytes) {
  if (!bytes.empty() && std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail("written");
}

void StagedFile::overwrite(std::int64_t offset, std::span<const std::byte> bytes) {
  if (::fseeko(file_, static_cast<off_t>(offset), SEEK_SET) != 0) fail("written");
  write(bytes);
  if (::fseeko(file_, 0, SEEK_END) != 0) fail("written");
}

void StagedFile::commit() {
  if (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0) fail("written");
  std::FILE* const closing = std::exchange(file_, nullptr);
  const bool closed = std::fclose(closing) == 0;
  if (!closed || std::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    std::remove(partial_.c_str());
    errno = reason;
    fail("written");
  }
}

}  // namespace spectrain
