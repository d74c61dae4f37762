#include "tests/cuda_emulator/blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/random.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/cuda_emulator/fibres.h"

namespace spectrain::emulator {

Lane* current = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStack = 512 << 10;
#else
constexpr std::size_t kStack = 128 << 10;
#endif
constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr std::size_t kLaneBytes = 512;  // the most one lane hands to gather()

struct Warp {
  unsigned alive = 0, arrived = 0;
  std::uint64_t generation = 0;
  std::array<std::array<std::uint64_t, kWarp>, 2> values{};  // by parity of the generation
  std::array<bool, kWarp> votes[2]{};
  unsigned voters[2] = {};  // alive when the votes were counted: one may have ended since
  std::vector<std::byte> bytes[2];
};

struct Thread {
  Lane lane;
  std::unique_ptr<Fibre> fibre;
  Warp* warp = nullptr;
  bool waits_for_block = false, waits_for_warp = false;
  unsigned mask = 0;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int alive = 0, arrived = 0;
  const std::function<void()>* body = nullptr;
  std::byte* shared_begin = nullptr;
  std::size_t shared_bytes = 0;
};
Block block;  // the one that runs
Order order = Order::ascending;
std::uint64_t shuffles = 0;

Thread& running() {
  return *reinterpret_cast<Thread*>(reinterpret_cast<char*>(current) - offsetof(Thread, lane));
}

void release_warp(Warp& w, unsigned mask) {
  if ((w.arrived & mask & w.alive) != (mask & w.alive)) return;
  w.arrived &= ~mask;
  w.voters[w.generation & 1] = w.alive;
  ++w.generation;
  for (Thread& t : block.threads)
    if (t.warp == &w && (mask >> t.lane.lane & 1u)) t.waits_for_warp = false;
}

void release_block() {
  if (block.alive == 0 || block.arrived < block.alive) return;
  block.arrived = 0;
  for (Thread& t : block.threads) t.waits_for_block = false;
}

void run_thread(void* argument) {
  auto& t = *static_cast<Thread*>(argument);
  (*block.body)();
  if (!t.lane.copies.empty()) {
    std::fprintf(stderr, "emulated kernel: a thread ends and %d of its copies are still on their way\n",
                 static_cast<int>(t.lane.copies.size()));
    std::abort();
  }
  // A thread that has ended is waited for by nobody.
  t.warp->alive &= ~(1u << t.lane.lane);
  --block.alive;
  release_block();
  if (t.warp->arrived != 0) {
    for (Thread& other : block.threads)
      if (other.warp == t.warp && other.waits_for_warp) {
        release_warp(*t.warp, other.mask);
        break;
      }
  }
}

std::vector<std::size_t> visiting_order(std::size_t n) {
  std::vector<std::size_t> list(n);
  std::iota(list.begin(), list.end(), std::size_t{0});
  if (order == Order::descending) std::reverse(list.begin(), list.end());
  if (order == Order::shuffled) {
    const RandomKey key{17, ++shuffles};
    for (std::size_t i = n; i > 1; --i)
      std::swap(list[i - 1], list[random_u32(key, i) % static_cast<std::uint32_t>(i)]);
  }
  return list;
}

void begin_block(dim3 where, dim3 blocks, dim3 threads, const std::function<void()>& body) {
  const unsigned count = threads.x * threads.y * threads.z;
  if (block.threads.size() < count) {
    const std::size_t had = block.threads.size();
    block.threads.resize(count);
    for (std::size_t i = had; i < count; ++i) block.threads[i].fibre = std::make_unique<Fibre>(kStack);
  }
  block.warps.resize((count + kWarp - 1) / kWarp);
  for (Warp& w : block.warps) w.alive = w.arrived = 0;
  block.alive = static_cast<int>(count);
  block.arrived = 0;
  block.body = &body;
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = block.threads[i];
    t.lane = {dim3(i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)), where, threads,
              blocks, static_cast<int>(i % kWarp)};
    t.warp = &block.warps[i / kWarp];
    t.warp->alive |= 1u << t.lane.lane;
    t.waits_for_block = t.waits_for_warp = false;
    t.fibre->prepare(run_thread, &t);
  }
  // Shared memory holds whatever was there before, and a number that is none shows it best.
  std::fill(block.shared_begin, block.shared_begin + block.shared_bytes, std::byte{0xff});
}

void run_block(std::size_t count) {
  const std::vector<std::size_t> visit = visiting_order(count);
  // In one of the orders a warp goes on for as long as it can: one that is a whole loop ahead of the others
  // shows that a barrier is missing between a reading and the next writing.
  const std::size_t together = order == Order::descending ? kWarp : 1;
  while (block.alive > 0) {
    bool moved = false;
    for (std::size_t first = 0; first < count; first += together)
      for (bool again = true; again;) {
        again = false;
        for (std::size_t k = first; k < std::min(first + together, count); ++k) {
          Thread& t = block.threads[visit[k]];
          if (t.fibre->ended() || t.waits_for_block || t.waits_for_warp) continue;
          again = moved = true;
          current = &t.lane;
          t.fibre->resume();
        }
      }
    if (!moved) {
      std::fprintf(stderr, "emulated kernel: %d threads wait for others that never come\n", block.alive);
      std::abort();
    }
  }
  current = nullptr;
}

}  // namespace

void set_order(Order o) { order = o; }

void block_barrier() {
  Thread& t = running();
  t.waits_for_block = true;
  ++block.arrived;
  release_block();
  if (t.waits_for_block) t.fibre->pause();
}

void warp_barrier(unsigned mask) {
  Thread& t = running();
  if (!(mask >> t.lane.lane & 1u)) {
    std::fprintf(stderr, "emulated kernel: lane %d is not in its own mask %08x\n", t.lane.lane, mask);
    std::abort();
  }
  t.waits_for_warp = true;
  t.mask = mask;
  t.warp->arrived |= 1u << t.lane.lane;
  release_warp(*t.warp, mask);
  if (t.waits_for_warp) t.fibre->pause();
}

std::uint64_t exchange(unsigned mask, std::uint64_t value, int from) {
  Thread& t = running();
  // Two sets of slots: a lane may be at the next exchange before its neighbour has read this one's.
  auto& slots = t.warp->values[t.warp->generation & 1];
  slots[static_cast<std::size_t>(t.lane.lane)] = value;
  warp_barrier(mask);
  const std::uint64_t result = slots[static_cast<std::size_t>(from)];
  // Several groups of one warp share the count of generations, so a part of a warp waits once more.
  if (mask != kWholeWarp) warp_barrier(mask);
  return result;
}

unsigned ballot(unsigned mask, bool vote) {
  Thread& t = running();
  const auto set = t.warp->generation & 1;
  auto& votes = t.warp->votes[set];
  votes[static_cast<std::size_t>(t.lane.lane)] = vote;
  warp_barrier(mask);
  unsigned result = 0;
  for (unsigned i = 0; i < kWarp; ++i)
    if ((mask & t.warp->voters[set]) >> i & 1u) result |= static_cast<unsigned>(votes[i]) << i;
  if (mask != kWholeWarp) warp_barrier(mask);
  return result;
}

void gather(const void* own, std::size_t bytes, void* all) {
  Thread& t = running();
  if (bytes > kLaneBytes) throw std::logic_error("emulator: a lane hands over too much");
  auto& store = t.warp->bytes[t.warp->generation & 1];
  store.resize(kWarp * kLaneBytes);
  std::memcpy(store.data() + static_cast<std::size_t>(t.lane.lane) * bytes, own, bytes);
  warp_barrier(kWholeWarp);
  std::memcpy(all, store.data(), kWarp * bytes);
}

void begin_copy(void* to, const void* from) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0)
    throw std::logic_error("emulator: an asynchronous copy is not aligned to 16 bytes");
  std::memset(to, 0xff, 16);
  current->copies.push_back({to, from, current->groups});
}
void commit_copies() { ++current->groups; }
void wait_for_copies(int open) {
  std::erase_if(current->copies, [open](const Copy& c) {
    if (c.group >= current->groups - open) return false;
    if (c.from)
      std::memcpy(c.to, c.from, 16);
    else
      std::memset(c.to, 0, 16);
    return true;
  });
}

void* dynamic_shared_memory() { return block.shared_begin; }
std::size_t dynamic_shared_bytes() { return block.shared_bytes; }

void run_grid(dim3 blocks, dim3 threads, std::size_t shared, const std::function<void()>& body) {
  // As many bytes as were asked for, from the heap: the address sanitizer sees what is beyond them.
  void* memory = nullptr;
  if (shared > 0 && posix_memalign(&memory, 1024, shared) != 0) throw std::bad_alloc();
  const std::unique_ptr<void, void (*)(void*)> owner(memory, std::free);
  block.shared_begin = static_cast<std::byte*>(memory);
  block.shared_bytes = shared;
  const std::size_t count = std::size_t{threads.x} * threads.y * threads.z;
  for (const std::size_t b : visiting_order(std::size_t{blocks.x} * blocks.y * blocks.z)) {
    const auto i = static_cast<unsigned>(b);
    begin_block(dim3(i % blocks.x, i / blocks.x % blocks.y, i / (blocks.x * blocks.y)), blocks, threads,
                body);
    run_block(count);
  }
}

}  // namespace spectrain::emulator
