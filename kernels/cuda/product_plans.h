#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/products.h"

// Which algorithm of the library multiplies which matrices: what the choice depends on, and the file that
// keeps it from one run to the next, so that the same products give the same bits and are timed once.

namespace spectrain {

// Whether something is done to a product before it is rounded and stored.
inline bool has_epilogue(const Product& p) { return p.bias || p.gelu_tanh || p.pre || p.slope_at; }

// Everything about a product that decides which algorithms can do it. Pointers count by their alignment.
struct ProductKey {
  explicit ProductKey(const Product& product);
  auto operator<=>(const ProductKey&) const = default;
  // "2 x [768, 3072] . [1024, 3072]^T, bf16 to f32, aligned 16 16 16"
  std::string text() const;

  std::int64_t batch, m, n, k;
  bool transpose_a, transpose_b;
  DType factors, result;
  std::optional<EightBits> eight_bits;
  bool bias, gelu_tanh, pre, slope;
  std::uint32_t align_a, align_b, align_c;  // bytes, at most 16: what the widest load needs
};

// An algorithm as the library describes it, without its meaning: for the same version of the library only.
using ProductPlan = std::array<std::uint64_t, 8>;

// A text file with one plan per line, shared by all processes, devices and library versions that name it. A
// line that is damaged or of an unknown form is ignored, and gone when the file is written next.
class PlanFile {
 public:
  // `machine`: device and library version; plans of other machines are kept, not used. A file that is not
  // there is empty; one that cannot be written is only read.
  PlanFile(std::string path, std::string_view machine);

  bool writable() const { return writable_; }
  std::optional<ProductPlan> find(const std::string& product) const;
  // Keeps `chosen` for the product, unless another process was first: then that one's plan, which is
  // returned and holds from now on. Throws Error when the file cannot be written any more.
  ProductPlan settle(const std::string& product, const ProductPlan& chosen);

 private:
  void read();
  void write() const;

  std::string path_, machine_;
  bool writable_ = false;
  std::map<std::string, ProductPlan> plans_;  // of this machine
  std::vector<std::string> others_;           // lines of other machines
};

}  // namespace spectrain
