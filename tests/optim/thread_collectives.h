#pragma once

#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/collectives.h"

// Ranks as threads of one process, every call done when it returns: collectives.h in the plainest way, for
// tests of what is built on it.

namespace spectrain {

class ThreadRanks {
 public:
  explicit ThreadRanks(int ranks) : pointers_(static_cast<std::size_t>(ranks)) {}
  int ranks() const { return static_cast<int>(pointers_.size()); }

  // Runs `body` once for each rank, on a thread of its own. Rethrows the first exception, lowest rank first.
  void run(const std::function<void(Collectives&)>& body);

 private:
  class Rank;
  // All ranks' pointers, when all have come.
  std::vector<void*> meet(int rank, void* pointer) {
    std::unique_lock lock(mutex_);
    const std::uint64_t round = round_;
    pointers_[static_cast<std::size_t>(rank)] = pointer;
    if (++came_ == pointers_.size()) {
      came_ = 0;
      ++round_;
      shown_ = pointers_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round_ != round; });
    }
    return shown_;
  }

  std::mutex mutex_;
  std::condition_variable all_;
  std::vector<void*> pointers_, shown_;
  std::size_t came_ = 0;
  std::uint64_t round_ = 0;
};

class ThreadRanks::Rank final : public Collectives {
 public:
  Rank(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
  std::string_view name() const override { return "threads"; }
  int rank() const override { return rank_; }
  int ranks() const override { return all_.ranks(); }

  Event all_reduce(const Tensor& x, Reduce op, std::string_view) override {
    const std::vector<std::byte> result = reduced(x, 0, x.numel(), op);
    std::memcpy(x.data, result.data(), result.size());
    return together();
  }
  Event reduce_scatter(const Tensor& from, const Tensor& to, std::string_view) override {
    if (from.numel() != to.numel() * ranks()) throw std::logic_error("reduce_scatter: sizes do not fit");
    const std::vector<std::byte> result = reduced(from, rank_ * to.numel(), to.numel(), Reduce::sum);
    std::memcpy(to.data, result.data(), result.size());
    sent_ += from.bytes() - to.bytes();
    return together();
  }
  Event reduce(const Tensor& from, const Tensor& to, int root, std::string_view) override {
    const std::vector<std::byte> result = reduced(from, 0, from.numel(), Reduce::sum);
    if (rank_ == root) std::memcpy(to.data, result.data(), result.size());
    if (rank_ != root) sent_ += from.bytes();
    return together();
  }
  Event all_gather(const Tensor& from, const Tensor& to, std::string_view) override {
    if (to.numel() != from.numel() * ranks()) throw std::logic_error("all_gather: sizes do not fit");
    const std::vector<void*> parts = all_.meet(rank_, from.data);
    for (std::size_t r = 0; r < parts.size(); ++r)
      if (auto* block = static_cast<std::byte*>(to.data) + r * from.bytes(); block != parts[r])
        std::memcpy(block, parts[r], from.bytes());
    sent_ += from.bytes() * (parts.size() - 1);
    return together();
  }
  Event broadcast(const Tensor& x, int root, std::string_view) override {
    const std::vector<void*> parts = all_.meet(rank_, x.data);
    if (rank_ != root) std::memcpy(x.data, parts[static_cast<std::size_t>(root)], x.bytes());
    if (rank_ == root) sent_ += x.bytes() * (parts.size() - 1);
    return together();
  }
  Event barrier(std::string_view) override { return together(); }
  void wait(Event) override {}
  void check() override {}
  bool fail(const std::string&) override { return rank_ == 0; }
  Traffic traffic() const override { return {sent_, sent_, 0, 0}; }

 private:
  Event together() {
    all_.meet(rank_, nullptr);
    return {};
  }
  std::vector<std::byte> reduced(const Tensor& x, std::int64_t first, std::int64_t count, Reduce op) {
    const std::vector<void*> parts = all_.meet(rank_, x.data);
    std::vector<std::byte> result(static_cast<std::size_t>(count) * size_of(x.dtype));
    if (x.dtype == DType::f64) add(reinterpret_cast<double*>(result.data()), parts, first, count, op);
    if (x.dtype == DType::f32) add(reinterpret_cast<float*>(result.data()), parts, first, count, op);
    if (x.dtype != DType::f64 && x.dtype != DType::f32) throw std::logic_error("reduce: f32 and f64 only");
    all_.meet(rank_, nullptr);  // everybody has read
    return result;
  }
  template <class T>
  static void add(T* to, const std::vector<void*>& parts, std::int64_t first, std::int64_t count, Reduce op) {
    for (std::int64_t i = 0; i < count; ++i) {
      T sum = static_cast<const T*>(parts[0])[first + i];
      for (std::size_t r = 1; r < parts.size(); ++r) {
        const T next = static_cast<const T*>(parts[r])[first + i];
        sum = op == Reduce::sum ? sum + next : std::max(sum, next);
      }
      to[i] = sum;
    }
  }

  ThreadRanks& all_;
  int rank_;
  std::uint64_t sent_ = 0;
};

inline void ThreadRanks::run(const std::function<void(Collectives&)>& body) {
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(pointers_.size());
  for (int r = 0; r < ranks(); ++r)
    threads.emplace_back([&, r] {
      try {
        Rank rank(*this, r);
        body(rank);
      } catch (...) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
      }
    });
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& e : errors)
    if (e) std::rethrow_exception(e);
}

}  // namespace spectrain
