#include "kernels/cuda/cudnn_attention.h"

namespace spectrain {
namespace {

using Dims = CudnnDims;
using Place = CudnnGraph::Place;

Dims contiguous(const Dims& dims) { return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1}; }

// A tensor of the graph.
struct Node {
  cudnnBackendDescriptor_t descriptor = nullptr;
  Dims dims{};
};

// Writes a graph down operation by operation. Results between operations are virtual: they are names for
// values that never need be in memory.
class Writer {
 public:
  explicit Writer(CudnnGraph& graph) : graph_(graph) {}

  Node bound(AttentionTensor name, cudnnDataType_t type, const Dims& dims, const Dims& strides) {
    return tensor(static_cast<std::int64_t>(name), type, dims, strides, Place::memory);
  }
  Node scalar(AttentionTensor name) {
    return tensor(static_cast<std::int64_t>(name), CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1},
                  Place::by_value);
  }
  Node between(const Dims& dims, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return tensor(next_++, type, dims, contiguous(dims), Place::nowhere);
  }

  Node matmul(const Node& a, const Node& b, const Node& c) {
    CudnnDescriptor& kind = add(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    kind.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finalize("describing a matrix product");
    operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.descriptor)
        .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.descriptor)
        .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c.descriptor)
        .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, kind)
        .finalize("describing a matrix product");
    return c;
  }
  // y = mode(x [, b [, where t]]), element by element, b broadcast
  Node pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t precision, const Node& x, const Node* b,
                 const Node& y, const Node* t = nullptr, std::int64_t axis = -1) {
    CudnnDescriptor& kind = add(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode)
        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, precision);
    if (axis >= 0) kind.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
    kind.finalize("describing arithmetic");
    CudnnDescriptor& o = operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    o.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind)
        .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x.descriptor);
    if (b != nullptr) o.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->descriptor);
    if (t != nullptr) o.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t->descriptor);
    o.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y.descriptor).finalize("describing arithmetic");
    return y;
  }
  Node unary(cudnnPointwiseMode_t mode, const Node& x) {
    return pointwise(mode, CUDNN_DATA_FLOAT, x, nullptr, between(x.dims));
  }
  Node binary(cudnnPointwiseMode_t mode, const Node& x, const Node& b) {
    return pointwise(mode, CUDNN_DATA_FLOAT, x, &b, between(x.dims));
  }
  Node reduce(cudnnReduceTensorOp_t mode, const Node& x, const Node& y) {
    CudnnDescriptor& kind = add(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    kind.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
        .set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode)
        .finalize("describing a sum");
    operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.descriptor)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y.descriptor)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind)
        .finalize("describing a sum");
    return y;
  }
  Node rows(cudnnReduceTensorOp_t mode, const Node& x) {
    return reduce(mode, x, between({x.dims[0], x.dims[1], x.dims[2], 1}));
  }
  // The last two dimensions exchanged: a view.
  Node transposed(const Node& x, const Dims& strides, cudnnDataType_t type) {
    const Dims dims = {x.dims[0], x.dims[1], x.dims[3], x.dims[2]};
    const Node y = tensor(next_++, type, dims, strides, Place::nowhere);
    operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.descriptor)
        .set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.descriptor)
        .finalize("describing a transposition");
    return y;
  }
  // x where the query's position is at least the key's, else minus infinity
  Node causal(const Node& x, const Node& minus_infinity) {
    const Node row = pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, x, nullptr,
                               between(x.dims, CUDNN_DATA_INT32), nullptr, 2);
    const Node column = pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, x, nullptr,
                                  between(x.dims, CUDNN_DATA_INT32), nullptr, 3);
    const Node visible = pointwise(CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, row, &column,
                                   between(x.dims, CUDNN_DATA_BOOLEAN));
    return pointwise(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, x, &minus_infinity, between(x.dims),
                     &visible);
  }

  CudnnDescriptor& add(cudnnBackendDescriptorType_t type) { return graph_.add(type); }
  CudnnDescriptor& operation(cudnnBackendDescriptorType_t type) { return graph_.operation(type); }

 private:
  Node tensor(std::int64_t id, cudnnDataType_t type, const Dims& dims, const Dims& strides, Place place) {
    return {graph_.tensor(id, type, dims, strides, place), dims};
  }

  CudnnGraph& graph_;
  std::int64_t next_ = 1000;  // above all names in AttentionTensor
};

// The tensors of the packed layout as cuDNN sees them: [batch, heads, context, head_dim] with strides.
class Tensors {
 public:
  Tensors(Writer& w, const HeadLayout& l) : w_(w), l_(l) {
    packed_ = {l.context * l.packed(), l.head_dim, l.packed(), 1};
    packed_t_ = {packed_[0], packed_[1], 1, packed_[2]};
    wide_ = {l.context * l.width(), l.head_dim, l.width(), 1};
    queries_ = {l.batch, l.heads, l.context, l.head_dim};
    keys_ = {l.batch, l.kv_heads, l.context, l.head_dim};
    keys_t_ = {l.batch, l.kv_heads, l.head_dim, l.context};
    scores_ = {l.batch, l.heads, l.context, l.context};
    rows_ = {l.batch, l.heads, l.context, 1};
  }
  Node query(AttentionTensor name) { return w_.bound(name, CUDNN_DATA_BFLOAT16, queries_, packed_); }
  Node key(AttentionTensor name) { return w_.bound(name, CUDNN_DATA_BFLOAT16, keys_, packed_); }
  Node key_t(AttentionTensor name) { return w_.bound(name, CUDNN_DATA_BFLOAT16, keys_t_, packed_t_); }
  Node wide(AttentionTensor name) { return w_.bound(name, CUDNN_DATA_BFLOAT16, queries_, wide_); }
  Node row(AttentionTensor name) {
    return w_.bound(name, CUDNN_DATA_FLOAT, rows_, {l_.heads * l_.context, l_.context, 1, 1});
  }
  Node sum(AttentionTensor name) { return w_.bound(name, CUDNN_DATA_FLOAT, queries_, contiguous(queries_)); }
  Node scores(cudnnDataType_t type = CUDNN_DATA_FLOAT) { return w_.between(scores_, type); }
  const Dims& queries() const { return queries_; }
  const Dims& packed() const { return packed_; }
  Dims scores_transposed() const {
    return {scores_[1] * scores_[2] * scores_[3], scores_[2] * scores_[3], 1, scores_[3]};
  }

 private:
  Writer& w_;
  const HeadLayout& l_;
  Dims packed_, packed_t_, wide_, queries_, keys_, keys_t_, scores_, rows_;
};

void write_forward(Writer& w, Tensors& t) {
  using T = AttentionTensor;
  const Node q = t.query(T::q), k = t.key_t(T::k), v = t.key(T::v), out = t.wide(T::out), lse = t.row(T::lse);
  const Node scale = w.scalar(T::scale), minus_infinity = w.scalar(T::minus_infinity);

  const Node scores = w.binary(CUDNN_POINTWISE_MUL, w.matmul(q, k, t.scores()), scale);
  const Node masked = w.causal(scores, minus_infinity);
  const Node largest = w.rows(CUDNN_REDUCE_TENSOR_MAX, masked);
  const Node e = w.unary(CUDNN_POINTWISE_EXP, w.binary(CUDNN_POINTWISE_SUB, masked, largest));
  const Node sum = w.rows(CUDNN_REDUCE_TENSOR_ADD, e);
  const Node log_sum = w.unary(CUDNN_POINTWISE_LOG, sum);
  w.pointwise(CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, largest, &log_sum, lse);
  const Node p = w.pointwise(CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, e, &sum, t.scores(CUDNN_DATA_BFLOAT16));
  w.matmul(p, v, out);
}

// dk or dv = a^T b. With fewer key heads than query heads each query head has a gradient of its own, in bf16
// as in NVIDIA's pattern, and those of a group are added: one rounding more than the own kernels make.
void write_key_gradient(Writer& w, Tensors& t, const Node& a, const Node& b, const Node& result) {
  const Node a_t = w.transposed(a, t.scores_transposed(), CUDNN_DATA_BFLOAT16);
  if (result.dims[1] == b.dims[1]) {
    w.matmul(a_t, b, result);
    return;
  }
  const Node each = w.matmul(a_t, b, w.between(t.queries(), CUDNN_DATA_BFLOAT16));
  w.reduce(CUDNN_REDUCE_TENSOR_ADD, each, result);
}

// With P = exp(scale Q K^T - lse), dP = dO V^T and row sums r = sum(dO * O):
//   dV = P^T dO,  dS = P * (dP - r) * scale,  dK = dS^T Q,  dQ = dS K
void write_backward(Writer& w, Tensors& t, bool atomic) {
  using T = AttentionTensor;
  const Node q = t.query(T::q), k_t = t.key_t(T::k), v_t = t.key_t(T::v);
  const Node out = t.wide(T::out), dout = t.wide(T::dout), lse = t.row(T::lse);
  const Node dq = t.query(T::dq), dk = t.key(T::dk), dv = t.key(T::dv);
  const Node scale = w.scalar(T::scale), one = w.scalar(T::one), minus_infinity = w.scalar(T::minus_infinity);

  const Node dots = w.rows(CUDNN_REDUCE_TENSOR_ADD, w.binary(CUDNN_POINTWISE_MUL, dout, out));
  // The factor is that of dropout; without one the pattern still has it.
  const Node out_dot = t.row(T::out_dot);
  w.pointwise(CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, dots, &one, out_dot);

  const Node scores = w.binary(CUDNN_POINTWISE_MUL, w.matmul(q, k_t, t.scores()), scale);
  const Node p =
      w.unary(CUDNN_POINTWISE_EXP, w.causal(w.binary(CUDNN_POINTWISE_SUB, scores, lse), minus_infinity));
  write_key_gradient(w, t, p, dout, dv);

  const Node dp = w.matmul(dout, v_t, t.scores());
  const Node centred = w.binary(CUDNN_POINTWISE_SUB, dp, out_dot);
  const Node ds = w.binary(CUDNN_POINTWISE_MUL, w.binary(CUDNN_POINTWISE_MUL, centred, p), scale);
  write_key_gradient(w, t, ds, q, dk);

  const Node k = w.transposed(k_t, t.packed(), CUDNN_DATA_BFLOAT16);
  if (!atomic) {
    w.matmul(ds, k, dq);
    return;
  }
  const Node sum = w.matmul(ds, k, t.sum(T::dq_sum));
  w.pointwise(CUDNN_POINTWISE_IDENTITY, CUDNN_DATA_FLOAT, sum, nullptr, dq);
}

}  // namespace

CudnnGraph attention_graph(std::shared_ptr<const Cudnn> cudnn, AttentionPass pass, const HeadLayout& layout,
                           cudnnHandle_t handle) {
  CudnnGraph graph(std::move(cudnn));
  Writer writer(graph);
  Tensors tensors(writer, layout);
  if (pass == AttentionPass::forward)
    write_forward(writer, tensors);
  else
    write_backward(writer, tensors, pass == AttentionPass::backward_atomic);
  graph.finish(handle, "describing an attention");
  return graph;
}

CudnnWish attention_wish(AttentionPass pass) {
  CudnnWish wish{.what = "an attention", .without = {}};
  if (pass != AttentionPass::backward_atomic) wish.without = {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC};
  return wish;
}

}  // namespace spectrain
