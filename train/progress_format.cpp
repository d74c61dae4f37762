#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "train/progress.h"

namespace spectrain {
namespace {

constexpr int kSmallestBar = 8, kLargestBar = 40;

std::string three_digits(double value) {
  if (value < 9.995) return fmt::format("{:.2f}", value);
  if (value < 99.95) return fmt::format("{:.1f}", value);
  return fmt::format("{:.0f}", value);
}

std::string loss_text(double loss) {
  return std::isfinite(loss) ? fmt::format("{:.4f}", loss) : fmt::format("{}", loss);
}

std::string lr_text(double lr) {
  if (lr != 0 && (std::abs(lr) < 1e-4 || std::abs(lr) >= 1000)) return fmt::format("{:.2e}", lr);
  return fmt::format("{:.6f}", lr);
}

// Eighths of a cell in the order of their width.
constexpr std::string_view kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};

std::string bar(double share, int cells, bool unicode) {
  share = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0.0;
  std::string text = unicode ? "▕" : "[";
  const int eighths = static_cast<int>(share * cells * 8 + 1e-9);
  int used = eighths / 8;
  for (int i = 0; i < used; ++i) text += unicode ? "█" : "=";
  if (unicode && eighths % 8 != 0) {
    text += kEighths[eighths % 8];
    ++used;
  } else if (!unicode && used < cells) {
    text += '>';
    ++used;
  }
  text.append(static_cast<std::size_t>(cells - used), ' ');
  return text + (unicode ? "▏" : "]");
}

struct Field {
  std::string text;
  int importance;  // the least important leave first
};

std::vector<Field> fields_of(const ProgressState& s) {
  const auto digits = std::to_string(s.steps).size();
  std::vector<Field> fields = {{fmt::format("step {:>{}}/{}", s.step, digits, s.steps), 9},
                               {fmt::format("{:>5} tok", human_count(static_cast<double>(s.tokens))), 3},
                               {fmt::format("loss {:>7}", loss_text(s.loss)), 8}};
  fields.push_back({fmt::format("val {:>7}", s.val_loss ? loss_text(*s.val_loss) : "-"), 7});
  fields.push_back({fmt::format("lr {:>8}", lr_text(s.lr)), 2});
  fields.push_back({fmt::format("{:>5} tok/s", human_count(s.tokens_per_second)), 5});
  if (s.share_of_peak) fields.push_back({fmt::format("{:>5.1f}% of peak", 100 * *s.share_of_peak), 4});
  fields.push_back({fmt::format("{:>6} left", human_duration(s.seconds_left)), 6});
  return fields;
}

std::string joined(const std::vector<Field>& fields, std::string_view between) {
  std::string text;
  for (const Field& field : fields) {
    if (!text.empty()) text += between;
    text += field.text;
  }
  return text;
}

}  // namespace

std::string human_count(double value) {
  if (!std::isfinite(value)) return "-";
  if (value < 0) return "-" + human_count(-value);
  if (value < 999.5) return value == std::floor(value) ? fmt::format("{:.0f}", value) : three_digits(value);
  constexpr std::string_view kUnits = "kMBTPE";
  std::size_t unit = 0;
  for (value /= 1000; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return three_digits(value) + kUnits[unit];
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "-";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  const std::int64_t minutes = (s + 30) / 60;
  if (minutes < 24 * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  const std::int64_t hours = (minutes + 30) / 60;
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

std::string progress_line(const ProgressState& state) { return joined(fields_of(state), " | "); }

std::string progress_bar(const ProgressState& state, int columns, bool unicode) {
  std::vector<Field> fields = fields_of(state);
  const auto room_for_bar = [&] { return columns - static_cast<int>(joined(fields, "  ").size()) - 3; };
  while (fields.size() > 1 && room_for_bar() < kSmallestBar)
    fields.erase(std::min_element(fields.begin(), fields.end(), [](const Field& a, const Field& b) {
      return a.importance < b.importance;
    }));
  const std::string text = joined(fields, "  ");
  if (room_for_bar() < kSmallestBar) return text.substr(0, static_cast<std::size_t>(std::max(columns, 0)));
  const double share =
      state.steps > 0 ? static_cast<double>(state.step) / static_cast<double>(state.steps) : 0;
  return bar(share, std::min(room_for_bar(), kLargestBar), unicode) + " " + text;
}

}  // namespace spectrain
