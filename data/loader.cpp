#include "data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <list>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "data/layout.h"
#include "data/shard.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

struct Range {
  std::int64_t step = 0, first = 0, count = 0;
  bool operator==(const Range&) const = default;
};

struct Prefetch {
  Range range;
  bool done = false;
  std::vector<std::int32_t> tokens, targets;
  std::exception_ptr failure;
};

// A caller that prefetches and never reads must not fill the memory.
constexpr std::size_t kPrefetchesKept = 4;

}  // namespace

struct TokenLoader::Impl {
  LoaderConfig config;
  std::vector<TokenShard> shards;
  std::unique_ptr<Layout> layout;
  std::int64_t tokens = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::list<Prefetch> prefetches;  // oldest first; each is done or waits for the reader
  std::deque<Prefetch*> waiting;   // not yet begun
  bool stopping = false;
  std::thread reader;

  explicit Impl(LoaderConfig given) : config(std::move(given)) {}
  ~Impl();

  void open();
  void read_sequence(std::int64_t step, std::int64_t sequence, std::int32_t* tokens_out,
                     std::int32_t* targets_out, std::vector<std::int32_t>& scratch,
                     std::vector<Stretch>& stretches) const;
  void read_range(Range range, std::span<std::int32_t> tokens_out, std::span<std::int32_t> targets_out) const;
  bool take(Range range, std::span<std::int32_t> tokens_out, std::span<std::int32_t> targets_out);
  void enqueue(Range range);
  void reader_loop();
  void check(Range range) const;
};

TokenLoader::Impl::~Impl() {
  {
    const std::lock_guard lock(mutex);
    stopping = true;
  }
  changed.notify_all();
  if (reader.joinable()) reader.join();
}

void TokenLoader::Impl::open() {
  if (config.context < 1 || config.sequences < 1) {
    throw RequestError(fmt::format("a loader needs a context and sequences of at least 1, not {} and {}",
                                   config.context, config.sequences));
  }
  if (config.files.empty()) throw RequestError("no token shards were named; give at least one file");
  shards.reserve(config.files.size());
  for (const std::string& file : config.files) tokens += shards.emplace_back(file).tokens();
  layout = make_layout(config, shards);
}

void TokenLoader::Impl::read_sequence(std::int64_t step, std::int64_t sequence, std::int32_t* tokens_out,
                                      std::int32_t* targets_out, std::vector<std::int32_t>& scratch,
                                      std::vector<Stretch>& stretches) const {
  const std::int64_t batch = config.replay_first_batch && step > 0 ? step - 1 : step;
  const auto context = static_cast<std::size_t>(config.context);
  stretches.clear();
  layout->locate(batch, sequence, stretches);
  scratch.resize(context + 1);
  std::size_t filled = 0;
  for (const Stretch& s : stretches) {
    const auto count = static_cast<std::size_t>(s.count);
    shards[s.shard].read(s.first, std::span(scratch).subspan(filled, count), config.vocab);
    filled += count;
  }
  std::memcpy(tokens_out, scratch.data(), context * sizeof(std::int32_t));
  std::memcpy(targets_out, scratch.data() + 1, context * sizeof(std::int32_t));
}

void TokenLoader::Impl::read_range(Range range, std::span<std::int32_t> tokens_out,
                                   std::span<std::int32_t> targets_out) const {
  std::vector<std::int32_t> scratch;
  std::vector<Stretch> stretches;
  for (std::int64_t i = 0; i < range.count; ++i)
    read_sequence(range.step, range.first + i, tokens_out.data() + i * config.context,
                  targets_out.data() + i * config.context, scratch, stretches);
}

void TokenLoader::Impl::check(Range range) const {
  if (range.step < 0 || range.first < 0 || range.count < 0 || range.count > config.sequences - range.first) {
    throw std::logic_error(fmt::format("sequences {} to {} of step {} asked of {} per step", range.first,
                                       range.first + range.count, range.step, config.sequences));
  }
}

// True where a prefetch of this very range was there: its tokens are in the spans, or its failure is thrown.
bool TokenLoader::Impl::take(Range range, std::span<std::int32_t> tokens_out,
                             std::span<std::int32_t> targets_out) {
  Prefetch taken;
  {
    std::unique_lock lock(mutex);
    const auto find = [&] {
      return std::find_if(prefetches.begin(), prefetches.end(),
                          [&](const Prefetch& p) { return p.range == range; });
    };
    auto found = find();
    // While it is still being read (by another thread than this one) waiting is the shortest way. Looked up
    // again after each wait: another reader may have taken it.
    while (found != prefetches.end() && !found->done) {
      changed.wait(lock);
      found = find();
    }
    if (found == prefetches.end()) return false;
    taken = std::move(*found);
    prefetches.erase(found);
  }
  if (taken.failure) std::rethrow_exception(taken.failure);
  std::copy(taken.tokens.begin(), taken.tokens.end(), tokens_out.begin());
  std::copy(taken.targets.begin(), taken.targets.end(), targets_out.begin());
  return true;
}

void TokenLoader::Impl::enqueue(Range range) {
  {
    const std::lock_guard lock(mutex);
    for (const Prefetch& p : prefetches) {
      if (p.range == range) return;
    }
    // The oldest finished one nobody came for makes room; where none is finished, this request is dropped: a
    // prefetch is only a hint.
    if (prefetches.size() >= kPrefetchesKept) {
      const auto old =
          std::find_if(prefetches.begin(), prefetches.end(), [](const Prefetch& p) { return p.done; });
      if (old == prefetches.end()) return;
      prefetches.erase(old);
    }
    Prefetch& added = prefetches.emplace_back();
    added.range = range;
    waiting.push_back(&added);
    if (!reader.joinable()) reader = std::thread([this] { reader_loop(); });
  }
  changed.notify_all();
}

void TokenLoader::Impl::reader_loop() {
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [this] { return stopping || !waiting.empty(); });
    if (stopping) return;
    Prefetch& next = *waiting.front();  // stays in place: an unfinished entry is never erased
    waiting.pop_front();
    lock.unlock();
    try {
      const auto size = static_cast<std::size_t>(next.range.count * config.context);
      next.tokens.resize(size);
      next.targets.resize(size);
      read_range(next.range, next.tokens, next.targets);
    } catch (...) {
      next.failure = std::current_exception();
    }
    lock.lock();
    next.done = true;
    changed.notify_all();
  }
}

TokenLoader::TokenLoader(LoaderConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {
  impl_->open();
}
TokenLoader::~TokenLoader() = default;

std::int64_t TokenLoader::tokens() const { return impl_->tokens; }
std::int64_t TokenLoader::windows() const { return impl_->layout->windows(); }
std::int64_t TokenLoader::files() const { return static_cast<std::int64_t>(impl_->shards.size()); }

void TokenLoader::read(std::int64_t step, std::int64_t first, std::int64_t count,
                       std::span<std::int32_t> tokens, std::span<std::int32_t> targets) const {
  const Range range{step, first, count};
  impl_->check(range);
  const auto size = static_cast<std::size_t>(count * impl_->config.context);
  if (tokens.size() != size || targets.size() != size) {
    throw std::logic_error(fmt::format("{} sequences of {} tokens need {} tokens and targets, not {} and {}",
                                       count, impl_->config.context, size, tokens.size(), targets.size()));
  }
  if (!impl_->take(range, tokens, targets)) impl_->read_range(range, tokens, targets);
}

void TokenLoader::prefetch(std::int64_t step, std::int64_t first, std::int64_t count) {
  const Range range{step, first, count};
  impl_->check(range);
  impl_->enqueue(range);
}

}  // namespace spectrain
