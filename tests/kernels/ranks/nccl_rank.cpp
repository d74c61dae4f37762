#include <signal.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/cuda_plugin.h"
#include "tests/cuda_emulator/emulator.h"

// One rank of a job of GPUs: what nccl_test.cpp starts many of.
//   nccl_rank emulated|gpu RANK RANKS PORT TIMEOUT SCENARIO [NUMBER]
// "gpu": all ranks on the first GPU, which the program itself never does. Ends as collectives_rank.cpp does.

namespace spectrain {
namespace {

struct Wrong {
  std::string what;
};

void expect(bool holds, const std::string& what) {
  if (!holds) throw Wrong{what};
}

// Element i of what rank r brings to operation n, in [-1, 1).
double brought(int n, int r, std::int64_t i) {
  std::uint32_t h =
      static_cast<std::uint32_t>(n * 7919 + r * 104729) ^ static_cast<std::uint32_t>(i * 2654435761u);
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return static_cast<double>(h & 0xffffff) / 8388608.0 - 1;
}
template <class T>
T value_of(int n, int r, std::int64_t i) {
  if constexpr (std::is_same_v<T, std::int32_t>)
    return static_cast<std::int32_t>(brought(n, r, i) * 1000);
  else if constexpr (std::is_same_v<T, double>)
    return brought(n, r, i);
  else
    return static_cast<T>(static_cast<float>(brought(n, r, i)));
}
template <class T>
double wide(T x) {
  if constexpr (std::is_same_v<T, bf16>)
    return static_cast<float>(x);
  else
    return static_cast<double>(x);
}
// One rounding per addition, in the dtype: NCCL's order is its own.
template <class T>
double epsilon() {
  if constexpr (std::is_same_v<T, bf16>) return 1.0 / 128;
  if constexpr (std::is_same_v<T, float>) return 1.0 / (1 << 23);
  if constexpr (std::is_same_v<T, double>) return 1.0 / (std::int64_t{1} << 52);
  return 0;
}

// A tensor of the device and what the host thinks of it.
template <class T>
class Block {
 public:
  Block(Backend& backend, std::int64_t n)
      : backend_(backend),
        memory_(backend.allocate(static_cast<std::size_t>(std::max<std::int64_t>(n, 1)) * sizeof(T), "test")),
        n_(n) {}
  Tensor view() const { return memory_->view(DTypeOf<T>::value, {n_}); }
  Tensor part(std::int64_t first, std::int64_t n) const {
    return memory_->view(DTypeOf<T>::value, {n}, static_cast<std::size_t>(first) * sizeof(T));
  }
  void fill(int operation, int rank) const {
    std::vector<T> values;
    for (std::int64_t i = 0; i < n_; ++i) values.push_back(value_of<T>(operation, rank, i));
    backend_.copy_from_host(view(), values.data());
  }
  std::vector<T> values() const {
    std::vector<T> out(static_cast<std::size_t>(n_));
    backend_.copy_to_host(out.data(), view());
    return out;
  }

 private:
  Backend& backend_;
  std::unique_ptr<Buffer> memory_;
  std::int64_t n_;
};

class Rank {
 public:
  Rank(Backend& b, Collectives& c, int number)
      : b_(b), c_(c), me_(c.rank()), ranks_(c.ranks()), number_(number) {}

  void collectives() {
    for (const std::int64_t n : {0, 1, 3, 17, 1023, 70001}) {
      if (number_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds((me_ * 7 + n) % 20));
      all<float>(n);
      all<double>(n);
      all<bf16>(n);
      all<std::int32_t>(n);
    }
    in_order();
    many();
    counted();
    refusals();
  }

  // What is asked of the backend before an operation is in it, and what is asked after the wait sees its
  // result, without the host in between.
  void in_order() {
    const std::int64_t n = 5000;
    const Block<float> x(b_, n), y(b_, n), all(b_, n * ranks_);
    for (int round = 0; round < 20; ++round) {
      b_.fill(x.view(), me_ + round);
      const Event sum = c_.all_reduce(x.view(), Reduce::sum, "x");
      c_.wait(sum);
      b_.scale(x.view(), 2, y.view());
      b_.fill(x.view(), -1);  // before the sum was done this would spoil it
      const Event parts = c_.all_gather(y.view(), all.view(), "y");
      c_.wait(parts);
      b_.fill(y.view(), -2);
      if (round % 5 != 4) continue;
      const double wanted = 2.0 * (ranks_ * round + ranks_ * (ranks_ - 1) / 2);
      for (const float v : all.values()) expect(v == wanted, "the order of computation and operations");
      c_.check();
    }
  }

  // Many on their way, waited for in any order and late.
  void many() {
    const Block<float> x(b_, 300 * 100);
    std::vector<Event> events;
    for (int k = 0; k < 300; ++k) {
      b_.fill(x.part(k * 100, 100), k + me_);
      events.push_back(c_.all_reduce(x.part(k * 100, 100), Reduce::max, "x"));
    }
    c_.wait(Event());
    c_.wait(events[299]);
    c_.wait(events[0]);
    const std::vector<float> values = x.values();
    c_.check();
    for (int k = 0; k < 300; ++k)
      expect(values[static_cast<std::size_t>(k) * 100] == static_cast<float>(k + ranks_ - 1), "one of many");
    c_.wait(events[150]);
  }

  // Until something happens.
  void loop() {
    std::mt19937 random(static_cast<unsigned>(77 * number_ + me_));
    const Block<float> gradients(b_, 20000 * ranks_), mine(b_, 20000);
    const Block<double> norm(b_, 1);
    b_.fill(gradients.view(), 0);
    b_.fill(norm.view(), 0);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < end) {
      c_.wait(c_.reduce_scatter(gradients.view(), mine.view(), "gradients of bucket 3"));
      if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
      c_.wait(c_.all_reduce(norm.view(), Reduce::sum, "gradient norm"));
      norm.values();
      c_.check();
      c_.wait(c_.all_gather(mine.view(), gradients.view(), "weights of bucket 0"));
      if (random() % 4 == 0) c_.wait(c_.barrier("the checkpoint"));
    }
  }

  void few() {
    const Block<double> x(b_, 1);
    b_.fill(x.view(), 1);
    for (int i = 0; i < 5; ++i) {
      c_.wait(c_.all_reduce(x.view(), Reduce::sum, "gradient norm"));
      x.values();
      c_.check();
    }
  }

  void losses() {
    const Block<float> x(b_, 10);
    b_.fill(x.view(), 0);
    c_.wait(c_.all_reduce(x.view(), Reduce::sum, "losses"));
    x.values();
    c_.check();
  }

  void fail() {
    few();
    if (me_ != number_) return loop();
    const bool says = c_.fail("the disk is full");
    throw PeerFailure("the disk is full", says);
  }
  void hang() {
    few();
    if (me_ == number_) std::this_thread::sleep_for(std::chrono::seconds(60));
    losses();
  }
  void stop() { ended_by(SIGSTOP); }
  void die() { ended_by(SIGKILL); }
  void ended_by(int signal) {
    few();
    if (me_ == number_) raise(signal);
    losses();
    loop();
  }
  void early() {
    few();
    if (me_ != number_) std::this_thread::sleep_for(std::chrono::milliseconds(700));
  }
  void thrown() {
    few();
    if (me_ == number_) throw Error("a mistake");
    loop();
  }

 private:
  template <class T>
  void all(std::int64_t n) {
    const int k = operation_ += 2;
    const int root = k / 2 % ranks_;
    Block<T> sum(b_, n), low(b_, n), cast(b_, n), reduced(b_, n), copied(b_, n), part(b_, n);
    Block<T> whole(b_, n * ranks_), in_place(b_, n * ranks_), gathered(b_, n * ranks_);
    for (const Block<T>* x : {&sum, &low, &cast, &reduced}) x->fill(k, me_);
    for (const Block<T>* x : {&whole, &in_place}) x->fill(k + 1, me_);
    const Tensor own = in_place.part(n * me_, n);

    c_.all_reduce(sum.view(), Reduce::sum, "x");
    if constexpr (!std::is_same_v<T, bf16>) c_.all_reduce(low.view(), Reduce::max, "largest");
    c_.reduce_scatter(whole.view(), part.view(), "whole");
    c_.reduce_scatter(in_place.view(), own, "in place");
    c_.reduce(reduced.view(), reduced.view(), root, "reduced");
    c_.reduce(cast.view(), me_ == 0 ? copied.view() : Tensor(), 0, "copied");
    c_.all_gather(part.view(), gathered.view(), "parts");
    c_.all_gather(own, in_place.view(), "in place");
    c_.wait(c_.barrier("middle"));
    c_.wait(c_.broadcast(cast.view(), root, "cast"));

    const std::string place = " of " + std::string(name_of(DTypeOf<T>::value)) + ", " + std::to_string(n);
    expect_sums(sum.values(), k, 0, "all_reduce" + place);
    if constexpr (!std::is_same_v<T, bf16>) {
      const std::vector<T> values = low.values();
      for (std::int64_t i = 0; i < n; ++i) {
        T wanted = value_of<T>(k, 0, i);
        for (int r = 1; r < ranks_; ++r) wanted = std::max(wanted, value_of<T>(k, r, i));
        expect(values[static_cast<std::size_t>(i)] == wanted, "max" + place);
      }
    }
    expect_sums(part.values(), k + 1, me_ * n, "reduce_scatter" + place);
    if (me_ == root) expect_sums(reduced.values(), k, 0, "reduce" + place);
    if (me_ != root) expect_brought(reduced.values(), k, me_, "reduce elsewhere" + place);
    if (me_ == 0) expect_sums(copied.values(), k, 0, "reduce to another place" + place);
    expect_brought(cast.values(), k, root, "broadcast" + place);
    const std::vector<T> parts = gathered.values(), same = in_place.values();
    expect_sums(parts, k + 1, 0, "all_gather" + place);
    expect(n == 0 || std::memcmp(parts.data(), same.data(), parts.size() * sizeof(T)) == 0,
           "in place" + place);
    c_.check();
  }

  // values[i] is the sum over ranks of element first + i of the operation.
  template <class T>
  void expect_sums(const std::vector<T>& values, int k, std::int64_t first, const std::string& what) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      double sum = 0, size = 0;
      for (int r = 0; r < ranks_; ++r) {
        const double x = wide(value_of<T>(k, r, first + static_cast<std::int64_t>(i)));
        sum += x;
        size += std::abs(x);
      }
      expect(std::abs(wide(values[i]) - sum) <= (ranks_ - 1) * epsilon<T>() * size, what);
    }
  }
  template <class T>
  void expect_brought(const std::vector<T>& values, int k, int rank, const std::string& what) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const T wanted = value_of<T>(k, rank, static_cast<std::int64_t>(i));
      expect(std::memcmp(&values[i], &wanted, sizeof wanted) == 0, what);
    }
  }

  void counted() {
    const auto ranks = static_cast<std::uint64_t>(ranks_);
    const Block<float> whole(b_, 999 * ranks_), part(b_, 999);
    b_.fill(whole.view(), 0);
    b_.fill(part.view(), 0);
    // The watch counts what is over: the barrier is, and soon the watch has seen it.
    const auto settled = [&] {
      c_.wait(c_.barrier("counting"));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return c_.traffic();
    };
    const Traffic before = settled();
    c_.reduce_scatter(whole.view(), part.view(), "x");
    c_.all_gather(part.view(), whole.view(), "x");
    c_.all_reduce(whole.view(), Reduce::sum, "x");
    const Traffic after = settled();
    const std::uint64_t wanted = (ranks - 1) * 999 * 4 * 4;
    expect(after.bytes_sent - before.bytes_sent == wanted, "bytes sent");
    expect(after.bytes_received - before.bytes_received == wanted, "bytes received");
    expect(after.busy_seconds > before.busy_seconds, "busy seconds");
    expect(after.waited_seconds >= before.waited_seconds, "waited seconds");
  }

  template <class F>
  void expect_refused(const F& call) {
    try {
      call();
    } catch (const std::logic_error&) {
      return;
    }
    throw Wrong{"a call that does not fit was taken"};
  }
  void refusals() {
    const Block<float> a(b_, 10), b(b_, 10 * ranks_ + 1);
    expect_refused([&] { c_.reduce_scatter(b.view(), a.view(), "x"); });
    expect_refused([&] { c_.all_gather(a.view(), b.view(), "x"); });
    expect_refused([&] { c_.broadcast(a.view(), ranks_, "x"); });
    expect_refused([&] { c_.wait(Event(1u << 30)); });
    expect_refused([&] { b_.record([&] { c_.barrier("x"); }); });
  }

  Backend& b_;
  Collectives& c_;
  const int me_, ranks_, number_;
  int operation_ = 0;
};

std::unique_ptr<Backend> make_backend(bool emulated) {
  if (emulated) return make_emulated_cuda_backend();
  std::string reason;
  std::unique_ptr<Backend> backend = make_cuda_backend({}, reason);
  if (!backend) throw Error(reason);
  return backend;
}

void run(const std::vector<std::string>& a) {
  RankPlace place;
  place.rank = std::stoi(a[1]);
  place.ranks = std::stoi(a[2]);
  place.port = std::stoi(a[3]);
  place.timeout = std::stod(a[4]);
  const bool emulated = a[0] == "emulated";
  const auto backend = make_backend(emulated);
  const auto collectives =
      emulated ? make_emulated_nccl_collectives(*backend, place) : make_cuda_collectives(*backend, place);
  std::printf("rank %d of %d over %s\n", collectives->rank(), collectives->ranks(),
              std::string(collectives->name()).c_str());
  std::fflush(stdout);
  Rank rank(*backend, *collectives, a.size() > 6 ? std::stoi(a[6]) : 0);
  const std::pair<const char*, void (Rank::*)()> scenarios[] = {{"collectives", &Rank::collectives},
                                                                {"loop", &Rank::loop},
                                                                {"few", &Rank::few},
                                                                {"fail", &Rank::fail},
                                                                {"hang", &Rank::hang},
                                                                {"early", &Rank::early},
                                                                {"thrown", &Rank::thrown},
                                                                {"stop", &Rank::stop},
                                                                {"die", &Rank::die}};
  for (const auto& [name, scenario] : scenarios)
    if (a[5] == name) return (rank.*scenario)();
  throw Wrong{"no scenario " + a[5]};
}

int rank_main(const std::vector<std::string>& arguments) {
  try {
    run(arguments);
    std::printf("done\n");
    return 0;
  } catch (const PeerFailure& e) {
    std::printf("%s %s\n", e.reports ? "reports" : "silent", e.what());
  } catch (const Wrong& e) {
    std::printf("wrong %s\n", e.what.c_str());
  } catch (const std::exception& e) {
    std::printf("error %s\n", e.what());
  }
  return 1;
}

}  // namespace
}  // namespace spectrain

int main(int argc, char** argv) {
  if (argc < 7) return 2;
  return spectrain::rank_main(std::vector<std::string>(argv + 1, argv + argc));
}
