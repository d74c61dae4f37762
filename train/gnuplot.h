#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "kernels/error.h"
#include "train/plot.h"

// gnuplot, found on the PATH and started without a shell: what all pictures are drawn with.

namespace spectrain {

struct GnuplotMissing : RequestError {
  using RequestError::RequestError;
};

struct GnuplotOutput {
  int code = 0;         // exit status, 128 when a signal ended it
  std::string drawing;  // its standard output: the picture, where the script sets no other output
  std::string words;    // what it complained about
};

// Throws GnuplotMissing when it cannot be started.
GnuplotOutput run_gnuplot(const std::string& script);

// A text for a script: in quotes, without control characters. Its markup characters are to be switched off by
// `noenhanced`.
std::string gnuplot_text(const std::string& text);

// Points under a name, for `plot $name using 1:2`.
std::string gnuplot_data(const std::string& name, std::span<const CurvePoint> points);

// Colour and symbol of the i-th line: Okabe and Ito's (2008) colours, told apart by colour-blind readers; the
// yellow is left out, being too pale on white. After kLineStyles lines they begin again.
constexpr std::size_t kLineStyles = 7;
std::string line_colour(std::size_t i);  // "#0072B2"
int line_symbol(std::size_t i);          // gnuplot's number

}  // namespace spectrain
