#pragma once

#include <memory>
#include <string>

#include "kernels/message_transport.h"
#include "kernels/mpi/plugin.h"

// The program's side of the MPI plug-in (kernels/mpi/plugin.h).

namespace spectrain {

// The plug-in at `path`, loaded once and never unloaded. Throws Error with the reason.
const MpiPlugin* load_mpi_plugin(const std::string& path);

// Throws Error when MPI does not start.
std::unique_ptr<Transport> make_mpi_transport(const MpiPlugin* plugin, MpiPluginPlace& place);

}  // namespace spectrain
