#include "data/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/error.h"

namespace spectrain {

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    throw RequestError(fmt::format("{}: cannot be opened: {}; check the path", path_, std::strerror(errno)));
  }
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw RequestError(fmt::format("{}: is not a regular file; name a file", path_));
  }
  size_ = static_cast<std::int64_t>(info.st_size);
  if (size_ > 0) {
    void* mapping = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
      const int reason = errno;
      ::close(fd);
      throw RequestError(
          fmt::format("{}: its {} bytes cannot be mapped: {}", path_, size_, std::strerror(reason)));
    }
    data_ = static_cast<const std::byte*>(mapping);
  }
  ::close(fd);
}

MappedFile::~MappedFile() { release(); }

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    release();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void MappedFile::release() noexcept {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_));
  data_ = nullptr;
}

void MappedFile::check_still_whole() const {
  struct stat info {};
  // A file that was unlinked keeps its pages as long as it is mapped: only a shorter one is fatal.
  if (::stat(path_.c_str(), &info) != 0) return;
  if (static_cast<std::int64_t>(info.st_size) < size_) {
    throw Error(
        fmt::format("{}: was {} bytes when opened and is {} bytes now; something cut it while it was read",
                    path_, size_, static_cast<std::int64_t>(info.st_size)));
  }
}

}  // namespace spectrain
