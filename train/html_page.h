#pragma once

#include <string>
#include <string_view>
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

// A drawing of gnuplot's SVG terminal as part of a page: ids begin with `id`, references to them too, black
// follows the page's colour of text, size that of its place. `title` and `description` are for those who
// cannot see it.
std::string inline_svg(const std::string& svg, const std::string& id, const std::string& title,
                       const std::string& description);

}  // namespace spectrain
