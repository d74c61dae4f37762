#include "tests/kernels/device_as_host.h"

#include <cstring>
#include <map>
#include <vector>

namespace spectrain {
namespace {

class HostBuffer final : public Buffer {
 public:
  explicit HostBuffer(std::size_t bytes)
      : memory_(static_cast<std::byte*>(std::aligned_alloc(64, bytes / 64 * 64 + 64))) {
    data_ = memory_;
    bytes_ = bytes;
  }
  ~HostBuffer() override { std::free(memory_); }
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;

 private:
  std::byte* memory_;
};

class DeviceAsHost final : public Backend {
 public:
  explicit DeviceAsHost(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  std::string_view name() const override { return device_->name(); }
  std::string description() const override { return device_->description(); }
  DType master() const override { return device_->master(); }
  DType logits(DType compute) const override { return device_->logits(compute); }

  std::unique_ptr<Buffer> allocate(std::size_t bytes, std::string_view name) override {
    device_->allocate(bytes, name);  // its refusals
    allocated_ += bytes;
    return std::make_unique<CountedBuffer>(*this, bytes);
  }
  std::size_t allocated_bytes() const override { return allocated_; }
  void synchronize() override { device_->synchronize(); }

  void fill(const Tensor& x, double value) override {
    call([&](Call& c) { device_->fill(c(x), value); });
  }
  void copy(const Tensor& from, const Tensor& to) override {
    call([&](Call& c) { device_->copy(c(from), c(to)); });
  }
  void copy_from_host(const Tensor& to, const void* from) override {
    call([&](Call& c) { device_->copy_from_host(c(to), from); });
  }
  void copy_to_host(void* to, const Tensor& from) override {
    call([&](Call& c) { device_->copy_to_host(to, c(from)); });
  }

  std::unique_ptr<PreparedMatrix> prepare(const Tensor& master, DType compute, bool backward) override {
    std::unique_ptr<PreparedMatrix> matrix;
    call([&](Call& c) {
      matrix = device_->prepare(c(master), compute, backward);
      device_->synchronize();
    });
    return matrix;
  }
  std::size_t prepared_bytes(Shape shape, DType compute, bool backward) const override {
    return device_->prepared_bytes(shape, compute, backward);
  }
  void refresh(PreparedMatrix& matrix, const Tensor& master) override {
    call([&](Call& c) { device_->refresh(matrix, c(master)); });
  }
  std::vector<std::byte> contents(const PreparedMatrix& matrix) const override {
    return device_->contents(matrix);
  }
  void linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act, const Tensor& pre,
              const Tensor& y) override {
    call([&](Call& c) { device_->linear(c(x), w, c(bias), act, c(pre), c(y)); });
  }
  void linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                             bool accumulate) override {
    call([&](Call& c) { device_->linear_backward_input(c(dy), w, c(dx), accumulate); });
  }
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw, bool accumulate) override {
    call([&](Call& c) { device_->linear_backward_weight(c(dy), c(x), c(dw), accumulate); });
  }
  void round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) override {
    call([&](Call& c) { device_->round_fp8(format, scale, c(x), c(y)); });
  }
  std::size_t prepared_fp8_bytes(Shape shape, DType compute) const override {
    return device_->prepared_fp8_bytes(shape, compute);
  }
  std::unique_ptr<PreparedMatrix> prepare_fp8(double scale, const Tensor& values, DType compute) override {
    std::unique_ptr<PreparedMatrix> matrix;
    call([&](Call& c) { matrix = device_->prepare_fp8(scale, c(values), compute); });
    return matrix;
  }
  void refresh_fp8(PreparedMatrix& w, const Tensor& values) override {
    call([&](Call& c) { device_->refresh_fp8(w, c(values)); });
  }
  Fp8Operand encode_fp8(Fp8 format, double scale, const Tensor& x, const PreparedMatrix& w,
                        const Tensor& memory) override {
    Fp8Operand made;
    call([&](Call& c) { made = device_->encode_fp8(format, scale, c(x), w, c(memory)); });
    made.memory = memory;
    return made;
  }
  void linear_fp8(const Fp8Operand& x, const PreparedMatrix& w, const Tensor& bias,
                  const Tensor& y) override {
    call([&](Call& c) { device_->linear_fp8(there(c, x), w, c(bias), c(y)); });
  }
  void linear_backward_input_fp8(const Fp8Operand& dy, const PreparedMatrix& w, const Tensor& dx,
                                 bool accumulate) override {
    call([&](Call& c) { device_->linear_backward_input_fp8(there(c, dy), w, c(dx), accumulate); });
  }
  void linear_backward_weight_fp8(const Fp8Operand& dy, const Fp8Operand& x, const Tensor& dw,
                                  bool accumulate) override {
    call([&](Call& c) { device_->linear_backward_weight_fp8(there(c, dy), there(c, x), c(dw), accumulate); });
  }
  void bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) override {
    call([&](Call& c) { device_->bias_gradient(c(dy), c(db), accumulate); });
  }
  void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha, float beta,
              const Tensor& x) override {
    call([&](Call& c) { device_->matmul(c(a), transpose_a, c(b), transpose_b, alpha, beta, c(x)); });
  }
  void symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta,
                         const Tensor& x) override {
    call([&](Call& c) { device_->symmetric_product(c(a), alpha, c(d), beta, c(x)); });
  }
  void commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d, float beta,
                         const Tensor& x) override {
    call([&](Call& c) { device_->commuting_product(c(a), c(b), alpha, c(d), beta, c(x)); });
  }
  void add_identity(const Tensor& x, float factor) override {
    call([&](Call& c) { device_->add_identity(c(x), factor); });
  }
  std::int64_t matrices_at_once(Shape matrix) const override { return device_->matrices_at_once(matrix); }

  void activation(Activation act, const Tensor& x, const Tensor& y) override {
    call([&](Call& c) { device_->activation(act, c(x), c(y)); });
  }
  void activation_backward(Activation act, const Tensor& dy, const Tensor& saved, const Tensor& dx) override {
    call([&](Call& c) { device_->activation_backward(act, c(dy), c(saved), c(dx)); });
  }
  void swiglu(const Tensor& x, const Tensor& y) override {
    call([&](Call& c) { device_->swiglu(c(x), c(y)); });
  }
  void swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) override {
    call([&](Call& c) { device_->swiglu_backward(c(dy), c(x), c(dx)); });
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& y) override {
    call([&](Call& c) { device_->add(c(a), c(b), c(y)); });
  }
  void scale(const Tensor& x, double factor, const Tensor& y) override {
    call([&](Call& c) { device_->scale(c(x), factor, c(y)); });
  }

  void norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
            const Tensor& y, const Tensor& mean, const Tensor& rstd) override {
    call([&](Call& c) { device_->norm(kind, c(x), c(gain), c(bias), eps, c(y), c(mean), c(rstd)); });
  }
  void add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain, const Tensor& bias,
                double eps, const Tensor& sum, const Tensor& y, const Tensor& mean,
                const Tensor& rstd) override {
    call([&](Call& c) {
      device_->add_norm(kind, c(a), c(b), c(gain), c(bias), eps, c(sum), c(y), c(mean), c(rstd));
    });
  }
  void norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& mean,
                     const Tensor& rstd, const Tensor& dx, bool accumulate, const Tensor& dgain,
                     const Tensor& dbias, bool accumulate_parameters) override {
    call([&](Call& c) {
      device_->norm_backward(kind, c(dy), c(x), c(gain), c(mean), c(rstd), c(dx), accumulate, c(dgain),
                             c(dbias), accumulate_parameters);
    });
  }

  void qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in, const Tensor& out,
                    const Tensor& rstd) override {
    call([&](Call& c) { device_->qk_transform(layout, there(c, t), c(in), c(out), c(rstd)); });
  }
  void qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout,
                             const Tensor& out, const Tensor& rstd, const Tensor& din) override {
    call([&](Call& c) {
      device_->qk_transform_backward(layout, there(c, t), c(dout), c(out), c(rstd), c(din));
    });
  }
  void attention(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                 const Tensor& out, const Tensor& lse) override {
    call([&](Call& c) { device_->attention(layout, scale, c(qkv), c(first_key), c(out), c(lse)); });
  }
  void attention_backward(const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv,
                          const Tensor& first_key, const Tensor& out, const Tensor& lse,
                          const Tensor& dqkv) override {
    call([&](Call& c) {
      device_->attention_backward(layout, scale, c(dout), c(qkv), c(first_key), c(out), c(lse), c(dqkv));
    });
  }

  void embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions, std::int64_t context,
                 const Tensor& out) override {
    call([&](Call& c) { device_->embedding(c(tokens), c(table), c(positions), context, c(out)); });
  }
  void embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                          const Tensor& dtable, const Tensor& dpositions) override {
    call(
        [&](Call& c) { device_->embedding_backward(c(tokens), c(dout), context, c(dtable), c(dpositions)); });
  }
  void linear_activation_backward(const Tensor& dy, const PreparedMatrix& w, Activation act,
                                  const Tensor& saved, const Tensor& dx) override {
    call([&](Call& c) { device_->linear_activation_backward(c(dy), w, act, c(saved), c(dx)); });
  }
  void cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab, const Softcap& cap,
                     double gradient_scale, const Tensor& losses, const Tensor& dlogits) override {
    call([&](Call& c) {
      device_->cross_entropy(c(logits), c(targets), vocab, cap, gradient_scale, c(losses), c(dlogits));
    });
  }
  void sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap, RandomKey key,
                      std::int64_t first, const Tensor& targets) override {
    call([&](Call& c) { device_->sample_targets(c(logits), vocab, cap, key, first, c(targets)); });
  }

  void adamw(const AdamWStep& s, std::span<const AdamWPart> parts) override {
    call([&](Call& c) {
      std::vector<AdamWPart> mine;
      for (const AdamWPart& p : parts) mine.push_back({c(p.w), c(p.g), c(p.m), c(p.v)});
      AdamWStep step = s;
      step.gradient_scale = c(s.gradient_scale);
      step.late_rates = c(s.late_rates);
      device_->adamw(step, mine);
    });
  }
  void ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) override {
    call([&](Call& c) {
      std::vector<MomentumPart> mine;
      for (const MomentumPart& p : parts) mine.push_back({c(p.g), c(p.m), c(p.u)});
      device_->ema_momentum({c(s.mu), s.nesterov, c(s.weight), c(s.gradient_scale)}, mine);
    });
  }
  void apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                    const Tensor& verdict) override {
    call([&](Call& c) {
      std::vector<UpdatePart> mine;
      for (const UpdatePart& p : parts) mine.push_back({c(p.w), c(p.u)});
      device_->apply_update(c(keep), c(step), mine, c(verdict));
    });
  }
  void clip_factor(const Tensor& squares, const Tensor& loss, double clip, const Tensor& verdict) override {
    call([&](Call& c) { device_->clip_factor(c(squares), c(loss), clip, c(verdict)); });
  }
  void normalize(const Tensor& x, double safety, const Tensor& y) override {
    call([&](Call& c) { device_->normalize(c(x), safety, c(y)); });
  }
  void axpby(double a, const Tensor& x, double b, const Tensor& y) override {
    call([&](Call& c) { device_->axpby(a, c(x), b, c(y)); });
  }
  void transpose(const Tensor& x, const Tensor& y) override {
    call([&](Call& c) { device_->transpose(c(x), c(y)); });
  }

  using Backend::evaluate, Backend::reduce;
  void evaluate(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors) override {
    call([&](Call& c) { device_->evaluate(f, numbers, there(c, tensors)); });
  }
  void reduce(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors,
              Extent result, const Tensor& out) override {
    call([&](Call& c) { device_->reduce(f, numbers, there(c, tensors), result, c(out)); });
  }

  void eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) override {
    call([&](Call& c) { device_->eigh(c(a), c(vectors), c(values)); });
  }
  void orthonormal_columns(const Tensor& a) override {
    call([&](Call& c) { device_->orthonormal_columns(c(a)); });
  }
  void svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) override {
    call([&](Call& c) { device_->svd(c(a), c(u), c(s), c(vt)); });
  }
  std::size_t factor_bytes(Shape batch) const override { return device_->factor_bytes(batch); }
  std::vector<std::string> notes() override { return device_->notes(); }
  void top_rows(const Tensor& scores, const Tensor& indices) override {
    call([&](Call& c) { device_->top_rows(c(scores), c(indices)); });
  }
  void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) override {
    call([&](Call& c) { device_->gather_rows(c(x), c(indices), c(y)); });
  }
  void scatter_rows(const Tensor& y, const Tensor& indices, const Tensor& x) override {
    call([&](Call& c) { device_->scatter_rows(c(y), c(indices), c(x)); });
  }
  void pool(PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) override {
    call([&](Call& c) { device_->pool(kind, p, c(x), c(y)); });
  }
  void pool_backward(PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                     const Tensor& dx) override {
    call([&](Call& c) { device_->pool_backward(kind, p, c(dy), c(x), c(dx)); });
  }
  void unfold(const Patches& p, const Tensor& x, const Tensor& rows) override {
    call([&](Call& c) { device_->unfold(p, c(x), c(rows)); });
  }
  void fold(const Patches& p, const Tensor& rows, const Tensor& x) override {
    call([&](Call& c) { device_->fold(p, c(rows), c(x)); });
  }
  void copy_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                    std::int64_t count, bool accumulate) override {
    call([&](Call& c) { device_->copy_columns(c(x), x_first, c(y), y_first, count, accumulate); });
  }

  double sum_of_squares(const Tensor& x) override {
    Call c(*device_);
    return device_->sum_of_squares(c(x));
  }
  double sum(const Tensor& x) override {
    Call c(*device_);
    return device_->sum(c(x));
  }
  bool all_finite(const Tensor& x) override {
    Call c(*device_);
    return device_->all_finite(c(x));
  }
  void add_sum(const Tensor& x, const Tensor& total) override {
    call([&](Call& c) { device_->add_sum(c(x), c(total)); });
  }
  void add_squares(std::span<const Tensor> xs, const Tensor& total) override {
    call([&](Call& c) { device_->add_squares(there(c, xs), c(total)); });
  }
  void fill_uniform(const Tensor& x, RandomKey key, float low, float high) override {
    call([&](Call& c) { device_->fill_uniform(c(x), key, low, high); });
  }
  void round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) override {
    call([&](Call& c) { device_->round_stochastic(c(x), key, first, c(y)); });
  }
  void fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) override {
    call([&](Call& c) { device_->fill_normal(c(x), key, mean, deviation); });
  }

 private:
  class CountedBuffer final : public Buffer {
   public:
    CountedBuffer(DeviceAsHost& owner, std::size_t bytes) : owner_(owner), host_(bytes) {
      data_ = host_.data();
      bytes_ = bytes;
    }
    ~CountedBuffer() override { owner_.allocated_ -= bytes_; }
    CountedBuffer(const CountedBuffer&) = delete;
    CountedBuffer& operator=(const CountedBuffer&) = delete;

   private:
    DeviceAsHost& owner_;
    HostBuffer host_;
  };

  // The tensors of one call. The same memory given twice is the same memory there (in place).
  class Call {
   public:
    explicit Call(Backend& device) : device_(device) {}
    Tensor operator()(const Tensor& host) {
      if (!host) return host;
      Entry& e = entries_[host.data];
      if (e.host.bytes() < host.bytes() || !e.memory) {
        // What came first and smaller was only read so far: nothing is lost.
        e.memory = device_.allocate(host.bytes(), "a test tensor");
        e.host = host;
        upload(e, host);
      }
      return {e.memory->data(), host.dtype, host.shape};
    }
    Number operator()(const Number& n) { return {n.value, (*this)(n.late)}; }
    void bring_back() {
      device_.synchronize();
      for (auto& [data, e] : entries_)
        device_.copy_to_host(data, Tensor(e.memory->data(), e.host.dtype, e.host.shape));
    }

   private:
    struct Entry {
      Tensor host;
      std::unique_ptr<Buffer> memory;
    };
    void upload(Entry& e, const Tensor& host) {
      device_.copy_from_host(Tensor(e.memory->data(), host.dtype, host.shape), host.data);
    }
    Backend& device_;
    std::map<void*, Entry> entries_;
  };

  template <class Body>
  void call(Body body) {
    Call c(*device_);
    body(c);
    c.bring_back();
  }
  static std::vector<Tensor> there(Call& c, std::span<const Tensor> tensors) {
    std::vector<Tensor> moved;
    for (const Tensor& t : tensors) moved.push_back(c(t));
    return moved;
  }
  static Fp8Operand there(Call& c, Fp8Operand x) {
    x.memory = c(x.memory);
    return x;
  }
  static QkTransform there(Call& c, QkTransform t) {
    t.cos = c(t.cos);
    t.sin = c(t.sin);
    return t;
  }

  std::unique_ptr<Backend> device_;
  std::size_t allocated_ = 0;
};

}  // namespace

std::unique_ptr<Backend> make_device_as_host(std::unique_ptr<Backend> device) {
  return std::make_unique<DeviceAsHost>(std::move(device));
}

}  // namespace spectrain
