#include "train/commands.h"
#include "train/trainer.h"

namespace spectrain {

int run_train(const TrainRequest& request) {
  Trainer(request).run();
  return 0;
}

}  // namespace spectrain
