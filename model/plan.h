#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "model/program.h"
#include "model/recording.h"

// From a recording to a list of actions and a layout of memory, by shapes alone: nothing is allocated here.

namespace spectrain {

// Where a tensor of an action lives. Resolved to pointers when a Program is made.
struct Place {
  enum class Kind : std::uint8_t { none, value, storage, parameter_gradient };
  Kind kind = Kind::none;
  int index = -1;  // value: of a leaf; storage: of a storage; parameter_gradient: of a parameter
  Shape shape;
  bool master = false;
};

// A piece of the activation arena, alive from action `first` to action `last`.
struct Storage {
  std::size_t bytes = 0;
  int first = -1, last = -1;
  std::size_t offset = 0;
};

struct Action {
  enum class Kind : std::uint8_t {
    forward,                     // op.forward
    linear_activation,           // node and partner in one kernel
    add_norm,                    // node and partner in one kernel
    backward,                    // op.backward
    linear_activation_backward,  // of node, a linear, and of the activation before it, its partner
    add_gradient,                // din[0] += dout[0]
    copy_gradient,               // din[0] = dout[0]
  };
  Kind kind = Kind::forward;
  int node = -1, partner = -1;
  std::vector<Place> in, out, dout, din;
  std::vector<Place> partner_in, partner_out;
  std::vector<std::uint8_t> accumulate;
  // Inputs whose parameter gradient this action is the first to write in a pass: they accumulate exactly when
  // the pass does.
  std::vector<int> first_writes;
};

struct Plan {
  std::vector<Action> actions;
  int backward_begin = 0;  // index of the first action of the backward pass
  std::vector<Storage> storages;
  Place result;
  std::vector<int> zeroed_parameters;  // gradients to clear at the start of a pass that does not accumulate
  std::size_t arena_bytes = 0;
  std::size_t workspace_bytes = 0;  // the largest any operation asks for
};

// `master`, `logits`: of the backend it is for.
Plan make_plan(const Tape& tape, Value result, DType master, DType logits, const ProgramOptions& options);

// Gives each storage its place in an arena, where none overlaps another that lives at the same time, and
// returns the arena's size. Greedy by size: within a few percent of optimal for such graphs (Pisarchyk and
// Lee 2020).
std::size_t lay_out(std::span<Storage> storages);

// 1 for each parameter that takes part in a product as a prepared matrix.
std::vector<std::uint8_t> prepared_parameters(const Tape& tape);
// For each parameter its scale as eight-bit floats (Operation::rounded_input); 0: none.
std::vector<double> roundings(const Tape& tape);
// 1 for each parameter of which some operation reads the master values.
std::vector<std::uint8_t> read_parameters(const Tape& tape);

std::size_t align_up(std::size_t bytes);  // to 64
// Inputs and constants, which live outside the arena.
std::size_t leaf_bytes(const Tape& tape, DType master, DType compute);

}  // namespace spectrain
