#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/operation.h"
#include "model/tape.h"

namespace spectrain {

// What a tape holds: values (leaves and results) and the operations between them, in the order recorded.
struct Tape::Recording {
  enum class Kind : std::uint8_t { input, parameter, constant, result };
  struct ValueInfo {
    Kind kind = Kind::result;
    Shape shape;
    bool master = false;
    bool real = false;  // an input of numbers in the compute dtype, not of tokens
    int index = -1;     // of the parameter or constant
    int node = -1;      // that produces it
    std::string name;
  };
  struct Constant {
    std::vector<double> values;
  };
  struct Node {
    std::unique_ptr<Operation> op;
    std::vector<int> inputs;  // -1: an optional input that is absent
    std::vector<int> outputs;
    std::string scope;
  };

  std::vector<ValueInfo> values;
  std::vector<Node> nodes;
  std::vector<ParameterInfo> parameters;
  std::vector<int> parameter_values;  // value of each parameter
  std::vector<Constant> constants;
  std::string scope;

  std::vector<Shape> input_shapes(const Node& node) const {
    std::vector<Shape> shapes;
    for (const int v : node.inputs)
      shapes.push_back(v < 0 ? Shape{} : values[static_cast<std::size_t>(v)].shape);
    return shapes;
  }
};

}  // namespace spectrain
