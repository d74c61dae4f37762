#pragma once

#include <cudnn_graph.h>

#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/library.h"
#include "kernels/error.h"

namespace spectrain {

// cuDNN did not do what it was asked for; `status` says whether it cannot (CUDNN_STATUS_NOT_SUPPORTED_...).
struct CudnnError : Error {
  CudnnError(const std::string& message, cudnnStatus_t s) : Error(message), status(s) {}
  cudnnStatus_t status;
};

// The functions of cuDNN 9 that are used here, opened at run time.
struct Cudnn {
  Library library;
  std::size_t version = 0;  // 91900 for 9.19.0
  decltype(&cudnnCreate) create = nullptr;
  decltype(&cudnnDestroy) destroy = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnGetErrorString) error_string = nullptr;
  decltype(&cudnnGetLastErrorString) last_error_string = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;

  std::string version_text() const;  // "9.19.0"
  // Throws CudnnError "cuDNN 9.19.0 failed in <what>: <its words>" unless all is well.
  void check(cudnnStatus_t status, const char* what) const;
};

// Null, and a clause without a full stop, where cuDNN 9 is not there.
std::shared_ptr<const Cudnn> open_cudnn(std::string& why_not, std::span<const std::string> directories = {});

}  // namespace spectrain
