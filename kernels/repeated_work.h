#pragma once

#include <memory>

#include "kernels/backend.h"

namespace spectrain {

// Work that is done again and again on the same tensors: in the ordinary way the first time, for what a
// backend chooses or allocates at the first use of a shape belongs into no recording; recorded the second
// time, and replayed from then on. Where the backend records nothing, in the ordinary way every time.
class RepeatedWork {
 public:
  template <class Work>
  void run(Backend& backend, const Work& work) {
    if (!backend.asynchronous() || refused_) return work();
    if (!ran_) {
      ran_ = true;
      return work();
    }
    if (!replay_) {
      replay_ = backend.record(work);
      refused_ = !replay_;
      if (refused_) return work();
    }
    replay_->run();
  }
  // Its tensors, or the numbers that it hands to kernels, are others from now on.
  void forget() { *this = RepeatedWork(); }

 private:
  bool ran_ = false, refused_ = false;
  std::unique_ptr<Replay> replay_;
};

}  // namespace spectrain
