#pragma once

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/cudnn_library.h"

namespace spectrain {

using Dims = std::array<std::int64_t, 4>;

// What was said of one descriptor.
struct Noted {
  cudnnBackendDescriptorType_t type;
  std::map<int, std::vector<unsigned char>> attributes;
  std::vector<double> memory;  // of a virtual tensor
  double* values = nullptr;

  template <class T>
  T get(cudnnBackendAttributeName_t name, std::size_t i = 0) const {
    const auto found = attributes.find(name);
    if (found == attributes.end()) throw std::logic_error("an attribute is missing: " + std::to_string(name));
    if ((i + 1) * sizeof(T) > found->second.size())
      throw std::logic_error("an attribute is too short: " + std::to_string(name));
    T value;
    std::memcpy(&value, found->second.data() + i * sizeof(T), sizeof(T));
    return value;
  }
  bool has(cudnnBackendAttributeName_t name) const { return attributes.count(name) != 0; }
  Noted& other(cudnnBackendAttributeName_t name) const { return *static_cast<Noted*>(get<void*>(name)); }
  Dims dims(cudnnBackendAttributeName_t name) const {
    Dims d{};
    for (std::size_t i = 0; i < 4; ++i) d[i] = get<std::int64_t>(name, i);
    return d;
  }
  Dims shape() const { return dims(CUDNN_ATTR_TENSOR_DIMENSIONS); }
  Dims strides() const { return dims(CUDNN_ATTR_TENSOR_STRIDES); }
};

// A cuDNN that notes down what it is told and does nothing: its descriptors are Noted.
std::shared_ptr<const Cudnn> played_cudnn();

}  // namespace spectrain
