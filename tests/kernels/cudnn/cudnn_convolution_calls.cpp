#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/kernels/convolution_case.h"
#include "tests/kernels/cudnn/played_convolution.h"

// cudnn_convolution_calls
// The CUDA backend's calls of cuDNN for convolutions, on the emulated GPU and with a played cuDNN: which of
// the proposed kernels is taken, what is bound to it, what becomes of the result, what is said of a refusal,
// and that a recorded graph does it again. Prints what is wrong; exit code 0: nothing.

struct cudnnContext {
  cudaStream_t stream = nullptr;
};

namespace spectrain {
namespace {

// The kernels that are proposed, in this order. Only the last can be used.
enum Engine : std::int64_t { kNondeterministic, kRefuses, kWantsTooMuch, kGood, kEngines };
constexpr std::int64_t kStrideWithoutKernels = 3;
constexpr std::int64_t kWorkspace = 512;
std::string wrong;  // what the played cuDNN saw

Noted& noted(cudnnBackendDescriptor_t d) { return *static_cast<Noted*>(d); }

template <class T>
void note(Noted& n, cudnnBackendAttributeName_t name, const T& value) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(&value);
  n.attributes[name] = {bytes, bytes + sizeof(T)};
}
template <class T>
void answer(std::int64_t* count, void* values, const T& value) {
  *count = 1;
  std::memcpy(values, &value, sizeof(T));
}

// From a configuration, an engine or a plan, which all know their graph and number.
Engine engine_of(const Noted& n) { return n.get<Engine>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX); }

bool has_kernels(const Noted& graph) {
  const Noted& o = graph.other(CUDNN_ATTR_OPERATIONGRAPH_OPS);
  for (const auto name : {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC})
    if (o.has(name))
      return o.other(name).get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES) != kStrideWithoutKernels;
  return false;
}

cudnnStatus_t get_attribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                            cudnnBackendAttributeType_t, std::int64_t most, std::int64_t* count,
                            void* values) {
  const Noted& from = noted(d);
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {
      const Noted& graph = from.other(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
      *count = has_kernels(graph) ? std::min<std::int64_t>(kEngines, most) : 0;
      for (std::int64_t i = 0; i < *count; ++i) {
        Noted& configuration = noted(static_cast<cudnnBackendDescriptor_t*>(values)[i]);
        note(configuration, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &graph);
        note(configuration, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, static_cast<Engine>(i));
      }
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE:
      noted(*static_cast<cudnnBackendDescriptor_t*>(values)).attributes = from.attributes;
      *count = 1;
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
      *count = 0;
      if (engine_of(from) == kNondeterministic) answer(count, values, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: {
      const Engine engine = engine_of(from.other(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
      answer(count, values, engine == kWantsTooMuch ? std::int64_t{1} << 40 : kWorkspace);
      return CUDNN_STATUS_SUCCESS;
    }
    default:
      return CUDNN_STATUS_BAD_PARAM;
  }
}

cudnnStatus_t finalize(cudnnBackendDescriptor_t d) {
  const Noted& n = noted(d);
  if (n.type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR &&
      engine_of(n.other(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)) == kRefuses)
    return CUDNN_STATUS_NOT_SUPPORTED;
  return CUDNN_STATUS_SUCCESS;
}

// Memory of one tensor, as float64 and back.
struct Bound {
  void* memory = nullptr;
  std::vector<double> values;

  void read(const Noted& t, bool narrow) {
    std::int64_t n = 1;
    for (const std::int64_t side : t.shape()) n *= side;
    values.resize(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = narrow ? static_cast<double>(static_cast<float>(static_cast<bf16*>(memory)[i]))
                         : static_cast<double>(static_cast<float*>(memory)[i]);
  }
  void write(bool narrow) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<float>(values[i]);
      if (narrow)
        static_cast<bf16*>(memory)[i] = bf16(value);
      else
        static_cast<float*>(memory)[i] = value;
    }
  }
};

struct Work {
  const Noted* graph;
  void* memory[3];  // by ConvolutionTensor, less one
  void* workspace;

  void run() const {
    const Noted& o = graph->other(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    const bool filters = o.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
               input = o.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
    using Names = std::array<cudnnBackendAttributeName_t, 3>;
    const Names names =
        filters ? Names{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}
        : input
            ? Names{CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY}
            : Names{CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y};
    const auto type = o.other(names[0]).get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
    const bool narrow = type == CUDNN_DATA_BFLOAT16;
    Bound bound[3];
    for (std::size_t i = 0; i < 3; ++i) {
      bound[i].memory = memory[i];
      bound[i].read(o.other(names[i]), narrow);
    }
    std::memset(workspace, 0xff, kWorkspace);
    try {
      carry_out(*graph, type, {bound[0].values, bound[1].values, bound[2].values});
    } catch (const std::exception& e) {
      wrong = e.what();
    }
    bound[input ? 0 : filters ? 1 : 2].write(narrow);
  }
};

cudnnStatus_t execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  const Noted& configuration = noted(plan).other(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  if (engine_of(configuration) != kGood) wrong = "a kernel was taken that should not be";
  Work work{};
  work.graph = &configuration.other(CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
  const Noted& bindings = noted(pack);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto id = bindings.get<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i);
    work.memory[id - 1] = bindings.get<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, i);
  }
  for (const void* const memory : work.memory)
    if (reinterpret_cast<std::uintptr_t>(memory) % 16 != 0) wrong = "a tensor that lies crookedly was bound";
  work.workspace = bindings.get<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  if (work.workspace == nullptr) return CUDNN_STATUS_BAD_PARAM;
  emulator::enqueue(handle->stream, [work] { work.run(); });
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

// In place of cudnn_library.cpp.
std::string Cudnn::version_text() const { return "9.99.9"; }
void Cudnn::check(cudnnStatus_t status, const char* what) const {
  if (status != CUDNN_STATUS_SUCCESS)
    throw CudnnError(std::string("the played cuDNN failed in ") + what, status);
}
std::shared_ptr<const Cudnn> open_cudnn(std::string&, std::span<const std::string>) {
  auto cudnn = std::make_shared<Cudnn>(*played_cudnn());
  cudnn->create = [](cudnnHandle_t* handle) {
    *handle = new cudnnContext;
    return CUDNN_STATUS_SUCCESS;
  };
  cudnn->destroy = [](cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
  };
  cudnn->set_stream = [](cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
  };
  cudnn->get_attribute = get_attribute;
  cudnn->finalize = finalize;
  cudnn->execute = execute;
  return cudnn;
}

namespace {

int problems = 0;

void report(const char* name, DType dtype, const std::vector<std::string>& words) {
  for (const std::string& text : words)
    std::printf("%s %s: %s\n", name, std::string(name_of(dtype)).c_str(), text.c_str());
  problems += static_cast<int>(words.size());
}
void require_that(bool good, const char* what) {
  if (!good) report(what, DType::f32, {"not so"});
}

void run(DType dtype) {
  const Patches plain{3, 7, 5, 4, 3, 3, 1, 1}, strides{2, 9, 8, 5, 3, 2, 2, 1},
      refused{2, 9, 8, 5, 3, 2, kStrideWithoutKernels, 1};
  const auto backend = make_emulated_cuda_backend();
  for (const Patches& p : {plain, strides})
    report("agrees", dtype, ConvolutionCase(*backend, p, 6, dtype).of_the_library());
  report("refuses", dtype,
         ConvolutionCase(*backend, refused, 6, dtype).of_a_refusal("cuDNN 9.99.9 has no kernel"));
  report("crooked", dtype, ConvolutionCase(*backend, plain, 7, dtype).of_a_crooked_tensor());

  report("crooked gradient", dtype, ConvolutionCase(*backend, plain, 6, dtype).of_a_crooked_gradient());

  ConvolutionCase unknown(*backend, plain, 8, dtype);
  bool threw = false;
  try {
    backend->record([&] { unknown.forward(); });
  } catch (const std::logic_error&) {
    threw = true;
  }
  require_that(threw, "a plan is not made while work is recorded");

  CudaOptions options;
  options.cudnn = false;
  const auto without = make_emulated_cuda_backend(options);
  require_that(!ConvolutionCase(*without, plain, 6, dtype).forward() && without->notes().empty(),
               "cuDNN that was switched off is not asked");
  require_that(
      !ConvolutionCase(*backend, {0, 7, 5, 4, 3, 3, 1, 1}, 6, dtype).forward() && backend->notes().empty(),
      "cuDNN is not asked for no image");
}

}  // namespace
}  // namespace spectrain

int main() {
  using namespace spectrain;
  try {
    for (const DType dtype : {DType::f32, DType::bf16}) run(dtype);
  } catch (const std::exception& e) {
    report("ended", DType::f32, {e.what()});
  }
  if (!wrong.empty()) report("played cuDNN", DType::f32, {wrong});
  return problems == 0 ? 0 : 1;
}
