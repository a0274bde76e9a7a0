#ifndef BNN_CORES_H_
#define BNN_CORES_H_

#include <stdint.h>

/* More are not looked at: a machine with that many has cores of one kind. */
enum { kBnnMaxCores = 64 };

/* One processor that this thread may run on. */
typedef struct bnn_core {
  uint32_t midr;  /* MIDR_EL1, 0 if it cannot be read */
  uint32_t speed; /* larger is faster; 0 for all if it is not known of each */
} bnn_core;

/* Fills `cores` and returns their number. `system` is the folder of the processors
 * (/sys/devices/system/cpu), `cpuinfo` the file that is read where it lacks their ids
 * (/proc/cpuinfo). */
int32_t bnn_read_cores(const char *system, const char *cpuinfo, bnn_core cores[kBnnMaxCores]);

#endif
