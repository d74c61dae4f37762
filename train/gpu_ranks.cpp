#include "train/gpu_ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "kernels/cuda_plugin.h"
#include "kernels/error.h"
#include "kernels/sockets.h"
#include "train/agreement.h"
#include "train/session.h"

namespace spectrain {
namespace {

// Where rank 0 waits, in a message of whole numbers.
struct Contact {
  std::int32_t port;
  char address[252];
};
static_assert(sizeof(Contact) == 256);

// Rank 0 opens a port for NCCL's ranks to meet at and all others learn where. Returns rank 0's socket.
Socket exchange_contact(Collectives& host, const Launch& launch, RankPlace& place) {
  Contact contact{};
  Socket listener;
  if (launch.is_first()) {
    // mpirun says nothing of addresses.
    std::string address = launch.address;
    if (launch.port == 0 && launch.local_ranks != launch.ranks) {
      char name[sizeof contact.address] = "";
      gethostname(name, sizeof name - 1);
      address = name;
    }
    listener = listen_at(address, 0);
    contact.port = near_end(listener).port;
    address.copy(contact.address, sizeof contact.address - 1);
  }
  constexpr std::int64_t kNumbers = sizeof contact / sizeof(std::int32_t);
  host.wait(host.broadcast(Tensor(&contact, DType::i32, {kNumbers}), 0, "where NCCL's ranks meet"));
  place.address = contact.address;
  place.port = contact.port;
  return listener;
}

}  // namespace

void check_gpus_wanted(int gpus, Device device) {
  if (gpus > 0 && device == Device::cpu)
    throw RequestError(fmt::format(
        "--gpus is {}, but compute.device is cpu; leave --gpus out, or use --ranks {}", gpus, gpus));
}

int gpu_of(const Launch& launch, int visible, const Environment& environment) {
  if (launch.local_ranks <= visible) return launch.local_rank;
  const std::optional<std::string> given = environment("CUDA_VISIBLE_DEVICES");
  return visible == 1 && given && given->find(',') == given->npos ? 0 : -1;
}

std::unique_ptr<Backend> make_rank_backend(const ComputeSection& compute, const Launch& launch) {
  if (launch.ranks == 1 || compute.device == Device::cpu) return make_backend(compute);
  ComputeSection own = compute;
  const CudaListing listing = list_cuda_devices();
  const int visible = static_cast<int>(listing.devices.size());
  const int gpu = gpu_of(launch, visible, [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value ? std::optional<std::string>(value) : std::nullopt;
  });
  if (compute.device == Device::cuda && listing.reason.empty() && gpu < 0)
    throw RequestError(fmt::format(
        "compute.device is cuda, but this host has {} ranks and {} GPU{}; start one rank for each",
        launch.local_ranks, visible, visible == 1 ? "" : "s"));
  if (compute.device == Device::automatic && gpu < 0) own.device = Device::cpu;
  return make_backend(own, gpu < 0 ? 0 : gpu);
}

void join_backends(std::unique_ptr<Collectives>& collectives, Backend& backend, const Launch& launch,
                   double timeout) {
  if (collectives->ranks() == 1) return;
  const int other =
      first_with_another_text(*collectives, std::string(backend.name()), "the kinds of devices");
  if (other > 0)
    throw RequestError(fmt::format(
        "rank {} does not compute on the same kind of device as rank 0; give --device cpu, or a GPU to each",
        other));
  if (backend.name() != "cuda") return;
  RankPlace place = rank_place(launch, timeout);
  Socket listener = exchange_contact(*collectives, launch, place);
  place.listener = listener.release();
  Collectives& host = *collectives;
  std::unique_ptr<Collectives> gpus = make_cuda_collectives(backend, place, [&host] { host.check(); });
  // Nobody leaves those before all have the new ones: until then they tell who failed.
  host.wait(host.barrier("the meeting of the GPUs"));
  collectives = std::move(gpus);
}

}  // namespace spectrain
