#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/message_exchange.h"
#include "kernels/rank_control.h"

// Collectives over any Transport. One thread, the stream, does everything that concerns other ranks: it joins
// them, carries out the operations one after the other, watches who lives, and says goodbye.

namespace spectrain {

// What connects this rank with the others.
struct RankLink {
  RankPlace place;  // as found out while joining
  std::unique_ptr<RankControl> control;
  std::unique_ptr<Transport> transport;
};

class MessageCollectives : public Collectives {
 public:
  // Called on the stream. Sets link.control as soon as it can (from then on the others hear of a failure),
  // with `standing` for its constructor, and link.transport. `meanwhile` is to be called while waiting; it
  // throws when another rank has failed.
  using Join = std::function<void(RankLink& link, std::function<Standing()> standing,
                                  const std::function<void()>& meanwhile)>;

  // Throws what `join` throws; PeerFailure when another rank failed meanwhile.
  static std::unique_ptr<Collectives> make(std::string name, const RankPlace& place, Join join);
  // Waits, up to the timeout, for the other ranks to finish. Not while an exception is on its way through
  // this thread: then the others are to see that this rank ended.
  ~MessageCollectives() override;

  std::string_view name() const override { return name_; }
  int rank() const override { return link_.place.rank; }
  int ranks() const override { return link_.place.ranks; }

  Event all_reduce(const Tensor& x, Reduce op, std::string_view what) override;
  Event reduce_scatter(const Tensor& from, const Tensor& to, std::string_view what) override;
  Event reduce(const Tensor& from, const Tensor& to, int root, std::string_view what) override;
  Event all_gather(const Tensor& from, const Tensor& to, std::string_view what) override;
  Event broadcast(const Tensor& x, int root, std::string_view what) override;
  Event barrier(std::string_view what) override;
  void wait(Event event) override;
  void check() override;
  bool fail(const std::string& message) override;
  Traffic traffic() const override;

 private:
  enum class Kind : std::uint8_t { all_reduce, reduce_scatter, reduce, all_gather, broadcast, barrier };
  struct Operation {
    Kind kind = Kind::barrier;
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::size_t count = 0;  // elements; of one block where there are blocks
    DType dtype = DType::f32;
    Reduce op = Reduce::sum;
    int root = 0;
    std::string_view what;
  };
  struct Stopped {};  // thrown on the stream: there is a verdict

  // ---- on the caller's thread
  MessageCollectives(std::string name, const RankPlace& place, Join join);
  Event submit(const Operation& operation);
  [[noreturn]] void throw_failure(std::unique_lock<std::mutex>& lock);
  void wake() const;

  // ---- on the stream
  void run(const Join& join);
  void join_others(const Join& join);
  void work();
  void carry_out(const Operation& operation, std::uint64_t number);
  void leave();
  void after_failure();
  void pause();         // between the messages of an operation
  void turn();          // hears the others; throws Stopped
  void take_request();  // of fail()
  void rest(Clock::time_point until, bool operation_at_work);
  void take_wake() const;
  void await_verdict();
  void publish_verdict();
  Standing standing() const;

  const std::string name_;
  RankLink link_;
  int wake_fd_ = -1;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Operation> ring_;  // operation n at n % size, for done_ < n <= submitted_
  std::uint64_t submitted_ = 0;
  std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> failed_{false};
  std::optional<Verdict> failure_;
  std::optional<std::string> fail_request_;
  std::atomic<bool> fail_requested_{false};
  bool joined_ = false, leaving_ = false, abandoned_ = false, noticed_ = false, reporter_ended_ = false;
  std::exception_ptr join_problem_;
  Traffic traffic_;

  // The stream's own.
  std::unique_ptr<Exchange> exchange_;
  Operation current_;
  std::uint64_t number_ = 0;
  bool busy_ = false;
  Clock::time_point last_move_, last_turn_, failed_at_;
  int quiet_rounds_ = 0;
  std::vector<pollfd> fds_;

  std::thread stream_;
};

}  // namespace spectrain
