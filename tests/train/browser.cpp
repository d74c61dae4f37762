#include "tests/train/browser.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

namespace spectrain {

bool have(const std::string& program) {
  return std::system((program + " --version > /dev/null 2>&1").c_str()) == 0;
}

std::string browser() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
    if (have(name)) return name;
  return {};
}

// All requests would go to a proxy that is not there; the browser's own
// (updates, accounts) have no page as their initiator and are left out.
Visit visit(const std::string& path, const ScratchDirectory& dir, const std::string& more) {
  const std::string net = dir / "net.json";
  const int status = std::system(
      fmt::format("timeout -k 5 100 {} --headless --no-sandbox --disable-gpu --no-first-run --disable-sync "
                  "--disable-background-networking --disable-component-update --disable-extensions "
                  "--user-data-dir='{}' --proxy-server=127.0.0.1:1 --proxy-bypass-list='<-loopback>' "
                  "--log-net-log='{}' --virtual-time-budget=2000 --enable-logging=stderr {} --dump-dom "
                  "'file://{}' > '{}' 2> '{}'",
                  browser(), dir / "profile", net, more, path, dir / "dom", dir / "errors")
          .c_str());
  EXPECT_EQ(status, 0) << contents_of(dir / "errors");
  Visit out;
  out.dom = contents_of(dir / "dom");
  std::istringstream lines(contents_of(dir / "errors"));
  for (std::string line; std::getline(lines, line);)
    if (line.find("CONSOLE") != std::string::npos) out.console += line + "\n";
  const auto log = nlohmann::json::parse(contents_of(net), nullptr, false);
  EXPECT_TRUE(log.is_object()) << "the browser's network log cannot be read";
  if (!log.is_object()) return out;
  const int start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"];
  for (const auto& event : log["events"]) {
    if (event["type"] != start || !event.contains("params") || !event["params"].contains("url")) continue;
    const std::string url = event["params"]["url"];
    if (event["params"].value("initiator", "") != "not an origin" && !url.starts_with("file:"))
      out.requests.push_back(url);
  }
  return out;
}

}  // namespace spectrain
