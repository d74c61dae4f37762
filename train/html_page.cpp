#include "train/html_page.h"

#include <fmt/format.h>

#include "kernels/error.h"

namespace spectrain {
namespace {

constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--paper:#fdfdfc;--ink:#1d1f21;--soft:#5b6167;--rule:#dcdfe2;--card:#f4f5f6;--mark:#0072b2;
--win:#e5f1f8;--grid:rgba(0,0,0,.13)}
@media(prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e6e7e9;--soft:#a2a8ae;--rule:#33383d;--card:#1d2024;
--mark:#56b4e9;--win:#12303f;--grid:rgba(255,255,255,.16)}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.25;margin:2.6rem 0 .7rem;padding-top:1.1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p,li{max-width:46rem}
.lead{font-size:1.15rem;line-height:1.5;margin:.4rem 0 .8rem}
.about,.note,figcaption{color:var(--soft);font-size:.88rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;padding:0;margin:1.1rem 0 0;font-size:.92rem}
a{color:var(--mark)}
.wide{overflow-x:auto;margin:.8rem 0;border:1px solid var(--rule);border-radius:.5rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;white-space:nowrap;vertical-align:top}
thead th{vertical-align:bottom;font-weight:600;background:var(--card);white-space:normal;min-width:4.2rem}
tbody tr{border-top:1px solid var(--rule)}
th.t,td.t,td.s,tbody th{text-align:left}
td.s{white-space:normal;min-width:14rem}
tbody th{position:sticky;left:0;background:var(--paper);font-weight:600}
thead th:first-child{position:sticky;left:0;z-index:1}
tr.win th,tr.win td{background:var(--win)}
figure{margin:1.2rem 0 1.8rem}
figure .scroll{overflow-x:auto;background:var(--card);border-radius:.5rem;padding:.5rem}
svg.chart{display:block;width:100%;min-width:40rem;height:auto;color:var(--ink)}
svg.chart text{fill:var(--ink)}
svg.chart text,svg.chart tspan{font-family:inherit}
svg.chart .gridline{stroke:var(--grid);stroke-dasharray:none}
details{margin:.6rem 0}
summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;background:var(--card);border-radius:.5rem;padding:.8rem 1rem;font-size:.82rem;line-height:1.45}
code{font-size:.9em;background:var(--card);border-radius:.25rem;padding:.1em .3em;overflow-wrap:anywhere}
pre code{background:none;padding:0;font-size:1em}
@media(max-width:40rem){main{padding:1.2rem .9rem 3rem}h1{font-size:1.4rem}.lead{font-size:1.05rem}
th,td{padding:.4rem .55rem}}
@media print{.wide,figure .scroll{overflow:visible}svg.chart{min-width:0}}
)css";

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

// One tag of the drawing, with its ids and colours made the page's.
std::string page_tag(std::string tag, const std::string& id) {
  replace_all(tag, "xlink:href", "href");
  for (const char quote : {'\'', '"'}) {
    const std::string q(1, quote);
    replace_all(tag, " id=" + q, " id=" + q + id + "-");
    replace_all(tag, "href=" + q + "#", "href=" + q + "#" + id + "-");
    replace_all(tag, "color=" + q + "black" + q, "color=" + q + "inherit" + q);
    for (const char* black : {"black", "rgb(0, 0, 0)", "rgb(  0,   0,   0)"})
      replace_all(tag, "=" + q + black + q, "=" + q + "currentColor" + q);
  }
  replace_all(tag, "url(#", "url(#" + id + "-");
  return tag;
}

// What stands between two tags is text: nothing in it is a reference. An element's own title of gnuplot's, a
// number, says nothing.
std::string page_body(std::string_view svg, const std::string& id) {
  std::string out;
  while (!svg.empty()) {
    const std::size_t open = svg.find('<');
    out += svg.substr(0, open);
    if (open == std::string_view::npos) break;
    const std::size_t close = svg.find('>', open);
    if (close == std::string_view::npos) throw Error("gnuplot's drawing ends inside a tag");
    out += page_tag(std::string(svg.substr(open, close - open + 1)), id);
    svg.remove_prefix(close + 1);
  }
  return out;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 && c != '\n' ? ' ' : c;
    }
  }
  return out;
}

std::string to_html(const HtmlPage& page) {
  std::string body, contents;
  for (const HtmlSection& s : page.sections) {
    contents += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", s.id, html_escape(s.title));
    body += fmt::format("<section aria-labelledby=\"{0}\">\n<h2 id=\"{0}\">{1}</h2>\n{2}\n</section>\n", s.id,
                        html_escape(s.title), s.body);
  }
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      // Without one browsers ask the server for a picture of the page.
      "<link rel=\"icon\" href=\"data:,\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{0}</h1>\n"
      "<p class=\"lead\">{2}</p>\n<p class=\"about\">{3}</p>\n"
      "<nav aria-label=\"Sections\">\n<ul>\n{4}</ul>\n</nav>\n</header>\n{5}</main>\n</body>\n</html>\n",
      html_escape(page.title), kStyle, html_escape(page.lead), html_escape(page.about), contents, body);
}

std::string html_table(const HtmlHeadings& headings, const std::string& caption, const std::string& body) {
  std::string head;
  for (const auto& [words, text] : headings)
    head += fmt::format("<th scope=\"col\"{}>{}</th>", text ? " class=\"t\"" : "", html_escape(words));
  // tabindex: a keyboard can scroll what is wider than the page.
  return fmt::format(
      "<div class=\"wide\" role=\"region\" aria-label=\"{0}\" tabindex=\"0\"><table "
      "aria-label=\"{0}\">\n<thead><tr>{1}</tr></thead>\n<tbody>\n{2}</tbody></table></div>\n",
      html_escape(caption), head, body);
}

std::string html_cell(const std::string& html, HtmlCell kind) {
  constexpr const char* kClasses[] = {"", " class=\"t\"", " class=\"s\""};
  return fmt::format("<td{}>{}</td>", kClasses[static_cast<std::size_t>(kind)], html);
}

std::string html_paragraph(const std::string& text, std::string_view kind) {
  return fmt::format("<p{}>{}</p>\n", kind.empty() ? "" : fmt::format(" class=\"{}\"", kind),
                     html_escape(text));
}

std::string inline_svg(const std::string& svg, const std::string& id, const std::string& title,
                       const std::string& description) {
  const std::size_t begin = svg.find("viewBox=\""), inside = svg.find("</desc>"), end = svg.rfind("</svg>");
  if (begin == std::string::npos || inside == std::string::npos || end == std::string::npos || end < inside)
    throw Error("gnuplot's drawing is not an SVG file as its terminal 'svg' writes them");
  const std::string box = svg.substr(begin, svg.find('"', begin + 9) + 1 - begin);
  constexpr std::string_view kEnd = "</desc>";
  return fmt::format(
      "<svg class=\"chart\" {0} role=\"img\" aria-labelledby=\"{1}-title {1}-desc\">\n"
      "<title id=\"{1}-title\">{2}</title>\n<desc id=\"{1}-desc\">{3}</desc>\n{4}</svg>\n",
      box, id, html_escape(title), html_escape(description),
      page_body(std::string_view(svg).substr(inside + kEnd.size(), end - inside - kEnd.size()), id));
}

}  // namespace spectrain
