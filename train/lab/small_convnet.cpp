#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/lab/convnets.h"
#include "train/lab/experiment.h"

// E18: is Muon for transformers alone? A convolutional network of three layers on a part of CIFAR-10: 3x3
// filters 16, 32, 64, each with batch norm (the batch's statistics, in tests too), ReLU and an average pool,
// then a linear layer.

namespace spectrain::lab {
namespace {

constexpr std::int64_t kBatch = 128, kSide = 32, kClasses = 10;

Value logits(Tape& t, Value x) {
  Picture2d p = as_picture(t, x, kBatch, kSide, 3);
  const std::int64_t widths[] = {16, 32, 64};
  for (int l = 0; l < 3; ++l) {
    const double fan_in = static_cast<double>(9 * p.channels);
    p = convolve(t, p, fmt::format("conv{}", l), widths[l], 3, 1, Initializer::normal(std::sqrt(2 / fan_in)));
    p.x = t.activation(Activation::relu, t.batch_norm(p.x, {}, {}, 1e-5));
    p = pooled(t, PoolKind::mean, p, 2);
  }
  const Value head = t.parameter("head", {kClasses, p.side * p.side * p.channels}, Role::head,
                                 Initializer::normal(1.0 / 32));
  return t.linear(flattened(t, p), head);
}

struct Entry {
  std::string name;
  bool muon;
  std::vector<GroupConfig> groups;
  double known[4];  // accuracy at 75, 150, 225, 300 steps; 0: not measured
};

std::vector<Entry> entries() {
  const auto head = group({Role::head}, "sgd", {{"lr", "0.05"}, {"momentum", "0.9"}, {"nesterov", "true"}});
  const auto sgd = [](double lr) {
    return std::vector<GroupConfig>{group({Role::hidden, Role::head}, "sgd",
                                          {{"lr", text(lr)}, {"momentum", "0.9"}, {"nesterov", "true"}})};
  };
  const auto muon = [&](double lr) {
    return std::vector<GroupConfig>{group({Role::hidden}, "muon",
                                          {{"lr", text(lr)},
                                           {"momentum", "0.6"},
                                           {"shape_scale", "none"},
                                           {"newton_schulz.coefficients", "keller"},
                                           {"newton_schulz.steps", "3"}}),
                                    head};
  };
  return {{"SGD, lr 0.02", false, sgd(0.02), {.491, .522, .557, .582}},
          {"SGD, lr 0.05", false, sgd(0.05), {.521, .563, .610, .625}},
          {"SGD, lr 0.2", false, sgd(0.2), {.281, .347, .417, .453}},
          {"Adam, lr 0.003",
           false,
           {group({Role::hidden, Role::head}, "adam", {{"lr", "0.003"}})},
           {.491, .544, .573, .600}},
          {"Muon, lr 0.05", true, muon(0.05), {.553, .616, .657, .668}},
          {"Muon, lr 0.15", true, muon(0.15), {.573, .642, .689, .702}},
          {"Muon, lr 0.3", true, muon(0.3), {.585, .636, .688, .702}}};
}

class SmallConvnet final : public Experiment {
 public:
  std::string_view name() const override { return "small-convnet"; }
  std::string_view title() const override { return "A small convolutional network on CIFAR-10"; }
  std::vector<Claim> claims() const override {
    return {{"e18.only", "in circulation", "Muon is only for transformers.",
             "A convolutional network that Muon trains better than tuned SGD.",
             "On a part of CIFAR-10 that went through JPEG: the accuracies are comparisons only."}};
  }
  void describe(OptionVisitor& v) override {
    v.field("steps", &steps_, count_from(4), "batches of 128, the learning rate falls to 0");
    v.field("test_images", &test_images_, within(kBatch, 10000), "tested with their batches' statistics");
    v.field("seeds", &seeds_, within(1, 20), "of each rule");
  }
  Outcome run(const Surroundings& s) override;

 private:
  std::vector<double> train(const Surroundings& s, const Entry& entry, const Examples& train_set,
                            const Examples& test_set, std::uint64_t seed) const;
  std::int64_t steps_ = 300, test_images_ = 1000, seeds_ = 1;
};

// Accuracy after each quarter of the steps.
std::vector<double> SmallConvnet::train(const Surroundings& s, const Entry& entry, const Examples& train_set,
                                        const Examples& test_set, std::uint64_t seed) const {
  OptimizerConfig rules;
  rules.groups = entry.groups;
  Classifier net(s.backend, {kBatch, kSide * kSide * 3, kClasses, 0, false}, logits, rules, seed);
  std::vector<float> x(static_cast<std::size_t>(kBatch * kSide * kSide * 3));
  std::vector<std::uint8_t> flip(kBatch);
  std::vector<std::int32_t> labels(kBatch);
  std::vector<std::int64_t> order;
  const std::int64_t per_epoch = train_set.count() / kBatch;
  std::vector<double> quarters;
  for (std::int64_t step = 0; step < steps_; ++step) {
    const RandomKey key{seed, stream_of("small convnet") + static_cast<std::uint64_t>(step)};
    if (step % per_epoch == 0) order = shuffled(train_set.count(), {seed, key.stream ^ 1u << 31});
    const auto rows = std::span(order).subspan(static_cast<std::size_t>(step % per_epoch * kBatch), kBatch);
    for (std::size_t i = 0; i < flip.size(); ++i) {
      flip[i] = static_cast<std::uint8_t>(random_u32(key, i) & 1u);
      labels[i] = train_set.label[static_cast<std::size_t>(rows[i])];
    }
    copy_flipped(train_set, rows, flip, kSide, 3, x);
    net.step(x, labels, 1 - static_cast<double>(step) / static_cast<double>(steps_));
    if ((step + 1) % (steps_ / 4) == 0 && quarters.size() < 4) quarters.push_back(net.accuracy(test_set));
  }
  return quarters;
}

Outcome SmallConvnet::run(const Surroundings& s) {
  const std::string folder = s.data + "/vision/cifar10";
  const ImageSet train_images =
      read_cifar10({find_data_file(folder, {"data_batch_1.bin", "subset_train_5000.bin"}, "CIFAR-10")});
  const ImageSet test_images =
      read_cifar10({find_data_file(folder, {"test_batch.bin", "subset_test_1000.bin"}, "CIFAR-10")});
  const Examples train_set = normalised(train_images, train_images.count(), cifar10_scale());
  const Examples test_set = normalised(test_images, test_images_, cifar10_scale());
  Outcome out;
  Picture p{"Test accuracy", "steps", "accuracy", false, false, {}};
  double best_sgd = 0, best_muon = 0, best_half = 0;
  std::vector<double> muon_ends;
  for (const Entry& entry : entries()) {
    s.say(entry.name);
    std::vector<double> mean(4, 0), squares(4, 0);
    for (std::int64_t k = 0; k < seeds_; ++k) {
      const std::vector<double> quarters =
          train(s, entry, train_set, test_set, s.seed + static_cast<std::uint64_t>(k));
      for (std::size_t q = 0; q < quarters.size(); ++q) {
        mean[q] += quarters[q] / static_cast<double>(seeds_);
        squares[q] += quarters[q] * quarters[q] / static_cast<double>(seeds_);
      }
    }
    Series line{entry.name, {}, {}};
    for (std::size_t q = 0; q < 4; ++q) {
      const std::int64_t at = (static_cast<std::int64_t>(q) + 1) * (steps_ / 4);
      line.x.push_back(static_cast<double>(at));
      line.y.push_back(mean[q]);
      Measurement m{fmt::format("accuracy after {} steps, {}", at, entry.name),
                    mean[q],
                    std::sqrt(std::max(0.0, squares[q] - mean[q] * mean[q])),
                    static_cast<int>(seeds_),
                    {},
                    "",
                    ""};
      if (steps_ == 300) {
        m.expected = entry.known[q];
        m.expected_from = "an independent implementation, one seed, other images";
      }
      out.measurements.push_back(m);
    }
    p.series.push_back(line);
    if (entry.muon) {
      best_muon = std::max(best_muon, mean[3]);
      best_half = std::max(best_half, mean[1]);
      muon_ends.push_back(mean[3]);
    } else if (entry.name.starts_with("SGD")) {
      best_sgd = std::max(best_sgd, mean[3]);
    }
  }
  out.pictures.push_back(p);
  out.claims.push_back(
      {claims()[0],
       {{"the best Muon run is less than 5 points above the best SGD run",
         fmt::format("{:.1f} points above", 100 * (best_muon - best_sgd)), best_muon - best_sgd < 0.05},
        {"at half of the steps Muon is below what SGD has at the end",
         fmt::format("{:.3f} against {:.3f}", best_half, best_sgd), best_half < best_sgd}}});
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_small_convnet() { return std::make_unique<SmallConvnet>(); }

}  // namespace spectrain::lab
