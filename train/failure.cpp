#include "train/failure.h"

#include <new>
#include <stdexcept>

#include "kernels/error.h"

namespace spectrain {

std::string failure_sentence(const std::exception& e) {
  if (dynamic_cast<const std::bad_alloc*>(&e))
    return "out of memory; a smaller batch.micro_batch or model needs less";
  if (dynamic_cast<const std::logic_error*>(&e)) return std::string("a defect of the program: ") + e.what();
  return e.what();
}

int exit_code_of(const std::exception& e) { return dynamic_cast<const RequestError*>(&e) ? 2 : 1; }

}  // namespace spectrain
