#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/images.h"
#include "train/lab/classifier.h"
#include "train/lab/experiment.h"

// E6: MNIST with a clue. In every training image one pixel of the first row, which is black in all of MNIST,
// gives the class away. A network may learn the digits or the clue; the test images without a clue, with the
// right one and with a wrong one show which.

namespace spectrain::lab {
namespace {

constexpr std::int64_t kClasses = 10;

enum class Clue : std::uint8_t { none, right, wrong };

Examples with_clue(const ImageSet& set, std::int64_t count, double value, Clue clue) {
  Examples e;
  e.width = set.size();
  for (std::int64_t i = 0; i < std::min(count, set.count()); ++i) {
    const auto image = set.image(i);
    const auto first = e.x.size();
    for (const std::uint8_t p : image) e.x.push_back(static_cast<float>(p) / 255.0f);
    const int label = set.labels[static_cast<std::size_t>(i)];
    e.label.push_back(label);
    if (clue != Clue::none)
      e.x[first + static_cast<std::size_t>(clue == Clue::right ? label : (label + 1) % kClasses)] =
          static_cast<float>(value);
  }
  return e;
}

struct Run {
  std::string name;
  std::vector<GroupConfig> groups;
  std::int64_t steps = 0;
  int seeds = 1;
};

// Accuracies every `every` steps, and what the claims speak of.
struct Path {
  Series clean{"clean", {}, {}}, spurious{"with the right clue", {}, {}},
      conflict{"with a wrong clue", {}, {}};
  std::vector<double> loss;  // of training, the mean since the point before
  double peak = 0, peak_step = 0, end = 0, end_conflict = 0;
  double drop_step = NAN;        // first point 3 points of accuracy below the highest before it
  double at_matched_loss = NAN;  // clean accuracy where the training loss first falls below .02
};

class SpuriousPixel final : public Experiment {
 public:
  std::string_view name() const override { return "spurious-pixel"; }
  std::string_view title() const override { return "MNIST with a pixel that gives the class away"; }
  std::vector<Claim> claims() const override {
    const std::string remark =
        "The paper's network, pixel and step sizes could not be read; here a perceptron 784-128-128-10 and a "
        "white pixel "
        "in the first row stand in for them.";
    return {{"e6.collapse", "arXiv 2603.00742",
             "Muon takes up the spurious pixel: within 4 epochs it loses 10 points of clean accuracy, "
             "gradient descent in 8 "
             "fewer than 5.",
             "A smaller loss under Muon, or a larger under gradient descent.", remark},
            {"e6.window", "in circulation",
             "Under Muon there is no window in which the model is clean and accurate.",
             "A clean accuracy under Muon above the best of gradient descent.", remark}};
  }
  void describe(OptionVisitor& v) override {
    v.field("images", &images_, within(1000, 60000), "training images");
    v.field("test_images", &test_images_, within(100, 10000), "test images");
    v.field("value", &value_, at_least(0), "of the clue, on a scale where white is 1");
    v.field("descent_steps", &descent_steps_, count_from(50), "of gradient descent, batches of 100");
    v.field("muon_steps", &muon_steps_, count_from(50), "of the others");
    v.field("seeds", &seeds_, within(1, 20), "of each rule");
  }
  Outcome run(const Surroundings& s) override;

 private:
  Path train(const Surroundings& s, const Run& run, const ImageSet& train_set, const ImageSet& test_set,
             std::uint64_t seed) const;
  std::int64_t images_ = 20000, test_images_ = 10000, descent_steps_ = 1600, muon_steps_ = 800, seeds_ = 2;
  double value_ = 1;
};

Path SpuriousPixel::train(const Surroundings& s, const Run& run, const ImageSet& train_set,
                          const ImageSet& test_set, std::uint64_t seed) const {
  const Examples examples = with_clue(train_set, images_, value_, Clue::right);
  const Examples clean = with_clue(test_set, test_images_, value_, Clue::none),
                 right = with_clue(test_set, test_images_, value_, Clue::right),
                 wrong = with_clue(test_set, test_images_, value_, Clue::wrong);
  OptimizerConfig rules;
  rules.groups = run.groups;
  const PerceptronOptions shape{{784, 128, 128, kClasses}, false, true};
  Classifier net(
      s.backend, {100, 784, kClasses, 0, false}, [&](Tape& t, Value x) { return perceptron(t, x, shape); },
      rules, seed);
  Path path;
  std::vector<std::int64_t> order;
  double sum = 0;
  const std::int64_t every = 25, per_epoch = examples.count() / 100;
  for (std::int64_t step = 0; step < run.steps; ++step) {
    if (step % per_epoch == 0)
      order =
          shuffled(examples.count(), {seed, stream_of("spurious pixel") + static_cast<std::uint64_t>(step)});
    sum += net.step(examples, std::span(order).subspan(static_cast<std::size_t>(step % per_epoch) * 100, 100),
                    1);
    if ((step + 1) % every != 0) continue;
    const double at = static_cast<double>(step + 1), accuracy = net.accuracy(clean);
    path.clean.x.push_back(at);
    path.clean.y.push_back(accuracy);
    path.spurious.x.push_back(at);
    path.spurious.y.push_back(net.accuracy(right));
    path.conflict.x.push_back(at);
    path.conflict.y.push_back(net.accuracy(wrong));
    path.loss.push_back(sum / static_cast<double>(every));
    sum = 0;
    if (accuracy > path.peak) {
      path.peak = accuracy;
      path.peak_step = at;
    }
    if (std::isnan(path.drop_step) && accuracy < path.peak - 0.03) path.drop_step = at;
    if (std::isnan(path.at_matched_loss) && path.loss.back() < 0.02) path.at_matched_loss = accuracy;
  }
  path.end = path.clean.y.back();
  path.end_conflict = path.conflict.y.back();
  return path;
}

Outcome SpuriousPixel::run(const Surroundings& s) {
  const std::string folder = s.data + "/vision/mnist";
  const auto load = [&](const std::string& part) {
    return read_mnist(find_data_file(folder, {part + "-images-idx3-ubyte"}, "MNIST"),
                      find_data_file(folder, {part + "-labels-idx1-ubyte"}, "MNIST"));
  };
  const ImageSet train_set = load("train"), test_set = load("t10k");
  const auto all = [](const char* rule, const Settings& settings) {
    return std::vector<GroupConfig>{group({Role::hidden, Role::head, Role::bias}, rule, settings)};
  };
  const auto muon = [](double lr) {
    std::vector<GroupConfig> groups{group({Role::hidden, Role::head}, "muon",
                                          {{"lr", text(lr)},
                                           {"momentum", "0.95"},
                                           {"newton_schulz.coefficients", "keller"},
                                           {"newton_schulz.steps", "5"}}),
                                    group({Role::bias}, "adam", {{"lr", "0.001"}})};
    return groups;
  };
  const std::vector<Run> runs = {
      {"SGD, lr 0.1", all("sgd", {{"lr", "0.1"}}), descent_steps_, static_cast<int>(seeds_)},
      {"Adam, lr 0.001", all("adam", {{"lr", "0.001"}}), muon_steps_, static_cast<int>(seeds_)},
      {"Muon, lr 0.005", muon(0.005), muon_steps_, static_cast<int>(seeds_)},
      {"Muon, lr 0.002", muon(0.002), muon_steps_, static_cast<int>(seeds_)}};
  const double known_peak[] = {.901, .910, .934, .942}, known_end[] = {.880, .906, .777, .940};
  Outcome out;
  std::vector<std::vector<Path>> paths;
  Picture p{"Clean accuracy while the clue is there to be learned",
            "steps",
            "accuracy on images without a clue",
            false,
            false,
            {}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    s.say(runs[i].name);
    paths.emplace_back();
    double mean[4] = {}, squares[2] = {};
    for (int k = 0; k < runs[i].seeds; ++k) {
      const Path& path = paths.back().emplace_back(
          train(s, runs[i], train_set, test_set, s.seed + static_cast<std::uint64_t>(k)));
      for (const auto& [slot, value] :
           {std::pair{0, path.peak}, {1, path.end}, {2, path.peak_step}, {3, path.end_conflict}})
        mean[slot] += value / runs[i].seeds;
      squares[0] += path.peak * path.peak / runs[i].seeds;
      squares[1] += path.end * path.end / runs[i].seeds;
    }
    const auto spread = [&](int slot) {
      return std::sqrt(std::max(0.0, squares[slot] - mean[slot] * mean[slot]));
    };
    const std::string from = "an independent implementation, 2 seeds";
    out.measurements.push_back({"highest clean accuracy, " + runs[i].name, mean[0], spread(0), runs[i].seeds,
                                known_peak[i], from, ""});
    out.measurements.push_back({"step of it, " + runs[i].name, mean[2], 0, runs[i].seeds, {}, "", "steps"});
    out.measurements.push_back({"clean accuracy at the end, " + runs[i].name, mean[1], spread(1),
                                runs[i].seeds, known_end[i], from, ""});
    out.measurements.push_back(
        {"accuracy with a wrong clue at the end, " + runs[i].name, mean[3], 0, runs[i].seeds, {}, "", ""});
    Series line = paths.back()[0].clean;
    line.name = runs[i].name;
    p.series.push_back(line);
  }
  out.pictures.push_back(p);
  double least_muon = 1, most_descent = 0, muon_peak = 1, descent_peak = 0;
  for (const Path& path : paths[2]) least_muon = std::min(least_muon, path.peak - path.end);
  for (const Path& path : paths[0]) most_descent = std::max(most_descent, path.peak - path.end);
  for (const Path& path : paths[2]) muon_peak = std::min(muon_peak, path.peak);
  for (const Path& path : paths[0]) descent_peak = std::max(descent_peak, path.peak);
  out.claims.push_back({claims()[0],
                        {{"Muon at lr 0.005 loses 10 points or more from its highest clean accuracy",
                          fmt::format("{:.1f} points", 100 * least_muon), least_muon >= 0.10},
                         {"gradient descent at lr 0.1 loses fewer than 5",
                          fmt::format("{:.1f} points", 100 * most_descent), most_descent < 0.05}}});
  out.claims.push_back({claims()[1],
                        {{"Muon's highest clean accuracy is below that of gradient descent",
                          fmt::format("{:.1f} % against {:.1f} %", 100 * muon_peak, 100 * descent_peak),
                          muon_peak < descent_peak}}});
  for (std::size_t i : {0u, 2u})
    if (!std::isnan(paths[i][0].at_matched_loss))
      out.measurements.push_back({"clean accuracy where the training loss reaches 0.02, " + runs[i].name,
                                  paths[i][0].at_matched_loss,
                                  0,
                                  1,
                                  {},
                                  "",
                                  ""});
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_spurious_pixel() { return std::make_unique<SpuriousPixel>(); }

}  // namespace spectrain::lab
