#include <algorithm>

#include "model/operation_parts.h"
#include "model/operations.h"

// Operations on images, which lie channels last: patches, pools, convolutions.

namespace spectrain {
namespace {

class Unfold final : public Operation {
 public:
  explicit Unfold(const Patches& patches) : patches_(patches) {}
  std::string_view name() const override { return "unfold"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0] == Shape{patches_.pixels(), patches_.channels}, name(), in);
    return {{Shape{patches_.places(), patches_.patch()}, false}};
  }
  void forward(const Run& r) const override { r.backend->unfold(patches_, r.in[0], r.out[0]); }
  void backward(const Run& r) const override { r.backend->fold(patches_, r.dout[0], r.din[0]); }
  bool cheap() const override { return true; }

 private:
  Patches patches_;
};

class Pool final : public Operation {
 public:
  Pool(PoolKind kind, const Patches& patches) : kind_(kind), patches_(patches) {}
  std::string_view name() const override { return "pool"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0] == Shape{patches_.pixels(), patches_.channels}, name(), in);
    return {{Shape{patches_.places(), patches_.channels}, false}};
  }
  void forward(const Run& r) const override { r.backend->pool(kind_, patches_, r.in[0], r.out[0]); }
  void backward(const Run& r) const override {
    r.backend->pool_backward(kind_, patches_, r.dout[0], r.in[0], r.din[0]);
  }
  bool backward_reads_input(std::size_t) const override { return true; }

 private:
  PoolKind kind_;
  Patches patches_;
};

// Through the backend's library, or, where there is none for these shapes, as products with the patches of
// some images at a time: few enough that they are still in the cache when the product reads them, and made
// again in the backward pass instead of being kept (the patches of 3x3 filters are nine times the image).
class Convolution final : public Operation {
 public:
  explicit Convolution(const Patches& patches) : patches_(patches) {}
  std::string_view name() const override { return "convolution"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0] == Shape{patches_.pixels(), patches_.channels} && in[1].rank() == 2 &&
                    in[1].cols() == patches_.patch(),
                name(), in);
    return {{Shape{patches_.places(), in[1].rows()}, false}};
  }
  void forward(const Run& r) const override {
    if (r.backend->convolution(patches_, r.in[0], *r.prepared[1], r.out[0])) return;
    each_part(r, [&](const Part& part, const Tensor& rows) {
      r.backend->unfold(part.patches, part.pixels(r.in[0]), rows);
      r.backend->linear(rows, *r.prepared[1], {}, Activation::none, {}, part.places(r.out[0]));
    });
  }
  void backward(const Run& r) const override {
    const Tensor &x = r.in[0], &dy = r.dout[0], &dx = r.din[0], &dw = r.din[1];
    const bool add = r.accumulate[1] != 0;
    if (dw && !r.backend->convolution_backward_filters(patches_, dy, x, dw, add))
      each_part(r, [&](const Part& part, const Tensor& rows) {
        r.backend->unfold(part.patches, part.pixels(x), rows);
        r.backend->linear_backward_weight(part.places(dy), rows, dw, add || part.first > 0);
      });
    if (dx && !r.backend->convolution_backward_input(patches_, dy, *r.prepared[1], dx))
      each_part(r, [&](const Part& part, const Tensor& rows) {
        r.backend->linear_backward_input(part.places(dy), *r.prepared[1], rows, false);
        r.backend->fold(part.patches, rows, part.pixels(dx));
      });
  }
  bool backward_reads_input(std::size_t i) const override { return i == 0; }
  bool prepared_input(std::size_t i) const override { return i == 1; }
  bool accumulates(std::size_t i) const override { return i == 1; }
  double flops(const Run& r, bool backward) const override {
    return product_flops(patches_.places(), r, backward);
  }
  std::size_t workspace_bytes(const std::vector<Shape>&, DType compute, DType, bool,
                              std::size_t) const override {
    return Pieces::room(static_cast<std::size_t>(images_at_once(compute) * image_rows() * patches_.patch()) *
                        size_of(compute));
  }

 private:
  static constexpr std::int64_t kBytesAtOnce = std::int64_t{4}
                                               << 20;  // half of what two cores share of a cache

  struct Part {
    Patches patches;  // of these images
    std::int64_t first = 0;
    Tensor pixels(const Tensor& x) const {
      return x.slice_rows(first * patches.height * patches.width, patches.pixels());
    }
    Tensor places(const Tensor& y) const {
      return y.slice_rows(first * patches.out_height() * patches.out_width(), patches.places());
    }
  };

  std::int64_t image_rows() const { return patches_.out_height() * patches_.out_width(); }
  std::int64_t images_at_once(DType compute) const {
    const std::int64_t each = image_rows() * patches_.patch() * static_cast<std::int64_t>(size_of(compute));
    return std::clamp<std::int64_t>(kBytesAtOnce / std::max<std::int64_t>(each, 1), 1, patches_.batch);
  }
  template <class Do>
  void each_part(const Run& r, const Do& run) const {
    const std::int64_t most = images_at_once(r.compute);
    for (std::int64_t first = 0; first < patches_.batch; first += most) {
      Part part{patches_, first};
      part.patches.batch = std::min(most, patches_.batch - first);
      run(part, Pieces(r).take(r.compute, {part.patches.places(), patches_.patch()}));
    }
  }
  Patches patches_;
};

}  // namespace

std::unique_ptr<Operation> make_unfold(const Patches& patches) { return std::make_unique<Unfold>(patches); }
std::unique_ptr<Operation> make_pool(PoolKind kind, const Patches& patches) {
  return std::make_unique<Pool>(kind, patches);
}
std::unique_ptr<Operation> make_convolution(const Patches& patches) {
  return std::make_unique<Convolution>(patches);
}

}  // namespace spectrain
