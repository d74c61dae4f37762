#include <fmt/format.h>

#include <cmath>

#include "kernels/error.h"
#include "train/checkpoint.h"
#include "train/commands.h"
#include "train/saved_run.h"
#include "train/session.h"

namespace spectrain {

int run_eval(const EvalRequest& request) {
  SavedRun saved = request.checkpoint.empty() ? find_saved_run_of_config(request.config, request.overrides)
                                              : find_saved_run(request.checkpoint, request.overrides);
  RunConfig& config = saved.config;
  if (!request.data.empty()) config.data.validation = request.data;
  const std::unique_ptr<TokenLoader> data = validation_loader(config);
  const std::unique_ptr<Backend> backend = make_backend(config.compute);
  Session session(config, *backend, false);
  load_parameters(saved, session.parameters());

  const Evaluation e =
      evaluate(session, *data, request.tokens > 0 ? request.tokens : config.train.validate.tokens);
  fmt::print("{}: loss {:.6f} (perplexity {:.3f}) over {} tokens\n", saved.checkpoint, e.loss,
             std::exp(e.loss), e.tokens);
  return 0;
}

}  // namespace spectrain
