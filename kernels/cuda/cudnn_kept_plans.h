#pragma once

#include <fmt/format.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cudnn_plan.h"

namespace spectrain {

// A handle on a backend's stream, and plans that are made when their key (what is computed, and for which
// shapes) is met for the first time, and kept.
template <class Key>
class CudnnKeptPlans {
 public:
  struct Entry {
    Key key;
    std::unique_ptr<CudnnPlan> plan;
    std::unique_ptr<Buffer> workspace;  // of its own: graphs that were recorded point to it
    std::string why_not;                // empty: the plan can be run

    void* workspace_pointer() const { return workspace ? workspace->data() : nullptr; }
  };

  // `what` the plans compute: "an attention"; for messages
  CudnnKeptPlans(CudaBackend& backend, std::shared_ptr<const Cudnn> cudnn, const char* what)
      : backend_(backend), cudnn_(std::move(cudnn)), what_(what) {
    try {
      cudnn_->check(cudnn_->create(&handle_), "starting");
      cudnn_->check(cudnn_->set_stream(handle_, backend.stream()), "taking a stream");
    } catch (const CudnnError& e) {
      broken_ = e.what();
    }
  }
  ~CudnnKeptPlans() {
    entries_.clear();
    if (handle_ != nullptr) cudnn_->destroy(handle_);
  }
  CudnnKeptPlans(const CudnnKeptPlans&) = delete;
  CudnnKeptPlans& operator=(const CudnnKeptPlans&) = delete;

  cudnnHandle_t handle() const { return handle_; }
  const std::string& broken() const { return broken_; }  // why there is no handle; empty: there is one

  // make(entry) gives a new entry its plan and workspace; what it throws becomes the entry's why_not.
  template <class Make>
  const Entry& find(const Key& key, const Make& make) {
    for (const auto& entry : entries_)
      if (entry->key == key) return *entry;
    if (backend_.recording())
      throw std::logic_error(
          fmt::format("recorded work asks for {} that did not run before it was recorded", what_));
    auto entry = std::make_unique<Entry>();
    entry->key = key;
    try {
      make(*entry);
    } catch (const Error& e) {  // no kernel for it, or no room for its workspace
      entry->why_not = e.what();
      entry->plan.reset();
    }
    entries_.push_back(std::move(entry));
    return *entries_.back();
  }

 private:
  CudaBackend& backend_;
  std::shared_ptr<const Cudnn> cudnn_;
  const char* what_;
  cudnnHandle_t handle_ = nullptr;
  std::string broken_;
  std::vector<std::unique_ptr<Entry>> entries_;
};

}  // namespace spectrain
