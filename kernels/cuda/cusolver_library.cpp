#include <fmt/format.h>

#include "kernels/cuda/cusolver.h"
#include "kernels/cuda/library.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

struct Opened {
  Cusolver cusolver{};
  std::string why_not;
};

template <class F>
void look_up(const Library& library, F& function, const char* name) {
  function = library.function<F>(name);
}

void fill(const Library& library, Cusolver& c) {
  look_up(library, c.create, "cusolverDnCreate");
  look_up(library, c.destroy, "cusolverDnDestroy");
  look_up(library, c.set_stream, "cusolverDnSetStream");
  look_up(library, c.create_params, "cusolverDnCreateParams");
  look_up(library, c.destroy_params, "cusolverDnDestroyParams");
  look_up(library, c.syevd_bytes, "cusolverDnXsyevd_bufferSize");
  look_up(library, c.syevd, "cusolverDnXsyevd");
  look_up(library, c.geqrf_elements, "cusolverDnSgeqrf_bufferSize");
  look_up(library, c.geqrf, "cusolverDnSgeqrf");
  look_up(library, c.orgqr_elements, "cusolverDnSorgqr_bufferSize");
  look_up(library, c.orgqr, "cusolverDnSorgqr");
  look_up(library, c.gesvd_elements, "cusolverDnSgesvd_bufferSize");
  look_up(library, c.gesvd, "cusolverDnSgesvd");
  if (library.has("cusolverDnXsyevBatched") && library.has("cusolverDnXsyevBatched_bufferSize")) {
    look_up(library, c.syev_batched_bytes, "cusolverDnXsyevBatched_bufferSize");
    look_up(library, c.syev_batched, "cusolverDnXsyevBatched");
  }
}

Opened load() {
  Opened opened;
  // The major version of the headers: the sizes of what it takes hold within one.
  const Library library = Library::open("cuSOLVER", fmt::format("libcusolver.so.{}", CUSOLVER_VER_MAJOR));
  if (!library) {
    opened.why_not = library.why_not();
    return opened;
  }
  try {
    fill(library, opened.cusolver);
  } catch (const Error& e) {
    opened.why_not = e.what();
  }
  return opened;
}

}  // namespace

const Cusolver* open_cusolver(std::string& why_not) {
  static const Opened opened = load();
  why_not = opened.why_not;
  return opened.why_not.empty() ? &opened.cusolver : nullptr;
}

}  // namespace spectrain
