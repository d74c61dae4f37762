#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spectrain {

// A page that needs nothing but itself: no script, and no style, font or picture from elsewhere.

// & < > " ' as entities, control characters as spaces: safe inside elements and quoted attributes.
std::string html_escape(std::string_view text);

struct HtmlSection {
  std::string id;     // unique in the page: letters, digits, '-'
  std::string title;  // text
  std::string body;   // HTML
};

struct HtmlPage {
  std::string title, lead, about;  // texts: name, headline sentences, a line in small print
  std::vector<HtmlSection> sections;
};
std::string to_html(const HtmlPage& page);

// Parts of a section's body. A heading is right above numbers (false) or left above text (true); `body` is
// rows of cells. What is wider than the page can be scrolled.
using HtmlHeadings = std::vector<std::pair<std::string, bool>>;
std::string html_table(const HtmlHeadings& headings, const std::string& caption, const std::string& body);
enum class HtmlCell : std::uint8_t { number, text, sentence };  // only a sentence is broken into lines
std::string html_cell(const std::string& html, HtmlCell kind = HtmlCell::number);
std::string html_paragraph(const std::string& text, std::string_view kind = {});  // kind: "note", "lead"

// A drawing of gnuplot's SVG terminal as part of a page: ids begin with `id`, references to them too, black
// follows the page's colour of text, size that of its place. `title` and `description` are for those who
// cannot see it.
std::string inline_svg(const std::string& svg, const std::string& id, const std::string& title,
                       const std::string& description);

}  // namespace spectrain
