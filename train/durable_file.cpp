#include "train/durable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "kernels/error.h"

namespace spectrain {
namespace {

[[noreturn]] void fail(const char* what, const std::string& path) {
  const int code = errno;
  throw Error(fmt::format("cannot {} {}: {}", what, path, std::strerror(code)));
}

void sync(int fd, const std::string& path) {
  // Some file systems have no fsync for what was opened (EINVAL); that is not a lost write.
  while (::fsync(fd) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL) return;
    fail("bring to the disk", path);
  }
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void write_all(int fd, const void* data, std::size_t bytes, const std::string& path) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    // Linux writes at most 2 GiB at a time; smaller pieces also let a signal in between.
    const ssize_t written = ::write(fd, p, std::min<std::size_t>(bytes, std::size_t{1} << 28));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("write", path);
    }
    p += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

OutputFile::OutputFile(std::string path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (fd_.get() < 0) fail("create", path_);
}

void OutputFile::write(const void* data, std::size_t bytes) {
  write_all(fd_.get(), data, bytes, path_);
  sum_.update(data, bytes);
  bytes_ += bytes;
}

void OutputFile::finish() {
  sync(fd_.get(), path_);
  // Network file systems report a full disk only here.
  if (::close(fd_.release()) != 0) fail("close", path_);
}

void OutputFile::reserve(std::uint64_t bytes) {
  const auto begin = static_cast<off_t>(bytes_);
  // Where the room is not there, now is the time to say so.
  const int code = bytes > 0 ? ::posix_fallocate(fd_.get(), begin, static_cast<off_t>(bytes)) : 0;
  if (code != 0) {
    errno = code;
    fail("make room in", path_);
  }
  bytes_ += bytes;
}

PatchedFile::PatchedFile(std::string path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CLOEXEC)) {
  if (fd_.get() < 0) fail("open", path_);
}

void PatchedFile::write(std::uint64_t offset, const void* data, std::size_t bytes) {
  if (::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_SET) < 0) fail("write", path_);
  write_all(fd_.get(), data, bytes, path_);
}

void PatchedFile::finish() {
  sync(fd_.get(), path_);
  if (::close(fd_.release()) != 0) fail("close", path_);
}

InputFile::InputFile(std::string path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_.get() < 0) fail("open", path_);
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) fail("read", path_);
  if (!S_ISREG(status.st_mode)) throw Error(fmt::format("cannot read {}: it is not a file", path_));
  bytes_ = static_cast<std::uint64_t>(status.st_size);
}

void InputFile::read(std::uint64_t offset, void* to, std::size_t count) const {
  char* p = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t got =
        ::pread(fd_.get(), p, std::min<std::size_t>(count, std::size_t{1} << 28), static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      fail("read", path_);
    }
    if (got == 0) throw Error(fmt::format("{} ends at byte {}, {} bytes too early", path_, offset, count));
    p += got;
    offset += static_cast<std::uint64_t>(got);
    count -= static_cast<std::size_t>(got);
  }
}

void sync_directory(const std::string& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) fail("open", path);
  sync(fd.get(), path);
}

void replace_file(const std::string& path, std::string_view text) {
  const std::string beside = path + ".writing";
  OutputFile file(beside);
  file.write(text);
  file.finish();
  if (std::rename(beside.c_str(), path.c_str()) != 0) fail("rename to", path);
  const auto slash = path.rfind('/');
  sync_directory(slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash));
}

std::string read_text_file(const std::string& path) {
  const InputFile file(path);
  std::string text(file.bytes(), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

}  // namespace spectrain
