#include "optim/newton_schulz.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace spectrain {

namespace {

const NewtonSchulzScheme kKeller{"keller", 1, 5, {{3.4445F, -4.7750F, 2.0315F}}};

const NewtonSchulzScheme kPolarExpress{"polar-express",
                                       1.02,
                                       5,
                                       {{8.156554524902461F, -22.48329292557795F, 15.878769915207462F},
                                        {4.042929935166739F, -2.808917465908714F, 0.5000178451051316F},
                                        {3.8916678022926607F, -2.772484153217685F, 0.5060648178503393F},
                                        {3.285753657755655F, -2.3681294933425376F, 0.46449024233003106F},
                                        {2.3465413258596377F, -1.7097828382687081F, 0.42323551169305323F}}};

const NewtonSchulzScheme kYou{"you",
                              1,
                              5,
                              {{4.0848F, -6.8946F, 2.9270F},
                               {3.9505F, -6.3029F, 2.6377F},
                               {3.7418F, -5.5913F, 2.3037F},
                               {2.8769F, -3.1427F, 1.2046F},
                               {2.8366F, -3.0525F, 1.2012F}}};

const NewtonSchulzScheme kExact{"exact", 1, 12, {{2, -1.5F, 0.5F}}};

// The largest matrix, and the largest square of a short side, among the parts.
struct Extent {
  std::int64_t numel = 0, short_square = 0;
};

Extent extent(std::span<const Shape> parts) {
  Extent e;
  for (const Shape& p : parts) {
    const std::int64_t n = std::min(p.rows(), p.cols());
    e.numel = std::max(e.numel, p.numel());
    e.short_square = std::max(e.short_square, n * n);
  }
  return e;
}

}  // namespace

const NewtonSchulzScheme& scheme(NewtonSchulzTable table) {
  switch (table) {
    case NewtonSchulzTable::keller:
      return kKeller;
    case NewtonSchulzTable::polar_express:
      return kPolarExpress;
    case NewtonSchulzTable::you:
      return kYou;
    case NewtonSchulzTable::exact:
      return kExact;
  }
  return kPolarExpress;
}

std::vector<Quintic> quintics(const NewtonSchulzOptions& options) {
  const NewtonSchulzScheme& s = scheme(options.coefficients);
  if (options.steps < 0)
    throw RequestError(
        fmt::format("newton_schulz: steps is {}, but must be at least 1 (or 0 for {}'s own {})",
                    options.steps, s.name, s.steps));
  std::vector<Quintic> q = s.table;
  q.resize(static_cast<std::size_t>(options.steps == 0 ? s.steps : options.steps), s.table.back());
  return q;
}

std::string describe(const NewtonSchulzOptions& options) {
  return fmt::format("{} x {}, {}", scheme(options.coefficients).name, quintics(options).size(),
                     name_of(options.precision));
}

NewtonSchulz::NewtonSchulz(const NewtonSchulzOptions& options)
    : precision_(options.precision),
      safety_(scheme(options.coefficients).safety),
      quintics_(quintics(options)) {
  if (precision_ != DType::f32 && precision_ != DType::bf16)
    throw RequestError(
        fmt::format("newton_schulz: precision is {}, but must be f32 or bf16", name_of(precision_)));
}

double NewtonSchulz::flops(const Shape& part) const {
  const auto n = static_cast<double>(std::min(part.rows(), part.cols()));
  const auto m = static_cast<double>(std::max(part.rows(), part.cols()));
  return static_cast<double>(quintics_.size()) * (3 * m / n + 1) * n * n * n;
}

std::size_t NewtonSchulz::workspace_bytes(std::span<const Shape> parts, DType master) const {
  const Extent e = extent(parts);
  return static_cast<std::size_t>(e.numel + 2 * e.short_square) * size_of(iterated(master));
}

void NewtonSchulz::prepare(Backend& backend, std::span<const Shape> parts) {
  backend_ = &backend;
  const Extent e = extent(parts);
  const std::size_t size = size_of(iterated(backend.master()));
  x_ = backend.allocate(static_cast<std::size_t>(e.numel) * size, "Newton-Schulz iterate");
  gram_ = backend.allocate(static_cast<std::size_t>(e.short_square) * size, "Newton-Schulz Gram matrix");
  polynomial_ = backend.allocate(static_cast<std::size_t>(e.short_square) * size, "Newton-Schulz polynomial");
}

Tensor NewtonSchulz::apply(const StepContext&, const Tensor& in, std::span<const Tensor>) {
  return orthogonalize(in);
}

Tensor NewtonSchulz::orthogonalize(const Tensor& u) {
  const std::int64_t out = u.rows(), in = u.cols();
  const bool tall = out > in;
  const Shape wide = tall ? Shape{in, out} : Shape{out, in};
  const DType dtype = iterated(u.dtype);

  const double squares = backend_->sum_of_squares(u);
  backend_->scale(u, 1 / (safety_ * std::sqrt(std::max(squares, 1e-30))), u);

  // Two buffers take turns: ours, and u's as soon as u has been read.
  Tensor x = x_->view(dtype, wide), y{u.data, dtype, wide};
  if (tall)
    backend_->transpose(u, x);
  else if (dtype != u.dtype)
    backend_->copy(u, x);
  else
    std::swap(x, y);

  for (const Quintic& q : quintics_) {
    iterate(q, x, y);
    std::swap(x, y);
  }
  if (!tall) return x;
  const Tensor result{y.data, dtype, {out, in}};
  backend_->transpose(x, result);
  return result;
}

void NewtonSchulz::iterate(const Quintic& q, const Tensor& x, const Tensor& y) {
  const std::int64_t n = x.rows();
  const Tensor gram = gram_->view(x.dtype, {n, n}), polynomial = polynomial_->view(x.dtype, {n, n});
  backend_->symmetric_product(x, 1, {}, 0, gram);
  backend_->symmetric_product(gram, q.c, gram, q.b, polynomial);
  // a I stays out of the polynomial: rounded to bf16 beside small entries it would swamp them.
  backend_->copy(x, y);
  backend_->matmul(polynomial, false, x, false, 1, q.a, y);
}

}  // namespace spectrain
