#pragma once

#include <string>
#include <vector>

#include "tests/train/scratch_directory.h"

namespace spectrain {

// Whether a program can be started.
bool have(const std::string& program);

// The name of a browser that can work without a screen; empty: there is none.
std::string browser();

struct Visit {
  std::string dom, console;           // console: the lines a page's scripts and loads wrote there
  std::vector<std::string> requests;  // that the page made over a network
};

// Opens a file without a screen; `dir` takes what the browser writes, `more` are further options for it.
Visit visit(const std::string& path, const ScratchDirectory& dir, const std::string& more = "");

}  // namespace spectrain
