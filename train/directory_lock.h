#pragma once

#include <string>
#include <string_view>

#include "train/durable_file.h"

namespace spectrain {

// Locks an existing directory, through its file .lock, while the descriptor lives; a killed process leaves no
// lock behind. Throws RequestError when another process holds it: 'runs/x is in use by process 12;
// <way_out>'.
Descriptor lock_directory(const std::string& path, std::string_view way_out);

// Whether nobody holds the lock of a directory, which need not be there.
bool directory_is_free(const std::string& path);

}  // namespace spectrain
