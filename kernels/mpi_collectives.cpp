#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "fmt/format.h"
#include "kernels/message_collectives.h"
#include "kernels/mpi_transport.h"

namespace spectrain {
namespace {

using namespace std::chrono_literals;

// Where rank 0 listens.
struct Contact {
  std::int32_t port;
  char address[252];
};

void await(Transport& transport, std::vector<Transport::Request> requests, double timeout) {
  const auto deadline = after(timeout);
  for (;;) {
    std::erase_if(requests, [&](Transport::Request r) { return transport.done(r); });
    if (requests.empty()) return;
    if (transport.progress()) continue;
    if (Clock::now() >= deadline)
      throw Error(fmt::format("the ranks did not come together over MPI within {:g} s", timeout));
    std::this_thread::sleep_for(500us);
  }
}

// Rank 0 opens its port and tells all others, who learn where it is.
Socket make_contact(Transport& transport, bool one_machine, RankPlace& place) {
  Contact contact{};
  Socket listener;
  std::vector<Transport::Request> requests;
  if (place.rank == 0) {
    if (one_machine) {
      place.address = "127.0.0.1";
    } else if (place.address.starts_with("127.")) {
      char host[sizeof contact.address] = "";
      gethostname(host, sizeof host - 1);
      place.address = host;
    }
    listener = listen_at(place.address, place.port);
    contact.port = near_end(listener).port;
    place.address.copy(contact.address, sizeof contact.address - 1);
    for (int r = 1; r < place.ranks; ++r)
      requests.push_back(transport.begin_send(r, 0, &contact, sizeof contact));
  } else {
    requests.push_back(transport.begin_receive(0, 0, &contact, sizeof contact));
  }
  await(transport, std::move(requests), place.timeout);
  place.address = contact.address;
  place.port = contact.port;
  return listener;
}

}  // namespace

std::unique_ptr<Collectives> make_mpi_collectives(const RankPlace& place, const std::string& path) {
  const MpiPlugin* const plugin = load_mpi_plugin(path);
  const auto join = [plugin](RankLink& link, std::function<Standing()> standing,
                             const std::function<void()>&) {
    MpiPluginPlace mpi{};
    link.transport = make_mpi_transport(plugin, mpi);
    link.place.rank = mpi.rank;
    link.place.ranks = mpi.ranks;
    Meeting meeting;
    if (mpi.ranks > 1) {
      Socket listener = make_contact(*link.transport, mpi.one_machine != 0, link.place);
      meeting = meet(link.place, std::move(listener), 0);
    }
    link.control =
        std::make_unique<RankControl>(link.place, std::move(meeting.channels), std::move(standing));
  };
  return MessageCollectives::make("mpi", place, join);
}

}  // namespace spectrain
