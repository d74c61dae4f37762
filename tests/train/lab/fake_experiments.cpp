#include "tests/train/lab/fake_experiments.h"

#include <fmt/format.h>

#include <csignal>
#include <filesystem>
#include <limits>

#include "kernels/error.h"

namespace spectrain::lab {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
int thrown = 0;

enum class Die : std::uint8_t { fair, loaded };
constexpr Word<Die> kDice[] = {{"fair", Die::fair}, {"loaded", Die::loaded}};

class Dice final : public Experiment {
 public:
  std::string_view name() const override { return "dice"; }
  std::string_view title() const override { return "Throwing <dice> & counting"; }
  std::vector<Claim> claims() const override {
    return {
        {"d.six", "arXiv 0000.00000, section 1", "A die shows six in one of six throws", "another share", ""},
        {"d.part", "in circulation", "Dice are square | and \"white\"", "a black one",
         "Section 4 was not read."},
        {"d.never", "a <b>friend</b>", "A die *never* shows one", "a one", ""},
        {"d.five", "a friend", fmt::format("Nobody throws {} times", throws_), "somebody who does", ""}};
  }
  void describe(OptionVisitor& v) override {
    v.field("throws", &throws_, within(1, 1000), "how many");
    v.field("bias", &bias_, {0, 1, true, true}, "of the die");
    v.field("die", choice(die_, kDice), {}, "which");
    v.field("words", &words_, {}, "any");
    v.section("table", "where it falls", [this](OptionVisitor& inside) {
      inside.field("friction", &friction_, at_least(0), "of the table");
    });
  }
  Outcome run(const Surroundings& s) override {
    ++thrown;
    s.say(fmt::format("throwing {} times", throws_));
    const std::vector<Claim> c = claims();
    Outcome out;
    out.claims = {
        {c[0], {{"the share is within 10 % of 1/6", "0.34 %", true}, {"no throw shows seven", "0", true}}},
        {c[1], {{"all are square", "0 are not", true}, {"all are white | ivory", "3 < 4 are", false}}},
        {c[2], {{"no one is seen", "17", false}}},
        {c[3], {{"nobody does", "1", false}, {"nobody has", "2", false}}}};
    out.measurements = {{"share of six", 1.0 / 6.1, 0.0125, 3, 1.0 / 6, "counting", "%"},
                        {"throws", static_cast<double>(throws_), 0, 1, {}, "", ""},
                        {"seed", static_cast<double>(s.seed), 0, 1, 0.0, "the command line", "seeds"},
                        {"a number that is none", kNaN, kNaN, 2, 1e-300, "nothing", ""}};
    Picture lines{"Shares of '<six>'", "throws", "share", true, true, {}};
    lines.series = {{"a & b", {1, 10, 100, 1000, 1e4}, {0.3, 0.2, kNaN, 0.17, 0.16}},
                    {"at zero", {0, 0, 1}, {1, 2, 0}},
                    {"flat", {1, 10}, {0.5, 0.5}}};
    out.pictures = {lines,
                    {"Nothing", "x", "y", false, false, {{"none", {}, {}}}},
                    {"A point", "x", "y", false, false, {{"one", {2}, {3}}}}};
    out.notes = {"Reduced to <nothing>.", "Twice."};
    return out;
  }

 private:
  std::int64_t throws_ = 600;
  double bias_ = 0.5, friction_ = 0.25;
  Die die_ = Die::fair;
  std::vector<std::string> words_;
};

// One claim; `what` happens in the run.
template <class What>
class OneClaim : public Experiment {
 public:
  std::string_view name() const override { return What::kName; }
  std::string_view title() const override { return "A title"; }
  std::vector<Claim> claims() const override {
    return {{std::string(What::kName) + ".claim", "a paper", "A sentence", "a number", ""}};
  }
  void describe(OptionVisitor&) override {}
  Outcome run(const Surroundings& s) override {
    Outcome out;
    out.claims = {{claims().front(), What::checks(s)}};
    return out;
  }
};

struct NeedsData {
  static constexpr const char* kName = "needs-data";
  static std::vector<Check> checks(const Surroundings& s) {
    if (!std::filesystem::exists(s.data + "/numbers"))
      throw RequestError(
          fmt::format("no numbers in {}: download them or give another folder with --data", s.data));
    return {{"there are numbers", "yes", true}};
  }
};
struct Interrupted {
  static constexpr const char* kName = "interrupted";
  static std::vector<Check> checks(const Surroundings&) {
    std::raise(SIGINT);
    return {{"it went on", "yes", true}};
  }
};
struct Broken {
  static constexpr const char* kName = "broken";
  static std::vector<Check> checks(const Surroundings&) { throw Error("the loss became NaN at step 7"); }
};
struct Unjudged {
  static constexpr const char* kName = "unjudged";
  static std::vector<Check> checks(const Surroundings&) { return {}; }
};

template <class T>
std::unique_ptr<Experiment> made() {
  return std::make_unique<T>();
}

}  // namespace

const ExperimentList& fake_experiments() {
  static const ExperimentList list = {&made<Dice>, &made<OneClaim<NeedsData>>, &made<OneClaim<Interrupted>>,
                                      &made<OneClaim<Broken>>, &made<OneClaim<Unjudged>>};
  return list;
}

int dice_thrown() { return thrown; }

std::string file_of(const std::string& name, const std::string& id, const std::string& rest) {
  return fmt::format("experiment: {}\nid: {}\n{}", name, id, rest);
}

}  // namespace spectrain::lab
