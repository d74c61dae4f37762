#include "kernels/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "fmt/format.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

using namespace std::chrono_literals;

sockaddr_in to_system(const Endpoint& e) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = e.address;
  a.sin_port = htons(e.port);
  return a;
}

Endpoint from_system(const sockaddr_in& a) { return {a.sin_addr.s_addr, ntohs(a.sin_port)}; }

Socket new_socket() {
  Socket s(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!s) throw Error(fmt::format("no socket could be made: {}", std::strerror(errno)));
  return s;
}

void no_delay(const Socket& s) {
  const int one = 1;
  setsockopt(s.fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

// 0, or the reason as in errno.
int resolve(const std::string& name, std::uint32_t& address, std::string& problem) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(name.c_str(), nullptr, &hints, &found);
  if (rc != 0) {
    problem = gai_strerror(rc);
    return rc;
  }
  sockaddr_in a{};
  std::memcpy(&a, found->ai_addr, sizeof a);
  freeaddrinfo(found);
  address = a.sin_addr.s_addr;
  return 0;
}

// One attempt; an empty socket and errno otherwise.
Socket try_connect(const Endpoint& endpoint, Clock::time_point deadline) {
  Socket s = new_socket();
  const sockaddr_in a = to_system(endpoint);
  int problem = 0;
  if (connect(s.fd(), reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0) {
    // After an interruption the connection goes on being made, as if it had said "in progress".
    if (errno != EINPROGRESS && errno != EINTR) return {};
    pollfd p{s.fd(), POLLOUT, 0};
    int ready;
    do {
      ready = poll(&p, 1, milliseconds_until(deadline, 10000));
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) {
      errno = ETIMEDOUT;
      return {};
    }
    socklen_t size = sizeof problem;
    getsockopt(s.fd(), SOL_SOCKET, SO_ERROR, &problem, &size);
  }
  // Where nobody listens at a port of the range for outgoing connections, TCP can connect a socket to itself.
  if (problem == 0 && near_end(s) == far_end(s)) problem = ECONNREFUSED;
  if (problem != 0) {
    s = Socket();
    errno = problem;
    return {};
  }
  no_delay(s);
  return s;
}

}  // namespace

Clock::time_point after(double seconds) {
  // Longer than any run: the clock's nanoseconds must not overflow.
  const double bounded = std::clamp(seconds, 0.0, 1e8);
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(bounded));
}

int milliseconds_until(Clock::time_point deadline, int most) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, most));
}

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

bool is_loopback(std::uint32_t address) { return (ntohl(address) >> 24) == 127; }

Endpoint near_end(const Socket& socket) {
  sockaddr_in a{};
  socklen_t size = sizeof a;
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&a), &size);
  return from_system(a);
}

Endpoint far_end(const Socket& socket) {
  sockaddr_in a{};
  socklen_t size = sizeof a;
  getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&a), &size);
  return from_system(a);
}

Socket listen_at(const std::string& address, int port) {
  // Names other than these may mean the loopback interface here and this machine's own address elsewhere.
  const bool local = address == "localhost" || address.starts_with("127.");
  const Endpoint here{htonl(local ? INADDR_LOOPBACK : INADDR_ANY), static_cast<std::uint16_t>(port)};
  const auto deadline = Clock::now() + 2s;
  for (;;) {
    Socket s = new_socket();
    const int one = 1;
    setsockopt(s.fd(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    const sockaddr_in a = to_system(here);
    if (bind(s.fd(), reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0 && listen(s.fd(), 1024) == 0)
      return s;
    const int problem = errno;
    // Somebody's outgoing connection may have had the port for a moment.
    if (problem != EADDRINUSE || port == 0 || Clock::now() >= deadline)
      throw Error(fmt::format("rank 0 cannot wait for the others at {}:{}: {}{}", address, port,
                              std::strerror(problem), problem == EADDRINUSE ? "; choose another port" : ""));
    std::this_thread::sleep_for(50ms);
  }
}

Socket accept_from(const Socket& listener) {
  for (;;) {
    Socket s(accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (s) {
      no_delay(s);
      return s;
    }
    if (errno != EINTR && errno != ECONNABORTED) return {};
  }
}

Socket connect_to(const Endpoint& endpoint, Clock::time_point deadline) {
  for (;;) {
    if (Socket s = try_connect(endpoint, deadline)) return s;
    const int problem = errno;
    if (Clock::now() + 50ms >= deadline) {
      errno = problem;
      return {};
    }
    std::this_thread::sleep_for(50ms);
  }
}

Socket connect_to(const std::string& address, int port, Clock::time_point deadline) {
  for (;;) {
    Endpoint endpoint{0, static_cast<std::uint16_t>(port)};
    std::string problem;
    if (resolve(address, endpoint.address, problem) == 0) {
      // In stretches, for a name may come to mean another machine.
      if (Socket s = connect_to(endpoint, std::min(deadline, Clock::now() + 5s))) return s;
      problem = std::strerror(errno);
    }
    if (Clock::now() + 50ms >= deadline)
      throw Error(fmt::format(
          "rank 0 could not be reached at {}:{} ({}): is it running, and can this machine reach it there?",
          address, port, problem));
    std::this_thread::sleep_for(50ms);
  }
}

std::int64_t put(const Socket& socket, const void* data, std::size_t bytes) {
  for (;;) {
    const ssize_t n = send(socket.fd(), data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) return n;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) return -1;
  }
}

std::int64_t take(const Socket& socket, void* data, std::size_t bytes) {
  for (;;) {
    const ssize_t n = recv(socket.fd(), data, bytes, MSG_DONTWAIT);
    if (n > 0) return n;
    if (n == 0) return -1;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) return -1;
  }
}

}  // namespace spectrain
