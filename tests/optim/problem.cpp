#include "tests/optim/problem.h"

#include "tests/cuda_emulator/emulator.h"
#include "tests/reference/reference_backend.h"

namespace spectrain {

std::unique_ptr<Backend> backend_named(const std::string& name) {
  if (name == "cuda") return make_emulated_cuda_backend();
  return name == "cpu" ? make_cpu_backend() : make_reference_backend();
}

double epsilon(const Backend& backend) { return backend.master() == DType::f64 ? 0x1p-53 : 0x1p-24; }

std::vector<double> host(Backend& backend, const Tensor& t) {
  std::vector<std::byte> bytes(t.bytes());
  backend.copy_to_host(bytes.data(), t);
  const Tensor copy{bytes.data(), t.dtype, t.shape};
  std::vector<double> values;
  for (std::size_t i = 0; i < static_cast<std::size_t>(t.numel()); ++i)
    values.push_back(t.dtype == DType::f64    ? copy.as<double>()[i]
                     : t.dtype == DType::f32  ? static_cast<double>(copy.as<float>()[i])
                     : t.dtype == DType::bf16 ? static_cast<double>(static_cast<float>(copy.as<bf16>()[i]))
                                              : static_cast<double>(static_cast<float>(copy.as<f16>()[i])));
  return values;
}

void write(Backend& backend, const Tensor& t, const std::vector<double>& values) {
  if (t.dtype == DType::f64) return backend.copy_from_host(t, values.data());
  std::vector<float> narrow(values.begin(), values.end());
  backend.copy_from_host(t, narrow.data());
}

std::size_t Problem::add(const std::string& name, Shape shape, Role role, std::vector<std::int64_t> splits,
                         std::int64_t logical_rows) {
  ParameterInfo info;
  info.name = name;
  info.shape = shape;
  info.role = role;
  info.splits = std::move(splits);
  info.logical_rows = logical_rows > 0 ? logical_rows : shape.rank() > 0 ? shape[0] : 0;
  infos_.push_back(std::move(info));
  Tensor pair[2];
  for (Tensor& t : pair) {
    const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(backend->master());
    buffers_.push_back(backend->allocate(bytes, name));
    t = buffers_.back()->view(backend->master(), shape);
    backend->fill(t, 0);
  }
  views_.push_back({&infos_.back(), pair[0], pair[1]});
  return views_.size() - 1;
}

}  // namespace spectrain
