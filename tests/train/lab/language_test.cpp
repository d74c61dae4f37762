#include "train/lab/language.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "kernels/error.h"
#include "tests/train/scratch_directory.h"

// The laboratory's texts and small language models.

namespace spectrain::lab {
namespace {

using testing::HasSubstr;

const char* const kText = SPECTRAIN_SOURCE_DIR "/configs/README.md";

template <class Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const RequestError& e) {
    return e.what();
  }
  return "";
}

TEST(LanguageText, DocumentsBeginWithTheEndOfText) {
  const ScratchDirectory dir;
  std::string text;
  for (int i = 0; i < 64; ++i) text += "one two three two one\n<|endoftext|>\n";
  put_contents(dir / "text.txt", text);
  const LanguageText t = read_language_text("", dir / "text.txt", 1'000'000, 264);
  ASSERT_EQ(t.vocab, 264);
  std::vector<std::int32_t> all = t.train;
  all.insert(all.end(), t.held_out.begin(), t.held_out.end());
  const auto per_document = static_cast<std::ptrdiff_t>(all.size() / 64);
  EXPECT_EQ(static_cast<std::size_t>(per_document) * 64, all.size());
  for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(all.size()); ++i) {
    EXPECT_EQ(all[static_cast<std::size_t>(i)] == 263, i % per_document == 0) << i;
    EXPECT_EQ(all[static_cast<std::size_t>(i)], all[static_cast<std::size_t>(i % per_document)]) << i;
  }
  EXPECT_EQ(t.held_out.size(), all.size() / 16);
  // The first part of the file alone.
  const LanguageText first =
      read_language_text("", dir / "text.txt", static_cast<std::int64_t>(text.size() / 2), 264);
  EXPECT_EQ(first.train.size() + first.held_out.size(), all.size() / 2);
}

TEST(LanguageText, WhatIsMissingIsSaid) {
  const ScratchDirectory dir;
  EXPECT_THAT(refusal([&] { read_language_text(dir.path(), "", 1000, 300); }),
              HasSubstr("no English text in"));
  put_contents(dir / "short.txt", "a b c");
  EXPECT_THAT(refusal([&] { read_language_text("", dir / "short.txt", 1000, 300); }),
              HasSubstr("too little text for a vocabulary of 300"));
}

class LanguageModels : public testing::Test {
 protected:
  LanguageOptions options(const Settings& matrices, const RoleOf& role_of = {},
                          std::int64_t sequences = 4) const {
    LanguageOptions o;
    o.model.layers = 2;
    o.model.width = 32;
    o.model.heads = 2;
    o.context = 32;
    o.sequences = sequences;
    o.role_of = role_of;
    o.groups = {group({Role::hidden}, "sgd", matrices), group({Role::scalar}, "sgd", matrices),
                group({Role::embedding, Role::head, Role::gain, Role::bias}, "sgd", {{"lr", "1e-30"}})};
    return o;
  }
  double after_steps(const LanguageOptions& o, int steps) {
    LanguageModel model(*backend_, text_, o);
    for (int i = 0; i < steps; ++i) model.step(1);
    return model.held_out(1024);
  }
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  LanguageText text_ = read_language_text("", kText, 1 << 20, 400);
};

TEST_F(LanguageModels, QueriesKeysAndValuesAreMatricesOfTheirOwn) {
  std::set<std::string> names;
  const LanguageModel model(*backend_, text_, options({{"lr", "0.1"}}, [&](std::string_view name, Role role) {
    if (role == Role::hidden) names.emplace(name);
    return role;
  }));
  std::set<std::string> expected;
  for (const char* layer : {"h.0.", "h.1."})
    for (const char* matrix : {"attention.qkv.weight.0", "attention.qkv.weight.1", "attention.qkv.weight.2",
                               "attention.out.weight", "mlp.up.weight", "mlp.down.weight"})
      expected.insert(std::string(layer) + matrix);
  EXPECT_EQ(names, expected);
}

// Roles only choose the rule; and each part of the fused matrix is one that learns.
TEST_F(LanguageModels, EveryPartLearnsByItsOwnRule) {
  const Settings rule{{"lr", "0.5"}};
  const double plain = after_steps(options(rule), 3);
  const auto queries_elsewhere = [](std::string_view name, Role role) {
    return name.ends_with(".0") ? Role::scalar : role;
  };
  EXPECT_EQ(after_steps(options(rule, queries_elsewhere), 3), plain);
  std::set<double> losses{plain, after_steps(options({{"lr", "1e-30"}}), 3)};
  EXPECT_EQ(losses.size(), 2u);
  for (const char* part :
       {"h.1.attention.qkv.weight.0", "h.1.attention.qkv.weight.1", "h.1.attention.qkv.weight.2"}) {
    LanguageOptions o = options(rule, [&](std::string_view name, Role role) {
      return role == Role::hidden && name != part ? Role::scalar : role;
    });
    o.groups[1] = group({Role::scalar}, "sgd", {{"lr", "1e-30"}});
    losses.insert(after_steps(o, 3));
  }
  EXPECT_EQ(losses.size(), 5u) << "a part that does not learn leaves the loss where it was";
}

// Eight sequences are the same whether they come in one step or in two.
TEST_F(LanguageModels, TheOrderOfTheTextDoesNotDependOnTheBatch) {
  const Settings none{{"lr", "1e-30"}};
  LanguageModel small(*backend_, text_, options(none, {}, 4)), large(*backend_, text_, options(none, {}, 8));
  const double two = (small.step(1) + small.step(1)) / 2;
  EXPECT_NEAR(large.step(1), two, 1e-6 * two);
}

TEST_F(LanguageModels, SeedsDecideEverything) {
  const Settings rule{{"lr", "0.5"}};
  LanguageOptions o = options(rule);
  const double first = after_steps(o, 2);
  EXPECT_EQ(after_steps(o, 2), first);
  o.seed = 2;
  EXPECT_NE(after_steps(o, 2), first);
}

TEST_F(LanguageModels, HeldOutTokensAreCountedOnce) {
  LanguageModel model(*backend_, text_, options({{"lr", "0.1"}}));
  std::int64_t seen = 0;
  double sum = 0;
  // Six sequences in micro-batches of four.
  const double loss = model.held_out(6 * 32, [&](auto targets, auto losses) {
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (targets[i] < 0) continue;
      EXPECT_EQ(targets[i], text_.held_out[static_cast<std::size_t>(seen) + 1]);
      ++seen;
      sum += losses[i];
    }
  });
  EXPECT_EQ(seen, 6 * 32);
  EXPECT_NEAR(loss, sum / static_cast<double>(seen), 1e-12 * loss);
  EXPECT_NEAR(loss, std::log(400), 0.3) << "an untrained model knows nothing";
}

TEST_F(LanguageModels, ATextThatIsTooShortIsRefused) {
  EXPECT_THAT(refusal([&] { LanguageModel(*backend_, text_, options({}, {}, 1 << 20)); }),
              HasSubstr("too few for a batch of 1048576 sequences of 32"));
}

}  // namespace
}  // namespace spectrain::lab
