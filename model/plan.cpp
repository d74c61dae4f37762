#include "model/plan.h"

#include <algorithm>

#include "model/operations.h"

namespace spectrain {

std::size_t align_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

namespace {

using Recording = Tape::Recording;
using Kind = Recording::Kind;

class Planner {
 public:
  Planner(const Recording& recording, Value result, DType master, DType logits, const ProgramOptions& options)
      : r_(recording), result_(result.id), master_(master), logits_(logits), options_(options) {
    const std::size_t n = r_.values.size();
    storage_.assign(n, -1);
    again_.assign(n, -1);
    gradient_.assign(n, -1);
    last_use_.assign(n, -1);
    kept_.assign(n, false);
    needs_gradient_.assign(n, false);
    written_.assign(r_.parameters.size(), false);
    live_.assign(r_.nodes.size(), false);
  }

  Plan run() {
    find_live();
    if (options_.training) find_kept();
    forward();
    plan_.backward_begin = static_cast<int>(plan_.actions.size());
    if (options_.training) backward();
    finish();
    return std::move(plan_);
  }

 private:
  const Recording::Node& node(int i) const { return r_.nodes[static_cast<std::size_t>(i)]; }
  const Recording::ValueInfo& value(int v) const { return r_.values[static_cast<std::size_t>(v)]; }
  template <class T>
  static auto& at(T& vector, int i) {
    return vector[static_cast<std::size_t>(i)];
  }
  bool is_result(int v) const { return v >= 0 && value(v).kind == Kind::result; }

  // ---- what matters
  void find_live() {
    std::vector<int> open{value(result_).node};
    while (!open.empty()) {
      const int i = open.back();
      open.pop_back();
      if (i < 0 || at(live_, i)) continue;
      at(live_, i) = true;
      for (const int v : node(i).inputs)
        if (is_result(v)) open.push_back(value(v).node);
    }
    for (int i = 0; i < static_cast<int>(r_.nodes.size()); ++i) {
      if (!at(live_, i)) continue;
      order_.push_back(i);
      bool any = false;
      for (std::size_t k = 0; k < node(i).inputs.size(); ++k) {
        const int v = node(i).inputs[k];
        if (v < 0) continue;
        at(last_use_, v) = i;
        any |= node(i).op->differentiable_input(k) && (trained(v) || at(needs_gradient_, v));
      }
      at(needs_gradient_, node(i).outputs[0]) = any;
    }
  }

  bool wants_gradient(const Recording::Node& n, std::size_t k) const {
    const int v = n.inputs[k];
    return v >= 0 && n.op->differentiable_input(k) &&
           (trained(v) || needs_gradient_[static_cast<std::size_t>(v)]);
  }
  bool trained(int v) const {
    return value(v).kind == Kind::parameter &&
           r_.parameters[static_cast<std::size_t>(value(v).index)].role != Role::fixed;
  }
  bool differentiates(int i) const { return needs_gradient_[static_cast<std::size_t>(node(i).outputs[0])]; }

  void find_kept() {
    for (const int i : order_) {
      if (!differentiates(i)) continue;
      const Recording::Node& n = node(i);
      for (std::size_t k = 0; k < n.inputs.size(); ++k)
        if (n.inputs[k] >= 0 && n.op->backward_reads_input(k)) at(kept_, n.inputs[k]) = true;
      for (std::size_t k = 0; k < n.outputs.size(); ++k)
        if (n.op->backward_reads_output(k)) at(kept_, n.outputs[k]) = true;
    }
  }

  // Run again in the backward pass instead of kept: a cheap operation whose inputs are kept anyway.
  bool recomputed(int v) const {
    if (!options_.training || !options_.recompute || !is_result(v)) return false;
    const Recording::Node& n = node(value(v).node);
    if (v != n.outputs[0] || !n.op->cheap() || n.op->backward_reads_output(0) ||
        !kept_[static_cast<std::size_t>(v)])
      return false;
    return std::all_of(n.inputs.begin(), n.inputs.end(), [&](int u) {
      return !is_result(u) || (kept_[static_cast<std::size_t>(u)] && !recomputed(u));
    });
  }

  // ---- storages
  std::size_t bytes(int v) const {
    const DType dtype = value(v).master ? master_ : options_.compute;
    return align_up(static_cast<std::size_t>(value(v).shape.numel()) * size_of(dtype));
  }
  int new_storage(std::size_t size) {
    plan_.storages.push_back({size, -1, -1, 0});
    return static_cast<int>(plan_.storages.size()) - 1;
  }
  Place in_storage(int v, int storage) const {
    return {Place::Kind::storage, storage, value(v).shape, value(v).master};
  }
  // A value as the forward pass sees it (later = false) or as the backward pass does.
  Place place(int v, bool later = false) {
    if (v < 0) return {};
    if (!is_result(v)) return {Place::Kind::value, v, value(v).shape, value(v).master};
    const int s = later && at(again_, v) >= 0 ? at(again_, v) : at(storage_, v);
    if (s < 0) return {};
    return in_storage(v, s);
  }
  Place gradient_place(int v, int storage) const {
    return {Place::Kind::storage, storage, value(v).shape, false};
  }

  void add_action(Action a) {
    const int now = static_cast<int>(plan_.actions.size());
    for (const auto* list : {&a.in, &a.out, &a.dout, &a.din, &a.partner_in, &a.partner_out})
      for (const Place& p : *list) touch(p, now);
    plan_.actions.push_back(std::move(a));
  }
  void touch(const Place& p, int now) {
    if (p.kind != Place::Kind::storage) return;
    Storage& s = at(plan_.storages, p.index);
    if (s.first < 0) s.first = now;
    s.last = std::max(s.last, now);
  }

  // ---- forward
  void forward() {
    for (std::size_t k = 0; k < order_.size(); ++k) {
      const int i = order_[k];
      const int next = k + 1 < order_.size() ? order_[k + 1] : -1;
      if (node(i).op->is_loss() && options_.training) {
        make_outputs(i);
        continue;
      }
      Action a;
      a.node = i;
      if (next >= 0 && fuses_add_norm(i, next)) {
        a.kind = Action::Kind::add_norm;
        fill_fused(a, i, next, true);
        ++k;
      } else if (next >= 0 && fuses_linear_activation(i, next)) {
        a.kind = Action::Kind::linear_activation;
        // The value between the two exists only where the activation's backward pass reads it.
        fill_fused(a, i, next, at(kept_, node(i).outputs[0]));
        ++k;
      } else {
        make_outputs(i);
        a.in = places(node(i).inputs);
        a.out = places(node(i).outputs);
      }
      add_action(std::move(a));
    }
  }

  bool fuses_add_norm(int i, int next) const {
    return is_add(*node(i).op) && norm_of(*node(next).op) && node(next).inputs[0] == node(i).outputs[0];
  }
  bool fuses_linear_activation(int i, int next) const {
    return is_linear(*node(i).op) && activation_of(*node(next).op) &&
           node(next).inputs[0] == node(i).outputs[0] &&
           last_use_[static_cast<std::size_t>(node(i).outputs[0])] == next && node(i).outputs[0] != result_;
  }
  void fill_fused(Action& a, int i, int next, bool middle) {
    a.partner = next;
    if (middle) make_outputs(i);
    // Not in place: the partner's output must not overwrite the middle value the kernel also writes.
    for (const int v : node(next).outputs) at(storage_, v) = new_storage(bytes(v));
    a.in = places(node(i).inputs);
    a.out = places(node(i).outputs);
    a.partner_in = places(node(next).inputs);
    a.partner_out = places(node(next).outputs);
  }

  void make_outputs(int i) {
    const Recording::Node& n = node(i);
    for (std::size_t k = 0; k < n.outputs.size(); ++k) {
      const int v = n.outputs[k];
      const int from = n.inputs[0];
      const bool in_place = k == 0 && n.op->forward_in_place() && is_result(from) && !at(kept_, from) &&
                            at(last_use_, from) == i && from != result_ && bytes(from) == bytes(v) &&
                            at(storage_, from) >= 0;
      at(storage_, v) = in_place ? at(storage_, from) : new_storage(bytes(v));
    }
  }
  std::vector<Place> places(const std::vector<int>& values, bool later = false) {
    std::vector<Place> list;
    for (const int v : values) list.push_back(place(v, later));
    return list;
  }

  // ---- backward
  void backward() {
    for (auto it = order_.rbegin(); it != order_.rend(); ++it) {
      const int i = *it;
      const Recording::Node& n = node(i);
      if (!differentiates(i)) continue;
      const int s = at(gradient_, n.outputs[0]);
      if (s < 0 && !n.op->is_loss()) continue;  // nothing flows back to here
      if (n.op->passes_gradient())
        pass_gradient(i, s);
      else
        backward_node(i, s);
    }
    for (std::size_t p = 0; p < written_.size(); ++p)
      if (!written_[p]) plan_.zeroed_parameters.push_back(static_cast<int>(p));
  }

  // Another value than v, made by a node up to `last`, has its gradient in storage s too. Those nodes'
  // backward passes are still to read it, so it must not be changed on behalf of v.
  bool shared(int s, int v, int last) const {
    for (int u = 0; u < static_cast<int>(gradient_.size()); ++u)
      if (u != v && gradient_[static_cast<std::size_t>(u)] == s && value(u).node <= last) return true;
    return false;
  }
  // Before node i adds to the gradient of v. Node i itself counts as a reader: what it adds comes from its
  // own output's gradient, which may be this very storage.
  void make_exclusive(int v, int i) {
    const int s = at(gradient_, v);
    if (!shared(s, v, i)) return;
    const int own = new_storage(gradient_bytes(v));
    Action a;
    a.kind = Action::Kind::copy_gradient;
    a.dout = {gradient_place(v, s)};
    a.din = {gradient_place(v, own)};
    add_action(std::move(a));
    at(gradient_, v) = own;
  }
  std::size_t gradient_bytes(int v) const {
    return align_up(static_cast<std::size_t>(value(v).shape.numel()) * size_of(options_.compute));
  }
  void add_gradient(int v, int from) {
    Action a;
    a.kind = Action::Kind::add_gradient;
    a.dout = {gradient_place(v, from)};
    a.din = {gradient_place(v, at(gradient_, v))};
    add_action(std::move(a));
  }

  void pass_gradient(int i, int s) {
    for (std::size_t k = 0; k < node(i).inputs.size(); ++k) {
      if (!wants_gradient(node(i), k)) continue;
      const int v = node(i).inputs[k];
      if (at(gradient_, v) < 0) {
        at(gradient_, v) = s;
      } else {
        make_exclusive(v, i);
        add_gradient(v, s);
      }
    }
  }

  void recompute_inputs(int i) {
    const Recording::Node& n = node(i);
    for (std::size_t k = 0; k < n.inputs.size(); ++k) {
      const int v = n.inputs[k];
      if (v < 0 || !n.op->backward_reads_input(k) || !recomputed(v) || at(again_, v) >= 0) continue;
      const Recording::Node& producer = node(value(v).node);
      at(again_, v) = new_storage(bytes(v));
      Action a;
      a.node = value(v).node;
      a.in = places(producer.inputs);
      a.out = places(producer.outputs, true);
      add_action(std::move(a));
    }
  }

  // The activation that made what the linear node i multiplies, where nothing else reads it: then the product
  // that is the gradient of its output goes through it at once. -1: none.
  int activation_before(int i) const {
    const int v = node(i).inputs[0];
    if (!is_linear(*node(i).op) || !wants_gradient(node(i), 0) || !is_result(v) || at(gradient_, v) >= 0)
      return -1;
    const int j = value(v).node;
    const bool only_reader = std::none_of(order_.begin(), order_.end(), [&](int other) {
      const std::vector<int>& in = node(other).inputs;
      return other != i && std::find(in.begin(), in.end(), v) != in.end();
    });
    const int u = node(j).inputs[0];
    return only_reader && activation_of(*node(j).op) && is_result(u) && at(gradient_, u) < 0 ? j : -1;
  }
  // What the backward pass of node i reads of its own values.
  void read_values(int i, std::vector<Place>& in, std::vector<Place>& out) {
    const Recording::Node& n = node(i);
    for (std::size_t k = 0; k < n.inputs.size(); ++k)
      in.push_back(n.op->backward_reads_input(k) || !is_result(n.inputs[k]) ? place(n.inputs[k], true)
                                                                            : Place{});
    for (std::size_t k = 0; k < n.outputs.size(); ++k)
      out.push_back(n.op->backward_reads_output(k) || n.op->is_loss() ? place(n.outputs[k]) : Place{});
  }

  void backward_node(int i, int s) {
    recompute_inputs(i);
    const Recording::Node& n = node(i);
    Action a;
    a.kind = Action::Kind::backward;
    a.node = i;
    read_values(i, a.in, a.out);
    a.partner = activation_before(i);
    if (a.partner >= 0) {
      a.kind = Action::Kind::linear_activation_backward;
      recompute_inputs(a.partner);
      read_values(a.partner, a.partner_in, a.partner_out);
    }
    a.dout.assign(n.outputs.size(), {});
    if (s >= 0) a.dout[0] = gradient_place(n.outputs[0], s);
    a.din.assign(n.inputs.size(), {});
    a.accumulate.assign(n.inputs.size(), 0);
    std::vector<std::pair<int, int>> later;  // (value, temporary) to add after this action
    for (std::size_t k = 0; k < n.inputs.size(); ++k) {
      if (!wants_gradient(n, k)) continue;
      if (value(n.inputs[k]).kind == Kind::parameter)
        parameter_gradient(a, n, k);
      else if (a.partner >= 0)
        gradient_before(a.partner, a);
      else
        value_gradient(a, i, k, s, later);
    }
    add_action(std::move(a));
    for (const auto& [v, temporary] : later) add_gradient(v, temporary);
  }

  void gradient_before(int activation, Action& a) {
    const int u = node(activation).inputs[0];
    at(gradient_, u) = new_storage(gradient_bytes(u));
    a.din[0] = gradient_place(u, at(gradient_, u));
  }

  void parameter_gradient(Action& a, const Recording::Node& n, std::size_t k) {
    const int p = value(n.inputs[k]).index;
    a.din[k] = {Place::Kind::parameter_gradient, p, value(n.inputs[k]).shape, true};
    const bool first = !at(written_, p);
    at(written_, p) = true;
    if (first && n.op->only_adds(k))
      plan_.zeroed_parameters.push_back(p);
    else if (first)
      a.first_writes.push_back(static_cast<int>(k));
    else
      a.accumulate[k] = 1;
  }

  void value_gradient(Action& a, int i, std::size_t k, int s, std::vector<std::pair<int, int>>& later) {
    const Recording::Node& n = node(i);
    const int v = n.inputs[k];
    int target;
    if (at(gradient_, v) < 0) {
      const bool in_place = k == 0 && s >= 0 && n.op->backward_in_place() &&
                            !shared(s, n.outputs[0], i - 1) &&
                            gradient_bytes(v) == gradient_bytes(n.outputs[0]);
      target = in_place ? s : new_storage(gradient_bytes(v));
      at(gradient_, v) = target;
    } else {
      make_exclusive(v, i);
      if (n.op->accumulates(k)) {
        target = at(gradient_, v);
        a.accumulate[k] = 1;
      } else {
        target = new_storage(gradient_bytes(v));
        later.emplace_back(v, target);
      }
    }
    a.din[k] = gradient_place(v, target);
  }

  // ---- layout
  void finish() {
    plan_.result = place(result_);
    touch(plan_.result, static_cast<int>(plan_.actions.size()));
    for (const int i : order_) {
      const std::size_t w = node(i).op->workspace_bytes(r_.input_shapes(node(i)), options_.compute, logits_,
                                                        options_.training, options_.logits_budget);
      // The workspace is seen as i32: what is not a whole word of it would be lost (an odd row of bf16 was).
      plan_.workspace_bytes = std::max(plan_.workspace_bytes, (w + 3) / 4 * 4);
    }
    plan_.arena_bytes = lay_out(plan_.storages);
  }

  const Recording& r_;
  int result_;
  DType master_, logits_;
  ProgramOptions options_;
  Plan plan_;
  std::vector<int> order_;                                            // live nodes
  std::vector<std::uint8_t> live_, kept_, needs_gradient_, written_;  // bools
  std::vector<int> last_use_;                                         // last live node that reads a value
  std::vector<int> storage_, again_;  // storage of a value, and of its recomputed twin
  std::vector<int> gradient_;         // storage of a value's gradient
};

}  // namespace

Plan make_plan(const Tape& tape, Value result, DType master, DType logits, const ProgramOptions& options) {
  return Planner(tape.recording(), result, master, logits, options).run();
}

}  // namespace spectrain
