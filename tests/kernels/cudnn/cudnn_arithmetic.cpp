#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include "kernels/cuda/cudnn_attention.h"
#include "tests/kernels/cudnn/played_cudnn.h"
#include "tests/reference/reference_backend.h"

// cudnn_arithmetic BATCH HEADS KV_HEADS HEAD_DIM CONTEXT
// Is what the graphs say the attention and its gradient? cuDNN is played here: its functions note down what
// the graph's writer tells them, the operations are then done one by one in float64 by their definitions
// (cuDNN's documentation, "backend descriptor types"), on packed tensors through the strides the graph gives,
// and the results compared with the reference backend's. Prints the largest differences; exit code 0: all are
// small.

namespace spectrain {
namespace {

using Bindings = std::map<AttentionTensor, double*>;

class Machine {
 public:
  explicit Machine(const Bindings& bindings) {
    for (const auto& [name, pointer] : bindings) bindings_[static_cast<std::int64_t>(name)] = pointer;
  }
  void run(const CudnnGraph& graph) {
    const auto& noted = *static_cast<Noted*>(graph.descriptor().get());
    for (int i = 0; i < graph.operations(); ++i)
      operation(
          *static_cast<Noted*>(noted.get<void*>(CUDNN_ATTR_OPERATIONGRAPH_OPS, static_cast<std::size_t>(i))));
  }

 private:
  void operation(const Noted& o) {
    switch (o.type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(o.other(CUDNN_ATTR_OPERATION_MATMUL_ADESC), o.other(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
                      o.other(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return pointwise(o);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduce(o);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: {
        Noted &x = o.other(CUDNN_ATTR_OPERATION_RESHAPE_XDESC),
              &y = o.other(CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
        y.values = memory(x);  // the same memory, seen through other strides
        return;
      }
      default:
        throw std::logic_error("an operation nobody expected");
    }
  }

  double* memory(Noted& t) {
    if (t.values != nullptr) return t.values;
    if (t.get<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL)) {
      std::int64_t last = 0;
      for (std::size_t i = 0; i < 4; ++i) last += (t.shape()[i] - 1) * t.strides()[i];
      t.memory.assign(static_cast<std::size_t>(last) + 1, std::nan(""));
      return t.values = t.memory.data();
    }
    return t.values = bindings_.at(t.get<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID));
  }
  // An index beyond a dimension of 1 is broadcast; heads that are fewer are shared by neighbours.
  double& at(Noted& t, Dims i, std::int64_t heads) {
    const Dims shape = t.shape(), strides = t.strides();
    std::int64_t place = 0;
    if (shape[1] != 1) i[1] = i[1] / (heads / shape[1]);
    for (std::size_t k = 0; k < 4; ++k) place += (shape[k] == 1 ? 0 : i[k]) * strides[k];
    return memory(t)[place];
  }
  template <class F>
  static void each(const Dims& shape, const F& f) {
    Dims i{};
    for (i[0] = 0; i[0] < shape[0]; ++i[0])
      for (i[1] = 0; i[1] < shape[1]; ++i[1])
        for (i[2] = 0; i[2] < shape[2]; ++i[2])
          for (i[3] = 0; i[3] < shape[3]; ++i[3]) f(i);
  }

  void matmul(Noted& a, Noted& b, Noted& c) {
    const Dims shape = c.shape();
    const std::int64_t inner = a.shape()[3];
    if (b.shape()[2] != inner || a.shape()[2] != shape[2] || b.shape()[3] != shape[3])
      throw std::logic_error("matrices that do not fit");
    each(shape, [&](const Dims& i) {
      double sum = 0;
      for (std::int64_t k = 0; k < inner; ++k)
        sum += at(a, {i[0], i[1], i[2], k}, shape[1]) * at(b, {i[0], i[1], k, i[3]}, shape[1]);
      at(c, i, shape[1]) = sum;
    });
  }

  static double value(cudnnPointwiseMode_t mode, double x, double b, double t) {
    switch (mode) {
      case CUDNN_POINTWISE_MUL:
        return x * b;
      case CUDNN_POINTWISE_ADD:
        return x + b;
      case CUDNN_POINTWISE_SUB:
        return x - b;
      case CUDNN_POINTWISE_DIV:
        return x / b;
      case CUDNN_POINTWISE_EXP:
        return std::exp(x);
      case CUDNN_POINTWISE_LOG:
        return std::log(x);
      case CUDNN_POINTWISE_IDENTITY:
        return x;
      case CUDNN_POINTWISE_CMP_GE:
        return x >= b ? 1 : 0;
      case CUDNN_POINTWISE_BINARY_SELECT:
        return t != 0 ? x : b;
      default:
        throw std::logic_error("arithmetic nobody expected");
    }
  }
  void pointwise(const Noted& o) {
    const Noted& kind = o.other(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = kind.get<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    Noted &x = o.other(CUDNN_ATTR_OPERATION_POINTWISE_XDESC),
          &y = o.other(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    const std::int64_t heads = y.shape()[1];
    each(y.shape(), [&](const Dims& i) {
      if (mode == CUDNN_POINTWISE_GEN_INDEX) {
        const auto axis = static_cast<std::size_t>(kind.get<std::int64_t>(CUDNN_ATTR_POINTWISE_AXIS));
        at(y, i, heads) = static_cast<double>(i[axis]);
        return;
      }
      const auto operand = [&](cudnnBackendAttributeName_t name) {
        return o.has(name) ? at(o.other(name), i, heads) : 0.0;
      };
      at(y, i, heads) = value(mode, at(x, i, heads), operand(CUDNN_ATTR_OPERATION_POINTWISE_BDESC),
                              operand(CUDNN_ATTR_OPERATION_POINTWISE_TDESC));
    });
  }
  void reduce(const Noted& o) {
    Noted &x = o.other(CUDNN_ATTR_OPERATION_REDUCTION_XDESC),
          &y = o.other(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    const bool add =
        o.other(CUDNN_ATTR_OPERATION_REDUCTION_DESC)
            .get<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_ADD;
    const std::int64_t heads = x.shape()[1];
    each(x.shape(), [&](const Dims& i) { at(y, i, heads) = add ? 0 : -INFINITY; });
    each(x.shape(), [&](const Dims& i) {
      double& sum = at(y, i, heads);
      sum = add ? sum + at(x, i, heads) : std::max(sum, at(x, i, heads));
    });
  }

  std::map<std::int64_t, double*> bindings_;
};

// ---- the comparison

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double d = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    d = std::isfinite(a[i]) ? std::max(d, std::abs(a[i] - b[i])) : INFINITY;
  return d;
}

struct Case {
  explicit Case(const HeadLayout& layout) : l(layout) {
    std::mt19937 generator(7);
    std::normal_distribution<double> normal;
    for (std::vector<double>* const x : {&qkv, &dqkv})
      x->resize(static_cast<std::size_t>(l.rows() * l.packed()));
    for (std::vector<double>* const x : {&out, &dout})
      x->resize(static_cast<std::size_t>(l.rows() * l.width()));
    lse.resize(static_cast<std::size_t>(l.rows() * l.heads));
    for (std::vector<double>* const x : {&qkv, &dout})
      for (double& v : *x) v = normal(generator);
    const auto reference = make_reference_backend();
    reference->attention(l, scale, packed(qkv), {}, wide(out),
                         {lse.data(), DType::f64, {l.batch, l.heads, l.context}});
    reference->attention_backward(l, scale, wide(dout), packed(qkv), {}, wide(out),
                                  {lse.data(), DType::f64, {l.batch, l.heads, l.context}}, packed(dqkv));
  }
  Tensor packed(std::vector<double>& x) const { return {x.data(), DType::f64, {l.rows(), l.packed()}}; }
  Tensor wide(std::vector<double>& x) const { return {x.data(), DType::f64, {l.rows(), l.width()}}; }

  HeadLayout l;
  double scale = 0.3;
  std::vector<double> qkv, out, lse, dout, dqkv;
};

bool compare(const char* name, AttentionPass pass, Case& c) {
  using T = AttentionTensor;
  const std::int64_t k = c.l.width(), v = k + c.l.kv_heads * c.l.head_dim;
  const auto like = [](const std::vector<double>& x) { return std::vector<double>(x.size(), std::nan("")); };
  auto out = pass == AttentionPass::forward ? like(c.out) : c.out;
  auto lse = pass == AttentionPass::forward ? like(c.lse) : c.lse;
  auto dqkv = like(c.dqkv), out_dot = like(c.lse), dq_sum = like(c.out);
  double scale = c.scale, one = 1, minus_infinity = -INFINITY;
  const Bindings bindings = {{T::q, c.qkv.data()},
                             {T::k, c.qkv.data() + k},
                             {T::v, c.qkv.data() + v},
                             {T::out, out.data()},
                             {T::lse, lse.data()},
                             {T::dout, c.dout.data()},
                             {T::dq, dqkv.data()},
                             {T::dk, dqkv.data() + k},
                             {T::dv, dqkv.data() + v},
                             {T::out_dot, out_dot.data()},
                             {T::dq_sum, dq_sum.data()},
                             {T::scale, &scale},
                             {T::one, &one},
                             {T::minus_infinity, &minus_infinity}};
  const CudnnGraph graph = attention_graph(played_cudnn(), pass, c.l);
  Machine(bindings).run(graph);
  const double difference = pass == AttentionPass::forward
                                ? std::max(largest_difference(out, c.out), largest_difference(lse, c.lse))
                                : largest_difference(dqkv, c.dqkv);
  std::printf("%s %.3g\n", name, difference);
  return difference < 1e-12 * static_cast<double>(c.l.context);
}

}  // namespace
}  // namespace spectrain

int main(int count, char** arguments) {
  using namespace spectrain;
  if (count != 6) return 2;
  try {
    Case c({std::stoll(arguments[1]), std::stoll(arguments[5]), std::stoll(arguments[2]),
            std::stoll(arguments[3]), std::stoll(arguments[4])});
    bool close = compare("forward", AttentionPass::forward, c);
    close = compare("backward", AttentionPass::backward, c) && close;
    close = compare("backward_atomic", AttentionPass::backward_atomic, c) && close;
    return close ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}
