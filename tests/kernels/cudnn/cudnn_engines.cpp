#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>

#include "kernels/cuda/cudnn_plan.h"

// cudnn_engines PROPERTIES look|make BATCH HEADS KV_HEADS HEAD_DIM CONTEXT
// What cuDNN has for the attention of such a layout on a GPU that need not be there, one line for each pass:
//   forward operations 14 engines 2 1 workspace 256 code 5001
// With "make" the first engine's code is made, too, half a second each. It cannot be loaded here: the last
// number is the status with which that ends (0 with a GPU's driver, -1 where it was not tried). A process of
// its own because cuDNN looks for the driver's library, and a stand-in for it, once loaded, is there for
// everybody in the process. Exit code 77: no cuDNN here, the reason on standard output.

namespace spectrain {
namespace {

constexpr int kSkipped = 77;

void show(const std::shared_ptr<const Cudnn>& cudnn, const char* name, AttentionPass pass,
          const HeadLayout& layout, const CudnnDevice& device, bool make) {
  const AttentionGraph graph(cudnn, pass, layout);
  auto configurations = engine_configurations(*cudnn, graph, device, pass != AttentionPass::backward_atomic);
  std::printf("%s operations %d engines", name, graph.operations());
  for (const CudnnDescriptor& c : configurations)
    std::printf(" %lld", static_cast<long long>(engine_number(*cudnn, c)));
  std::int64_t workspace = -1, count = 0;
  if (!configurations.empty())
    cudnn->check(cudnn->get_attribute(configurations.front().get(), CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE,
                                      CUDNN_TYPE_INT64, 1, &count, &workspace),
                 "asking for the size of a workspace");
  int status = -1;
  if (make) {
    if (configurations.size() > 1) configurations.erase(configurations.begin() + 1, configurations.end());
    try {
      first_plan(*cudnn, configurations, device);
      status = 0;
    } catch (const CudnnError& e) {
      status = static_cast<int>(e.status);
    }
  }
  std::printf(" workspace %lld code %d\n", static_cast<long long>(workspace), status);
}

int run(char** arguments) {
  if (dlopen("libcuda.so.1", RTLD_LAZY) == nullptr && dlopen(SPECTRAIN_DRIVER_STUB, RTLD_LAZY) == nullptr) {
    std::printf("neither NVIDIA's driver nor the toolkit's stand-in for it: %s\n", dlerror());
    return kSkipped;
  }
  std::string why_not;
  const std::shared_ptr<const Cudnn> cudnn = open_cudnn(why_not);
  if (!cudnn) {
    std::printf("%s\n", why_not.c_str());
    return kSkipped;
  }
  std::ifstream file(arguments[0]);
  const std::string json{std::istreambuf_iterator<char>(file), {}};
  const CudnnDescriptor properties = device_properties(*cudnn, json);
  const CudnnDevice device{nullptr, &properties};
  HeadLayout layout;
  layout.batch = std::atoll(arguments[2]);
  layout.heads = std::atoll(arguments[3]);
  layout.kv_heads = std::atoll(arguments[4]);
  layout.head_dim = std::atoll(arguments[5]);
  layout.context = std::atoll(arguments[6]);
  const bool make = std::string(arguments[1]) == "make";
  show(cudnn, "forward", AttentionPass::forward, layout, device, make);
  show(cudnn, "backward", AttentionPass::backward, layout, device, make);
  show(cudnn, "backward_atomic", AttentionPass::backward_atomic, layout, device, make);
  return 0;
}

}  // namespace
}  // namespace spectrain

int main(int count, char** arguments) {
  if (count != 8) return 2;
  try {
    return spectrain::run(arguments + 1);
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}
