#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "tests/optim/dense.h"

namespace spectrain {

std::unique_ptr<Backend> backend_named(const std::string& name);  // "reference", "cpu", "cuda": emulated
double epsilon(const Backend& backend);                           // of the master dtype

// Elements of any float dtype to float64, and float64 to master.
std::vector<double> host(Backend& backend, const Tensor& t);
void write(Backend& backend, const Tensor& t, const std::vector<double>& values);

// Parameters with values and gradients, without a model.
class Problem {
 public:
  explicit Problem(const std::string& backend_name) : backend(backend_named(backend_name)) {}

  // Values and gradient start as zeros. Returns the parameter's index.
  std::size_t add(const std::string& name, Shape shape, Role role, std::vector<std::int64_t> splits = {},
                  std::int64_t logical_rows = 0);
  std::vector<ParameterView> views() const { return views_; }
  std::vector<ParameterInfo> infos() const { return {infos_.begin(), infos_.end()}; }

  Matrix value(std::size_t i) { return read(views_[i].value); }
  void set_value(std::size_t i, const Matrix& m) { write(*backend, views_[i].value, m.a); }
  void set_gradient(std::size_t i, const Matrix& m) { write(*backend, views_[i].gradient, m.a); }
  Matrix read(const Tensor& t) { return {t.rows(), t.cols(), host(*backend, t)}; }

  std::unique_ptr<Backend> backend;

 private:
  std::deque<ParameterInfo> infos_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<ParameterView> views_;
};

}  // namespace spectrain
