#include "kernels/rendezvous.h"

#include <arpa/inet.h>
#include <poll.h>

#include <algorithm>
#include <list>
#include <random>

#include "fmt/format.h"

namespace spectrain {
namespace {

struct Hello {
  int rank, ranks, port;
};

// What rank 0 does.
class Host {
 public:
  Host(const RankPlace& place, Socket listener) : place_(place), listener_(std::move(listener)) {
    meeting_.channels.resize(static_cast<std::size_t>(place.ranks));
    meeting_.addresses.resize(static_cast<std::size_t>(place.ranks));
  }

  Meeting run(int mesh_port, const std::string& word) {
    const auto deadline = after(place_.timeout);
    meeting_.addresses[0].port = static_cast<std::uint16_t>(mesh_port);
    meeting_.first_address = htonl(INADDR_LOOPBACK);
    while (came_ < place_.ranks) {
      if (Clock::now() >= deadline) refuse(who_is_missing());
      wait(deadline);
      while (Socket s = accept_from(listener_)) strangers_.emplace_back(std::move(s));
      strangers_.remove_if([this](Channel& c) { return greet(c); });
      watch_those_who_came();
    }
    welcome(word);
    return std::move(meeting_);
  }

 private:
  [[noreturn]] void refuse(const std::string& message) {
    const std::string body = Packer().add(0).add_text(message).text();
    for (Channel& c : meeting_.channels)
      if (c.socket()) c.send(Notice::verdict, body);
    // Left open: their end is the end of this process, which the others wait for before they end themselves.
    for (Channel& c : meeting_.channels) c.abandon();
    throw PeerFailure(message, true);
  }

  std::string who_is_missing() const {
    std::vector<int> missing;
    for (int r = 1; r < place_.ranks; ++r)
      if (!meeting_.channels[static_cast<std::size_t>(r)].socket()) missing.push_back(r);
    return fmt::format("{} of {} ranks came within {:g} s; {} did not (rank 0 waits at {}:{})", came_,
                       place_.ranks, place_.timeout, in_words(missing), place_.address,
                       near_end(listener_).port);
  }

  void wait(Clock::time_point deadline) {
    std::vector<pollfd> fds{{listener_.fd(), POLLIN, 0}};
    for (const Channel& c : strangers_) fds.push_back({c.socket().fd(), POLLIN, 0});
    for (const Channel& c : meeting_.channels)
      if (c.socket()) fds.push_back({c.socket().fd(), POLLIN, 0});
    poll(fds.data(), fds.size(), milliseconds_until(deadline, 1000));
  }

  // Whether this connection needs no more attention here: it is a rank's, or nobody's.
  bool greet(Channel& c) {
    Frame frame;
    if (!c.receive(frame)) return c.closed();
    Unpacker in(frame.body);
    const int rank = in.take<int>(), ranks = in.take<int>(), port = in.take<int>();
    if (frame.notice != Notice::hello || !in.whole()) return true;
    const auto r = static_cast<std::size_t>(rank);
    const auto refuse_both = [&](const std::string& message) {
      c.send(Notice::verdict, Packer().add(0).add_text(message).text());
      c.abandon();
      refuse(message);
    };
    if (ranks != place_.ranks)
      refuse_both(
          fmt::format("rank {} was started for {} ranks, rank 0 for {}: start all ranks with the same number",
                      rank, ranks, place_.ranks));
    if (rank < 1 || rank >= place_.ranks)
      refuse_both(
          fmt::format("a rank {} came, but the {} ranks are numbered 0 to {}: rank 0 is the one that waits",
                      rank, place_.ranks, place_.ranks - 1));
    if (meeting_.channels[r].socket())
      refuse_both(fmt::format("rank {} came twice: give every process a rank of its own", rank));
    // Where the rank shares this machine its address is worth nothing to ranks elsewhere; 0 says so.
    const Endpoint far = far_end(c.socket());
    const bool here = is_loopback(far.address) || far.address == near_end(c.socket()).address;
    meeting_.addresses[r] = {here ? 0 : far.address, static_cast<std::uint16_t>(port)};
    meeting_.channels[r] = std::move(c);
    ++came_;
    return true;
  }

  void watch_those_who_came() {
    Frame frame;
    for (int r = 1; r < place_.ranks; ++r) {
      Channel& c = meeting_.channels[static_cast<std::size_t>(r)];
      if (!c.socket()) continue;
      if (c.receive(frame) && frame.notice == Notice::failure)
        refuse(fmt::format("rank {}: {}", r, frame.body));
      if (c.closed()) refuse(fmt::format("rank {} ended before all ranks had come together", r));
    }
  }

  void welcome(const std::string& word) {
    std::random_device random;
    meeting_.key = (static_cast<std::uint64_t>(random()) << 32) | random();
    meeting_.word = word;
    Packer body;
    body.add(meeting_.key);
    for (const Endpoint& e : meeting_.addresses) body.add(e.address).add(e.port);
    body.add_text(word);
    for (Channel& c : meeting_.channels)
      if (c.socket()) c.send(Notice::welcome, body.text());
  }

  const RankPlace& place_;
  Socket listener_;
  std::list<Channel> strangers_;
  Meeting meeting_;
  int came_ = 1;
};

[[noreturn]] void refused(Channel channel, const std::string& body) {
  Unpacker in(body);
  in.take<int>();
  const std::string message = in.rest();
  // A launcher that ends all ranks with the first must not cut off rank 0's message.
  const auto deadline = after(3);
  Frame frame;
  while (!channel.closed() && Clock::now() < deadline) {
    pollfd p{channel.socket().fd(), POLLIN, 0};
    poll(&p, 1, milliseconds_until(deadline, 1000));
    channel.receive(frame);
  }
  throw PeerFailure(message, false);
}

Meeting come(const RankPlace& place, int mesh_port) {
  Channel channel(connect_to(place.address, place.port, after(place.timeout)));
  channel.send(Notice::hello, Packer().add(place.rank).add(place.ranks).add(mesh_port).text());
  // Rank 0's patience ends first: it knows who is missing.
  const auto deadline = after(place.timeout + 5);
  Frame frame;
  while (!channel.receive(frame)) {
    if (channel.closed())
      throw Error(fmt::format(
          "rank 0 at {}:{} ended before all ranks had come together (or another program listens there)",
          place.address, place.port));
    if (Clock::now() >= deadline)
      throw Error(
          fmt::format("rank 0 at {}:{} did not answer within {:g} s (or another program listens there)",
                      place.address, place.port, place.timeout + 5));
    pollfd p{channel.socket().fd(), POLLIN, 0};
    poll(&p, 1, milliseconds_until(deadline, 1000));
  }
  if (frame.notice == Notice::verdict) refused(std::move(channel), frame.body);
  Meeting meeting;
  Unpacker in(frame.body);
  meeting.key = in.take<std::uint64_t>();
  for (int r = 0; r < place.ranks; ++r) {
    Endpoint e;
    e.address = in.take<std::uint32_t>();
    e.port = in.take<std::uint16_t>();
    meeting.addresses.push_back(e);
  }
  meeting.word = in.rest();
  if (frame.notice != Notice::welcome || !in.whole())
    throw Error(fmt::format("rank 0 at {}:{} speaks another language: start all ranks from the same build",
                            place.address, place.port));
  meeting.first_address = far_end(channel.socket()).address;
  meeting.channels.push_back(std::move(channel));
  return meeting;
}

}  // namespace

std::string in_words(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

Socket listener_of(const RankPlace& place) {
  return place.listener >= 0 ? Socket(place.listener) : listen_at(place.address, place.port);
}

Meeting meet(const RankPlace& place, Socket listener, int mesh_port, const std::string& word) {
  if (place.rank == 0) return Host(place, std::move(listener)).run(mesh_port, word);
  return come(place, mesh_port);
}

}  // namespace spectrain
