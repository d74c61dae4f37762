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

// Table 1 of Amsel et al. as a(x/s), for values up to s, so that one that rounding made larger than 1 does
// not escape; not the last, which is repeated and converges.
std::vector<Quintic> polar_express_up_to(double margin) {
  constexpr double kRaw[][3] = {{8.28721201814563, -23.595886519098837, 17.300387312530933},
                                {4.107059111542203, -2.9478499167379106, 0.5448431082926601},
                                {3.9486908534822946, -2.908902115962949, 0.5518191394370137},
                                {3.3184196573706015, -2.488488024314874, 0.51004894012372},
                                {2.300652019954817, -1.6689039845747493, 0.4188073119525673},
                                {1.891301407787398, -1.2679958271945868, 0.37680408948524835},
                                {1.8750014808534479, -1.2500016453999487, 0.3750001645474248},
                                {1.875, -1.25, 0.375}};
  std::vector<Quintic> table;
  for (const auto& q : kRaw) {
    const double s = &q == std::end(kRaw) - 1 ? 1 : margin, cube = s * s * s;
    table.push_back({static_cast<float>(q[0] / s), static_cast<float>(q[1] / cube),
                     static_cast<float>(q[2] / (cube * s * s))});
  }
  return table;
}

const NewtonSchulzScheme kPolarExpress105{"polar-express-1.05", 1, 5, polar_express_up_to(1.05)};
const NewtonSchulzScheme kPolarExpress101{"polar-express-1.01", 1.01, 5, polar_express_up_to(1.01)};

const NewtonSchulzScheme kCans{"cans",
                               1,
                               5,
                               {{8.4703F, -25.1081F, 18.6293F},
                                {4.1828F, -3.1087F, 0.5806F},
                                {3.9619F, -2.9541F, 0.5630F},
                                {3.2866F, -2.4647F, 0.5074F},
                                {2.2737F, -1.6447F, 0.4162F}}};

const NewtonSchulzScheme kCubic5{"cubic5",
                                 1,
                                 5,
                                 {{3.3656576F, -3.3420992F, 0},
                                  {2.5744352F, -1.4957376F, 0},
                                  {2.5368962F, -1.4312570F, 0},
                                  {2.4418906F, -1.2764040F, 0},
                                  {2.2230472F, -0.9630650F, 0}}};

const NewtonSchulzScheme kCubic{"cubic", 1, 15, {{1.5F, -0.5F, 0}}};

const NewtonSchulzScheme kPade{"pade", 1, 12, {{1.875F, -1.25F, 0.375F}}};

const NewtonSchulzScheme kDeepSeekV4{"deepseek-v4", 1, 10, [] {
                                       std::vector<Quintic> table(8, Quintic{3.4445F, -4.7750F, 2.0315F});
                                       table.push_back({2, -1.5F, 0.5F});
                                       return table;
                                     }()};

const NewtonSchulzScheme kAol{"aol",
                              1,
                              4,
                              {{4.0098F, -7.0585F, 2.4635F},
                               {3.4585F, -5.5479F, 2.5959F},
                               {2.7573F, -3.2939F, 1.4254F},
                               {2.7215F, -3.0494F, 1.3169F}},
                              true};

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
    case NewtonSchulzTable::polar_express_105:
      return kPolarExpress105;
    case NewtonSchulzTable::polar_express_101:
      return kPolarExpress101;
    case NewtonSchulzTable::cans:
      return kCans;
    case NewtonSchulzTable::cubic5:
      return kCubic5;
    case NewtonSchulzTable::cubic:
      return kCubic;
    case NewtonSchulzTable::pade:
      return kPade;
    case NewtonSchulzTable::deepseek_v4:
      return kDeepSeekV4;
    case NewtonSchulzTable::aol:
      return kAol;
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

bool gram_restarts(int step, DType precision) {
  if (step < 2) return false;
  return precision == DType::bf16 ? step % 2 == 0 : (step - 2) % 3 == 0;
}

std::string describe(const NewtonSchulzOptions& options) {
  return fmt::format("{} x {}, {}{}", scheme(options.coefficients).name, quintics(options).size(),
                     name_of(options.precision), options.form == NewtonSchulzForm::gram ? ", gram" : "");
}

NewtonSchulz::NewtonSchulz(const NewtonSchulzOptions& options)
    : precision_(options.precision),
      form_(options.form),
      safety_(scheme(options.coefficients).safety),
      row_sums_(scheme(options.coefficients).row_sums),
      quintics_(quintics(options)) {
  magnitudes_.sum_of(abs(magnitudes_.tensor(0)));
  const Term sum = scaled_.tensor(1, spectrain::Extent::rows);
  scaled_.assign(0, scaled_.tensor(0) * choose(above(sum, 0), 1 / sqrt(sum), scaled_.constant(0)));
  if (precision_ != DType::f32 && precision_ != DType::bf16 && precision_ != DType::f16)
    throw RequestError(
        fmt::format("newton_schulz: precision is {}, but must be f32, bf16 or f16", name_of(precision_)));
}

namespace {
bool is_cubic(const Quintic& q) { return std::fpclassify(q.c) == FP_ZERO; }
}  // namespace

// Square matrices have nothing to gain.
bool NewtonSchulz::in_gram_form(std::int64_t rows, std::int64_t cols) const {
  return form_ == NewtonSchulzForm::gram && rows != cols;
}

double NewtonSchulz::flops(const Shape& part) const {
  const auto n = static_cast<double>(std::min(part.rows(), part.cols()));
  const auto m = static_cast<double>(std::max(part.rows(), part.cols()));
  const auto steps = static_cast<double>(quintics_.size());
  if (!in_gram_form(part.rows(), part.cols())) {
    const auto squared =
        std::count_if(quintics_.begin(), quintics_.end(), [](const Quintic& q) { return !is_cubic(q); });
    return (steps * 3 * m / n + static_cast<double>(squared)) * n * n * n;
  }
  double runs = 1;
  for (int i = 1; i < static_cast<int>(quintics_.size()); ++i) runs += gram_restarts(i, precision_) ? 1 : 0;
  return (3 * m / n * runs + 4 * steps - 3 * runs) * n * n * n;
}

NewtonSchulz::Extent NewtonSchulz::extent(std::span<const Shape> batches) const {
  Extent e;
  for (const Shape& b : batches) {
    const std::int64_t cols = b.cols(), rows = b[b.rank() - 2], n = std::min(rows, cols);
    const std::int64_t squares = b.numel() / (rows * cols) * n * n;
    e.iterate = std::max(e.iterate, b.numel());
    e.squares = std::max(e.squares, squares);
    if (in_gram_form(rows, cols)) e.gram_squares = std::max(e.gram_squares, squares);
    if (row_sums_) e.sums = std::max(e.sums, b.numel() / (rows * cols) * n);
  }
  return e;
}

std::size_t NewtonSchulz::workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const {
  const Extent e = extent(batches);
  return static_cast<std::size_t>(e.iterate + 2 * e.squares + 2 * e.gram_squares) *
             size_of(iterated(backend.master())) +
         static_cast<std::size_t>(e.sums) * size_of(backend.master());
}

void NewtonSchulz::prepare(Backend& backend, std::span<const Shape> batches) {
  if (precision_ == DType::f16 && backend.name() != "cuda")
    throw RequestError("newton_schulz.precision f16 needs the CUDA device; f32 and bf16 run on the CPU");
  backend_ = &backend;
  const Extent e = extent(batches);
  const auto get = [&](std::int64_t elements, const char* name) {
    return backend.allocate(static_cast<std::size_t>(elements) * size_of(iterated(backend.master())), name);
  };
  x_ = get(e.iterate, "Newton-Schulz iterate");
  gram_ = get(e.squares, "Newton-Schulz Gram matrix");
  polynomial_ = get(e.squares, "Newton-Schulz polynomial");
  if (e.sums > 0)
    sums_ = backend.allocate(static_cast<std::size_t>(e.sums) * size_of(backend.master()),
                             "Newton-Schulz sums of rows");
  if (e.gram_squares == 0) return;
  factor_ = get(e.gram_squares, "Newton-Schulz factor");
  spare_ = get(e.gram_squares, "Newton-Schulz spare square");
}

Tensor NewtonSchulz::apply(const StepContext&, const MatrixBatch&, const Tensor& in) {
  return orthogonalize(in);
}

namespace {

void transpose_each(Backend& backend, const Tensor& x, const Tensor& y) {
  for (std::int64_t i = 0; i < x.shape[0]; ++i) backend.transpose(x.matrix(i), y.matrix(i));
}

}  // namespace

Tensor NewtonSchulz::orthogonalize(const Tensor& given) {
  const bool one = given.shape.rank() == 2;
  const Tensor u = one ? given.reshaped({1, given.rows(), given.cols()}) : given;
  const std::int64_t batch = u.shape[0], out = u.shape[1], in = u.shape[2];
  const bool tall = out > in;
  const DType dtype = iterated(u.dtype);

  // Two buffers take turns: ours, and u's as soon as u has been read.
  Tensor x = x_->view(dtype, u.shape), y{u.data, dtype, u.shape};
  if (dtype == u.dtype) std::swap(x, y);
  backend_->normalize(u, safety_, x);
  if (tall) {
    y = y.reshaped({batch, in, out});
    transpose_each(*backend_, x, y);
    std::swap(x, y);
    y = y.reshaped({batch, in, out});
  }
  if (row_sums_) scale_rows(x);
  const Tensor result = in_gram_form(out, in) ? gram(x, y) : standard(x, y);
  if (result.data != x.data) std::swap(x, y);
  if (tall) {
    y = y.reshaped(u.shape);
    transpose_each(*backend_, x, y);
    std::swap(x, y);
  }
  return x.reshaped(given.shape);
}

// x [B,n,m], n <= m: row i by the root of the sum of |x x^T|_ij over j. The norm that was taken out before
// does not matter, but keeps the squares in range.
void NewtonSchulz::scale_rows(const Tensor& x) {
  const std::int64_t batch = x.shape[0], n = x.shape[1];
  const Tensor gram = gram_->view(x.dtype, {batch, n, n}),
               sums = sums_->view(backend_->master(), {batch * n});
  backend_->symmetric_product(x, 1, {}, 0, gram);
  backend_->reduce(magnitudes_, {}, {gram.reshaped({batch * n, n})}, spectrain::Extent::rows, sums);
  backend_->evaluate(scaled_, {}, {x.reshaped({batch * n, x.shape[2]}), sums});
}

Tensor NewtonSchulz::standard(Tensor x, Tensor y) {
  const Shape square{x.shape[0], x.shape[1], x.shape[1]};
  const Tensor gram = gram_->view(x.dtype, square), polynomial = polynomial_->view(x.dtype, square);
  for (const Quintic& q : quintics_) {
    backend_->symmetric_product(x, 1, {}, 0, gram);
    if (is_cubic(q)) {
      backend_->copy(x, y);
      backend_->matmul(gram, false, x, false, q.b, q.a, y);
      std::swap(x, y);
      continue;
    }
    backend_->symmetric_product(gram, q.c, gram, q.b, polynomial);
    // a I stays out of the polynomial: rounded to bf16 beside small entries it would swamp them.
    backend_->copy(x, y);
    backend_->matmul(polynomial, false, x, false, 1, q.a, y);
    std::swap(x, y);
  }
  return x;
}

Tensor NewtonSchulz::gram(Tensor x, Tensor y) {
  const Shape square{x.shape[0], x.shape[1], x.shape[1]};
  const Tensor r = gram_->view(x.dtype, square), z = polynomial_->view(x.dtype, square);
  Tensor q = factor_->view(x.dtype, square), spare = spare_->view(x.dtype, square);
  const int steps = static_cast<int>(quintics_.size());
  for (int i = 0; i < steps; ++i) {
    const Quintic& p = quintics_[static_cast<std::size_t>(i)];
    const bool begins = i == 0 || gram_restarts(i, precision_);
    const bool ends = i + 1 == steps || gram_restarts(i + 1, precision_);
    if (begins) backend_->symmetric_product(x, 1, {}, 0, r);
    backend_->symmetric_product(r, p.c, r, p.b, z);
    // All of these are polynomials of one R, so they commute and their products are symmetric.
    if (begins) {
      backend_->copy(z, q);
      backend_->add_identity(q, p.a);
    } else {
      backend_->commuting_product(q, z, 1, q, p.a, spare);
      std::swap(q, spare);
    }
    if (ends) {
      backend_->matmul(q, false, x, false, 1, 0, y);
      std::swap(x, y);
    } else {
      backend_->commuting_product(r, z, 1, r, p.a, spare);
      backend_->commuting_product(z, spare, 1, spare, p.a, r);
    }
  }
  return x;
}

}  // namespace spectrain
