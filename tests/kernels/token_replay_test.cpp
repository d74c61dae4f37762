#include <functional>
#include <vector>

#include "tests/kernels/kernel_cases.h"

// What the CUDA backend's token and update kernels promise beside their results, seen on the emulated GPU
// itself, whose memory the host can read: they take tensors at any address, they ask the host for nothing,
// and they can be recorded and replayed.

namespace spectrain {
namespace {

class TokenReplay : public ::testing::Test {
 protected:
  TokenReplay() : gpu_(make_emulated_cuda_backend()) {}
  // `offset` elements behind an aligned address.
  Tensor random(Shape shape, DType dtype, std::int64_t offset = 0) {
    const Tensor t = space(shape, dtype, offset);
    gpu_->fill_normal(t, {3, ++draws_}, 0, 1);
    return t;
  }
  Tensor space(Shape shape, DType dtype, std::int64_t offset = 0) {
    const std::size_t skipped = static_cast<std::size_t>(offset) * size_of(dtype);
    buffers_.push_back(
        gpu_->allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype) + skipped, "a test tensor"));
    return buffers_.back()->view(dtype, shape, skipped);
  }
  Tensor whole(Shape shape, std::int64_t limit) {
    const Tensor t = space(shape, DType::i32);
    for (std::int64_t i = 0; i < shape.numel(); ++i)
      t.as<std::int32_t>()[i] = static_cast<std::int32_t>((i * 7919 + 13) % limit);
    return t;
  }
  Tensor copy_of(const Tensor& t, std::int64_t offset = 0) {
    const Tensor c = space(t.shape, t.dtype, offset);
    gpu_->copy(t, c);
    return c;
  }
  void expect_same(const Tensor& a, const Tensor& b, const char* what) {
    gpu_->synchronize();
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << what;
  }
  Backend& gpu() { return *gpu_; }

 private:
  std::unique_ptr<Backend> gpu_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::uint64_t draws_ = 0;
};

// Element-wise kernels do the same whether they take four elements at a time or one.
TEST_F(TokenReplay, UpdatesTakeTensorsAtAnyAddress) {
  const Shape shape{3, 101, 4};
  AdamWStep s;
  s.lr = 0.1;
  const Tensor g = random(shape, DType::f32), w = random(shape, DType::f32), m = random(shape, DType::f32);
  const Tensor v = space(shape, DType::f32), u = space(shape, DType::bf16);
  gpu().fill_uniform(v, {1, 1}, 0, 1);
  std::vector<std::vector<Tensor>> all;
  for (const std::int64_t offset : {0, 1}) {
    std::vector<Tensor> t;
    for (const Tensor& x : {g, w, m, v, u}) t.push_back(copy_of(x, offset));
    gpu().adamw(s, {{t[1], t[0], t[2], t[3]}});
    gpu().ema_momentum({0.9, true, {}, 0.5}, {{t[0], t[2], t[4]}});
    gpu().apply_update(0.99, 0.1, {{t[1], t[4]}});
    gpu().axpby(2, t[4], 0.5, t[3]);
    gpu().normalize(t[2], 1.1, t[4]);
    all.push_back(t);
  }
  for (const std::size_t i : {0, 1, 2, 3}) expect_same(all[0][i], all[1][i], "an update");
  // The norm's terms are added in another order, which may move its last bit and with it a rounding.
  gpu().synchronize();
  for (std::int64_t i = 0; i < u.numel(); ++i)
    EXPECT_NEAR(element(all[0][4], i), element(all[1][4], i), 0x1p-7 * std::abs(element(all[0][4], i)));
}

TEST_F(TokenReplay, TokenKernelsTakeTensorsAtAnyAddress) {
  const std::int64_t R = 200, C = 24, V = 40;
  const Tensor tokens = whole({R}, V), table = random({V, C}, DType::f32), dout = random({R, C}, DType::bf16);
  const Tensor logits = random({R, V}, DType::bf16), start = random({V, C}, DType::f32);
  std::vector<std::vector<Tensor>> all;
  for (const std::int64_t offset : {0, 1}) {
    const Tensor out = space({R, C}, DType::bf16, offset), dtable = copy_of(start, offset);
    const Tensor losses = space({R}, DType::f32, offset), db = space({C}, DType::f32, offset);
    const Tensor positions = copy_of(start, offset);
    gpu().embedding(tokens, copy_of(table, offset), positions, V, out);
    gpu().embedding_backward(tokens, copy_of(dout, offset), V, dtable, positions);
    gpu().cross_entropy(copy_of(logits, offset), tokens, V, {}, 1, losses, {});
    gpu().bias_gradient(copy_of(dout, offset), db, false);
    all.push_back({out, dtable, positions, db, losses});
  }
  for (const std::size_t i : {0, 1, 2, 3}) expect_same(all[0][i], all[1][i], "a token kernel");
  for (std::int64_t r = 0; r < R; ++r) EXPECT_NEAR(element(all[0][4], r), element(all[1][4], r), 1e-6);
}

TEST_F(TokenReplay, KernelsAreReplayedBitForBitAndNobodyWaits) {
  const std::int64_t R = 1100, C = 12, V = 300;
  const Tensor tokens = whole({R}, V), dout = random({R, C}, DType::bf16),
               dtable = random({V, C}, DType::f32);
  const Tensor dpositions = random({R, C}, DType::f32), logits = random({R, V}, DType::bf16);
  const Tensor losses = space({R}, DType::f32), db = space({C}, DType::f32),
               x = random({4, 9, 8}, DType::f32);
  const Tensor y = space({4, 9, 8}, DType::bf16);
  const std::vector<Tensor> changed = {dtable, dpositions, logits, losses, db, x, y};
  const auto work = [&] {
    gpu().embedding_backward(tokens, dout, R, dtable, dpositions);
    gpu().cross_entropy(logits, tokens, V, {.kind = Softcap::Kind::rational, .cap = 15}, 1, losses, logits);
    gpu().bias_gradient(dout, db, false);
    gpu().normalize(x, 1, y);
    gpu().axpby(0.5, y, 0.5, x);
  };
  const auto save = [&] {
    std::vector<Tensor> copies;
    for (const Tensor& t : changed) copies.push_back(copy_of(t));
    return copies;
  };
  work();  // scratch memory grows now
  const auto start = save();
  const std::int64_t waits = emulator::counts().synchronizations;
  work();
  EXPECT_EQ(emulator::counts().synchronizations, waits);
  const auto wanted = save();
  const auto replay = gpu().record(work);
  for (std::size_t i = 0; i < changed.size(); ++i) gpu().copy(start[i], changed[i]);
  replay->run();
  for (std::size_t i = 0; i < changed.size(); ++i) expect_same(wanted[i], changed[i], "replayed");
}

}  // namespace
}  // namespace spectrain
