#pragma once

#include <poll.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/rendezvous.h"

// Messages from rank to rank, what MessageCollectives is built on. Used from one thread only, the one that
// made it; nothing waits.

namespace spectrain {

class Transport {
 public:
  using Request = int;
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;

  // The memory must stay as it is until done(). Messages between two ranks arrive in the order they were
  // sent; the n-th receive takes the n-th message, and `tag` [0, 32767] and `bytes` must be its own.
  virtual Request begin_send(int peer, int tag, const void* data, std::size_t bytes) = 0;
  virtual Request begin_receive(int peer, int tag, void* data, std::size_t bytes) = 0;
  // Once it has said true the request is over and its number may be given to another.
  virtual bool done(Request request) = 0;

  // Moves what can be moved; whether anything was. Throws Error when a message is not what was expected:
  // the ranks do different things.
  virtual bool progress() = 0;
  // The connection to that rank has ended; what was to come from there never will.
  virtual bool lost(int peer) const = 0;
  // The process of that rank has ended, found out now, whatever is still to be read; where it can be known.
  virtual bool ended(int) const { return false; }
  // Leaves the connections to the end of the process, for the others to see when that is.
  virtual void abandon() {}
  // Adds what becomes ready when progress() has something to do; false: nothing tells, ask again and again.
  virtual bool add_to(std::vector<pollfd>& fds) const = 0;
  // All ranks have finished.
  virtual void finish() {}
};

// Connections between all ranks: each comes to those below it and waits for those above. `listener` is this
// rank's own, whose port it brought to the meeting; `channels` are left alone. `meanwhile` is called again
// and again and may throw. Throws Error when a rank does not come within the timeout.
std::unique_ptr<Transport> make_tcp_transport(const RankPlace& place, const Meeting& meeting,
                                              const Socket& listener, const std::function<void()>& meanwhile);

}  // namespace spectrain
