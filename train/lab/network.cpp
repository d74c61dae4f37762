#include "train/lab/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace spectrain::lab {
namespace {

// Sets one option from text.
class Setter final : public OptionVisitor {
 public:
  Setter(const std::string& key, const std::string& value) : key_(key), value_(value) {}
  void field(std::string_view name, const Field& field, const Range&, std::string_view) override {
    if (section_ + std::string(name) != key_) return;
    found = true;
    if (const auto* x = std::get_if<bool*>(&field))
      **x = value_ == "true";
    else if (const auto* whole = std::get_if<int*>(&field))
      **whole = std::stoi(value_);
    else if (const auto* count = std::get_if<std::int64_t*>(&field))
      **count = std::stoll(value_);
    else if (const auto* number = std::get_if<double*>(&field))
      **number = std::stod(value_);
    else if (const auto* choice = std::get_if<Choice>(&field))
      choice->set(word(*choice));
    else if (const auto* tuple = std::get_if<Tuple>(&field))
      set(*tuple);
    else
      throw std::logic_error(fmt::format("option {} is of a kind that is not set here", key_));
  }
  void section(std::string_view name, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override {
    const std::string outer = section_;
    section_ += std::string(name) + ".";
    inside(*this);
    section_ = outer;
  }
  bool found = false;

 private:
  std::size_t word(const Choice& choice) const {
    const auto at = std::find(choice.words.begin(), choice.words.end(), value_);
    if (at == choice.words.end())
      throw std::logic_error(fmt::format("option {} has no word {}", key_, value_));
    return static_cast<std::size_t>(at - choice.words.begin());
  }
  void set(const Tuple& tuple) const {  // "0.9 0.95"
    std::size_t at = 0;
    for (double* x : tuple.fields) {
      std::size_t read = 0;
      *x = std::stod(value_.substr(at), &read);
      at += read;
    }
  }
  const std::string &key_, &value_;
  std::string section_;
};

}  // namespace

RuleOptions rule(std::string_view name, const Settings& settings) {
  for (RuleOptions r : all_rules()) {
    if (r.info().name != name) continue;
    for (const auto& [key, value] : settings) {
      Setter setter(key, value);
      r.describe(setter);
      if (!setter.found) throw std::logic_error(fmt::format("the rule {} has no option {}", name, key));
    }
    return r;
  }
  throw std::logic_error(fmt::format("there is no rule {}", name));
}

GroupConfig group(std::vector<Role> parameters, std::string_view name, const Settings& settings) {
  return {std::move(parameters), rule(name, settings)};
}

std::string text(double number) { return fmt::format("{}", number); }

Network::Network(Backend& backend, const Record& loss, const OptimizerConfig& optimizer,
                 double gradient_scale, std::uint64_t seed)
    : backend_(backend), gradient_scale_(gradient_scale) {
  const Value losses = loss(tape_);
  parameters_ = std::make_unique<Parameters>(tape_, backend, DType::f32, true);
  parameters_->initialize(seed);
  ProgramOptions options;
  options.compute = DType::f32;
  training_ = std::make_unique<Program>(tape_, losses, *parameters_, options);
  optimizer_ = std::make_unique<Optimizer>(backend, parameters_->views(), optimizer);
}

Network::~Network() = default;

std::size_t Network::find(std::string_view name) const {
  const int i = parameters_->find(name);
  if (i < 0) throw std::logic_error(fmt::format("the network has no parameter {}", name));
  return static_cast<std::size_t>(i);
}

void Network::set(std::string_view name, const std::vector<double>& values) {
  const std::size_t i = find(name);
  const Tensor x = parameters_->view(i).value;
  if (static_cast<std::int64_t>(values.size()) != x.numel())
    throw std::logic_error(
        fmt::format("parameter {} has {} numbers, {} given", name, x.numel(), values.size()));
  const std::vector<float> narrow(values.begin(), values.end());
  backend_.copy_from_host(x, narrow.data());
  parameters_->refresh(i);
}

namespace {

std::vector<double> numbers_of(Backend& backend, const Tensor& x) {
  std::vector<float> narrow(static_cast<std::size_t>(x.numel()));
  backend.copy_to_host(narrow.data(), x);
  return {narrow.begin(), narrow.end()};
}

}  // namespace

std::vector<double> Network::get(std::string_view name) const {
  return numbers_of(backend_, parameters_->view(find(name)).value);
}
std::vector<double> Network::gradient(std::string_view name) const {
  return numbers_of(backend_, parameters_->view(find(name)).gradient);
}

Program& Network::evaluation(const std::string& key, const Record& record) {
  for (auto& [name, program] : evaluations_)
    if (name == key) return *program;
  Tape tape;
  const Value value = record(tape);
  ProgramOptions options;
  options.compute = DType::f32;
  options.training = false;
  evaluations_.emplace_back(key, std::make_unique<Program>(tape, value, *parameters_, options));
  return *evaluations_.back().second;
}

double Network::step(double lr_factor) {
  training_->forward_backward(gradient_scale_, false);
  double sum = 0;
  for (const double l : training_->host_result()) sum += l;
  optimizer_->step(steps_++, lr_factor);
  parameters_->refresh();
  return sum;
}

}  // namespace spectrain::lab
