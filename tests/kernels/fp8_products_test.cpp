#include <gmock/gmock.h>

#include <cstring>

#include "tests/cuda_emulator/cublaslt_emulated.h"
#include "tests/kernels/kernel_cases.h"

// Products of eight-bit floats: against float64 on the rounded numbers on every backend, and what the CUDA
// backend promises of them: which are products of the eight bits themselves, and what is done where there are
// none.

namespace spectrain {
namespace {

constexpr double kScaleX = 2, kScaleW = 32, kScaleDy = 1024;

struct Sizes {
  std::int64_t r, n, k;
  // Of which a GPU has products.
  bool whole() const { return r % 16 == 0 && n % 16 == 0 && k % 16 == 0; }
};

class Fp8Products : public KernelTest {
 protected:
  void TearDown() override {
    emulator::refuse_eight_bits(false);
    KernelTest::TearDown();
  }
  bool emulated() const { return !on_cpu() && GetParam().kind != Setup::Kind::gpu; }

  struct Layer {
    Twin x, w, bias, dy, memory_x, memory_dy;
    Twin y, dx, dx_sum, dw, dw_sum;
  };
  Layer layer(const Sizes& s, DType compute, DType weights) {
    return {random({s.r, s.k}, compute),       random({s.n, s.k}, weights, 0.05), bias(s.n),
            random({s.r, s.n}, compute, 0.01), output({s.r, s.k}, compute),       output({s.r, s.n}, compute),
            output({s.r, s.n}, compute),       output({s.r, s.k}, compute),       random({s.r, s.k}, compute),
            output({s.n, s.k}, DType::f32),    random({s.n, s.k}, DType::f32)};
  }
  // Of numbers that are exact in y's dtype, in which a GPU adds it.
  Twin bias(std::int64_t n) {
    const Twin b = random({n}, DType::f32);
    for (std::int64_t i = 0; i < n; ++i)
      b.tested.as<float>()[i] = static_cast<float>(bf16(b.tested.as<float>()[i]));
    widen(b);
    return b;
  }
  // All five products of a layer on one backend. The weights come with a refresh, as in training.
  static void run(Backend& b, const Layer& l, Tensor Twin::*side, DType compute, bool with_bias) {
    const auto of = [side](const Twin& t) { return t.*side; };
    b.fill(of(l.dw), 0.5);
    const auto w = b.prepare_fp8(kScaleW, of(l.dw), compute);
    b.fill(of(l.dw), std::numeric_limits<double>::quiet_NaN());
    b.refresh_fp8(*w, of(l.w));
    const Fp8Operand x = b.encode_fp8(Fp8::e4m3, kScaleX, of(l.x), *w, of(l.memory_x));
    b.linear_fp8(x, *w, with_bias ? of(l.bias) : Tensor{}, of(l.y));
    const Fp8Operand dy = b.encode_fp8(Fp8::e5m2, kScaleDy, of(l.dy), *w, of(l.memory_dy));
    b.linear_backward_weight_fp8(dy, x, of(l.dw), false);
    b.linear_backward_weight_fp8(dy, x, of(l.dw_sum), true);
    b.linear_backward_input_fp8(dy, *w, of(l.dx), false);
    b.linear_backward_input_fp8(dy, *w, of(l.dx_sum), true);
  }
  void expect_agreement(const Layer& l, const Sizes& s) {
    // Fast sums in the tensor cores have some 14 bits.
    const double fast = GetParam().kind == Setup::Kind::gpu ? 0x1p10 : 1;
    const auto k = static_cast<double>(s.k), n = static_cast<double>(s.n), r = static_cast<double>(s.r);
    expect_close(l.y, fast, k, "y");
    expect_close(l.dx, 1, n, "dx");
    expect_close(l.dx_sum, 1, n, "dx added");
    expect_close(l.dw, 1, r, "dw");
    expect_close(l.dw_sum, 1, r, "dw added");
  }
  // Bits of everything that products make.
  static std::vector<unsigned char> bits(const Layer& l) {
    std::vector<unsigned char> all;
    for (const Twin* t : {&l.y, &l.dx, &l.dx_sum, &l.dw, &l.dw_sum}) {
      const auto* first = static_cast<const unsigned char*>(t->tested.data);
      all.insert(all.end(), first, first + t->tested.bytes());
    }
    return all;
  }
};

TEST_P(Fp8Products, AgreeWithFloat64OnTheRoundedNumbers) {
  for (const Sizes& s : {Sizes{16, 32, 48},
                         {64, 16, 16},
                         {144, 80, 64},
                         {32, 272, 96},
                         {17, 32, 48},
                         {24, 16, 32},
                         {32, 23, 48},
                         {16, 32, 40},
                         {1, 1, 1}})
    for (const DType compute : {DType::bf16, DType::f32})
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(testing::Message() << s.r << " " << s.n << " " << s.k << " " << name_of(compute)
                                        << (with_bias ? " with bias" : ""));
        const Layer l = layer(s, compute, with_bias ? compute : DType::f32);
        const auto before = emulator::cublaslt_counts();
        run(cpu(), l, &Twin::tested, compute, with_bias);
        const auto after = emulator::cublaslt_counts();
        run(exact(), l, &Twin::exact, DType::f64, with_bias);
        expect_agreement(l, s);
        if (!emulated()) continue;
        const bool real = compute == DType::bf16 && s.whole();
        EXPECT_EQ(after.eight_bit - before.eight_bit, real ? 5 : 0);
        EXPECT_EQ(after.fast_sums - before.fast_sums, real ? 1 : 0);  // the logits
      }
}

SPECTRAIN_KERNEL_TEST_ALL(Fp8Products);

// ---- the CUDA backend, emulated

class Fp8OnCuda : public testing::Test {
 protected:
  void SetUp() override { emulator::set_order(emulator::Order::ascending); }
  void TearDown() override { emulator::refuse_eight_bits(false); }

  // What the three products of a layer make of the same numbers, and what the backend says.
  struct Made {
    std::vector<std::vector<float>> results;
    std::int64_t eight_bit = 0;
    std::vector<std::string> notes;
  };
  static Made layer(const CudaOptions& options, std::int64_t rows, std::int64_t n = 64, std::int64_t k = 48) {
    const auto device = make_emulated_cuda_backend(options);
    Backend& b = *device;
    std::vector<std::unique_ptr<Buffer>> buffers;
    const auto space = [&](Shape shape, DType dtype) {
      buffers.push_back(
          b.allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype), "a test tensor"));
      return buffers.back()->view(dtype, shape);
    };
    const auto random = [&](Shape shape, DType dtype, float deviation) {
      const Tensor t = space(shape, dtype);
      b.fill_normal(t, {5, buffers.size()}, 0, deviation);
      return t;
    };
    const Tensor x = random({rows, k}, DType::bf16, 1), w = random({n, k}, DType::f32, 0.05f),
                 dy = random({rows, n}, DType::bf16, 0.01f);
    const Tensor mx = space(x.shape, x.dtype), mdy = space(dy.shape, dy.dtype);
    const Tensor y = space(dy.shape, DType::f32), dx = space(x.shape, DType::f32),
                 dw = space(w.shape, w.dtype);
    const auto before = emulator::cublaslt_counts().eight_bit;
    const auto matrix = b.prepare_fp8(kScaleW, w, DType::bf16);
    for (int time = 0; time < 2; ++time) {
      const Fp8Operand x8 = b.encode_fp8(Fp8::e4m3, kScaleX, x, *matrix, mx);
      b.linear_fp8(x8, *matrix, {}, y);
      const Fp8Operand dy8 = b.encode_fp8(Fp8::e5m2, kScaleDy, dy, *matrix, mdy);
      b.linear_backward_weight_fp8(dy8, x8, dw, false);
      b.linear_backward_input_fp8(dy8, *matrix, dx, false);
    }
    Made made;
    made.eight_bit = emulator::cublaslt_counts().eight_bit - before;
    made.notes = b.notes();
    EXPECT_TRUE(b.notes().empty());
    for (const Tensor& t : {y, dx, dw}) {
      made.results.emplace_back(static_cast<std::size_t>(t.numel()));
      b.copy_to_host(made.results.back().data(), t);
    }
    return made;
  }
  static CudaOptions ampere() {
    CudaOptions options;
    options.most_capability = 80;
    return options;
  }
};

TEST_F(Fp8OnCuda, HopperMultipliesEightBitsAndAmpereRoundedNumbers) {
  const Made hopper = layer({}, 32), old = layer(ampere(), 32);
  EXPECT_EQ(hopper.eight_bit, 6);
  EXPECT_EQ(old.eight_bit, 0);
  EXPECT_TRUE(hopper.notes.empty());
  EXPECT_TRUE(old.notes.empty());  // it never had any
  // Scales are powers of two, and the emulated library adds in the same order: the same sums.
  EXPECT_EQ(hopper.results, old.results);
}

// Decoded, the numbers are those that rounding gives.
TEST_F(Fp8OnCuda, ALibraryThatRefusesCostsSpeedAlone) {
  const Made old = layer(ampere(), 32);
  emulator::refuse_eight_bits(true);
  const Made refused = layer({}, 32);
  EXPECT_EQ(refused.eight_bit, 0);
  EXPECT_EQ(refused.results, old.results);
  ASSERT_EQ(refused.notes.size(), 3u);  // one for each product
  EXPECT_THAT(refused.notes[0], testing::HasSubstr("cuBLASLt 13.1.0 has none for [32, 48] . [64, 48]^T."));
}

TEST_F(Fp8OnCuda, OddSizesCostSpeedAlone) {
  const Made rows = layer({}, 24), old_rows = layer(ampere(), 24);
  EXPECT_EQ(rows.eight_bit, 0);
  EXPECT_EQ(rows.results, old_rows.results);
  ASSERT_FALSE(rows.notes.empty());
  EXPECT_THAT(rows.notes[0],
              testing::HasSubstr("[24, 48] . [64, 48]^T has a size that is no multiple of 16."));
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{24, 48}, {32, 40}}) {
    const Made sizes = layer({}, 32, n, k), old_sizes = layer(ampere(), 32, n, k);
    EXPECT_EQ(sizes.eight_bit, 0);
    EXPECT_EQ(sizes.results, old_sizes.results);
    ASSERT_EQ(sizes.notes.size(), 1u);
    EXPECT_THAT(sizes.notes[0], testing::HasSubstr("has a size that is no multiple of 16."));
  }
}

TEST_F(Fp8OnCuda, MemoryIsWhatIsSaid) {
  for (Backend* b : {make_emulated_cuda_backend().release(), make_emulated_cuda_backend(ampere()).release(),
                     make_cpu_backend().release()}) {
    const std::unique_ptr<Backend> owned(b);
    for (const DType compute : {DType::bf16, DType::f32})
      for (const Shape shape : {Shape{32, 48}, {23, 40}}) {
        const auto memory = b->allocate(static_cast<std::size_t>(shape.numel()) * 4, "a test tensor");
        const Tensor w = memory->view(DType::f32, shape);
        b->fill(w, 0.5);
        const std::size_t before = b->allocated_bytes(), said = b->prepared_fp8_bytes(shape, compute);
        const auto matrix = b->prepare_fp8(kScaleW, w, compute);
        EXPECT_EQ(b->allocated_bytes() - before, said) << b->name() << shape.str() << name_of(compute);
        EXPECT_EQ(matrix->rows(), shape[0]);
        EXPECT_EQ(matrix->cols(), shape[1]);
      }
  }
}

TEST_F(Fp8OnCuda, MatricesOfOtherKindsAreRefused) {
  const auto device = make_emulated_cuda_backend();
  const auto memory = device->allocate(16 * 16 * 4, "a test tensor");
  const Tensor w = memory->view(DType::f32, {16, 16}), x = memory->view(DType::bf16, {16, 16});
  const auto plain = device->prepare(w, DType::bf16, true), eight = device->prepare_fp8(1, w, DType::bf16);
  EXPECT_THROW(device->encode_fp8(Fp8::e4m3, 1, x, *plain, x), std::logic_error);
  EXPECT_THROW(device->linear(x, *eight, {}, Activation::none, {}, x), std::logic_error);
  EXPECT_THROW(device->encode_fp8(Fp8::e4m3, 1, x, *eight, w), std::logic_error);  // not bf16
  EXPECT_THROW(device->encode_fp8(Fp8::e4m3, 0, x, *eight, x), std::logic_error);
  const Fp8Operand rounded{x, Fp8::e4m3, 1, false};
  EXPECT_THROW(device->linear_fp8(rounded, *eight, {}, x), std::logic_error);
  EXPECT_THROW(device->linear_backward_input_fp8(rounded, *eight, x, false), std::logic_error);
}

}  // namespace
}  // namespace spectrain
