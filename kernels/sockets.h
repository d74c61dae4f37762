#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// TCP over IPv4 as ranks need it: everything non-blocking, deadlines instead of time limits, and no signal
// from a peer that went away.

namespace spectrain {

using Clock = std::chrono::steady_clock;
Clock::time_point after(double seconds);
// Milliseconds from now, at least 0 and at most `most`, as poll() takes them (rounded up).
int milliseconds_until(Clock::time_point deadline, int most);

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

struct Endpoint {
  std::uint32_t address = 0;  // network byte order
  std::uint16_t port = 0;     // host byte order
  bool operator==(const Endpoint&) const = default;
};

bool is_loopback(std::uint32_t address);
Endpoint near_end(const Socket& socket);
Endpoint far_end(const Socket& socket);

// Waits for connections at `port` (0: one that is free) of every interface; only of the loopback interface
// where `address` is written as one of its own ("localhost", "127.0.0.1"). Throws Error when the port is
// taken by another program.
Socket listen_at(const std::string& address, int port);
// The next connection that waits, or an empty socket.
Socket accept_from(const Socket& listener);
// A connection, tried again and again until the deadline: the listener may start later. Throws Error.
Socket connect_to(const std::string& address, int port, Clock::time_point deadline);
Socket connect_to(const Endpoint& endpoint, Clock::time_point deadline);

// Sends or takes what goes without waiting. Bytes moved; 0: none now; -1: the connection is gone (for `take`
// also when the other side has closed it).
std::int64_t put(const Socket& socket, const void* data, std::size_t bytes);
std::int64_t take(const Socket& socket, void* data, std::size_t bytes);

}  // namespace spectrain
