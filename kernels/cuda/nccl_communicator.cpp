#include "kernels/cuda/nccl_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/error.h"
#include "kernels/sockets.h"

namespace spectrain {
namespace {

using namespace std::chrono_literals;

// Between two questions whether NCCL is done with a call: short at first, for most are done at once.
constexpr auto kShortestSleep = 10us, kLongestSleep = 1000us;
constexpr double kForever = 1e8;

}  // namespace

std::string NcclCommunicator::make_word(const Nccl& nccl) {
  ncclUniqueId id;
  const ncclResult_t result = nccl.unique_id(&id);
  if (result != ncclSuccess)
    throw Error(
        fmt::format("NCCL could not begin: {} ({})", nccl.error_string(result), nccl.last_error(nullptr)));
  return std::string(id.internal, sizeof id.internal);
}

void NcclCommunicator::join(const std::string& word, int rank, int ranks, double timeout,
                            const Meanwhile& meanwhile) {
  ncclUniqueId id;
  if (word.size() != sizeof id.internal)
    throw Error("rank 0 gave no NCCL address: start all ranks from the same build");
  std::memcpy(id.internal, word.data(), sizeof id.internal);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::unique_lock lock(mutex_);
  const ncclResult_t result = nccl_.init(&communicator_, ranks, id, rank, &config);
  if (result != ncclSuccess && result != ncclInProgress)
    throw Error(fmt::format("NCCL could not connect the GPUs: {}", text_of(result)));
  settle(lock, result, timeout, meanwhile);
}

void NcclCommunicator::call(const Call& call, const Meanwhile& meanwhile) {
  std::unique_lock lock(mutex_);
  if (!communicator_) throw Error("NCCL was stopped");
  settle(lock, call(communicator_), kForever, meanwhile);
}

void NcclCommunicator::settle(std::unique_lock<std::mutex>& lock, ncclResult_t result, double timeout,
                              const Meanwhile& meanwhile) {
  const auto deadline = after(timeout);
  auto sleep = std::chrono::microseconds(kShortestSleep);
  while (result == ncclInProgress) {
    lock.unlock();
    if (meanwhile) meanwhile();
    if (Clock::now() >= deadline)
      throw Error(fmt::format("NCCL did not connect the GPUs within {:g} s", timeout));
    std::this_thread::sleep_for(sleep);
    sleep = std::min<std::chrono::microseconds>(2 * sleep, kLongestSleep);
    lock.lock();
    if (!communicator_) throw Error("NCCL was stopped");
    const ncclResult_t asked = nccl_.async_error(communicator_, &result);
    if (asked != ncclSuccess) result = asked;
  }
  if (result != ncclSuccess) throw Error("NCCL failed: " + text_of(result));
}

std::string NcclCommunicator::text_of(ncclResult_t result) const {
  const char* const more = communicator_ ? nccl_.last_error(communicator_) : nccl_.last_error(nullptr);
  const std::string text = nccl_.error_string(result);
  return more && *more ? fmt::format("{} ({})", text, more) : text;
}

std::string NcclCommunicator::problem() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock || !communicator_) return {};
  ncclResult_t result = ncclSuccess;
  const ncclResult_t asked = nccl_.async_error(communicator_, &result);
  if (asked != ncclSuccess) result = asked;
  return result == ncclSuccess || result == ncclInProgress ? std::string()
                                                           : "NCCL failed: " + text_of(result);
}

void NcclCommunicator::abort() {
  const std::lock_guard lock(mutex_);
  if (!communicator_) return;
  nccl_.abort(communicator_);
  communicator_ = nullptr;
}

void NcclCommunicator::finish(double seconds) {
  {
    std::unique_lock lock(mutex_);
    if (!communicator_) return;
    try {
      settle(lock, nccl_.finalize(communicator_), seconds, {});
      nccl_.destroy(communicator_);
      communicator_ = nullptr;
      return;
    } catch (const Error&) {
      // all ranks have what they came for
    }
  }
  abort();
}

}  // namespace spectrain
