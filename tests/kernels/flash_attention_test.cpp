#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "tests/cuda_emulator/attention_calls.h"
#include "tests/cuda_emulator/emulator.h"

// The GPU's own attention kernels with masks, against sums in float64. What is tested on every backend, the
// plain causal attention, stands in attention_test.cpp.

namespace spectrain {
namespace {

using emulator::AttentionCalls;
using Way = AttentionCalls::Way;
constexpr double kBf16 = 0x1p-8, kF32 = 0x1p-24;  // largest relative error of one rounding

// Memory aligned as a GPU's is, filled with NaN.
struct Array {
  Array(DType dtype, Shape shape)
      : store(static_cast<std::size_t>(shape.numel()) * size_of(dtype) + 64, 255) {
    const auto address = reinterpret_cast<std::uintptr_t>(store.data());
    t = Tensor(reinterpret_cast<void*>((address + 63) / 64 * 64), dtype, shape);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  double get(std::int64_t i) const {
    return t.dtype == DType::f32 ? double{t.as<float>()[i]} : double{static_cast<float>(t.as<bf16>()[i])};
  }
  void set(std::int64_t i, double x) {
    if (t.dtype == DType::f32)
      t.as<float>()[i] = static_cast<float>(x);
    else
      t.as<bf16>()[i] = bf16(static_cast<float>(x));
  }
  void randomize(unsigned seed, double magnitude = 1) {
    std::mt19937 random(seed);
    for (std::int64_t i = 0; i < t.numel(); ++i)
      set(i, magnitude * (static_cast<double>(random()) / 2147483648.0 - 1));
  }
  bool same_bits(const Array& other) const { return std::memcmp(t.data, other.t.data, t.bytes()) == 0; }
  std::vector<unsigned char> store;
  Tensor t;
};

// What a query sees: at most `window` tokens (0: no bound), none before the start of its document.
struct Mask {
  std::int64_t window = 0;
  std::vector<std::int32_t> starts;  // empty: no documents
};

struct Case {
  HeadLayout l;
  Mask mask;
  double scale;
  Array qkv, out, lse, dout, dqkv;
  std::vector<std::int32_t> first_keys;
  Case(const HeadLayout& layout, DType dtype, Mask m = {}, double magnitude = 1)
      : l(layout),
        mask(std::move(m)),
        scale(1 / std::sqrt(static_cast<double>(layout.head_dim))),
        qkv(dtype, {l.rows(), l.packed()}),
        out(dtype, {l.rows(), l.width()}),
        lse(DType::f32, {l.batch * l.heads, l.context}),
        dout(dtype, {l.rows(), l.width()}),
        dqkv(dtype, {l.rows(), l.packed()}) {
    qkv.randomize(1, magnitude);
    dout.randomize(2);
    if (mask.window == 0 && mask.starts.empty()) return;
    for (std::int64_t b = 0; b < l.batch; ++b)
      for (std::int64_t t = 0; t < l.context; ++t)
        first_keys.push_back(static_cast<std::int32_t>(first_key(b, t)));
  }
  Tensor seen() {
    return first_keys.empty() ? Tensor{} : Tensor{first_keys.data(), DType::i32, Shape{l.rows()}};
  }
  bool forward(AttentionCalls& calls, Way way) {
    return calls.forward(way, l, scale, qkv.t, seen(), out.t, lse.t);
  }
  bool backward(AttentionCalls& calls, Way way) {
    return calls.backward(way, l, scale, dout.t, qkv.t, seen(), out.t, lse.t, dqkv.t);
  }
  std::int64_t first_key(std::int64_t b, std::int64_t t) const {
    std::int64_t first = mask.window > 0 ? std::max<std::int64_t>(0, t - mask.window + 1) : 0;
    if (!mask.starts.empty())
      first = std::max<std::int64_t>(first, mask.starts[static_cast<std::size_t>(b * l.context + t)]);
    return first;
  }
  std::int64_t q(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return (b * l.context + t) * l.packed() + head * l.head_dim;
  }
  std::int64_t k(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return q(b, t, l.heads + head / (l.heads / l.kv_heads));
  }
  std::int64_t v(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return k(b, t, head) + l.kv_heads * l.head_dim;
  }
  std::int64_t o(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return (b * l.context + t) * l.width() + head * l.head_dim;
  }
  double dot(const Array& x, std::int64_t i, const Array& y, std::int64_t j) const {
    double sum = 0;
    for (std::int64_t d = 0; d < l.head_dim; ++d) sum += x.get(i + d) * y.get(j + d);
    return sum;
  }
};

// A sum in float64, and the sum of the sizes of its terms: what the rounding of its factors is measured by.
struct Sums {
  explicit Sums(std::int64_t n) : value(static_cast<std::size_t>(n)), size(static_cast<std::size_t>(n)) {}
  void add(std::int64_t i, double weight, double x) {
    value[static_cast<std::size_t>(i)] += weight * x;
    size[static_cast<std::size_t>(i)] += std::abs(weight * x);
  }
  std::vector<double> value, size;
};

// |got - wanted| <= one rounding of the result, one rounding of each weight where the tensor cores multiply
// (bf16), and float32 sums.
void expect_close(const Array& got, const Sums& want, bool rounds_weights, std::int64_t terms,
                  const char* what) {
  const double u = got.t.dtype == DType::bf16 ? kBf16 : kF32, weights = rounds_weights ? kBf16 : 0;
  for (std::int64_t i = 0; i < got.t.numel(); ++i) {
    const double w = want.value[static_cast<std::size_t>(i)], size = want.size[static_cast<std::size_t>(i)];
    const double allowed = 1.01 * u * std::abs(w) + 1.01 * weights * size +
                           8 * kF32 * std::sqrt(static_cast<double>(terms)) * (1 + size);
    if (!(std::abs(got.get(i) - w) <= allowed)) {
      ADD_FAILURE() << what << " element " << i << ": " << got.get(i) << ", wanted " << w << ", allowed +- "
                    << allowed;
      return;
    }
  }
}

void expect_forward(const Case& c, bool rounds_weights) {
  const HeadLayout& l = c.l;
  Sums out(c.out.t.numel()), lse(c.lse.t.numel());
  for (std::int64_t b = 0; b < l.batch; ++b)
    for (std::int64_t h = 0; h < l.heads; ++h)
      for (std::int64_t t = 0; t < l.context; ++t) {
        const std::int64_t first = c.first_key(b, t);
        std::vector<double> p;
        double total = 0;
        for (std::int64_t s = first; s <= t; ++s) {
          p.push_back(std::exp(c.scale * c.dot(c.qkv, c.q(b, t, h), c.qkv, c.k(b, s, h))));
          total += p.back();
        }
        for (std::int64_t s = first; s <= t; ++s)
          for (std::int64_t d = 0; d < l.head_dim; ++d)
            out.add(c.o(b, t, h) + d, p[static_cast<std::size_t>(s - first)] / total,
                    c.qkv.get(c.v(b, s, h) + d));
        lse.add((b * l.heads + h) * l.context + t, 1, std::log(total));
      }
  expect_close(c.out, out, rounds_weights, l.context + l.head_dim, "out");
  expect_close(c.lse, lse, false, l.context + l.head_dim, "lse");
}

// The gradient is a function of dout, qkv, out and lse as they are stored.
void expect_backward(const Case& c, bool rounds_weights) {
  const HeadLayout& l = c.l;
  Sums dqkv(c.dqkv.t.numel());
  for (std::int64_t b = 0; b < l.batch; ++b)
    for (std::int64_t h = 0; h < l.heads; ++h)
      for (std::int64_t t = 0; t < l.context; ++t) {
        const double delta = c.dot(c.dout, c.o(b, t, h), c.out, c.o(b, t, h));
        const double lse = c.lse.get((b * l.heads + h) * l.context + t);
        for (std::int64_t s = c.first_key(b, t); s <= t; ++s) {
          const double p = std::exp(c.scale * c.dot(c.qkv, c.q(b, t, h), c.qkv, c.k(b, s, h)) - lse);
          const double ds = p * (c.dot(c.dout, c.o(b, t, h), c.qkv, c.v(b, s, h)) - delta);
          for (std::int64_t d = 0; d < l.head_dim; ++d) {
            dqkv.add(c.q(b, t, h) + d, c.scale * ds, c.qkv.get(c.k(b, s, h) + d));
            dqkv.add(c.k(b, s, h) + d, c.scale * ds, c.qkv.get(c.q(b, t, h) + d));
            dqkv.add(c.v(b, s, h) + d, p, c.dout.get(c.o(b, t, h) + d));
          }
        }
      }
  expect_close(c.dqkv, dqkv, rounds_weights, l.heads / l.kv_heads * l.context + l.head_dim, "dqkv");
}

std::string name(const HeadLayout& l) {
  return "batch " + std::to_string(l.batch) + " context " + std::to_string(l.context) + " heads " +
         std::to_string(l.heads) + "/" + std::to_string(l.kv_heads) + " of " + std::to_string(l.head_dim);
}

// There are kernels for Hopper and kernels for all.
struct Device {
  emulator::Order order;
  int capability;
};

class FlashAttention : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "one thread with many stacks: not understood by the thread sanitizer";
#endif
    emulator::set_order(GetParam().order);
  }
  void TearDown() override { emulator::set_order(emulator::Order::ascending); }

  static CudaOptions options(int blocks = 0) {
    CudaOptions o;
    o.most_capability = GetParam().capability;
    o.max_blocks = blocks;
    return o;
  }
  static bool in_order() { return GetParam().order == emulator::Order::ascending; }
  static void expect_all(Case& c, AttentionCalls& calls, Way way) {
    SCOPED_TRACE(name(c.l) + (way == Way::flash ? ", flash" : ", plain"));
    ASSERT_TRUE(c.forward(calls, way));
    expect_forward(c, way == Way::flash);
    ASSERT_TRUE(c.backward(calls, way));
    expect_backward(c, way == Way::flash);
  }
};
std::string device_name(const ::testing::TestParamInfo<Device>& info) {
  return std::string(info.param.capability == 90 ? "hopper" : "ampere") +
         (info.param.order == emulator::Order::ascending ? "" : "_backwards");
}
INSTANTIATE_TEST_SUITE_P(Cuda, FlashAttention,
                         ::testing::Values(Device{emulator::Order::ascending, 80},
                                           Device{emulator::Order::descending, 80},
                                           Device{emulator::Order::ascending, 90},
                                           Device{emulator::Order::descending, 90}),
                         device_name);

TEST_P(FlashAttention, EqualsSumsInDouble) {
  AttentionCalls calls(options());
  const std::vector<std::int64_t> all = {1, 31, 63, 64, 65, 128, 129, 193}, some = {65, 128, 193};
  for (const std::int64_t D : {64, 128})
    for (const std::int64_t context : in_order() ? all : some) {
      const bool grouped = context % 2 == 0;
      Case c({.batch = context < 64 ? 3 : 1,
              .context = context,
              .heads = grouped ? 3 : 2,
              .kv_heads = grouped ? 1 : 2,
              .head_dim = D},
             DType::bf16);
      expect_all(c, calls, Way::flash);
    }
}

TEST_P(FlashAttention, SeveralSequencesAndGroups) {
  AttentionCalls calls(options());
  Case c({.batch = 3, .context = 70, .heads = 4, .kv_heads = 2, .head_dim = 64}, DType::bf16);
  expect_all(c, calls, Way::flash);
}

// A window's border in every place relative to tiles of 64 and 128 keys and to the 16 or 32 rows of a warp:
// with 138 and 141 the first tile is hidden from the second half of a warp's rows alone, and from nothing
// else.
TEST_P(FlashAttention, SeesAWindow) {
  AttentionCalls calls(options());
  const std::vector<std::int64_t> all = {1, 2, 33, 63, 64, 65, 128, 129, 138, 141, 150, 1000},
                                  some = {64, 129};
  for (const std::int64_t window : in_order() ? all : some) {
    SCOPED_TRACE(window);
    Case c({.batch = 1, .context = 150, .heads = 2, .kv_heads = 1, .head_dim = window % 2 ? 64 : 128},
           DType::bf16, {.window = window, .starts = {}});
    expect_all(c, calls, Way::flash);
  }
}

Mask random_documents(const HeadLayout& l, unsigned seed, unsigned length) {
  Mask mask;
  std::mt19937 random(seed);
  for (std::int64_t b = 0; b < l.batch; ++b)
    for (std::int32_t t = 0, start = 0, left = 0; t < l.context; ++t, --left) {
      if (left == 0) {
        start = t;
        left = static_cast<std::int32_t>(1 + random() % length);
      }
      mask.starts.push_back(start);
    }
  return mask;
}

TEST_P(FlashAttention, SeesItsOwnDocument) {
  AttentionCalls calls(options());
  for (const unsigned length : {3u, 40u, 150u}) {
    const HeadLayout l{.batch = 2, .context = 201, .heads = 1, .kv_heads = 1, .head_dim = 64};
    Case c(l, DType::bf16, random_documents(l, length, length));
    expect_all(c, calls, Way::flash);
  }
  const HeadLayout l{.batch = 1, .context = 190, .heads = 2, .kv_heads = 1, .head_dim = 128};
  Mask both = random_documents(l, 9, 120);
  both.window = 50;
  Case c(l, DType::bf16, both);
  expect_all(c, calls, Way::flash);
}

TEST_P(FlashAttention, PlainKernelsTakeMasksToo) {
  AttentionCalls calls(options());
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t window : {0, 1, 31, 32, 33, 64, 90}) {
      const HeadLayout l{.batch = 2, .context = 90, .heads = 2, .kv_heads = 1, .head_dim = 37};
      Mask mask;
      if (window % 2 == 0) mask = random_documents(l, 5, 70);
      mask.window = window;
      Case c(l, dtype, mask);
      expect_all(c, calls, Way::plain);
    }
}

// What lies wholly outside is not even read: there it is NaN, and 0 * NaN would show.
TEST_P(FlashAttention, SkipsBlocksThatNobodySees) {
  AttentionCalls calls(options());
  const HeadLayout l{.batch = 1, .context = 384, .heads = 1, .kv_heads = 1, .head_dim = 64};
  Mask documents, window{.window = 64, .starts = {}};
  for (std::int32_t t = 0; t < 384; ++t) documents.starts.push_back(t / 192 * 192);
  for (const Mask& mask : {documents, window}) {
    Case c(l, DType::bf16, mask), whole(l, DType::bf16, mask);
    for (Case* each : {&whole, &c}) {
      if (each == &c)
        for (std::int64_t t = 0; t < 128; ++t)
          for (std::int64_t i = 0; i < l.packed(); ++i) each->qkv.set(t * l.packed() + i, NAN);
      each->forward(calls, Way::flash);
      each->backward(calls, Way::flash);
    }
    // Blocks of 128 or 192 queries and tiles of up to 128 keys: none of those from 256 on has to do with keys
    // before 128.
    for (std::int64_t t = 256; t < 384; ++t) {
      ASSERT_EQ(std::memcmp(c.out.t.as<bf16>() + t * 64, whole.out.t.as<bf16>() + t * 64, 128), 0) << t;
      ASSERT_EQ(std::memcmp(c.dqkv.t.as<bf16>() + t * 192, whole.dqkv.t.as<bf16>() + t * 192, 384), 0) << t;
    }
    EXPECT_TRUE(std::isnan(c.out.get(0)));
  }
}

TEST_P(FlashAttention, FewBlocksGiveTheSameBits) {
  AttentionCalls many(options()), two(options(2)), one(options(1));
  for (const std::int64_t D : {64, 128, 20}) {
    const Way way = D == 20 ? Way::plain : Way::flash;
    const HeadLayout l{.batch = 1, .context = D == 20 ? 45 : 135, .heads = 2, .kv_heads = 1, .head_dim = D};
    const Mask mask{.window = D == 64 ? 0 : 30, .starts = {}};
    Case a(l, DType::bf16, mask);
    a.forward(many, way);
    a.backward(many, way);
    for (AttentionCalls* calls : {&two, &one}) {
      Case b(l, DType::bf16, mask);
      b.forward(*calls, way);
      b.backward(*calls, way);
      EXPECT_TRUE(a.out.same_bits(b.out) && a.lse.same_bits(b.lse) && a.dqkv.same_bits(b.dqkv));
    }
  }
}

// Long rows through short tiles: the running maximum moves far, and weights vanish.
TEST_P(FlashAttention, TakesScoresFarApart) {
  AttentionCalls calls(options());
  Case c({.batch = 1, .context = 300, .heads = 1, .kv_heads = 1, .head_dim = 64}, DType::bf16, {}, 6);
  c.forward(calls, Way::flash);
  // A score of up to 36 sqrt(64) is known to float32's precision of that, and so is its weight.
  expect_forward(c, true);
  c.backward(calls, Way::flash);
  expect_backward(c, true);
}

TEST(FlashAttentionLayouts, AreRefusedWithNothingDone) {
  AttentionCalls calls;
  const HeadLayout good{.batch = 1, .context = 5, .heads = 1, .kv_heads = 1, .head_dim = 64};
  HeadLayout odd = good;
  odd.head_dim = 80;
  Case narrow(odd, DType::bf16), wide(good, DType::f32), negative(good, DType::bf16);
  negative.scale = -1;
  for (Case* c : {&narrow, &wide, &negative}) {
    EXPECT_FALSE(c->forward(calls, Way::flash));
    EXPECT_FALSE(c->backward(calls, Way::flash));
    EXPECT_TRUE(std::isnan(c->out.get(0)) && std::isnan(c->dqkv.get(0)));
  }
  Case shifted(good, DType::bf16);  // rows that begin between two multiples of 16 bytes
  shifted.qkv.t.data = shifted.qkv.t.as<bf16>() + 1;
  EXPECT_FALSE(shifted.forward(calls, Way::flash));
}

}  // namespace
}  // namespace spectrain
