#include "kernels/cuda/cudnn_library.h"

#include <fmt/format.h>

#include <string_view>

namespace spectrain {

std::string Cudnn::version_text() const {
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

void Cudnn::check(cudnnStatus_t status, const char* what) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char text[1024] = "";
  last_error_string(text, sizeof text);
  // The library's own words may be several lines; the first says what it is about.
  std::string_view words = text;
  words = words.substr(0, words.find('\n'));
  throw CudnnError(fmt::format("cuDNN {} failed in {}: {}{}{}", version_text(), what, error_string(status),
                               words.empty() ? "" : ": ", words),
                   status);
}

std::shared_ptr<const Cudnn> open_cudnn(std::string& why_not, std::span<const std::string> directories) {
  auto cudnn = std::make_shared<Cudnn>();
  cudnn->library = Library::open("cuDNN", "libcudnn.so.9", directories);
  const Library& library = cudnn->library;
  if (!library) {
    why_not = library.why_not();
    return nullptr;
  }
  try {
    const auto get = [&library]<class F>(F& function, const char* name) {
      function = library.function<F>(name);
    };
    cudnn->version = library.function<decltype(&cudnnGetVersion)>("cudnnGetVersion")();
    get(cudnn->create, "cudnnCreate");
    get(cudnn->destroy, "cudnnDestroy");
    get(cudnn->set_stream, "cudnnSetStream");
    get(cudnn->error_string, "cudnnGetErrorString");
    get(cudnn->last_error_string, "cudnnGetLastErrorString");
    get(cudnn->create_descriptor, "cudnnBackendCreateDescriptor");
    get(cudnn->destroy_descriptor, "cudnnBackendDestroyDescriptor");
    get(cudnn->set_attribute, "cudnnBackendSetAttribute");
    get(cudnn->get_attribute, "cudnnBackendGetAttribute");
    get(cudnn->finalize, "cudnnBackendFinalize");
    get(cudnn->execute, "cudnnBackendExecute");
  } catch (const Error& e) {
    why_not = e.what();
    return nullptr;
  }
  return cudnn;
}

}  // namespace spectrain
