#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/collectives.h"

// One rank of a job: what collectives_test.cpp starts many of.
//   collectives_rank tcp|mpi RANK RANKS PORT TIMEOUT SCENARIO [NUMBER]
// Ends with 0 and "done", or with 1 and one line: "reports MESSAGE" or "silent MESSAGE" for a failure of the
// job, "error MESSAGE" for one of its own, "wrong ..." where a promise does not hold.

namespace spectrain {
namespace {

struct Wrong {
  std::string what;
};

void expect(bool holds, const std::string& what) {
  if (!holds) throw Wrong{what};
}

// Element i of what rank r brings to operation n; of many sizes, so that the order of a sum shows.
float brought(int n, int r, std::int64_t i) {
  std::uint32_t h =
      static_cast<std::uint32_t>(n * 7919 + r * 104729) ^ static_cast<std::uint32_t>(i * 2654435761u);
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  // 2^-12 to 2^11, put together from its bits: there are many of them.
  const std::uint32_t exponent = 127 - 12 + (h >> 24) % 24;
  float scale;
  const std::uint32_t bits = exponent << 23;
  std::memcpy(&scale, &bits, 4);
  return (static_cast<float>(h & 0xffffff) / 16777216.0f - 0.5f) * scale;
}

template <class T>
T value_of(int n, int r, std::int64_t i) {
  if constexpr (std::is_same_v<T, std::int32_t>)
    return static_cast<std::int32_t>(brought(n, r, i) * 1000);
  else
    return static_cast<T>(brought(n, r, i));
}

// The plain loop that every result is compared with, bit for bit.
template <class T>
T combined(int n, int ranks, std::int64_t i, Reduce op) {
  using A = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  A a = static_cast<A>(value_of<T>(n, 0, i));
  for (int r = 1; r < ranks; ++r) {
    const A b = static_cast<A>(value_of<T>(n, r, i));
    a = op == Reduce::sum ? static_cast<A>(a + b) : (b > a ? b : a);
  }
  return static_cast<T>(a);
}

template <class T>
Tensor view(std::vector<T>& x) {
  return Tensor(x.data(), DTypeOf<T>::value, {static_cast<std::int64_t>(x.size())});
}

template <class T>
void expect_same(const T* x, const T& y, const std::string& what) {
  expect(std::memcmp(x, &y, sizeof y) == 0, what);
}

class Rank {
 public:
  Rank(Collectives& c, int number) : c_(c), me_(c.rank()), ranks_(c.ranks()), number_(number) {}

  void collectives() {
    // Some ranks are late, others at other times.
    std::mt19937 random(static_cast<unsigned>(1000 * number_ + me_));
    for (const std::int64_t n : {0, 1, 3, 17, 1023, 70001}) {
      if (number_ > 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      all<float>(n);
      if (ranks_ > 4 && n > 1023) continue;
      all<double>(n);
      all<bf16>(n);
      all<std::int32_t>(n);
    }
    if (ranks_ <= 4) all<float>(400003);  // of many pieces, all_reduce too
    out_of_order();
    counted();
    shapes();
    std::printf("sum %016llx\n", static_cast<unsigned long long>(hash_));
  }

  // Until something happens, with pauses at random.
  void loop() {
    std::mt19937 random(static_cast<unsigned>(77 * number_ + me_));
    std::vector<float> gradients(static_cast<std::size_t>(60000 * ranks_)), mine(60000);
    std::vector<double> norm(1);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < end) {
      const Event a = c_.reduce_scatter(view(gradients), view(mine), "gradients of bucket 3");
      if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
      c_.wait(a);
      c_.wait(c_.all_reduce(view(norm), Reduce::sum, "gradient norm"));
      c_.wait(c_.all_gather(view(mine), view(gradients), "weights of bucket 0"));
      c_.check();
    }
  }

  void few() {
    std::vector<double> x(1);
    for (int i = 0; i < 5; ++i) c_.wait(c_.all_reduce(view(x), Reduce::sum, "gradient norm"));
  }

  // Rank `number` gives up; the others hear of it.
  void fail() {
    few();
    if (me_ != number_) return loop();
    const bool says = c_.fail("the disk is full");
    throw PeerFailure("the disk is full", says);
  }

  // Rank `number` never comes to the next operation, though its process lives.
  void hang() {
    few();
    if (me_ == number_) std::this_thread::sleep_for(std::chrono::seconds(60));
    std::vector<float> x(10);
    c_.wait(c_.all_reduce(view(x), Reduce::sum, "losses"));
  }

  // Rank `number` stops or dies.
  void stop() { ended_by(SIGSTOP); }
  void die() { ended_by(SIGKILL); }
  void ended_by(int signal) {
    few();
    if (me_ == number_) raise(signal);
    std::vector<float> x(10);
    c_.wait(c_.all_reduce(view(x), Reduce::sum, "losses"));
    loop();
  }

  // Rank `number` has finished long before the others.
  void early() {
    few();
    if (me_ != number_) std::this_thread::sleep_for(std::chrono::milliseconds(700));
  }

  // An exception of the rank's own that nobody told the others about.
  void thrown() {
    few();
    if (me_ == number_) throw Error("a mistake");
    loop();
  }

  // Rank `number` makes other calls than the rest.
  void mixed() {
    few();
    std::vector<float> x(me_ == number_ ? 10 : 20);
    c_.wait(c_.all_reduce(view(x), Reduce::sum, "losses"));
    loop();
  }

  // 8 MB from each rank to each other.
  void slow() {
    std::vector<float> mine(2 << 20, 1.0f), all(mine.size() * static_cast<std::size_t>(ranks_));
    c_.wait(c_.all_gather(view(mine), view(all), "weights"));
  }

  void bench() {
    std::vector<float> x(static_cast<std::size_t>(25) << 20, 1.0f), y(x.size());
    std::vector<double> times, copies;
    for (int i = 0; i < 7; ++i) {
      c_.wait(c_.barrier("start"));
      const auto a = std::chrono::steady_clock::now();
      c_.wait(c_.all_reduce(view(x), Reduce::sum, "x"));
      const auto b = std::chrono::steady_clock::now();
      c_.wait(c_.barrier("end"));
      const auto c = std::chrono::steady_clock::now();
      std::memcpy(y.data(), x.data(), x.size() * 4);
      const auto d = std::chrono::steady_clock::now();
      times.push_back(std::chrono::duration<double>(b - a).count());
      copies.push_back(std::chrono::duration<double>(d - c).count());
    }
    std::sort(times.begin(), times.end());
    std::sort(copies.begin(), copies.end());
    double small = 0;
    std::vector<double> norm(1, 1.0);
    const auto a = std::chrono::steady_clock::now();
    for (int i = 0; i < 200; ++i) c_.wait(c_.all_reduce(view(norm), Reduce::sum, "norm"));
    small = std::chrono::duration<double>(std::chrono::steady_clock::now() - a).count() / 200;
    if (me_ == 0)
      std::printf("all_reduce of 100 MiB by %d ranks: %.1f ms (min %.1f); memcpy %.1f ms; 8 bytes: %.1f us\n",
                  ranks_, times[3] * 1e3, times[0] * 1e3, copies[3] * 1e3, small * 1e6);
  }

 private:
  template <class T>
  void all(std::int64_t n) {
    const int k = ++operation_;
    const auto size = static_cast<std::size_t>(n), total = size * static_cast<std::size_t>(ranks_);
    std::vector<T> x(size), whole(total), part(size), gathered(total), cast(size), low(size), reduced,
        copied(size);
    for (std::int64_t i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] = value_of<T>(k, me_, i);
    for (std::size_t i = 0; i < total; ++i) whole[i] = value_of<T>(k + 1, me_, static_cast<std::int64_t>(i));
    cast = low = reduced = x;
    std::vector<T> in_place = whole;
    T* const own = in_place.data() + size * static_cast<std::size_t>(me_);
    const int root = k % ranks_;

    c_.all_reduce(view(x), Reduce::sum, "x");
    if constexpr (!std::is_same_v<T, bf16>) c_.all_reduce(view(low), Reduce::max, "largest");
    c_.reduce_scatter(view(whole), view(part), "whole");
    c_.reduce_scatter(view(in_place), Tensor(own, DTypeOf<T>::value, {n}), "in place");
    c_.reduce(view(reduced), view(reduced), root, "reduced");
    c_.reduce(view(cast), me_ == 0 ? view(copied) : Tensor(), 0, "copied");
    c_.all_gather(view(part), view(gathered), "parts");
    c_.all_gather(Tensor(own, DTypeOf<T>::value, {n}), view(in_place), "in place");
    c_.barrier("middle");
    c_.wait(c_.broadcast(view(cast), root, "cast"));

    const std::string place = " of " + std::string(name_of(DTypeOf<T>::value)) + ", " + std::to_string(n);
    for (std::size_t i = 0; i < size; ++i) {
      const auto j = static_cast<std::int64_t>(i);
      expect_same(&x[i], combined<T>(k, ranks_, j, Reduce::sum), "all_reduce" + place);
      if constexpr (!std::is_same_v<T, bf16>)
        expect_same(&low[i], combined<T>(k, ranks_, j, Reduce::max), "max" + place);
      expect_same(&cast[i], value_of<T>(k, root, j), "broadcast" + place);
      const T sum = combined<T>(k, ranks_, j, Reduce::sum);
      expect_same(&reduced[i], me_ == root ? sum : value_of<T>(k, me_, j), "reduce" + place);
      if (me_ == 0) expect_same(&copied[i], sum, "reduce to another place" + place);
      expect_same(&part[i], combined<T>(k + 1, ranks_, me_ * n + j, Reduce::sum), "reduce_scatter" + place);
    }
    for (std::size_t i = 0; i < total; ++i)
      expect_same(&gathered[i], combined<T>(k + 1, ranks_, static_cast<std::int64_t>(i), Reduce::sum),
                  "all_gather" + place);
    expect(total == 0 || std::memcmp(in_place.data(), gathered.data(), total * sizeof(T)) == 0,
           "in place" + place);
    for (std::size_t i = 0; i < size * sizeof(T); ++i)
      hash_ = (hash_ ^ reinterpret_cast<const unsigned char*>(x.data())[i]) * 1099511628211ull;
    ++operation_;
  }

  // A hundred at once (more than there was room for at first), waited for backwards.
  void out_of_order() {
    std::vector<std::vector<float>> x(100, std::vector<float>(1000));
    std::vector<Event> events;
    for (int k = 0; k < 100; ++k) {
      for (std::int64_t i = 0; i < 1000; ++i)
        x[static_cast<std::size_t>(k)][static_cast<std::size_t>(i)] = brought(k, me_, i);
      events.push_back(c_.all_reduce(view(x[static_cast<std::size_t>(k)]), Reduce::sum, "x"));
    }
    c_.wait(Event());
    for (std::size_t k = 100; k-- > 0;) {
      c_.wait(events[k]);
      expect_same(&x[k][999], combined<float>(static_cast<int>(k), ranks_, 999, Reduce::sum), "out of order");
    }
    c_.wait(events[50]);
    std::vector<float> huge{me_ == ranks_ / 2 ? std::numeric_limits<float>::quiet_NaN() : 1.0f};
    c_.wait(c_.all_reduce(view(huge), Reduce::max, "NaN"));
    expect(std::isnan(huge[0]), "a NaN is the largest");
  }

  void counted() {
    const auto ranks = static_cast<std::uint64_t>(ranks_);
    std::vector<float> whole(static_cast<std::size_t>(ranks_) * 99991), part(99991), odd(300007);
    const auto measure = [&](const std::function<Event()>& work) {
      const Traffic before = c_.traffic();
      c_.wait(work());
      const Traffic after = c_.traffic();
      expect(after.busy_seconds >= before.busy_seconds && after.waited_seconds >= before.waited_seconds,
             "seconds");
      return std::pair(after.bytes_sent - before.bytes_sent, after.bytes_received - before.bytes_received);
    };
    const std::uint64_t least = (ranks - 1) * 99991 * 4;
    expect(
        measure([&] { return c_.reduce_scatter(view(whole), view(part), "x"); }) == std::pair(least, least),
        "bytes of reduce_scatter");
    expect(measure([&] { return c_.all_gather(view(part), view(whole), "x"); }) == std::pair(least, least),
           "bytes of all_gather");
    const auto [sent, received] = measure([&] { return c_.all_reduce(view(odd), Reduce::sum, "x"); });
    // The parts differ by one element.
    expect(std::llabs(static_cast<long long>(sent * ranks) -
                      static_cast<long long>(2 * (ranks - 1) * 300007 * 4)) <=
                   static_cast<long long>(8 * ranks * ranks) &&
               sent == received,
           "bytes of all_reduce");
    expect(measure([&] { return c_.barrier("x"); }) == std::pair(std::uint64_t{0}, std::uint64_t{0}),
           "bytes of barrier");
  }

  void shapes() {
    std::vector<float> a(10), b(static_cast<std::size_t>(10 * ranks_ + 1));
    std::vector<bf16> c(10);
    const auto refuses = [](const std::function<void()>& call) {
      try {
        call();
      } catch (const std::logic_error&) {
        return;
      }
      throw Wrong{"a call that does not fit was taken"};
    };
    refuses([&] { c_.reduce_scatter(view(b), view(a), "x"); });
    refuses([&] { c_.all_gather(view(a), view(b), "x"); });
    refuses([&] { c_.all_reduce(view(c), Reduce::max, "x"); });
    refuses([&] { c_.reduce(view(a), view(b), me_, "x"); });
    refuses([&] { c_.reduce(view(a), view(a), -1, "x"); });
    refuses([&] { c_.broadcast(view(a), ranks_, "x"); });
    refuses([&] { c_.wait(Event(1u << 30)); });
  }

  Collectives& c_;
  const int me_, ranks_, number_;
  int operation_ = 0;
  std::uint64_t hash_ = 14695981039346656037ull;
};

void run(const std::vector<std::string>& a) {
  RankPlace place;
  place.rank = std::stoi(a[1]);
  place.ranks = std::stoi(a[2]);
  const std::size_t colon = a[3].find(':');
  if (colon != std::string::npos) place.address = a[3].substr(0, colon);
  place.port = std::stoi(colon == std::string::npos ? a[3] : a[3].substr(colon + 1));
  place.timeout = std::stod(a[4]);
  const auto collectives = a[0] == "mpi" ? make_mpi_collectives(place) : make_tcp_collectives(place);
  std::printf("rank %d of %d over %s\n", collectives->rank(), collectives->ranks(),
              std::string(collectives->name()).c_str());
  std::fflush(stdout);
  Rank rank(*collectives, a.size() > 6 ? std::stoi(a[6]) : 0);
  const std::pair<const char*, void (Rank::*)()> scenarios[] = {{"collectives", &Rank::collectives},
                                                                {"loop", &Rank::loop},
                                                                {"few", &Rank::few},
                                                                {"fail", &Rank::fail},
                                                                {"hang", &Rank::hang},
                                                                {"early", &Rank::early},
                                                                {"thrown", &Rank::thrown},
                                                                {"mixed", &Rank::mixed},
                                                                {"stop", &Rank::stop},
                                                                {"die", &Rank::die},
                                                                {"slow", &Rank::slow},
                                                                {"bench", &Rank::bench}};
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
