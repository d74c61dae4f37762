#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/parameter.h"

namespace spectrain {

// Numbers that sum up the singular values s, descending, of a matrix A. All are 0 for a zero matrix, and NaN
// where a value is not finite.

// |A|_F = sqrt(sum s^2)
double frobenius_norm(std::span<const double> s);
// |A|_F^2 / s[0]^2, at most the rank (Rudelson, Vershynin 2007).
double stable_rank(std::span<const double> s);
// exp(-sum p ln p), p = s / sum s: the number of equal singular values with the same entropy (Roy, Vetterli
// 2007).
double effective_rank(std::span<const double> s);

// Which of `count` values are written where `most` are asked for: evenly spaced places, rounded, the first
// and the last among them (the first alone for most = 1); all where there are no more.
std::vector<std::size_t> chosen_places(std::size_t count, std::size_t most);

// A matrix whose spectrum is measured: `rows` rows of a parameter from element `first` on. Filters of more
// dimensions are [first, all others]; padding rows are left out.
struct ChosenMatrix {
  std::string name;  // of the parameter, with "[k]" behind it for the k-th of its splits, from 0
  std::size_t parameter = 0;
  std::int64_t first = 0, rows = 0, cols = 0;
};

// Those that diagnostics.matrices asks for, each once, in the order of the parameters: by name (of a fused
// parameter: all its splits; or one of them), or all that begin with what stands before a "*". Throws
// RequestError for a name that the model does not have, with the nearest that it has, for a vector, and for a
// beginning that no matrix has.
std::vector<ChosenMatrix> chosen_matrices(std::span<const ParameterInfo* const> parameters,
                                          std::span<const std::string> wanted);

}  // namespace spectrain
