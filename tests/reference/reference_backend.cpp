#include "tests/reference/reference_backend.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace spectrain {

class ReferenceBuffer final : public Buffer {
 public:
  ReferenceBuffer(ReferenceBackend& owner, std::size_t bytes) : owner_(owner) {
    data_ = std::malloc(bytes > 0 ? bytes : 1);
    if (!data_) throw Error("no room in the reference backend");
    // A kernel that reads what nobody wrote shall be noticed: fresh memory is NaN in every float dtype.
    std::memset(data_, 0xff, bytes);
    bytes_ = bytes;
    owner_.allocated_ += bytes;
  }
  ~ReferenceBuffer() override {
    std::free(data_);
    owner_.allocated_ -= bytes_;
  }
  ReferenceBuffer(const ReferenceBuffer&) = delete;
  ReferenceBuffer& operator=(const ReferenceBuffer&) = delete;

 private:
  ReferenceBackend& owner_;
};

namespace {

double get(const Tensor& x, std::int64_t i) {
  switch (x.dtype) {
    case DType::f64:
      return x.as<double>()[i];
    case DType::f32:
      return static_cast<double>(x.as<float>()[i]);
    case DType::bf16:
      return static_cast<double>(static_cast<float>(x.as<bf16>()[i]));
    case DType::i32:
      return x.as<std::int32_t>()[i];
    case DType::f16:
      return static_cast<double>(static_cast<float>(x.as<f16>()[i]));
  }
  throw std::logic_error("unknown dtype");
}

void put(const Tensor& x, std::int64_t i, double value) {
  switch (x.dtype) {
    case DType::f64:
      x.as<double>()[i] = value;
      return;
    case DType::f32:
      x.as<float>()[i] = static_cast<float>(value);
      return;
    case DType::bf16:
      x.as<bf16>()[i] = bf16(static_cast<float>(value));
      return;
    case DType::i32:
      x.as<std::int32_t>()[i] = static_cast<std::int32_t>(value);
      return;
    case DType::f16:
      x.as<f16>()[i] = f16(static_cast<float>(value));
      return;
  }
}

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

// ---- memory

std::unique_ptr<Buffer> ReferenceBackend::allocate(std::size_t bytes, std::string_view) {
  return std::make_unique<ReferenceBuffer>(*this, bytes);
}

void ReferenceBackend::fill(const Tensor& x, double value) {
  for (std::int64_t i = 0; i < x.numel(); ++i) put(x, i, value);
}

void ReferenceBackend::copy(const Tensor& from, const Tensor& to) {
  if (from.numel() != to.numel()) throw std::logic_error("copy: different numbers of elements");
  for (std::int64_t i = 0; i < from.numel(); ++i) put(to, i, get(from, i));
}

void ReferenceBackend::copy_from_host(const Tensor& to, const void* from) {
  std::memcpy(to.data, from, to.bytes());
}

void ReferenceBackend::copy_to_host(void* to, const Tensor& from) {
  std::memcpy(to, from.data, from.bytes());
}

// ---- optimizer

void ReferenceBackend::adamw(const AdamWStep& s, std::span<const AdamWPart> parts) {
  const double scale = seen(s.gradient_scale);
  if (std::isnan(scale)) return;
  double lr = s.lr;
  double c1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  double c2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  if (s.late_rates) {
    const double* const late = s.late_rates.as<double>();
    lr = late[0], c1 = late[1], c2 = late[2];
  }
  for (const AdamWPart& p : parts) {
    double *W = p.w.as<double>(), *M = p.m.as<double>(), *V = p.v.as<double>();
    const double* G = p.g.as<double>();
    for (std::int64_t i = 0; i < p.w.numel(); ++i) {
      const double gradient = scale * G[i];
      M[i] = s.beta1 * M[i] + (1 - s.beta1) * gradient;
      V[i] = s.beta2 * V[i] + (1 - s.beta2) * gradient * gradient;
      W[i] = W[i] * (1 - lr * s.weight_decay) - lr * (M[i] / c1) / (std::sqrt(V[i] / c2) + s.eps);
    }
  }
}

void ReferenceBackend::ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) {
  const double scale = seen(s.gradient_scale) * seen(s.weight), mu = seen(s.mu);
  if (std::isnan(scale)) return;
  for (const MomentumPart& p : parts) {
    double *M = p.m.as<double>(), *U = p.u.as<double>();
    const double* G = p.g.as<double>();
    for (std::int64_t i = 0; i < p.g.numel(); ++i) {
      const double gradient = scale * G[i];
      M[i] = mu * M[i] + (1 - mu) * gradient;
      U[i] = s.nesterov ? mu * M[i] + (1 - mu) * gradient : M[i];
    }
  }
}

void ReferenceBackend::apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                                    const Tensor& verdict) {
  if (std::isnan(seen({1, verdict}))) return;
  const double k = seen(keep), s = seen(step);
  for (const UpdatePart& p : parts) {
    double* W = p.w.as<double>();
    for (std::int64_t i = 0; i < p.w.numel(); ++i) W[i] = k * W[i] - s * get(p.u, i);
  }
}

void ReferenceBackend::axpby(double a, const Tensor& x, double b, const Tensor& y) {
  for (std::int64_t i = 0; i < x.numel(); ++i) put(y, i, a * get(x, i) + (b == 0 ? 0 : b * get(y, i)));
}

// The nearest number of the format by its definition: multiples of a step that doubles with the exponent.
void ReferenceBackend::round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) {
  const int mantissa = format == Fp8::e4m3 ? 3 : 2, lowest = format == Fp8::e4m3 ? -6 : -14;
  const double largest = format == Fp8::e4m3 ? 448 : 57344;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double z = scale * get(x, i);
    int exponent = 0;
    std::frexp(z, &exponent);  // z = f 2^exponent, 1/2 <= |f| < 1
    const double step = std::ldexp(1.0, std::max(exponent - 1, lowest) - mantissa);
    const double rounded = std::isnan(z) ? z : std::clamp(std::nearbyint(z / step) * step, -largest, largest);
    put(y, i, rounded / scale);
  }
}

// ---- reductions

double ReferenceBackend::sum_of_squares(const Tensor& x) {
  double s = 0;
  for (std::int64_t i = 0; i < x.numel(); ++i) s += get(x, i) * get(x, i);
  return s;
}

double ReferenceBackend::sum(const Tensor& x) {
  double s = 0;
  for (std::int64_t i = 0; i < x.numel(); ++i) s += get(x, i);
  return s;
}

bool ReferenceBackend::all_finite(const Tensor& x) {
  for (std::int64_t i = 0; i < x.numel(); ++i)
    if (!std::isfinite(get(x, i))) return false;
  return true;
}

// ---- random: the float values every backend gives, widened

void ReferenceBackend::fill_uniform(const Tensor& x, RandomKey key, float low, float high) {
  for (std::int64_t i = 0; i < x.numel(); ++i)
    put(x, i, static_cast<double>(uniform_at(key, static_cast<std::uint64_t>(i), low, high)));
}

// By the definition: the farther neighbour with the probability of how far x is on its way there.
void ReferenceBackend::round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) {
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double value = get(x, i), size = std::abs(value);
    int exponent = 0;
    std::frexp(value, &exponent);
    const double step = std::ldexp(1.0, std::max(exponent, -125) - 8), near = std::floor(size / step) * step;
    const auto index = static_cast<std::uint64_t>(first + i);
    const std::uint32_t word = random_u32(key, index / 2), bits = index % 2 ? word >> 16 : word & 0xffff;
    const bool far = (size - near) / step + bits / 65536.0 >= 1;
    put(y, i, std::isfinite(value) ? std::copysign(near + (far ? step : 0), value) : value);
  }
}

void ReferenceBackend::fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) {
  for (std::int64_t i = 0; i < x.numel(); ++i)
    put(x, i, static_cast<double>(normal_at(key, static_cast<std::uint64_t>(i), mean, deviation)));
}

}  // namespace spectrain
