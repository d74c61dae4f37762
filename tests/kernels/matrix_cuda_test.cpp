#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/cuda/product_plans.h"
#include "tests/cuda_emulator/cublaslt_emulated.h"
#include "tests/kernels/matrix_cases.h"

// What the matrix products of the CUDA backend promise beyond their results (matrix_linear_test.cpp and
// matrix_optimizer_test.cpp): which algorithm is used when, memory, graphs, odd pointers. On the emulated
// GPU, where the library's choices can be seen, and as far as it goes on the one that is there.

namespace spectrain {
namespace {

using namespace matrix_cases;
namespace fs = std::filesystem;

// A tensor on the device.
class Held {
 public:
  // `offset`: elements by which it misses the alignment of the memory it lies in.
  Held(Backend& backend, Operand& host, std::int64_t offset = 0)
      : backend_(backend),
        memory_(backend.allocate(host.tensor().bytes() + 64, "a test tensor")),
        tensor_(static_cast<std::byte*>(memory_->data()) +
                    static_cast<std::size_t>(offset) * size_of(host.dtype()),
                host.dtype(), host.tensor().shape) {
    backend.copy_from_host(tensor_, host.tensor().data);
  }
  const Tensor& tensor() const { return tensor_; }
  Operand read() const {
    Operand host(tensor_.rows(), tensor_.cols(), tensor_.dtype, 0);
    backend_.copy_to_host(host.tensor().data, tensor_);
    return host;
  }

 private:
  Backend& backend_;
  std::unique_ptr<Buffer> memory_;
  Tensor tensor_;
};

std::string where(const testing::TestParamInfo<bool>& info) { return info.param ? "emulated" : "gpu"; }

class MatrixCuda : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    emulator::set_order(emulator::Order::ascending);
    backend_ = make({});
    if (!backend_) GTEST_SKIP() << "no GPU: " << reason_;
  }
  std::unique_ptr<Backend> make(const CudaOptions& options) {
    return emulated() ? make_emulated_cuda_backend(options) : make_cuda_backend(options, reason_);
  }
  bool emulated() const { return GetParam(); }

  std::string reason_;
  std::unique_ptr<Backend> backend_;
};

INSTANTIATE_TEST_SUITE_P(Cuda, MatrixCuda, testing::Values(true, false), where);

void expect_product(const Operand& a, const Operand& b, const Operand& c, double alpha, double beta,
                    const Operand& before) {
  for (std::int64_t i = 0; i < c.rows(); ++i)
    for (std::int64_t j = 0; j < c.cols(); ++j) {
      double wanted = beta == 0 ? 0 : beta * before.at(i, j);
      for (std::int64_t k = 0; k < a.cols(); ++k) wanted += alpha * a.at(i, k) * b.at(j, k);
      ASSERT_NEAR(c.at(i, j), wanted, std::max(1.0, std::abs(alpha)) * bound(wanted, a.cols(), c.dtype()))
          << i << ", " << j;
    }
}

TEST_P(MatrixCuda, MemoryIsCountedAndNothingIsAllocatedOnceWarm) {
  for (DType compute : {DType::f32, DType::bf16}) {
    Operand xs(70, 130, compute, 1), ws(90, 130, DType::f32, 2), ys(70, 90, compute, 3),
        biases(1, 90, DType::f32, 5);
    const Held x(*backend_, xs), w(*backend_, ws), y(*backend_, ys), dw(*backend_, ws), dx(*backend_, xs),
        bias(*backend_, biases);
    const std::size_t before = backend_->allocated_bytes();
    auto matrix = backend_->prepare(w.tensor(), compute, true);
    const std::size_t prepared = backend_->prepared_bytes({90, 130}, compute, true);
    EXPECT_EQ(prepared, 90 * 130 * size_of(compute));
    EXPECT_EQ(backend_->allocated_bytes() - before, prepared);
    const auto step = [&] {
      backend_->linear(x.tensor(), *matrix, bias.tensor().reshaped({90}), Activation::none, Tensor(),
                       y.tensor());
      backend_->linear_backward_input(y.tensor(), *matrix, dx.tensor(), true);
      backend_->linear_backward_weight(y.tensor(), x.tensor(), dw.tensor(), true);
      backend_->refresh(*matrix, w.tensor());
    };
    step();
    const std::size_t warm = backend_->allocated_bytes();
    const auto asked = emulator::cublaslt_counts().asked;
    step();
    EXPECT_EQ(backend_->allocated_bytes(), warm);
    EXPECT_EQ(emulator::cublaslt_counts().asked, asked);  // one choice for each product
    matrix.reset();
    EXPECT_EQ(backend_->allocated_bytes(), warm - prepared);
  }
}

TEST_P(MatrixCuda, ContentsAreTheRoundedWeights) {
  Operand ws(5, 7, DType::f32, 2);
  const Held w(*backend_, ws);
  const auto matrix = backend_->prepare(w.tensor(), DType::bf16, true);
  const std::vector<std::byte> bytes = backend_->contents(*matrix);
  ASSERT_EQ(bytes.size(), 5u * 7 * 2);
  for (std::int64_t i = 0; i < 35; ++i)
    EXPECT_EQ(static_cast<float>(reinterpret_cast<const bf16*>(bytes.data())[i]),
              as_computed(ws.get(i), DType::bf16));
}

// Rows of slices begin anywhere: pointers no better aligned than their elements.
TEST_P(MatrixCuda, PointersMayBeUnaligned) {
  for (const auto& [in, out] : {std::pair{DType::f32, DType::f32},
                                {DType::bf16, DType::bf16},
                                {DType::bf16, DType::f32},
                                {DType::f16, DType::f16}})
    for (int which = 0; which < 8; ++which) {
      SCOPED_TRACE(testing::Message() << name_of(in) << " to " << name_of(out) << ", " << which);
      Operand as(34, 40, in, 1), bs(24, 40, in, 2), cs(34, 24, out, 3);
      const Held a(*backend_, as, which & 1), b(*backend_, bs, (which >> 1) & 1),
          c(*backend_, cs, (which >> 2) & 1);
      backend_->matmul(a.tensor(), false, b.tensor(), true, 0.5f, -1.0f, c.tensor());
      expect_product(as, bs, c.read(), 0.5, -1, cs);
    }
}

TEST_P(MatrixCuda, UnalignedEpilogues) {
  for (std::int64_t offset : {0, 1, 3})
    for (std::int64_t n : {24, 27}) {
      SCOPED_TRACE(testing::Message() << offset << ", " << n);
      Operand xs(34, 40, DType::bf16, 1), ws(n, 40, DType::f32, 2), ys(34, n, DType::bf16, 3),
          biases(1, n, DType::f32, 4);
      const Held x(*backend_, xs), w(*backend_, ws), y(*backend_, ys, offset), pre(*backend_, ys, offset),
          bias(*backend_, biases, offset), gelu(*backend_, ys);
      const auto matrix = backend_->prepare(w.tensor(), DType::bf16, false);
      backend_->linear(x.tensor(), *matrix, bias.tensor().reshaped({n}), Activation::gelu_tanh, pre.tensor(),
                       y.tensor());
      backend_->activation(Activation::gelu_tanh, pre.tensor(), gelu.tensor());
      const Operand got = y.read(), z = pre.read(), after = gelu.read();
      for (std::int64_t i = 0; i < 34; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
          double wanted = as_computed(biases.at(0, j), DType::bf16);
          for (std::int64_t k = 0; k < 40; ++k) wanted += xs.at(i, k) * as_computed(ws.at(j, k), DType::bf16);
          ASSERT_NEAR(z.at(i, j), wanted, bound(wanted, 40, DType::bf16));
          // GELU of the sum and of the rounded sum.
          ASSERT_NEAR(got.at(i, j), after.at(i, j),
                      1.13 * bound(wanted, 40, DType::bf16) +
                          2.02 * epsilon(DType::bf16) * std::abs(after.at(i, j)) +
                          0x1p-12 * std::abs(wanted));
        }
    }
}

TEST_P(MatrixCuda, SlopesAtAnyAddress) {
  for (std::int64_t offset : {0, 1, 3})
    for (std::int64_t k : {24, 27}) {
      SCOPED_TRACE(testing::Message() << offset << ", " << k);
      Operand dys(34, 40, DType::bf16, 1), ws(40, k, DType::f32, 2), zs(34, k, DType::bf16, 3);
      const Held dy(*backend_, dys), w(*backend_, ws), z(*backend_, zs, offset), dx(*backend_, zs, offset),
          apart(*backend_, zs);
      const auto matrix = backend_->prepare(w.tensor(), DType::bf16, true);
      const std::int64_t products = emulator::cublaslt_counts().products,
                         launches = emulator::counts().launches;
      backend_->linear_activation_backward(dy.tensor(), *matrix, Activation::gelu_tanh, z.tensor(),
                                           dx.tensor());
      if (emulated()) {
        EXPECT_EQ(emulator::cublaslt_counts().products - products, 1);
        EXPECT_EQ(emulator::counts().launches - launches, offset == 0 && k == 24 ? 0 : 1)
            << "kernels beside the library's";
      }
      backend_->linear_backward_input(dy.tensor(), *matrix, apart.tensor(), false);
      backend_->activation_backward(Activation::gelu_tanh, apart.tensor(), z.tensor(), apart.tensor());
      const Operand got = dx.read(), wanted = apart.read();
      for (std::int64_t i = 0; i < 34 * k; ++i)
        ASSERT_NEAR(got.get(i), wanted.get(i), 2.02 * epsilon(DType::bf16) * std::abs(wanted.get(i)) + 0x1p-9)
            << i;
    }
}

// No sum depends on how many blocks there are: three odd sizes are what the emulated library refuses, so that
// own kernels do it.
TEST_P(MatrixCuda, FewBlocksAreManyBitForBit) {
  CudaOptions one;
  one.max_blocks = 1;
  const auto few = make(one);
  Operand as(131, 77, DType::bf16, 1), bs(201, 77, DType::bf16, 2), cs(131, 201, DType::f32, 3);
  std::vector<unsigned char> bytes[2];
  int i = 0;
  for (Backend* backend : {backend_.get(), few.get()}) {
    const Held a(*backend, as), b(*backend, bs), c(*backend, cs);
    backend->matmul(a.tensor(), false, b.tensor(), true, 1.0f, 1.0f, c.tensor());
    const Operand result = c.read();
    expect_product(as, bs, result, 1, 1, cs);
    bytes[i++] = result.bytes();
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST_P(MatrixCuda, AReplayIsTheProductAgain) {
  Operand as(34, 40, DType::bf16, 1), bs(24, 40, DType::bf16, 2), cs(34, 24, DType::f32, 3);
  const Held a(*backend_, as), b(*backend_, bs), c(*backend_, cs), d(*backend_, cs);
  const auto work = [&](const Tensor& result) {
    backend_->matmul(a.tensor(), false, b.tensor(), true, 1.5f, 1.0f, result);
  };
  work(c.tensor());
  work(d.tensor());
  const auto replay = backend_->record([&] { work(d.tensor()); });
  ASSERT_NE(replay, nullptr);
  replay->run();
  work(c.tensor());
  EXPECT_EQ(c.read().bytes(), d.read().bytes());
}

TEST_P(MatrixCuda, AProductThatWasNotRunBeforeIsNotRecorded) {
  Operand as(36, 40, DType::bf16, 1), bs(28, 40, DType::bf16, 2), cs(36, 28, DType::f32, 3);
  const Held a(*backend_, as), b(*backend_, bs), c(*backend_, cs);
  const auto record = [&] {
    backend_->record([&] { backend_->matmul(a.tensor(), false, b.tensor(), true, 1, 0, c.tensor()); });
  };
  backend_->synchronize();
  EXPECT_THROW(record(), std::logic_error);
  // Another product of theirs makes the library's handle and workspace.
  Operand others(28, 36, DType::f32, 4);
  const Held other(*backend_, others);
  backend_->matmul(b.tensor(), false, a.tensor(), true, 1, 0, other.tensor());
  try {
    record();
    FAIL() << "recorded a product nobody chose an algorithm for";
  } catch (const std::logic_error& e) {
    EXPECT_NE(std::string(e.what()).find("[36, 40] . [28, 40]^T"), std::string::npos) << e.what();
  }
}

class MatrixPlans : public MatrixCuda {
 protected:
  void SetUp() override {
    MatrixCuda::SetUp();
    if (IsSkipped()) return;
    std::string name = (fs::temp_directory_path() / "spectrain-plans-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    options_.plan_cache = (directory_ / "products.plans").string();
  }
  void TearDown() override {
    if (!directory_.empty()) fs::remove_all(directory_);
  }
  // c = a . b^T + c on a new backend with the file of plans.
  void multiply() {
    const auto backend = make(options_);
    ASSERT_NE(backend, nullptr);
    Operand as(34, 40, DType::bf16, 1), bs(24, 40, DType::bf16, 2), cs(34, 24, DType::f32, 3);
    const Held a(*backend, as), b(*backend, bs), c(*backend, cs);
    backend->matmul(a.tensor(), false, b.tensor(), true, 1, 1, c.tensor());
    const Operand result = c.read();
    expect_product(as, bs, result, 1, 1, cs);  // timing it did not add it twice
    if (last_.empty()) last_ = result.bytes();
    EXPECT_EQ(result.bytes(), last_);
  }
  std::string contents() const {
    std::ifstream file(options_.plan_cache);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path directory_;
  CudaOptions options_;
  std::vector<unsigned char> last_;
};

INSTANTIATE_TEST_SUITE_P(Cuda, MatrixPlans, testing::Values(true, false), where);

TEST_P(MatrixPlans, AreTimedOnceAndHoldInTheNextRun) {
  multiply();
  const std::string file = contents();
  EXPECT_NE(file.find("[34, 40] . [24, 40]^T, bf16 to f32, aligned 16 16 16"), std::string::npos) << file;
  const auto before = emulator::cublaslt_counts();
  multiply();
  EXPECT_EQ(contents(), file);
  if (!emulated()) return;
  EXPECT_EQ(emulator::cublaslt_counts().asked, before.asked);
  EXPECT_EQ(emulator::cublaslt_counts().products, before.products + 1);
}

TEST_P(MatrixPlans, OfTheFileAreUsed) {
  if (!emulated()) GTEST_SKIP() << "only the emulated library tells which algorithm it ran";
  multiply();
  EXPECT_EQ(emulator::cublaslt_counts().last_algorithm, 0);
  // The same file with the plan of another algorithm in it, as timing might have written.
  const std::string machine = backend_->description() + ", cuBLASLt 13.1.0";
  const std::string product = "[34, 40] . [24, 40]^T, bf16 to f32, aligned 16 16 16";
  auto plan = PlanFile(options_.plan_cache, machine).find(product);
  ASSERT_TRUE(plan.has_value());
  (*plan)[1] = 2;
  fs::remove(options_.plan_cache);
  PlanFile(options_.plan_cache, machine).settle(product, *plan);
  multiply();
  EXPECT_EQ(emulator::cublaslt_counts().last_algorithm, 2);
  // One the library does not take: it is asked again.
  (*plan)[0] = 12345;
  fs::remove(options_.plan_cache);
  PlanFile(options_.plan_cache, machine).settle(product, *plan);
  multiply();
  EXPECT_EQ(emulator::cublaslt_counts().last_algorithm, 0);
}

TEST_P(MatrixPlans, WithoutAFileTheFirstProposalIsTaken) {
  options_.plan_cache.clear();
  const auto before = emulator::cublaslt_counts();
  multiply();
  if (!emulated()) return;
  EXPECT_EQ(emulator::cublaslt_counts().asked, before.asked + 1);
  EXPECT_EQ(emulator::cublaslt_counts().products, before.products + 1);  // nothing is timed
  EXPECT_EQ(emulator::cublaslt_counts().last_algorithm, 0);
}

TEST_P(MatrixPlans, WhereTheFileCannotBeWrittenNothingIsTimed) {
  options_.plan_cache = "/proc/no/such/place/products.plans";
  const auto before = emulator::cublaslt_counts();
  multiply();
  if (!emulated()) return;
  EXPECT_EQ(emulator::cublaslt_counts().products, before.products + 1);
}

}  // namespace
}  // namespace spectrain
