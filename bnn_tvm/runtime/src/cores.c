/* Which cores may run this thread: their ids and how fast they are, from Linux.
 *
 * A phone has cores of several kinds, and the thread may be on any of them now, so MIDR_EL1 of the
 * present one says little: the ids of all come from sysfs (Linux 4.7 and newer) or /proc/cpuinfo.
 * The register itself, which Linux emulates for programs (4.11), is asked where both are closed. */
#define _GNU_SOURCE
#include "cores.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

enum { kMaxProcessors = 1024, kLine = 256 };

/* The number in a file of processor `cpu`, 0 if there is none. */
static uint32_t number(const char *system, int cpu, const char *name) {
  char path[512], text[64] = "";
  snprintf(path, sizeof path, "%s/cpu%d/%s", system, cpu, name);
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  if (fgets(text, sizeof text, file) == NULL) text[0] = 0;
  fclose(file);
  return (uint32_t)strtoul(text, NULL, 0);
}

/* The numbers of the processors that this thread may run on. */
static int32_t allowed(int cpus[kBnnMaxCores]) {
  int32_t count = 0;
#if defined(__linux__)
  cpu_set_t set;
  int known = sched_getaffinity(0, sizeof set, &set) == 0;
  for (int cpu = 0; cpu < kMaxProcessors && cpu < CPU_SETSIZE && count < kBnnMaxCores; ++cpu)
    if (!known || CPU_ISSET(cpu, &set)) cpus[count++] = cpu;
#else
  (void)cpus;
#endif
  return count;
}

/* The value behind the colon if `line` begins with `key`. */
static const char *value_of(const char *line, const char *key) {
  for (; *key != 0; ++key, ++line)
    if (*line != *key) return NULL;
  const char *colon = strchr(line, ':');
  return colon != NULL ? colon + 1 : NULL;
}

/* The ids that are still missing, from /proc/cpuinfo: the lines behind "processor : N" tell of processor N. Old kernels print
 * them once, behind the last processor, for all. */
static void read_cpuinfo(const char *path, const int *cpus, bnn_core *cores, int32_t count) {
  char line[kLine];
  uint32_t implementer = 0, variant = 0, midr = 0;
  int cpu = -1, parts = 0;
  FILE *file = fopen(path, "r");
  if (file == NULL) return;
  while (fgets(line, sizeof line, file) != NULL) {
    const char *value;
    if ((value = value_of(line, "processor")) != NULL) {
      cpu = (int)strtoul(value, NULL, 10);
    } else if ((value = value_of(line, "CPU implementer")) != NULL) {
      implementer = (uint32_t)strtoul(value, NULL, 0) & 0xff;
    } else if ((value = value_of(line, "CPU variant")) != NULL) {
      variant = (uint32_t)strtoul(value, NULL, 0) & 0xf;
    } else if ((value = value_of(line, "CPU part")) != NULL) {
      uint32_t part = (uint32_t)strtoul(value, NULL, 0) & 0xfff;
      midr = implementer << 24 | variant << 20 | 0xfu << 16 | part << 4;
      ++parts;
      for (int32_t i = 0; i < count; ++i)
        if (cpus[i] == cpu && cores[i].midr == 0) cores[i].midr = midr;
    }
  }
  fclose(file);
  for (int32_t i = 0; i < count && parts == 1; ++i)
    if (cores[i].midr == 0) cores[i].midr = midr;
}

/* The scheduler's capacity of a core counts work per time; where it is not told, the highest
 * frequency stands for it, as the cores of a kind share one. */
static void read_speeds(const char *system, const int *cpus, bnn_core *cores, int32_t count) {
  static const char *const files[] = {"cpu_capacity", "cpufreq/cpuinfo_max_freq"};
  for (int k = 0; k < 2; ++k) {
    int complete = 1;
    for (int32_t i = 0; i < count && complete; ++i) {
      cores[i].speed = number(system, cpus[i], files[k]);
      complete = cores[i].speed != 0;
    }
    if (complete) return;
  }
  for (int32_t i = 0; i < count; ++i) cores[i].speed = 0;
}

/* MIDR_EL1 of the core that this thread is on now, 0 if programs cannot read it. */
static uint32_t own_midr(void) {
  unsigned long midr = 0;
#if defined(__linux__) && defined(__aarch64__)
  /* AT_HWCAP is 16, HWCAP_CPUID bit 11: the kernel answers for the register. */
  if (getauxval(16) >> 11 & 1) __asm__ volatile("mrs %0, MIDR_EL1" : "=r"(midr));
#endif
  return (uint32_t)midr;
}

int32_t bnn_read_cores(const char *system, const char *cpuinfo, bnn_core cores[kBnnMaxCores]) {
  int cpus[kBnnMaxCores];
  int32_t count = allowed(cpus), known = 0;
  for (int32_t i = 0; i < count; ++i) {
    cores[i].midr = number(system, cpus[i], "regs/identification/midr_el1");
    known += cores[i].midr != 0;
  }
  if (known < count) read_cpuinfo(cpuinfo, cpus, cores, count);
  for (known = 0; known < count && cores[known].midr == 0;) ++known;
  if (known == count) { /* none: a list of one core, the present one */
    cores[0].midr = own_midr();
    cores[0].speed = 0;
    return cores[0].midr != 0;
  }
  read_speeds(system, cpus, cores, count);
  return count;
}
