#pragma once

#include <cstddef>
#include <string>

namespace spectrain {

// Pictures of a page as scripts for gnuplot, drawn by its SVG terminal to its standard output.

struct PictureScript {
  std::string id;           // "loss-tokens": unique among the pictures of a page
  std::string title;        // what it shows
  std::string description;  // the same for those who cannot see it, with the numbers that matter
  std::string remark;       // what stands below it; may be empty
  std::string script;
};

constexpr int kPictureWidth = 880;

// What a script begins with: the terminal, a grid, and a legend below the picture.
std::string picture_beginning(int width, int height);
// Height of a picture with so many lines: its legend needs a line for every few names.
int curve_height(std::size_t lines);

// The lines of a plot command.
class PlotCommand {
 public:
  void add(const std::string& piece) { text_ += (text_.empty() ? "plot " : ", \\\n  ") + piece; }
  // After the last colour the same ones come again, dashed.
  static std::string dashes(std::size_t i);
  std::string text() const { return text_ + "\n"; }
  bool empty() const { return text_.empty(); }

 private:
  std::string text_;
};

// A picture with its title and remark as HTML, or a sentence where gnuplot refuses it. GnuplotMissing without
// gnuplot.
std::string figure(const PictureScript& picture);

}  // namespace spectrain
