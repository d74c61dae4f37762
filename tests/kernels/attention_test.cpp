#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda_plugin.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/kernels/device_as_host.h"
#include "tests/kernels/twin.h"

namespace spectrain {
namespace {

const std::vector<HeadLayout> kLayouts = {
    {.batch = 1, .context = 1, .heads = 1, .kv_heads = 1, .head_dim = 1},
    {.batch = 3, .context = 1, .heads = 2, .kv_heads = 2, .head_dim = 16},
    {.batch = 2, .context = 7, .heads = 2, .kv_heads = 1, .head_dim = 5},
    {.batch = 2, .context = 63, .heads = 2, .kv_heads = 2, .head_dim = 32},
    {.batch = 1, .context = 64, .heads = 6, .kv_heads = 2, .head_dim = 64},
    {.batch = 2, .context = 65, .heads = 6, .kv_heads = 2, .head_dim = 64},
    {.batch = 1, .context = 130, .heads = 3, .kv_heads = 1, .head_dim = 52},
    {.batch = 1, .context = 140, .heads = 1, .kv_heads = 1, .head_dim = 80},
    {.batch = 1, .context = 129, .heads = 2, .kv_heads = 1, .head_dim = 128},
    {.batch = 1, .context = 73, .heads = 1, .kv_heads = 1, .head_dim = 255},
    {.batch = 1, .context = 257, .heads = 2, .kv_heads = 2, .head_dim = 48},
};

std::string name(const HeadLayout& l) {
  return "batch " + std::to_string(l.batch) + " context " + std::to_string(l.context) + " heads " +
         std::to_string(l.heads) + "/" + std::to_string(l.kv_heads) + " of " + std::to_string(l.head_dim);
}

// Whether the GPU rounds weights to bf16, as its tensor cores want them (flash_attention_test.cpp has the
// tolerance for that).
bool rounds_weights(Backend& b, const HeadLayout& l, DType dtype) {
  return b.name() == "cuda" && dtype == DType::bf16 && (l.head_dim == 64 || l.head_dim == 128);
}

// The CPU's backends, then the CUDA backend: emulated with its threads in two orders and with few blocks, and
// on a GPU where there is one.
void on_every_backend(const std::function<void(Backend&)>& body) {
  on_every_cpu(body);
#if !defined(__SANITIZE_THREAD__)
  for (const auto order : {emulator::Order::ascending, emulator::Order::descending}) {
    SCOPED_TRACE(order == emulator::Order::ascending ? "emulated"
                                                     : "emulated backwards, two blocks, not Hopper");
    emulator::set_order(order);
    CudaOptions options;
    if (order == emulator::Order::descending) {
      options.max_blocks = 2;
      options.most_capability = 80;
    }
    const auto backend = make_device_as_host(make_emulated_cuda_backend(options));
    body(*backend);
    emulator::set_order(emulator::Order::ascending);
  }
#endif
  // With the library's kernels, with the program's own, and with those for older GPUs.
  for (const int own : {0, 1, 2}) {
    std::string reason;
    CudaOptions options;
    options.cudnn = own == 0;
    options.most_capability = own == 2 ? 80 : 0;
    auto gpu = make_cuda_backend(options, reason);
    if (!gpu) return;  // said by the kernel tests that are skipped
    SCOPED_TRACE("a GPU, " + std::to_string(own));
    const auto backend = make_device_as_host(std::move(gpu));
    body(*backend);
  }
}

// All tensors of one attention and its gradient.
struct Case {
  HeadLayout l;
  double scale;
  Twin qkv, out, lse, dout, dqkv;
  std::vector<std::int32_t> first_key;  // empty: every query sees from the beginning on
  Case(const HeadLayout& layout, DType dtype, double magnitude = 1)
      : l(layout),
        scale(1 / std::sqrt(static_cast<double>(layout.head_dim))),
        qkv(dtype, l.rows(), l.packed(), 1, magnitude),
        out(dtype, l.rows(), l.width()),
        lse(DType::f32, l.batch * l.heads, l.context),
        dout(dtype, l.rows(), l.width(), 2),
        dqkv(dtype, l.rows(), l.packed()) {}
  Tensor seen() {
    return first_key.empty() ? Tensor{} : Tensor{first_key.data(), DType::i32, Shape{l.rows()}};
  }
  void forward(Backend& b) { b.attention(l, scale, qkv.tensor(), seen(), out.tensor(), lse.tensor()); }
  void backward(Backend& b) {
    b.attention_backward(l, scale, dout.tensor(), qkv.tensor(), seen(), out.tensor(), lse.tensor(),
                         dqkv.tensor());
  }
  void forward_wide(Backend& b) { b.attention(l, scale, qkv.wide(), seen(), out.wide(), lse.wide()); }
  void backward_wide(Backend& b) {
    b.attention_backward(l, scale, dout.wide(), qkv.wide(), seen(), out.wide(), lse.wide(), dqkv.wide());
  }
};

TEST(Attention, EqualsTheReference) {
  ReferenceBackend reference;
  for (const HeadLayout& l : kLayouts)
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(name(l) + " " + std::string(name_of(dtype)));
      Case c(l, dtype);
      c.forward_wide(reference);
      const double walk = 8 * kEps32 * std::sqrt(static_cast<double>(l.context + l.head_dim));
      on_every_backend([&](Backend& cpu) {
        c.forward(cpu);
        // Weights sum to 1 and values are at most 1: so is the sum of what is rounded.
        c.out.expect_close(rounds_weights(cpu, l, dtype) ? walk + 0x1p-8 : walk, "out");
        c.lse.expect_close(walk, "lse");
      });
    }
}

// The gradient is a function of dout, qkv, out and lse as they are stored: the reference gets just these.
TEST(Attention, GradientEqualsTheReference) {
  ReferenceBackend reference;
  for (const HeadLayout& l : kLayouts)
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(name(l) + " " + std::string(name_of(dtype)));
      Case c(l, dtype);
      c.forward(*make_cpu_backend({.threads = 1}));
      c.out.adopt();
      c.lse.adopt();
      c.backward_wide(reference);
      const double walk =
          8 * kEps32 * std::sqrt(static_cast<double>(l.context + l.head_dim)) * (1 + c.dqkv.largest());
      on_every_backend([&](Backend& cpu) {
        if (rounds_weights(cpu, l, dtype)) return;
        c.backward(cpu);
        c.dqkv.expect_close(walk, "dqkv");
      });
    }
}

// Documents of random lengths, and within each no more than `window` tokens (0: no bound).
std::vector<std::int32_t> random_first_keys(const HeadLayout& l, unsigned seed, unsigned length,
                                            std::int32_t window) {
  std::vector<std::int32_t> first;
  std::mt19937 random(seed);
  for (std::int64_t b = 0; b < l.batch; ++b)
    for (std::int32_t t = 0, start = 0, left = 0; t < l.context; ++t, --left) {
      if (left == 0) {
        start = t;
        left = static_cast<std::int32_t>(1 + random() % length);
      }
      first.push_back(window > 0 ? std::max(start, t - window + 1) : start);
    }
  return first;
}

// A mask against the reference's plain loops over the keys that are seen.
void expect_masked(const HeadLayout& l, DType dtype, const std::vector<std::int32_t>& first_key) {
  ReferenceBackend reference;
  Case c(l, dtype);
  c.first_key = first_key;
  c.forward_wide(reference);
  const double walk = 8 * kEps32 * std::sqrt(static_cast<double>(l.context + l.head_dim));
  on_every_backend([&](Backend& tested) {
    c.forward(tested);
    c.out.expect_close(rounds_weights(tested, l, dtype) ? walk + 0x1p-8 : walk, "out");
    c.lse.expect_close(walk, "lse");
  });
  c.forward(*make_cpu_backend({.threads = 1}));
  c.out.adopt();
  c.lse.adopt();
  c.backward_wide(reference);
  on_every_backend([&](Backend& tested) {
    if (rounds_weights(tested, l, dtype)) return;
    c.backward(tested);
    c.dqkv.expect_close(walk * (1 + c.dqkv.largest()), "dqkv");
  });
}

// A window's border in every place relative to blocks of 64.
TEST(Attention, SeesAWindow) {
  const HeadLayout l{.batch = 1, .context = 200, .heads = 2, .kv_heads = 1, .head_dim = 24};
  for (const std::int32_t window :
       {1, 2, 33, 63, 64, 65, 66, 100, 127, 128, 129, 191, 192, 193, 199, 200, 500}) {
    SCOPED_TRACE(window);
    expect_masked(l, window % 2 ? DType::f32 : DType::bf16, random_first_keys(l, 1, 1, window));
    expect_masked(l, DType::f32, random_first_keys(l, 1, 100000, window));
  }
}

TEST(Attention, SeesItsOwnDocument) {
  for (const unsigned length : {1u, 3u, 40u, 90u, 180u})
    for (const std::int32_t window : {0, 50}) {
      SCOPED_TRACE(testing::Message() << "documents up to " << length << ", window " << window);
      const HeadLayout several{.batch = 3, .context = 181, .heads = 4, .kv_heads = 2, .head_dim = 17};
      expect_masked(several, DType::f32, random_first_keys(several, length, length, window));
      const HeadLayout single{.batch = 1, .context = 300, .heads = 1, .kv_heads = 1, .head_dim = 64};
      expect_masked(single, DType::bf16, random_first_keys(single, length + 7, length, window));
    }
}

TEST(Attention, SeeingAllIsTheSameAsNoMask) {
  const HeadLayout l{.batch = 2, .context = 150, .heads = 2, .kv_heads = 1, .head_dim = 20};
  on_every_backend([&](Backend& tested) {
    Case plain(l, DType::f32), masked(l, DType::f32);
    masked.first_key.assign(static_cast<std::size_t>(l.rows()), 0);
    for (Case* c : {&plain, &masked}) {
      c->forward(tested);
      c->backward(tested);
    }
    EXPECT_EQ(plain.out.bytes(), masked.out.bytes());
    EXPECT_EQ(plain.lse.bytes(), masked.lse.bytes());
    EXPECT_EQ(plain.dqkv.bytes(), masked.dqkv.bytes());
  });
}

// What is outside is not read, so that a NaN there does not show; and whole blocks there cost nothing.
TEST(Attention, SeesNothingOutside) {
  const HeadLayout l{.batch = 1, .context = 260, .heads = 1, .kv_heads = 1, .head_dim = 16};
  on_every_backend([&](Backend& tested) {
    Case clean(l, DType::f32), dirty(l, DType::f32);
    for (std::int32_t t = 0; t < l.context; ++t) clean.first_key.push_back(t < 192 ? 0 : 192);
    dirty.first_key = clean.first_key;
    for (std::int64_t i = 0; i < 128 * l.packed(); ++i) dirty.qkv.set(i, NAN);
    for (Case* c : {&clean, &dirty}) {
      c->forward(tested);
      c->backward(tested);
    }
    for (std::int64_t i = 192 * l.width(); i < l.rows() * l.width(); ++i)
      ASSERT_EQ(clean.out.get(i), dirty.out.get(i)) << i;
    for (std::int64_t i = 192 * l.packed(); i < l.rows() * l.packed(); ++i)
      ASSERT_EQ(clean.dqkv.get(i), dirty.dqkv.get(i)) << i;
    EXPECT_TRUE(std::isnan(dirty.out.get(0)));
  });
}

// An own forward pass in plain loops, and the gradient of sum(out * dout) by differences of it.
double weighted_output(const HeadLayout& l, double scale, const std::vector<double>& x,
                       const std::vector<double>& weight) {
  const auto P = l.packed(), D = l.head_dim, group = l.heads / l.kv_heads;
  const auto at = [&](std::int64_t row, std::int64_t head, std::int64_t i) {
    return x[static_cast<std::size_t>(row * P + head * D + i)];
  };
  double total = 0;
  for (std::int64_t row = 0; row < l.rows(); ++row)
    for (std::int64_t h = 0; h < l.heads; ++h) {
      const std::int64_t k = l.heads + h / group, v = k + l.kv_heads, start = row - row % l.context;
      double sum = 0, value = 0;
      for (std::int64_t s = start; s <= row; ++s) {
        double score = 0, along = 0;
        for (std::int64_t i = 0; i < D; ++i) {
          score += at(row, h, i) * at(s, k, i);
          along += at(s, v, i) * weight[static_cast<std::size_t>((row * l.heads + h) * D + i)];
        }
        sum += std::exp(scale * score);
        value += std::exp(scale * score) * along;
      }
      total += value / sum;
    }
  return total;
}

TEST(Attention, GradientEqualsFiniteDifferences) {
  const HeadLayout l{.batch = 2, .context = 5, .heads = 4, .kv_heads = 2, .head_dim = 3};
  on_every_backend([&](Backend& cpu) {
    Case c(l, DType::f32);
    c.forward(cpu);
    c.backward(cpu);
    std::vector<double> x, weight;
    for (std::int64_t i = 0; i < c.qkv.numel(); ++i) x.push_back(c.qkv.get(i));
    for (std::int64_t i = 0; i < c.dout.numel(); ++i) weight.push_back(c.dout.get(i));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double h = 1e-5, here = x[i];
      x[i] = here + h;
      const double above = weighted_output(l, c.scale, x, weight);
      x[i] = here - h;
      const double below = weighted_output(l, c.scale, x, weight);
      x[i] = here;
      ASSERT_NEAR(c.dqkv.get(static_cast<std::int64_t>(i)), (above - below) / (2 * h), 2e-6)
          << "element " << i;
    }
  });
}

// Whole heads on one thread and blocks of keys and queries on many are cut differently and add in one order.
TEST(Attention, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (std::int64_t kv_heads : {1, 3}) {
      const HeadLayout l{.batch = 1, .context = 200, .heads = 3, .kv_heads = kv_heads, .head_dim = 40};
      const auto first_key =
          dtype == DType::f32 ? std::vector<std::int32_t>{} : random_first_keys(l, 3, 150, 90);
      Case one(l, dtype);
      one.first_key = first_key;
      auto single = make_cpu_backend({.threads = 1});
      one.forward(*single);
      one.backward(*single);
      for (int threads : {2, 3, 5, 8}) {
        Case many(l, dtype);
        many.first_key = first_key;
        auto cpu = make_cpu_backend({.threads = threads});
        for (int again = 0; again < 2; ++again) {
          many.forward(*cpu);
          many.backward(*cpu);
          EXPECT_EQ(one.out.bytes(), many.out.bytes()) << threads;
          EXPECT_EQ(one.lse.bytes(), many.lse.bytes()) << threads;
          EXPECT_EQ(one.dqkv.bytes(), many.dqkv.bytes()) << threads;
        }
      }
    }
}

TEST(Attention, SeesNothingOfTheFuture) {
  const HeadLayout l{.batch = 1, .context = 150, .heads = 2, .kv_heads = 1, .head_dim = 20};
  on_every_backend([&](Backend& cpu) {
    for (std::int64_t changed : {1, 63, 64, 100, 149}) {
      Case before(l, DType::f32), after(l, DType::f32);
      before.forward(cpu);
      for (std::int64_t i = changed * l.packed(); i < after.qkv.numel(); ++i) after.qkv.set(i, 30);
      after.forward(cpu);
      EXPECT_EQ(0, std::memcmp(before.out.bytes().data(), after.out.bytes().data(),
                               static_cast<std::size_t>(changed * l.width()) * 4))
          << changed;
    }
  });
}

TEST(Attention, DoublingTheQueriesAndHalvingTheScaleChangesNothing) {
  const HeadLayout l{.batch = 1, .context = 90, .heads = 2, .kv_heads = 2, .head_dim = 24};
  on_every_backend([&](Backend& cpu) {
    Case a(l, DType::f32), b(l, DType::f32);
    for (std::int64_t r = 0; r < l.rows(); ++r)
      for (std::int64_t i = r * l.packed(); i < r * l.packed() + l.width(); ++i)
        b.qkv.set(i, 2 * a.qkv.get(i));
    b.scale = a.scale / 2;
    a.forward(cpu);
    b.forward(cpu);
    EXPECT_EQ(a.out.bytes(), b.out.bytes());
    a.backward(cpu);
    b.backward(cpu);
    for (std::int64_t r = 0; r < l.rows(); ++r)
      for (std::int64_t i = 0; i < l.packed(); ++i) {
        const std::int64_t at = r * l.packed() + i;
        ASSERT_EQ(b.dqkv.get(at), i < l.width() ? a.dqkv.get(at) / 2 : a.dqkv.get(at));
      }
  });
}

TEST(Attention, TakesScoresFarApart) {
  const HeadLayout l{.batch = 1, .context = 100, .heads = 1, .kv_heads = 1, .head_dim = 64};
  ReferenceBackend reference;
  on_every_backend([&](Backend& cpu) {
    Case c(l, DType::f32, 30);  // scores of several thousand
    c.forward_wide(reference);
    c.forward(cpu);
    // A score s is known to eps * |terms of its sum|, and so is the logarithm of its weight.
    const double score = 900 * std::sqrt(64.0);
    c.out.expect_close(30 * 8 * kEps32 * score, "out");
    c.lse.expect_close(8 * kEps32 * score, "lse");
    c.backward(cpu);
    for (std::int64_t i = 0; i < c.dqkv.numel(); ++i) ASSERT_TRUE(std::isfinite(c.dqkv.get(i)));
  });
}

TEST(Attention, ANaNStaysVisible) {
  const HeadLayout l{.batch = 1, .context = 70, .heads = 1, .kv_heads = 1, .head_dim = 8};
  on_every_backend([&](Backend& cpu) {
    for (std::int64_t part : {0, 1, 2}) {  // in q, k and v of the last position
      Case c(l, DType::f32);
      c.qkv.set(69 * l.packed() + part * 8 + 3, NAN);
      c.forward(cpu);
      EXPECT_TRUE(std::isnan(c.out.get(69 * 8 + 3))) << part;
    }
  });
}

TEST(Attention, LseIsOptionalForwardAndScratchIsKept) {
  const HeadLayout l{.batch = 1, .context = 30, .heads = 2, .kv_heads = 1, .head_dim = 8};
  const auto expect_kept = [&](Backend& tested) {
    Case a(l, DType::f32), b(l, DType::f32);
    a.forward(tested);
    tested.attention(l, b.scale, b.qkv.tensor(), {}, b.out.tensor(), {});
    EXPECT_EQ(a.out.bytes(), b.out.bytes());
    a.backward(tested);
    const std::size_t held = tested.allocated_bytes();
    for (int i = 0; i < 3; ++i) {
      a.forward(tested);
      a.backward(tested);
    }
    EXPECT_EQ(held, tested.allocated_bytes());
  };
  expect_kept(*make_cpu_backend({.threads = 2}));
#if !defined(__SANITIZE_THREAD__)
  expect_kept(*make_device_as_host(make_emulated_cuda_backend({})));
#endif
}

TEST(Attention, RefusesWhatItCannotDo) {
  on_every_backend([](Backend& tested) {
    Case wide({.batch = 1, .context = 2, .heads = 1, .kv_heads = 1, .head_dim = 257}, DType::f32);
    EXPECT_THROW(wide.forward(tested), std::logic_error);
    Case uneven({.batch = 1, .context = 2, .heads = 3, .kv_heads = 2, .head_dim = 4}, DType::f32);
    EXPECT_THROW(uneven.forward(tested), std::logic_error);
    Case c({.batch = 1, .context = 2, .heads = 2, .kv_heads = 1, .head_dim = 4}, DType::f32);
    EXPECT_THROW(tested.attention(c.l, 1, c.out.tensor(), {}, c.out.tensor(), {}), std::logic_error);
    EXPECT_THROW(tested.attention(c.l, 1, c.qkv.wide(), {}, c.out.wide(), {}), std::logic_error);
    EXPECT_THROW(tested.attention_backward(c.l, 1, c.dout.tensor(), c.qkv.tensor(), {}, c.out.tensor(), {},
                                           c.dqkv.tensor()),
                 std::logic_error);
    c.first_key = {0};  // of two rows
    EXPECT_THROW(tested.attention(c.l, 1, c.qkv.tensor(), Tensor{c.first_key.data(), DType::i32, Shape{1}},
                                  c.out.tensor(), {}),
                 std::logic_error);
  });
}

// On the emulated GPU both ways of attention are recorded after having run once, as a training step does.
TEST(Attention, ReplayGivesTheSameBits) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "one thread with many stacks: not understood by the thread sanitizer";
#endif
  for (const DType dtype : {DType::bf16, DType::f32}) {
    Case c({.batch = 1, .context = 70, .heads = 2, .kv_heads = 1, .head_dim = 64}, dtype);
    auto device = make_emulated_cuda_backend({});
    std::vector<std::unique_ptr<Buffer>> buffers;
    const auto put = [&](Twin& t) {
      const Tensor host = t.tensor();
      buffers.push_back(device->allocate(host.bytes(), "a test tensor"));
      const Tensor there = buffers.back()->view(host.dtype, host.shape);
      device->copy_from_host(there, host.data);
      return there;
    };
    const Tensor qkv = put(c.qkv), out = put(c.out), lse = put(c.lse), dout = put(c.dout), dqkv = put(c.dqkv);
    const auto work = [&] {
      device->attention(c.l, c.scale, qkv, {}, out, lse);
      device->attention_backward(c.l, c.scale, dout, qkv, {}, out, lse, dqkv);
    };
    const auto result = [&] {
      std::vector<unsigned char> bytes(dqkv.bytes());
      device->copy_to_host(bytes.data(), dqkv);
      return bytes;
    };
    work();
    const std::vector<unsigned char> once = result();
    const auto replay = device->record(work);
    ASSERT_TRUE(replay);
    device->fill(dqkv, NAN);
    device->fill(out, NAN);
    replay->run();
    EXPECT_EQ(once, result());
  }
}

}  // namespace
}  // namespace spectrain
