#include "kernels/cuda/cudnn_graph.h"

namespace spectrain {

CudnnGraph::CudnnGraph(std::shared_ptr<const Cudnn> cudnn)
    : cudnn_(std::move(cudnn)), graph_(*cudnn_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {}

cudnnBackendDescriptor_t CudnnGraph::tensor(std::int64_t id, cudnnDataType_t type, const CudnnDims& dims,
                                            const CudnnDims& strides, Place place) {
  CudnnDescriptor& t = add(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(dims))
      .set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides))
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16})
      .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, place == Place::nowhere)
      .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, place == Place::by_value)
      .finalize("describing a tensor");
  return t.get();
}

CudnnDescriptor& CudnnGraph::add(cudnnBackendDescriptorType_t type) {
  return parts_.emplace_back(*cudnn_, type);
}

CudnnDescriptor& CudnnGraph::operation(cudnnBackendDescriptorType_t type) {
  CudnnDescriptor& o = add(type);
  operations_.push_back(o.get());
  return o;
}

void CudnnGraph::finish(cudnnHandle_t handle, const char* what) {
  graph_.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations(), operations_.data());
  if (handle != nullptr) graph_.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  graph_.finalize(what);
}

}  // namespace spectrain
