#include <fmt/format.h>

#include <algorithm>

#include "model/operations.h"

namespace spectrain {
namespace {

class Embedding final : public Operation {
 public:
  explicit Embedding(std::int64_t context) : context_(context) {}
  std::string_view name() const override { return "embedding"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    if (in[1].rank() != 2 || (in[2].rank() && (in[2].cols() != in[1].cols() || in[2].rows() < context_)))
      throw std::logic_error(fmt::format("embedding: tables {} and {} do not fit a context of {}",
                                         in[1].str(), in[2].str(), context_));
    return {{Shape{in[0].numel(), in[1].cols()}, false}};
  }
  void forward(const Run& r) const override {
    r.backend->embedding(r.in[0], r.in[1], r.in[2], context_, r.out[0]);
  }
  void backward(const Run& r) const override {
    r.backend->embedding_backward(r.in[0], r.dout[0], context_, r.din[1], r.din[2]);
  }
  bool backward_reads_input(std::size_t i) const override { return i == 0; }
  bool differentiable_input(std::size_t i) const override { return i > 0; }
  bool only_adds(std::size_t i) const override { return i > 0; }
  bool looks_up(std::size_t i) const override { return i > 0; }

 private:
  std::int64_t context_;
};

// The head and the loss in one operation, a chunk of rows at a time: logits of all rows at once would be the
// largest tensor of the whole program. In training the loss, d x and d head of a chunk are made while its
// logits exist, so they are computed once.
class CrossEntropy final : public Operation {
 public:
  CrossEntropy(std::int64_t vocab, const Softcap& cap, const Fp8Head& fp8)
      : vocab_(vocab), cap_(cap), fp8_(fp8) {}
  std::string_view name() const override { return "cross_entropy"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    if (in[1].rank() != 2 || in[0].cols() != in[1][1] || in[1][0] < vocab_ || in[3].numel() != in[0].rows())
      throw std::logic_error(
          fmt::format("cross_entropy: x {}, head {}, targets {} and a vocabulary of {} do not fit",
                      in[0].str(), in[1].str(), in[3].str(), vocab_));
    return {{Shape{in[0].rows()}, true}};
  }
  void forward(const Run& r) const override {
    each_chunk(r, [&](const Chunk& c) {
      r.backend->linear(c.rows_of(r.in[0]), *r.prepared[1], r.in[2], Activation::none, {}, c.logits);
      r.backend->cross_entropy(c.logits, c.entries_of(r.in[3]), vocab_, cap_, 0, c.entries_of(r.out[0]), {});
    });
  }
  void backward(const Run& r) const override {
    each_chunk(r, [&](const Chunk& c) { fp8_.on() ? differentiate_fp8(r, c) : differentiate(r, c); });
  }
  bool backward_reads_input(std::size_t i) const override { return i == 0 || i == 3; }
  bool differentiable_input(std::size_t i) const override { return i < 3; }
  bool prepared_input(std::size_t i) const override { return i == 1; }
  double rounded_input(std::size_t i) const override { return i == 1 ? fp8_.weight_scale : 0; }
  bool accumulates(std::size_t) const override { return true; }
  bool is_loss() const override { return true; }
  // The logits are made in the backward pass too.
  double flops(const Run& r, bool backward) const override {
    const std::int64_t rows = r.in[0].rows();
    return product_flops(rows, r, false) + (backward ? product_flops(rows, r, true) : 0);
  }
  std::size_t workspace_bytes(const std::vector<Shape>& in, DType compute, DType logits, bool training,
                              std::size_t budget) const override {
    const std::size_t row = row_bytes(in[1], compute, logits, training);
    const std::int64_t rows = in[0].rows();
    const auto fit = std::max<std::int64_t>(1, static_cast<std::int64_t>(budget / row));
    const std::int64_t most = fit < rows ? fit / unit(fit, training) * unit(fit, training) : rows;
    return static_cast<std::size_t>(most) * row;
  }

 private:
  // Some rows, and the memory in which their logits exist for a while.
  struct Chunk {
    std::int64_t first, count;
    bool is_first;
    Tensor logits, dlogits;
    Tensor x8, dlogits8;  // for eight-bit floats: room for these rows of x and for their dlogits

    Tensor rows_of(const Tensor& t) const { return t.slice_rows(first, count); }
    Tensor entries_of(const Tensor& t) const {
      return {static_cast<std::byte*>(t.data) + static_cast<std::size_t>(first) * size_of(t.dtype), t.dtype,
              Shape{count}};
    }
  };

  void differentiate(const Run& r, const Chunk& c) const {
    const Tensor x = c.rows_of(r.in[0]);
    const PreparedMatrix& head = *r.prepared[1];
    r.backend->linear(x, head, r.in[2], Activation::none, {}, c.logits);
    differentiate_loss(r, c);
    if (r.din[1]) r.backend->linear_backward_weight(c.dlogits, x, r.din[1], r.accumulate[1] || !c.is_first);
    if (r.din[0]) r.backend->linear_backward_input(c.dlogits, head, c.rows_of(r.din[0]), r.accumulate[0]);
  }
  void differentiate_fp8(const Run& r, const Chunk& c) const {
    const PreparedMatrix& head = *r.rounded[1];
    const Fp8Operand x = r.backend->encode_fp8(Fp8::e4m3, fp8_.x_scale, c.rows_of(r.in[0]), head, c.x8);
    r.backend->linear_fp8(x, head, r.in[2], c.logits);
    differentiate_loss(r, c);
    // The gradient's scale is said of one token's loss, whatever the step makes of the losses.
    const double scale = fp8_.gradient_scale / r.gradient_scale;
    const Fp8Operand dlogits = r.backend->encode_fp8(Fp8::e5m2, scale, c.dlogits, head, c.dlogits8);
    if (r.din[1]) r.backend->linear_backward_weight_fp8(dlogits, x, r.din[1], r.accumulate[1] || !c.is_first);
    if (r.din[0]) r.backend->linear_backward_input_fp8(dlogits, head, c.rows_of(r.din[0]), r.accumulate[0]);
  }
  // From the logits the losses, dlogits and the gradient of the bias.
  void differentiate_loss(const Run& r, const Chunk& c) const {
    if (r.sampled)
      r.backend->sample_targets(c.logits, vocab_, cap_, r.sampled->key, r.sampled->first + c.first,
                                c.entries_of(r.in[3]));
    r.backend->cross_entropy(c.logits, c.entries_of(r.in[3]), vocab_, cap_, r.gradient_scale,
                             c.entries_of(r.out[0]), c.dlogits);
    if (r.din[2]) r.backend->bias_gradient(c.dlogits, r.din[2], r.accumulate[2] || !c.is_first);
  }

  // Gradients in the logits' own dtype take their place. What is made of them for products of eight-bit
  // floats then has a place of its own; else it takes that of the logits.
  std::size_t row_bytes(const Shape& head, DType compute, DType logits, bool training) const {
    const bool fp8 = training && fp8_.on();
    const std::size_t gradient = (training && compute != logits) || fp8 ? size_of(compute) : 0;
    const std::size_t x8 = fp8 ? static_cast<std::size_t>(head[1]) * size_of(compute) : 0;
    return static_cast<std::size_t>(head[0]) * (size_of(logits) + gradient) + x8;
  }
  // Rows, of which chunks have whole multiples where `fit` of them fit the memory: sums over rows of products
  // of eight-bit floats need 16 at a time, and tiles of a GPU's products have 128.
  std::int64_t unit(std::int64_t fit, bool training) const {
    if (!training || !fp8_.on() || fit < 16) return 1;
    return fit < 128 ? 16 : 128;
  }
  // Calls body(Chunk) for chunks of nearly equal size.
  template <class Body>
  void each_chunk(const Run& r, Body body) const {
    const bool training = !r.dout.empty();
    const Shape head{r.prepared[1]->rows(), r.prepared[1]->cols()};
    const std::int64_t rows = r.in[0].rows();
    const DType dtype = r.backend->logits(r.compute);
    const auto fit =
        static_cast<std::int64_t>(r.workspace.bytes() / row_bytes(head, r.compute, dtype, training));
    // The last chunk takes what is left.
    const std::int64_t each = unit(fit, training), units = (rows + each - 1) / each;
    const std::int64_t chunks = fit >= rows ? 1 : (units + fit / each - 1) / (fit / each);
    for (std::int64_t i = 0; i < chunks; ++i) {
      const std::int64_t first = each * (units * i / chunks),
                         end = std::min(rows, each * (units * (i + 1) / chunks));
      body(chunk(r, first, end - first, head, training));
    }
  }
  Chunk chunk(const Run& r, std::int64_t first, std::int64_t count, const Shape& head, bool training) const {
    const Shape shape{count, head[0]};
    Chunk c{first, count, first == 0, {r.workspace.data, r.backend->logits(r.compute), shape}, {}, {}, {}};
    const Tensor second{static_cast<std::byte*>(r.workspace.data) + c.logits.bytes(), r.compute, shape};
    const bool in_place = !training || r.compute == c.logits.dtype;
    c.dlogits = in_place ? c.logits : second;
    if (!training || !fp8_.on()) return c;
    c.dlogits8 = in_place ? second : Tensor{r.workspace.data, r.compute, shape};
    c.x8 = {static_cast<std::byte*>(second.data) + second.bytes(), r.compute, Shape{count, head[1]}};
    return c;
  }

  std::int64_t vocab_;
  Softcap cap_;
  Fp8Head fp8_;
};

}  // namespace

std::unique_ptr<Operation> make_embedding(std::int64_t context) {
  return std::make_unique<Embedding>(context);
}
std::unique_ptr<Operation> make_cross_entropy(std::int64_t vocab, const Softcap& cap, const Fp8Head& fp8) {
  return std::make_unique<CrossEntropy>(vocab, cap, fp8);
}

}  // namespace spectrain
