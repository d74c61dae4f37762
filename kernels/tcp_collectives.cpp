#include "kernels/message_collectives.h"

namespace spectrain {

std::unique_ptr<Collectives> make_tcp_collectives(const RankPlace& place) {
  const auto join = [place](RankLink& link, std::function<Standing()> standing,
                            const std::function<void()>& meanwhile) {
    Socket listener, mesh;
    if (place.ranks > 1 && place.rank == 0) listener = listener_of(place);
    if (place.ranks > 1) mesh = listen_at(place.address, 0);
    Meeting meeting = meet(place, std::move(listener), place.ranks > 1 ? near_end(mesh).port : 0);
    link.control = std::make_unique<RankControl>(place, std::move(meeting.channels), std::move(standing));
    link.transport = make_tcp_transport(place, meeting, mesh, meanwhile);
  };
  return MessageCollectives::make("tcp", place, join);
}

}  // namespace spectrain
