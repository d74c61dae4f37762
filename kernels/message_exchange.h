#pragma once

#include <functional>
#include <vector>

#include "kernels/message_transport.h"

// The operations of Collectives as messages between ranks. Every rank exchanges with every other directly:
// whom an operation waits for is then whoever has not come to it, never one that waits itself. Bytes sent per
// rank: reduce_scatter and all_gather (ranks - 1) / ranks of the whole, no scheme needs fewer; all_reduce
// twice that (short ones ranks - 1 times the whole, in one exchange instead of two).

namespace spectrain {

class Exchange {
 public:
  // `pause` is called whenever nothing can be done before more messages have moved; what it throws ends the
  // operation.
  Exchange(Transport& transport, int rank, int ranks, std::function<void()> pause);

  // The messages of what follows carry this number [0, 32767].
  void set_tag(int tag) { tag_ = tag; }

  void all_reduce(std::byte* x, std::size_t count, DType dtype, Reduce op);
  // Blocks of `count` elements, one per rank.
  void reduce_scatter(const std::byte* from, std::byte* to, std::size_t count, DType dtype);
  // `to` on rank `root` only.
  void reduce(const std::byte* from, std::byte* to, std::size_t count, DType dtype, int root);
  void all_gather(const std::byte* from, std::byte* to, std::size_t bytes);
  void broadcast(std::byte* x, std::size_t bytes, int root);
  void barrier();

  // The ranks that the operation at work still waits for, those first behind where some are further.
  std::vector<int> missing() const;
  std::uint64_t bytes_sent() const { return bytes_sent_; }
  std::uint64_t bytes_received() const { return bytes_received_; }

 private:
  // A run of messages to or from one rank: pieces of one stretch of memory.
  struct Flow {
    int peer = 0;
    std::byte* data = nullptr;
    std::size_t bytes = 0, piece = 0;
    std::size_t pieces = 0, begun = 0, ended = 0;
    std::size_t slots = 0;  // 0: piece k lies at its place; else all are received into so many places in turn
    std::size_t open_until = 0;  // pieces that may be begun
    Transport::Request requests[2] = {};
    std::size_t size_of_piece(std::size_t k) const {
      return bytes - k * piece < piece ? bytes - k * piece : piece;
    }
    std::byte* place_of_piece(std::size_t k) const { return data + (slots == 0 ? k : k % slots) * piece; }
  };

  void clear();
  void add_send(int peer, const std::byte* data, std::size_t bytes);
  void add_receive(int peer, std::byte* data, std::size_t bytes);
  bool advance(Flow& flow, bool sends);
  bool advance_all();
  void finish();
  // Block r is [begin_of(r), begin_of(r + 1)) of `count` elements at `from`.
  void reduce_blocks(const std::byte* from, std::byte* to, std::size_t count, std::size_t element,
                     DType dtype, Reduce op);
  void add_arrivals(int step, std::size_t bytes);
  // Piece by piece, while the next ones arrive.
  void combine_arrivals(const std::byte* own, std::byte* to, std::size_t element, DType dtype, Reduce op);
  void reduce_whole(std::byte* x, std::size_t count, std::size_t element, DType dtype, Reduce op);
  std::size_t begin_of(int rank, std::size_t count) const;
  int other(int step) const { return (rank_ + step) % ranks_; }

  Transport& transport_;
  int rank_, ranks_, tag_ = 0;
  std::function<void()> pause_;
  std::size_t piece_;
  std::vector<std::byte> arrivals_;  // two pieces per other rank
  std::vector<Flow> sends_, receives_;
  std::vector<const std::byte*> rows_;
  std::uint64_t bytes_sent_ = 0, bytes_received_ = 0;
};

}  // namespace spectrain
