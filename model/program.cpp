#include <fmt/format.h>

#include "model/program_impl.h"

namespace spectrain {

std::size_t leaf_bytes(const Tape& tape, DType master, DType compute) {
  std::size_t bytes = 0;
  for (const Tape::Recording::ValueInfo& v : tape.recording().values)
    if (v.kind == Tape::Recording::Kind::input || v.kind == Tape::Recording::Kind::constant)
      bytes += align_up(static_cast<std::size_t>(v.shape.numel()) * size_of(leaf_dtype(v, master, compute)));
  return bytes;
}

namespace {

// What a step made, in words: "h.3.attention" for a value, "gradient of h.3.mlp.down.weight".
std::string describe(const Tape::Recording& r, const Action& a) {
  const int node = a.partner >= 0 ? a.partner : a.node;
  const std::string where =
      node < 0 ? "a residual"
               : r.values[static_cast<std::size_t>(r.nodes[static_cast<std::size_t>(node)].outputs[0])].name;
  if (!is_backward(a) || r.nodes[static_cast<std::size_t>(node)].op->is_loss()) return where;
  return "the gradient through " + where;
}

}  // namespace

Program::Program(const Tape& tape, Value losses, Parameters& parameters, const ProgramOptions& options)
    : impl_(std::make_unique<Impl>(tape, losses, parameters, options)) {
  for (const Action& a : impl_->plan.actions) impl_->names.push_back(describe(tape.recording(), a));
}

Program::~Program() = default;

const Tensor& Program::input(std::string_view name, std::size_t values, bool real) const {
  const auto it = impl_->inputs.find(name);
  if (it == impl_->inputs.end()) throw std::logic_error(fmt::format("the program has no input \"{}\"", name));
  if (static_cast<std::int64_t>(values) != it->second.numel())
    throw std::logic_error(
        fmt::format("input \"{}\" takes {} values, {} given", name, it->second.numel(), values));
  if (real == (it->second.dtype == DType::i32))
    throw std::logic_error(fmt::format("input \"{}\" takes {}", name, real ? "tokens" : "numbers"));
  return it->second;
}

void Program::set_input(std::string_view name, std::span<const std::int32_t> values) {
  impl_->backend.copy_from_host(input(name, values.size(), false), values.data());
}

void Program::set_input(std::string_view name, std::span<const float> values) {
  const Tensor& to = input(name, values.size(), true);
  if (to.dtype == DType::f32) return impl_->backend.copy_from_host(to, values.data());
  if (to.dtype == DType::f64) {
    const std::vector<double> wide(values.begin(), values.end());
    return impl_->backend.copy_from_host(to, wide.data());
  }
  std::vector<bf16> narrow;
  narrow.reserve(values.size());
  for (const float x : values) narrow.emplace_back(x);
  impl_->backend.copy_from_host(to, narrow.data());
}

void Program::set_hooks(ProgramHooks hooks) { impl_->hooks = std::move(hooks); }

void Program::forward() {
  if (impl_->options.training)
    throw std::logic_error("a training program runs forward_backward(); make another one for evaluation");
  impl_->run(Impl::evaluation, 0, [this] { impl_->play_all(); });
}

void Program::forward_backward(double gradient_scale, bool accumulate) {
  if (!impl_->options.training) throw std::logic_error("this program was made for evaluation only");
  impl_->last_scale = gradient_scale;
  impl_->run(accumulate ? Impl::accumulating : Impl::overwriting, gradient_scale, [&] {
    impl_->begin_pass(gradient_scale, accumulate);
    impl_->play_all();
  });
}

void Program::forward_backward_sampled(double gradient_scale, bool accumulate, const SampledLabels& labels) {
  Impl& m = *impl_;
  if (!m.options.training) throw std::logic_error("this program was made for evaluation only");
  for (Step& s : m.steps) s.run.sampled = &labels;
  m.begin_pass(gradient_scale, accumulate);
  m.play_all();
  for (Step& s : m.steps) s.run.sampled = nullptr;
}

void Program::add_result_to(const Tensor& total) { impl_->backend.add_sum(impl_->result_tensor, total); }

Tensor Program::result() const { return impl_->result_tensor; }

std::vector<double> Program::host_result() const {
  const Tensor t = impl_->result_tensor;
  std::vector<std::byte> raw(t.bytes());
  impl_->backend.copy_to_host(raw.data(), t);
  std::vector<double> values(static_cast<std::size_t>(t.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (t.dtype == DType::f64)
      values[i] = reinterpret_cast<const double*>(raw.data())[i];
    else if (t.dtype == DType::f32)
      values[i] = reinterpret_cast<const float*>(raw.data())[i];
    else
      values[i] = static_cast<float>(reinterpret_cast<const bf16*>(raw.data())[i]);
  }
  return values;
}

}  // namespace spectrain
