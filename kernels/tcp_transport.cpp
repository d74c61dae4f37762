#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "fmt/format.h"
#include "kernels/message_transport.h"

namespace spectrain {
namespace {

constexpr std::uint32_t kMagic = 0x31445053;  // "SPD1"
constexpr std::size_t kMostAtOnce = 1 << 20;  // for one peer before the next has its turn

struct Greeting {
  std::uint32_t magic;
  std::int32_t rank;
  std::uint64_t key;
};

struct Header {
  std::uint32_t magic, tag;
  std::uint64_t bytes;
};

struct Message {
  Header header;
  std::byte* data;
  std::size_t moved;  // of header and data together
  Transport::Request request;
};

// First in, first out, in memory that is kept.
class MessageQueue {
 public:
  bool empty() const { return first_ == messages_.size(); }
  Message& front() { return messages_[first_]; }
  void push(const Message& m) {
    if (empty()) {
      messages_.clear();
      first_ = 0;
    }
    messages_.push_back(m);
  }
  void pop() { ++first_; }

 private:
  std::vector<Message> messages_;
  std::size_t first_ = 0;
};

struct Peer {
  Socket socket;
  MessageQueue out, in;
  Header incoming{};
  bool lost = false;
};

class TcpTransport : public Transport {
 public:
  TcpTransport(int rank, std::vector<Peer> peers) : rank_(rank), peers_(std::move(peers)) {}

  std::string_view name() const override { return "tcp"; }

  Request begin_send(int peer, int tag, const void* data, std::size_t bytes) override {
    // Only ever read through this pointer; receives share the struct.
    return begin(peer_of(peer).out, tag, const_cast<void*>(data), bytes);
  }
  Request begin_receive(int peer, int tag, void* data, std::size_t bytes) override {
    return begin(peer_of(peer).in, tag, data, bytes);
  }
  bool done(Request request) override {
    char& state = states_[static_cast<std::size_t>(request)];
    if (state == kOpen) return false;
    free_.push_back(request);
    return true;
  }

  bool progress() override {
    bool moved = false;
    for (std::size_t p = 0; p < peers_.size(); ++p) {
      Peer& peer = peers_[p];
      if (!peer.socket || peer.lost) continue;
      moved |= send_some(peer);
      moved |= receive_some(peer, static_cast<int>(p));
    }
    return moved;
  }

  bool lost(int peer) const override { return peers_[static_cast<std::size_t>(peer)].lost; }

  bool ended(int peer) const override {
    pollfd p{peers_[static_cast<std::size_t>(peer)].socket.fd(), POLLRDHUP, 0};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  void abandon() override {
    for (Peer& p : peers_) p.socket.release();
  }

  bool add_to(std::vector<pollfd>& fds) const override {
    for (const Peer& p : peers_) {
      // What nobody asked for yet stays in the connection and must not wake anybody.
      const int events = (p.out.empty() ? 0 : POLLOUT) | (p.in.empty() ? 0 : POLLIN);
      if (p.socket && !p.lost && events != 0) fds.push_back({p.socket.fd(), static_cast<short>(events), 0});
    }
    return true;
  }

 private:
  static constexpr char kOpen = 0, kDone = 1;

  Peer& peer_of(int peer) { return peers_[static_cast<std::size_t>(peer)]; }

  Request begin(MessageQueue& queue, int tag, void* data, std::size_t bytes) {
    Request request;
    if (free_.empty()) {
      request = static_cast<Request>(states_.size());
      states_.push_back(kOpen);
      free_.reserve(states_.size());
    } else {
      request = free_.back();
      free_.pop_back();
      states_[static_cast<std::size_t>(request)] = kOpen;
    }
    queue.push({{kMagic, static_cast<std::uint32_t>(tag), bytes}, static_cast<std::byte*>(data), 0, request});
    return request;
  }

  bool send_some(Peer& peer) {
    std::size_t moved = 0;
    while (!peer.out.empty() && moved < kMostAtOnce) {
      Message& m = peer.out.front();
      iovec parts[2];
      std::size_t count = 0;
      if (m.moved < sizeof m.header)
        parts[count++] = {reinterpret_cast<std::byte*>(&m.header) + m.moved, sizeof m.header - m.moved};
      const std::size_t sent = m.moved < sizeof m.header ? 0 : m.moved - sizeof m.header;
      if (sent < m.header.bytes) parts[count++] = {m.data + sent, m.header.bytes - sent};
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = count;
      const ssize_t n = sendmsg(peer.socket.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) peer.lost = true;
        break;
      }
      m.moved += static_cast<std::size_t>(n);
      moved += static_cast<std::size_t>(n);
      if (m.moved == sizeof m.header + m.header.bytes) {
        states_[static_cast<std::size_t>(m.request)] = kDone;
        peer.out.pop();
      }
    }
    return moved > 0;
  }

  bool receive_some(Peer& peer, int from) {
    std::size_t moved = 0;
    while (!peer.in.empty() && moved < kMostAtOnce && !peer.lost) {
      Message& m = peer.in.front();
      const bool in_header = m.moved < sizeof m.header;
      const std::size_t got = in_header ? 0 : m.moved - sizeof m.header;
      const std::int64_t n = in_header
                                 ? take(peer.socket, reinterpret_cast<std::byte*>(&peer.incoming) + m.moved,
                                        sizeof m.header - m.moved)
                                 : take(peer.socket, m.data + got, m.header.bytes - got);
      if (n == 0) break;
      if (n < 0) {
        peer.lost = true;
        break;
      }
      m.moved += static_cast<std::size_t>(n);
      moved += static_cast<std::size_t>(n);
      if (in_header && m.moved == sizeof m.header) expect(peer.incoming, m.header, from);
      if (m.moved == sizeof m.header + m.header.bytes) {
        states_[static_cast<std::size_t>(m.request)] = kDone;
        peer.in.pop();
      }
    }
    return moved > 0;
  }

  void expect(const Header& came, const Header& expected, int from) const {
    if (came.magic == expected.magic && came.tag == expected.tag && came.bytes == expected.bytes) return;
    throw Error(
        fmt::format("rank {} sent {} bytes of operation {} where rank {} expected {} bytes of operation {} "
                    "(numbers modulo 32768): all ranks must make the same calls in the same order",
                    from, came.bytes, came.tag, rank_, expected.bytes, expected.tag));
  }

  int rank_;
  std::vector<Peer> peers_;
  std::vector<char> states_;
  std::vector<Request> free_;
};

// One who came and has not said everything yet.
struct Arrival {
  Socket socket;
  Greeting greeting{};
  std::size_t got = 0;
};

bool send_whole(const Socket& s, const void* data, std::size_t bytes, Clock::time_point deadline) {
  std::size_t sent = 0;
  while (sent < bytes) {
    const std::int64_t n = put(s, static_cast<const char*>(data) + sent, bytes - sent);
    if (n < 0 || Clock::now() >= deadline) return false;
    sent += static_cast<std::size_t>(n);
    pollfd p{s.fd(), POLLOUT, 0};
    if (n == 0) poll(&p, 1, milliseconds_until(deadline, 100));
  }
  return true;
}

class Mesh {
 public:
  Mesh(const RankPlace& place, const Meeting& meeting, const Socket& listener,
       const std::function<void()>& meanwhile)
      : place_(place),
        meeting_(meeting),
        listener_(listener),
        meanwhile_(meanwhile),
        deadline_(after(place.timeout)) {
    peers_.resize(static_cast<std::size_t>(place.ranks));
  }

  std::vector<Peer> run() {
    // All first, for a connection needs nobody's attention to be made, only to be taken.
    for (int r = 0; r < place_.rank; ++r) connect(r);
    while (!all_came()) {
      meanwhile_();
      if (Clock::now() >= deadline_) too_late();
      while (Socket s = accept_from(listener_)) arrivals_.push_back({std::move(s)});
      for (Arrival& a : arrivals_) hear(a);
      std::erase_if(arrivals_, [](const Arrival& a) { return !a.socket; });
      std::vector<pollfd> fds{{listener_.fd(), POLLIN, 0}};
      for (const Arrival& a : arrivals_) fds.push_back({a.socket.fd(), POLLIN, 0});
      if (!all_came()) poll(fds.data(), fds.size(), milliseconds_until(deadline_, 100));
    }
    return std::move(peers_);
  }

 private:
  void connect(int r) {
    Endpoint to = meeting_.addresses[static_cast<std::size_t>(r)];
    if (to.address == 0) to.address = meeting_.first_address;
    const Greeting greeting{kMagic, place_.rank, meeting_.key};
    Socket s;
    while (!s) {
      meanwhile_();
      s = connect_to(to, std::min(deadline_, after(1)));
      if (Clock::now() >= deadline_) break;
    }
    if (!s || !send_whole(s, &greeting, sizeof greeting, deadline_))
      throw Error(fmt::format("no connection to rank {} within {:g} s", r, place_.timeout));
    peers_[static_cast<std::size_t>(r)].socket = std::move(s);
  }

  void hear(Arrival& a) {
    const std::int64_t n =
        take(a.socket, reinterpret_cast<char*>(&a.greeting) + a.got, sizeof a.greeting - a.got);
    a.got += static_cast<std::size_t>(std::max<std::int64_t>(n, 0));
    if (n < 0) a.socket = Socket();
    if (a.got < sizeof a.greeting || !a.socket) return;
    const Greeting& g = a.greeting;
    const bool ours =
        g.magic == kMagic && g.key == meeting_.key && g.rank > place_.rank && g.rank < place_.ranks;
    if (ours) peers_[static_cast<std::size_t>(g.rank)].socket = std::move(a.socket);
    a.socket = Socket();
  }

  bool all_came() const {
    for (int r = 0; r < place_.ranks; ++r)
      if (r != place_.rank && !peers_[static_cast<std::size_t>(r)].socket) return false;
    return true;
  }

  [[noreturn]] void too_late() const {
    std::vector<int> missing;
    for (int r = place_.rank + 1; r < place_.ranks; ++r)
      if (!peers_[static_cast<std::size_t>(r)].socket) missing.push_back(r);
    throw Error(fmt::format("{} did not connect within {:g} s", in_words(missing), place_.timeout));
  }

  const RankPlace& place_;
  const Meeting& meeting_;
  const Socket& listener_;
  const std::function<void()>& meanwhile_;
  Clock::time_point deadline_;
  std::vector<Peer> peers_;
  std::vector<Arrival> arrivals_;
};

}  // namespace

std::unique_ptr<Transport> make_tcp_transport(const RankPlace& place, const Meeting& meeting,
                                              const Socket& listener,
                                              const std::function<void()>& meanwhile) {
  return std::make_unique<TcpTransport>(place.rank, Mesh(place, meeting, listener, meanwhile).run());
}

}  // namespace spectrain
