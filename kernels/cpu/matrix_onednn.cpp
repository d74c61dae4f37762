#include "kernels/cpu/matrix_onednn.h"

#include <stdexcept>

#if defined(SPECTRAIN_ONEDNN)
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#endif

namespace spectrain {

#if defined(SPECTRAIN_ONEDNN)

namespace {

using Memory = dnnl::memory;
using Tag = Memory::format_tag;

Memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? Memory::data_type::bf16 : Memory::data_type::f32;
}

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Memory::desc matrix(std::int64_t rows, std::int64_t cols, DType dtype, bool transposed) {
  return {{rows, cols}, type_of(dtype), transposed ? Tag::ba : Tag::ab};
}

// The layout oneDNN's kernels read weights fastest in. It depends on k and n; the number of rows asked for
// here is only typical, and products with any other take the layout as given.
Memory::desc packed_layout(std::int64_t k, std::int64_t n, DType compute) {
  constexpr std::int64_t kTypicalRows = 1024;
  const Memory::desc a = matrix(kTypicalRows, k, compute, false), c = matrix(kTypicalRows, n, compute, false);
  const Memory::desc any({k, n}, type_of(compute), Tag::any);
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, any, c), cpu()).weights_desc();
}

// What makes two products the same primitive: sizes, dtypes, layouts, and whether there is a bias or a sum.
using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, DType, DType, bool, bool, bool, bool, bool>;

struct Primitive {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul run;
};

}  // namespace

struct OnednnProducts::State {
  Scratch scratch;
  dnnl::stream stream{cpu()};
  std::map<Key, Primitive> primitives;

  Primitive& primitive(const OnednnProduct& p) {
    const DType compute = p.a.dtype;
    const Key key(p.m, p.n, p.k, compute, p.c.dtype, p.transpose_a, p.transpose_b, p.packed_b != nullptr,
                  static_cast<bool>(p.bias), p.beta != 0);
    const auto found = primitives.find(key);
    if (found != primitives.end()) return found->second;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.beta != 0) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const Memory::desc a = matrix(p.m, p.k, compute, p.transpose_a), c = matrix(p.m, p.n, p.c.dtype, false);
    const Memory::desc b =
        p.packed_b ? packed_layout(p.k, p.n, compute) : matrix(p.k, p.n, compute, p.transpose_b);
    const Memory::desc bias({1, p.n}, Memory::data_type::f32, Tag::ab);
    const dnnl::matmul::desc operation =
        p.bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
    const dnnl::matmul::primitive_desc description(operation, attributes, cpu());
    return primitives.emplace(key, Primitive{description, dnnl::matmul(description)}).first->second;
  }
};

OnednnProducts::OnednnProducts(Scratch scratch) : state_(std::make_unique<State>()) {
  state_->scratch = std::move(scratch);
}
OnednnProducts::~OnednnProducts() = default;

bool OnednnProducts::built_in() { return true; }

bool OnednnProducts::amx_bf16() { return dnnl::get_effective_cpu_isa() == dnnl::cpu_isa::avx512_core_amx; }

bool OnednnProducts::has_bf16() {
  static const bool there = [] {
    try {
      packed_layout(16, 16, DType::bf16);
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return there;
}

void OnednnProducts::multiply(const OnednnProduct& p) {
  Primitive& primitive = state_->primitive(p);
  const auto& d = primitive.description;
  void* b = p.packed_b ? const_cast<void*>(p.packed_b) : p.b.data;  // only read
  std::unordered_map<int, Memory> arguments{{DNNL_ARG_SRC, Memory(d.src_desc(), cpu(), p.a.data)},
                                            {DNNL_ARG_WEIGHTS, Memory(d.weights_desc(), cpu(), b)},
                                            {DNNL_ARG_DST, Memory(d.dst_desc(), cpu(), p.c.data)}};
  if (p.bias) arguments.emplace(DNNL_ARG_BIAS, Memory(d.bias_desc(), cpu(), p.bias.data));
  if (d.scratchpad_desc().get_size() > 0)
    arguments.emplace(DNNL_ARG_SCRATCHPAD,
                      Memory(d.scratchpad_desc(), cpu(), state_->scratch(d.scratchpad_desc().get_size())));
  primitive.run.execute(state_->stream, arguments);
  state_->stream.wait();
}

std::size_t OnednnProducts::packed_bytes(std::int64_t k, std::int64_t n, DType compute) {
  return packed_layout(k, n, compute).get_size();
}

void OnednnProducts::pack_weights(const Tensor& b, bool transpose_b, std::int64_t k, std::int64_t n,
                                  DType compute, void* packed) {
  Memory from(matrix(k, n, b.dtype, transpose_b), cpu(), b.data),
      to(packed_layout(k, n, compute), cpu(), packed);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::reorder::primitive_desc description(from, to, attributes);
  std::unordered_map<int, Memory> arguments{{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  if (description.scratchpad_desc().get_size() > 0)
    arguments.emplace(DNNL_ARG_SCRATCHPAD, Memory(description.scratchpad_desc(), cpu(),
                                                  state_->scratch(description.scratchpad_desc().get_size())));
  dnnl::reorder(description).execute(state_->stream, arguments);
  state_->stream.wait();
}

#else

struct OnednnProducts::State {};

namespace {
[[noreturn]] void absent() { throw std::logic_error("this build has no oneDNN"); }
}  // namespace

OnednnProducts::OnednnProducts(Scratch) {}
OnednnProducts::~OnednnProducts() = default;
bool OnednnProducts::built_in() { return false; }
bool OnednnProducts::amx_bf16() { return false; }
bool OnednnProducts::has_bf16() { return false; }
void OnednnProducts::multiply(const OnednnProduct&) { absent(); }
std::size_t OnednnProducts::packed_bytes(std::int64_t, std::int64_t, DType) { absent(); }
void OnednnProducts::pack_weights(const Tensor&, bool, std::int64_t, std::int64_t, DType, void*) { absent(); }

#endif

}  // namespace spectrain
