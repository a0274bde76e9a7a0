/* What the runtime uses of Android's <sched.h>; see export/bionic.py. The set is the kernel's. */
#ifndef BNN_BIONIC_SCHED_H_
#define BNN_BIONIC_SCHED_H_

#include <stddef.h>

#define CPU_SETSIZE 1024
#define CPU_ISSET(cpu, set) ((set)->bits[(cpu) / 64] >> (cpu) % 64 & 1)

typedef struct cpu_set {
  unsigned long bits[CPU_SETSIZE / 64];
} cpu_set_t;

int sched_getaffinity(int pid, size_t nbytes, cpu_set_t *set);

#endif
