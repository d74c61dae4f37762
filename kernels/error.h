#pragma once

#include <stdexcept>
#include <string>

namespace spectrain {

// The run could not go on (exit code 1): a file vanished, memory ran out, a loss became NaN.
// The message is one sentence that names the thing, the value and the way out.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The request was wrong (exit code 2): an unknown key, a value out of range, a file that is not what it
// should be. Nothing has been written when it is thrown.
struct RequestError : Error {
  using Error::Error;
};

}  // namespace spectrain
