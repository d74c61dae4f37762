#pragma once

// Functions that both the processor and a GPU run: the formulas that all backends share stand in such ones.
#ifdef __CUDACC__
#define SPECTRAIN_HD __host__ __device__
#else
#define SPECTRAIN_HD
#endif
