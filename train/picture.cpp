#include "train/picture.h"

#include <fmt/format.h>

#include "train/gnuplot.h"
#include "train/html_page.h"

namespace spectrain {

std::string picture_beginning(int width, int height) {
  return fmt::format(
      "set terminal svg size {},{} dynamic enhanced font 'Helvetica,14'\nset encoding utf8\n"
      "set border 3 lc rgb '#808080'\nset tics nomirror out scale 0.5\n"
      "set grid lc rgb '#d0d0d0' lt 1 lw 0.6\nset format x '%g'\nset format y '%.4g'\n"
      "set key outside bottom center horizontal noenhanced samplen 2.5 width 1 maxcols 4\n",
      width, height);
}

int curve_height(std::size_t lines) { return 470 + 22 * static_cast<int>((lines + 3) / 4); }

std::string PlotCommand::dashes(std::size_t i) { return i < kLineStyles ? "" : " dt (8,5)"; }

// One that gnuplot refuses (its versions differ) costs a sentence, not the report of hours of training.
std::string figure(const PictureScript& picture) {
  const GnuplotOutput output = run_gnuplot(picture.script);
  if (output.code != 0 || output.drawing.empty())
    return fmt::format("<p>The picture \"{}\" could not be drawn; gnuplot says: {}</p>\n",
                       html_escape(picture.title), html_escape(output.words));
  const std::string remark =
      picture.remark.empty() ? "" : fmt::format("<figcaption>{}</figcaption>\n", html_escape(picture.remark));
  return fmt::format(
      "<figure>\n<h3>{}</h3>\n<div class=\"scroll\" role=\"region\" aria-label=\"{}\" "
      "tabindex=\"0\">{}</div>\n{}</figure>\n",
      html_escape(picture.title), html_escape(picture.title),
      inline_svg(output.drawing, picture.id, picture.title, picture.description), remark);
}

}  // namespace spectrain
