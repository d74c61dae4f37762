#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"

namespace spectrain {

// What a parameter is for. Roles, never names or the number of dimensions, decide which optimizer rule
// applies. Those that are fixed get no gradient and no rule: filters that stay as they are, running
// statistics.
enum class Role : std::uint8_t { embedding, head, hidden, gain, bias, scalar, fixed };
std::string_view name_of(Role role);

struct Initializer {
  enum class Kind : std::uint8_t { constant, normal, uniform };
  Kind kind = Kind::constant;
  double value = 0;  // the constant, the standard deviation, or the bound of U(-value, value)

  static Initializer zeros() { return {}; }
  static Initializer ones() { return {Kind::constant, 1}; }
  static Initializer normal(double deviation) { return {Kind::normal, deviation}; }
  static Initializer uniform(double bound) { return {Kind::uniform, bound}; }
};

// A declared parameter: no memory yet.
struct ParameterInfo {
  std::string name;  // "h.3.attention.qkv"; the checkpoint's tensor name
  Shape shape;       // a matrix is [out, in]
  Role role = Role::hidden;
  Initializer init;
  // Fused matrices: the row counts of the parts (q, k, v / gate, up), summing to shape[0]. Empty: one part.
  // One product in the forward pass, separate matrices for the optimizer.
  std::vector<std::int64_t> splits;
  // Rows that hold real data; rows from here on are padding (vocabulary), stay zero and are not trained.
  std::int64_t logical_rows = 0;
  std::int64_t logical_numel() const { return shape.rank() == 2 ? logical_rows * shape[1] : shape.numel(); }
};

// A parameter with memory, as the optimizer and the checkpoint see it.
struct ParameterView {
  const ParameterInfo* info = nullptr;
  Tensor value;     // master
  Tensor gradient;  // master, same shape; empty when not training
};

}  // namespace spectrain
