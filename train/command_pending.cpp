// Commands whose own file is still being written; each leaves this file as its own appears.
#include "kernels/error.h"
#include "train/commands.h"

namespace spectrain {

int run_train(const TrainRequest&) { throw Error("train: not here yet"); }
int run_eval(const EvalRequest&) { throw Error("eval: not here yet"); }
int run_sample(const SampleRequest&) { throw Error("sample: not here yet"); }
int run_plan(const PlanRequest&) { throw Error("plan: not here yet"); }
int run_plot(const PlotRequest&) { throw Error("plot: not here yet"); }

}  // namespace spectrain
