#include "kernels/mpi/plugin.h"

#include <mpi.h>

#include <cstdio>
#include <cstring>
#include <vector>

namespace spectrain {
namespace {

char problem_text[MPI_MAX_ERROR_STRING + 64];
// A request's number is its place here; those that are over are MPI_REQUEST_NULL.
std::vector<MPI_Request> requests;
std::vector<int> free_numbers, completed_now;
// Apart from whatever a library in the same process says.
MPI_Comm ours = MPI_COMM_NULL;

bool failed(const char* call, int code) {
  if (code == MPI_SUCCESS) return false;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  std::snprintf(problem_text, sizeof problem_text, "%s: %s", call, text);
  return true;
}

std::int32_t start(MpiPluginPlace* place) {
  int flag = 0, provided = 0;
  MPI_Initialized(&flag);
  if (flag != 0) {
    std::snprintf(problem_text, sizeof problem_text, "MPI was started in this process before");
    return -1;
  }
  if (failed("MPI_Init_thread", MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided))) return -1;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (failed("MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &ours))) return -1;
  MPI_Comm_set_errhandler(ours, MPI_ERRORS_RETURN);
  MPI_Comm_rank(ours, &place->rank);
  MPI_Comm_size(ours, &place->ranks);
  MPI_Comm machine = MPI_COMM_NULL;
  int on_machine = 0;
  if (failed("MPI_Comm_split_type",
             MPI_Comm_split_type(ours, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine)))
    return -1;
  MPI_Comm_size(machine, &on_machine);
  MPI_Comm_free(&machine);
  place->one_machine = on_machine == place->ranks ? 1 : 0;
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  version[std::strcspn(version, ",\n")] = '\0';
  std::snprintf(place->library, sizeof place->library, "%.255s", version);
  return 0;
}

std::int32_t new_number() {
  if (free_numbers.empty()) {
    requests.push_back(MPI_REQUEST_NULL);
    completed_now.resize(requests.size());
    free_numbers.reserve(requests.size());
    return static_cast<std::int32_t>(requests.size() - 1);
  }
  const int number = free_numbers.back();
  free_numbers.pop_back();
  return number;
}

std::int32_t send(const void* data, std::uint64_t bytes, std::int32_t peer, std::int32_t tag) {
  const std::int32_t n = new_number();
  const int code = MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, ours,
                             &requests[static_cast<std::size_t>(n)]);
  return failed("MPI_Isend", code) ? -1 : n;
}

std::int32_t receive(void* data, std::uint64_t bytes, std::int32_t peer, std::int32_t tag) {
  const std::int32_t n = new_number();
  const int code = MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, ours,
                             &requests[static_cast<std::size_t>(n)]);
  return failed("MPI_Irecv", code) ? -1 : n;
}

std::int32_t progress(std::int32_t* completed, std::int32_t capacity) {
  int count = 0;
  const int some = static_cast<int>(requests.size());
  if (failed("MPI_Testsome",
             MPI_Testsome(some, requests.data(), &count, completed_now.data(), MPI_STATUSES_IGNORE)))
    return -1;
  if (count == MPI_UNDEFINED) return 0;
  for (int i = 0; i < count && i < capacity; ++i) {
    completed[i] = completed_now[static_cast<std::size_t>(i)];
    free_numbers.push_back(completed[i]);
  }
  return count;
}

void finish() {
  MPI_Comm_free(&ours);
  MPI_Finalize();
}

const char* problem() { return problem_text; }

const MpiPlugin plugin = {kMpiInterfaceVersion, start, send, receive, progress, finish, problem};

}  // namespace
}  // namespace spectrain

const spectrain::MpiPlugin* spectrain_mpi_plugin() { return &spectrain::plugin; }
