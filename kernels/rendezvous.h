#pragma once

#include <string>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/rank_channel.h"
#include "kernels/sockets.h"

// How the ranks of a job find each other: rank 0 listens, the others come.

namespace spectrain {

// "rank 3", "ranks 1 and 3", "ranks 1, 2 and 5"
std::string in_words(const std::vector<int>& ranks);

struct Meeting {
  std::vector<Channel> channels;  // rank 0: one per rank, its own empty; others: [0] leads to rank 0
  std::vector<Endpoint>
      addresses;  // per rank: where it listens for other ranks; address 0: on rank 0's machine
  std::uint32_t first_address = 0;  // of rank 0, as this rank reaches it
  std::uint64_t key = 0;            // of this job: connections of others are told by it
  std::string word;                 // what rank 0 gave to all
};

// Where rank 0 waits for the others: place.listener, or a socket made for place.address and place.port.
Socket listener_of(const RankPlace& place);

// Comes together with all other ranks within place.timeout. Rank 0 brings its listening socket and a `word`
// for all (what another library needs to connect them); every rank the port at which it listens for the
// others (0: none). A connection that does not speak as a rank does is ignored. Throws Error when rank 0
// cannot be reached; PeerFailure, on every rank that had come, when one did not come in time, came twice or
// was started for another number of ranks.
Meeting meet(const RankPlace& place, Socket listener, int mesh_port, const std::string& word = {});

}  // namespace spectrain
