#include "tests/kernels/cudnn/played_cudnn.h"

namespace spectrain {

namespace {

std::size_t size_of_type(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
      return 8;
    case CUDNN_TYPE_BOOLEAN:
      return 1;
    default:
      return 4;  // enumerations
  }
}

}  // namespace

std::shared_ptr<const Cudnn> played_cudnn() {
  auto cudnn = std::make_shared<Cudnn>();
  cudnn->version = 99999;
  cudnn->create_descriptor = [](cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* d) {
    auto* const noted = new Noted;
    noted->type = type;
    *d = noted;
    return CUDNN_STATUS_SUCCESS;
  };
  cudnn->destroy_descriptor = [](cudnnBackendDescriptor_t d) {
    delete static_cast<Noted*>(d);
    return CUDNN_STATUS_SUCCESS;
  };
  cudnn->set_attribute = [](cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                            cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
    const auto* const bytes = static_cast<const unsigned char*>(values);
    static_cast<Noted*>(d)->attributes[name] = {bytes,
                                                bytes + static_cast<std::size_t>(count) * size_of_type(type)};
    return CUDNN_STATUS_SUCCESS;
  };
  cudnn->finalize = [](cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; };
  return cudnn;
}

}  // namespace spectrain
