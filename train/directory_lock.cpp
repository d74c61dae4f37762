#include "train/directory_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/error.h"

namespace spectrain {

// flock, not a file that has to be deleted: the system lets go of it when the process ends, however it ends.
Descriptor lock_directory(const std::string& path, std::string_view way_out) {
  const std::string file = path + "/.lock";
  Descriptor fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (fd.get() < 0) throw Error(fmt::format("cannot create {}: {}", file, std::strerror(errno)));
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) throw Error(fmt::format("cannot lock {}: {}", file, std::strerror(errno)));
    std::string owner = read_text_file(file);
    if (!owner.empty() && owner.back() == '\n') owner.pop_back();
    throw RequestError(fmt::format("{} is in use by {}; {}", path,
                                   owner.empty() ? "another process" : "process " + owner, way_out));
  }
  const std::string self = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd.get(), 0) == 0) write_all(fd.get(), self.data(), self.size(), file);
  return fd;
}

bool directory_is_free(const std::string& path) {
  const Descriptor fd(::open((path + "/.lock").c_str(), O_RDWR | O_CLOEXEC));
  return fd.get() < 0 || ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
}

}  // namespace spectrain
