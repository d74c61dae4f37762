#pragma once

#include <optional>
#include <span>

namespace spectrain {

// L(D) = a D^-b + c: final losses of runs whose budgets of tokens D differ and whose learning rates have
// decayed at the end of each. D in tokens, a, b > 0, c >= 0:
// no cross entropy is negative.
struct ScalingLaw {
  double a = 0, b = 0, c = 0;
  double worst = 0;  // largest absolute residual
};

// Least squares: b by a search from 0.001 to 10, a and c being linear for each b. tokens [n], losses [n].
// Empty with fewer than three different budgets, or when no such law falls with the budget. With three
// budgets it goes through all of them. std::logic_error for lists of different lengths.
std::optional<ScalingLaw> fit_scaling_law(std::span<const double> tokens, std::span<const double> losses);

// The D with L(D) = loss; infinite where loss <= c.
double tokens_for(const ScalingLaw& law, double loss);

}  // namespace spectrain
