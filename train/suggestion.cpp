#include "train/suggestion.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace spectrain {
namespace {

// What other training programs call things.
constexpr std::array<std::pair<std::string_view, std::string_view>, 26> kElsewhere = {{
    {"block_size", "context"},
    {"seq_len", "context"},
    {"sequence_length", "context"},
    {"batch_size", "micro_batch"},
    {"device_batch", "micro_batch"},
    {"n_embd", "width"},
    {"d_model", "width"},
    {"dim", "width"},
    {"hidden_size", "width"},
    {"n_layer", "layers"},
    {"depth", "layers"},
    {"n_head", "heads"},
    {"ffn", "mlp_width"},
    {"intermediate_size", "mlp_width"},
    {"learning_rate", "lr"},
    {"wd", "weight_decay"},
    {"beta1", "betas"},
    {"beta2", "betas"},
    {"epsilon", "eps"},
    {"dtype", "precision"},
    {"max_steps", "steps"},
    {"iterations", "steps"},
    {"grad_clip", "clip"},
    {"max_norm", "clip"},
    {"float32", "f32"},
    {"bfloat16", "bf16"},
}};

// Optimal string alignment: Levenshtein's distance with swaps of neighbours at one each.
int edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = static_cast<int>(i);
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i)
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int replaced = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

std::string normalized(std::string_view word) {
  std::string out(word);
  for (char& c : out) c = c == '-' ? '_' : (c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  return out;
}

std::string initials(std::string_view word) {
  std::string out;
  bool start = true;
  for (const char c : word) {
    if (start && c != '_') out += c;
    start = c == '_';
  }
  return out;
}

bool has_part(std::string_view word, std::string_view part) {
  return ("_" + std::string(word) + "_").find("_" + std::string(part) + "_") != std::string::npos;
}

// 0: surely meant; larger: less likely; > 1: not near.
double unlikeliness(const std::string& word, const std::string& candidate) {
  if (word == candidate) return 0;
  for (const auto& [theirs, ours] : kElsewhere)
    if (word == theirs && candidate == ours) return 0.05;
  if (word.size() > 1 && (initials(word) == candidate || initials(candidate) == word)) return 0.1;
  const double longer = static_cast<double>(std::max(word.size(), candidate.size()));
  double unlikely = edit_distance(word, candidate) / longer / 0.4;
  if (has_part(word, candidate) || has_part(candidate, word)) unlikely = std::min(unlikely, 0.6);
  return unlikely;
}

}  // namespace

std::string listed(std::span<const std::string> words, std::string_view separator) {
  std::string out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) out += separator;
    out += words[i];
  }
  return out;
}

std::string nearest(std::string_view word, std::span<const std::string> known) {
  const std::string asked = normalized(word);
  std::string best;
  double least = 1;
  for (const std::string& candidate : known) {
    const double unlikely = unlikeliness(asked, normalized(candidate));
    if (unlikely <= least && (best.empty() || unlikely < least)) {
      least = unlikely;
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view word, std::span<const std::string> known) {
  const std::string best = nearest(word, known);
  return best.empty() ? "" : "; did you mean \"" + best + "\"?";
}

}  // namespace spectrain
