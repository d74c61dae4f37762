#pragma once

#include <poll.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/rendezvous.h"

// Who still lives, and whose fault it is. Every rank keeps a connection to rank 0 for the whole run; a
// connection that ends without a goodbye is a rank that ended. Rank 0 takes the first failure, decides and
// tells everybody; where rank 0 is the one that fails, each rank decides for itself, by the same rule.
// Nothing here waits: one thread calls turn() often.

namespace spectrain {

// Why the run ends, the same on every rank.
struct Verdict {
  std::string message;
  int reporter = 0;  // the one rank that tells the user
};

// Where a rank stands. Operations are numbered from 1, alike on all ranks.
struct Standing {
  std::uint64_t operation = 0;  // the one at work, or the next one
  bool busy = false;            // at work
  std::vector<int> missing;     // the ranks it waits for, as far as it knows
  std::string name;  // "all_gather of weights of bucket 0"; where not busy: the last one, may be empty
};

class RankControl {
 public:
  // place.rank, place.ranks and place.timeout count. `standing` tells where this rank is.
  RankControl(const RankPlace& place, std::vector<Channel> channels, std::function<Standing()> standing);

  // Reads and answers what came.
  void turn();
  const std::optional<Verdict>& verdict() const { return verdict_; }

  // The operation at work has not moved for the timeout; again: it moves.
  void stuck();
  void moving();
  // The data connection to a rank ended. Most often the rank itself has, and a better verdict is on its way.
  void lost(int rank);
  // This rank cannot go on. A verdict follows within seconds.
  void fail(const std::string& message);

  // This rank has finished, and have all?
  void goodbye();
  bool farewell() const { return farewell_; }
  // The rank that tells the user has ended, as far as this rank can see.
  bool reporter_ended() const;
  // Leaves the connections open to the end of the process, which tells the others that it has come.
  void abandon();

  void add_to(std::vector<pollfd>& fds) const;

 private:
  struct Inquiry {
    int asker = 0;
    Clock::time_point end;
    std::vector<std::optional<Standing>> standings;
  };

  Channel* channel_of(int rank);
  const Channel* channel_of(int rank) const;
  void handle(int from, const Frame& frame);
  void handle_as_first(int from, const Frame& frame);
  void gone(int rank);
  void left(int rank);
  void inquire(int asker);
  void conclude();
  void settle(const std::string& message, const std::vector<int>& culprits);
  int reporter_beside(const std::vector<int>& culprits) const;
  std::string absence(const std::vector<int>& ranks, const std::string& operation) const;
  // "during all_gather of weights of bucket 0"
  std::string moment() const;

  int rank_, ranks_;
  double timeout_;
  std::vector<Channel> channels_;  // as in Meeting
  std::function<Standing()> standing_;
  std::vector<char> gone_, left_;
  std::vector<std::optional<Clock::time_point>> lost_;
  std::optional<Verdict> verdict_;
  std::optional<Inquiry> inquiry_;
  bool stuck_ = false, farewell_ = false;
  // Without a word of rank 0 until then, this is the verdict.
  std::optional<Clock::time_point> alone_at_;
  Verdict alone_;
};

}  // namespace spectrain
