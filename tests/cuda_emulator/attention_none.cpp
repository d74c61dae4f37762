#include "kernels/cuda/attention.h"

namespace spectrain {

// The emulated GPU has no library.
std::unique_ptr<LibraryAttention> make_library_attention(CudaBackend&) { return nullptr; }

}  // namespace spectrain
