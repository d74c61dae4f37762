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
    each_chunk(
        r, [&](std::int64_t first, std::int64_t count, const Tensor& logits, const Tensor&, const Tensor&) {
          r.backend->linear(r.in[0].slice_rows(first, count), *r.prepared[1], r.in[2], Activation::none, {},
                            logits);
          r.backend->cross_entropy(logits, entries(r.in[3], first, count), vocab_, cap_, 0,
                                   entries(r.out[0], first, count), {});
        });
  }
  void backward(const Run& r) const override {
    bool first_chunk = true;
    const PreparedMatrix& head = fp8_.on() ? *r.rounded[1] : *r.prepared[1];
    each_chunk(r, [&](std::int64_t first, std::int64_t count, const Tensor& logits, const Tensor& dlogits,
                      const Tensor& rounded) {
      Tensor x = r.in[0].slice_rows(first, count);
      if (fp8_.on()) {
        r.backend->round_fp8(Fp8::e4m3, fp8_.x_scale, x, rounded);
        x = rounded;
      }
      r.backend->linear(x, head, r.in[2], Activation::none, {}, logits);
      if (r.sampled)
        r.backend->sample_targets(logits, vocab_, cap_, r.sampled->key, r.sampled->first + first,
                                  entries(r.in[3], first, count));
      r.backend->cross_entropy(logits, entries(r.in[3], first, count), vocab_, cap_, r.gradient_scale,
                               entries(r.out[0], first, count), dlogits);
      if (r.din[2]) r.backend->bias_gradient(dlogits, r.din[2], r.accumulate[2] || !first_chunk);
      // The gradient's scale is said of one token's loss, whatever the step makes of the losses.
      if (fp8_.on())
        r.backend->round_fp8(Fp8::e5m2, fp8_.gradient_scale / r.gradient_scale, dlogits, dlogits);
      if (r.din[1]) r.backend->linear_backward_weight(dlogits, x, r.din[1], r.accumulate[1] || !first_chunk);
      if (r.din[0])
        r.backend->linear_backward_input(dlogits, head, r.din[0].slice_rows(first, count), r.accumulate[0]);
      first_chunk = false;
    });
  }
  bool backward_reads_input(std::size_t i) const override { return i == 0 || i == 3; }
  bool differentiable_input(std::size_t i) const override { return i < 3; }
  bool prepared_input(std::size_t i) const override { return i == 1; }
  double rounded_input(std::size_t i) const override { return i == 1 ? fp8_.weight_scale : 0; }
  bool accumulates(std::size_t) const override { return true; }
  bool is_loss() const override { return true; }
  // The logits are made in the backward pass too.
  double flops(const Run& r, bool backward) const override {
    const double once = 2.0 * static_cast<double>(r.in[0].rows()) *
                        static_cast<double>(r.prepared[1]->rows()) *
                        static_cast<double>(r.prepared[1]->cols());
    return backward ? once * (1 + (r.din[0] ? 1 : 0) + (r.din[1] ? 1 : 0)) : once;
  }
  std::size_t workspace_bytes(const std::vector<Shape>& in, DType compute, DType logits, bool training,
                              std::size_t budget) const override {
    const std::size_t row = row_bytes(in[1], compute, logits, training);
    const auto rows = static_cast<std::size_t>(in[0].rows());
    return std::max<std::size_t>(1, std::min(rows, budget / row)) * row;
  }

 private:
  // Gradients in the logits' own dtype take their place.
  std::size_t row_bytes(const Shape& head, DType compute, DType logits, bool training) const {
    const std::size_t gradient = training && compute != logits ? size_of(compute) : 0;
    const std::size_t rounded =
        training && fp8_.on() ? static_cast<std::size_t>(head[1]) * size_of(compute) : 0;
    return static_cast<std::size_t>(head[0]) * (size_of(logits) + gradient) + rounded;
  }
  static Tensor entries(const Tensor& t, std::int64_t first, std::int64_t count) {
    return {static_cast<std::byte*>(t.data) + static_cast<std::size_t>(first) * size_of(t.dtype), t.dtype,
            Shape{count}};
  }
  // Calls body(first row, rows, logits, dlogits, room for rounded rows of x) over chunks of nearly equal
  // size.
  template <class Body>
  void each_chunk(const Run& r, Body body) const {
    const bool training = !r.dout.empty();
    const Shape head{r.prepared[1]->rows(), r.prepared[1]->cols()};
    const std::int64_t columns = head[0], rows = r.in[0].rows();
    const DType dtype = r.backend->logits(r.compute);
    const auto fit =
        static_cast<std::int64_t>(r.workspace.bytes() / row_bytes(head, r.compute, dtype, training));
    const std::int64_t chunks = (rows + fit - 1) / fit;
    for (std::int64_t c = 0; c < chunks; ++c) {
      const std::int64_t first = rows * c / chunks, count = rows * (c + 1) / chunks - first;
      const Tensor logits{r.workspace.data, dtype, Shape{count, columns}};
      std::byte* const after = static_cast<std::byte*>(r.workspace.data) + logits.bytes();
      Tensor dlogits = logits, rounded;
      if (training && r.compute != dtype) dlogits = {after, r.compute, Shape{count, columns}};
      if (training && fp8_.on())
        rounded = {after + (dlogits.data == logits.data ? 0 : dlogits.bytes()), r.compute,
                   Shape{count, head[1]}};
      body(first, count, logits, dlogits, rounded);
    }
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
