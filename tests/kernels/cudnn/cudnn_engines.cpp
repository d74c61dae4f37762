#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <utility>

#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/cudnn_convolution.h"

// cudnn_engines PROPERTIES look|make attention BATCH HEADS KV_HEADS HEAD_DIM CONTEXT
// cudnn_engines PROPERTIES look|make convolution BATCH HEIGHT WIDTH CHANNELS KERNEL_HEIGHT KERNEL_WIDTH
// STRIDE PADDING
//               FILTERS f32|bf16
// What cuDNN has for the attention of such a layout, or for such a convolution, on a GPU that need not be
// there, one line for each pass:
//   forward operations 14 engines 2 1 first_marks 0 marks 0 workspace 256 code 5001
// The marks (cudnnBackendNumericalNote_t) are those of the first engine and of all of them.
// With "make" the first engine's code is made, too, half a second each. It cannot be loaded here: the last
// number is the status with which that ends (0 with a GPU's driver, or for kernels that come with the
// library; -1 where it was not tried). A process of its own because cuDNN looks for the driver's library, and
// a stand-in for it, once loaded, is there for everybody in the process. Exit code 77: no cuDNN here, the
// reason on standard output.

namespace spectrain {
namespace {

constexpr int kSkipped = 77;

void show(const std::shared_ptr<const Cudnn>& cudnn, const char* name, const CudnnGraph& graph,
          const CudnnWish& wish, const CudnnDevice& device, bool make) {
  auto configurations = engine_configurations(*cudnn, graph.descriptor(), device, wish);
  std::printf("%s operations %d engines", name, graph.operations());
  for (const CudnnDescriptor& c : configurations)
    std::printf(" %lld", static_cast<long long>(engine_number(*cudnn, c)));
  std::set<int> marks;
  std::printf(" first_marks");
  for (const CudnnDescriptor& c : configurations)
    for (const cudnnBackendNumericalNote_t note : engine_notes(*cudnn, c)) {
      if (&c == &configurations.front()) std::printf(" %d", static_cast<int>(note));
      marks.insert(static_cast<int>(note));
    }
  std::printf(" marks");
  for (const int mark : marks) std::printf(" %d", mark);
  const std::int64_t workspace =
      configurations.empty() ? -1 : configuration_workspace(*cudnn, configurations.front());
  int status = -1;
  if (make) {
    if (configurations.size() > 1) configurations.erase(configurations.begin() + 1, configurations.end());
    try {
      first_plan(*cudnn, configurations, device, wish);
      status = 0;
    } catch (const CudnnError& e) {
      status = static_cast<int>(e.status);
    }
  }
  std::printf(" workspace %lld code %d\n", static_cast<long long>(workspace), status);
}

struct Shown {
  std::shared_ptr<const Cudnn> cudnn;
  CudnnDevice device;
  bool make = false;
};

void show_attention(const Shown& s, char** numbers) {
  const auto number = [&](int i) { return std::atoll(numbers[i]); };
  HeadLayout layout;
  layout.batch = number(0), layout.heads = number(1), layout.kv_heads = number(2);
  layout.head_dim = number(3), layout.context = number(4);
  using P = AttentionPass;
  for (const auto& [name, pass] : {std::pair{"forward", P::forward}, std::pair{"backward", P::backward},
                                   std::pair{"backward_atomic", P::backward_atomic}})
    show(s.cudnn, name, attention_graph(s.cudnn, pass, layout), attention_wish(pass), s.device, s.make);
}

void show_convolution(const Shown& s, char** numbers) {
  const auto number = [&](int i) { return std::atoll(numbers[i]); };
  const ConvolutionShape shape{
      {number(0), number(1), number(2), number(3), number(4), number(5), number(6), number(7)},
      number(8),
      std::string(numbers[9]) == "bf16" ? DType::bf16 : DType::f32};
  using P = ConvolutionPass;
  for (const auto& [name, pass] :
       {std::pair{"forward", P::forward}, std::pair{"backward_input", P::backward_input},
        std::pair{"backward_filters", P::backward_filters}})
    show(s.cudnn, name, convolution_graph(s.cudnn, pass, shape), convolution_wish(shape.dtype), s.device,
         s.make);
}

int run(int count, char** arguments) {
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
  const Shown shown{cudnn, {nullptr, &properties}, std::string(arguments[1]) == "make"};
  const std::string kind = arguments[2];
  if (kind == "attention" && count == 8)
    show_attention(shown, arguments + 3);
  else if (kind == "convolution" && count == 13)
    show_convolution(shown, arguments + 3);
  else
    return 2;
  return 0;
}

}  // namespace
}  // namespace spectrain

int main(int count, char** arguments) {
  if (count < 4) return 2;
  try {
    return spectrain::run(count - 1, arguments + 1);
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}
