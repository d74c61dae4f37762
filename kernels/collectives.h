#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/error.h"
#include "kernels/tensor.h"

// What ranks do together. A rank is one process with one backend; every rank makes the same calls in the same
// order. Calls return at once: the work is done in their order on a stream of its own beside the computation,
// and an Event says when. Sums are taken in the order of the ranks, ((x0 + x1) + x2) + ..., in the tensor's
// dtype (bf16: in float32, rounded once), whoever is early: the same bits in every run, on every rank, and
// those of one process that adds the same terms in that order.
//
// On GPUs (cuda/nccl_collectives.h) the order of sums is NCCL's, and the streams are the device's: an
// operation begins when everything asked of the backend before it is done, and wait() makes what is asked of
// the backend afterwards come after the event, while the host goes on. The host itself sees a result, and may
// trust it, after Backend::copy_to_host and check(), in this order.
//
// When a rank ends, stops answering or gives up, every wait on every other rank throws PeerFailure within the
// timeout; afterwards the collectives are of no more use and the process should end with exit code 1.

namespace spectrain {

enum class Reduce : std::uint8_t { sum, max };  // max: f32, f64 and i32 only

// The whole job failed. The message names the rank and what was being done.
struct PeerFailure : Error {
  PeerFailure(const std::string& message, bool says_it) : Error(message), reports(says_it) {}
  bool reports;  // this rank is the one that tells the user; all others end without a word
};

class Event {
 public:
  Event() = default;
  explicit Event(std::uint64_t number) : number_(number) {}
  std::uint64_t number() const { return number_; }  // 0: nothing to wait for
 private:
  std::uint64_t number_ = 0;
};

struct Traffic {
  std::uint64_t bytes_sent = 0;      // payload that left this rank
  std::uint64_t bytes_received = 0;  // payload that came
  double busy_seconds = 0;           // the stream had something to do
  double waited_seconds = 0;         // of these, the caller stood in wait(): what computation did not hide
};

class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual std::string_view name() const = 0;  // "single", "mpi", "tcp", "nccl"
  virtual int rank() const = 0;
  virtual int ranks() const = 0;

  // Memory must stay as it is until the event has been waited for. `what` is for messages ("gradients of
  // bucket 3") and must live as long. Throw std::logic_error for shapes that do not fit.
  virtual Event all_reduce(const Tensor& x, Reduce op, std::string_view what) = 0;  // in place, on every rank
  // from [ranks * n] -> to [n]: the sum over ranks of block `rank()`. `to` may be that block of `from`.
  virtual Event reduce_scatter(const Tensor& from, const Tensor& to, std::string_view what) = 0;
  // from [n] -> to [n] on rank `root` only: the sum over ranks. Elsewhere `to` is not looked at. `to` may be
  // `from`. (For blocks of unequal length: one call per root.)
  virtual Event reduce(const Tensor& from, const Tensor& to, int root, std::string_view what) = 0;
  // from [n] -> to [ranks * n]: block r is rank r's. `from` may be block `rank()` of `to`.
  virtual Event all_gather(const Tensor& from, const Tensor& to, std::string_view what) = 0;
  virtual Event broadcast(const Tensor& x, int root, std::string_view what) = 0;
  virtual Event barrier(std::string_view what) = 0;

  // Until everything up to the event is done. Throws PeerFailure.
  virtual void wait(Event event) = 0;
  // Throws PeerFailure when another rank has failed, without waiting; for long stretches without a wait.
  virtual void check() = 0;

  // This rank cannot go on (message: the error's): every other rank's next wait throws PeerFailure. Blocks
  // until the others know, at most a few seconds. Returns whether this rank tells the user.
  virtual bool fail(const std::string& message) = 0;

  virtual Traffic traffic() const = 0;
};

// One rank: nothing is sent, reduce_scatter and all_gather copy where the tensors differ.
std::unique_ptr<Collectives> make_single_collectives();

// ---- CPU ranks

struct RankPlace {
  int rank = 0, ranks = 1;
  std::string address = "127.0.0.1";  // of rank 0, for transports that meet over TCP
  int port = 0;                       // of rank 0; 0 only where the transport tells the others
  double timeout = 60;                // seconds: for all ranks to come together, and for each operation
  // After another rank's failure the program hears of it in its next wait. Where that is a long computation
  // away (half a second), this is called with the message on a thread of the collectives, on the rank that
  // tells the user; it must end the process, and the other ranks then end by themselves: a launcher may kill
  // all of them soon. Empty: the program has until the timeout.
  std::function<void(const std::string& message)> last_words = {};
  // Of rank 0: a socket that listens at `port` already and is taken over. Whoever starts ranks on a port that
  // was free a moment ago keeps it so: no other program can come between. -1: one is made.
  int listener = -1;
};

// Over TCP connections between all ranks: no launcher needed, only rank 0's address and port. Throws Error
// "2 of 4 ranks came within 60 s; ranks 1 and 3 did not (rank 0 waits at 127.0.0.1:29500)".
std::unique_ptr<Collectives> make_tcp_collectives(const RankPlace& place);

// Over MPI, through the plug-in at `path` (libspectrain_mpi.so beside the program; the program itself does
// not need MPI). Rank, ranks and addresses are MPI's; place.timeout counts. Throws Error when the plug-in or
// the MPI library is missing.
std::string mpi_plugin_path();
std::unique_ptr<Collectives> make_mpi_collectives(const RankPlace& place,
                                                  const std::string& path = mpi_plugin_path());

}  // namespace spectrain
