#include "family.h"

#include <stdlib.h>
#include <string.h>

int32_t bnn_family_of_core(const bnn_choice *choice, uint32_t midr) {
  int32_t implementer = (int32_t)(midr >> 24 & 0xff), part = (int32_t)(midr >> 4 & 0xfff);
  for (int32_t i = 0; i < choice->num_cores; ++i) {
    const bnn_known_core *known = &choice->cores[i];
    if (known->implementer == implementer && (known->part == part || known->part < 0))
      return known->family;
  }
  return choice->unknown;
}

int32_t bnn_family_for(const bnn_choice *choice, const bnn_core *cores, int32_t count,
                       int32_t num_threads) {
  struct {
    uint32_t speed;
    int32_t family;
  } sorted[kBnnMaxCores]; /* fastest first */
  int32_t known = 0;
  for (int32_t i = 0; i < count && known < kBnnMaxCores; ++i) {
    if (cores[i].midr == 0) continue;
    int32_t family = bnn_family_of_core(choice, cores[i].midr), at = known++;
    for (; at > 0; --at) {
      uint32_t speed = sorted[at - 1].speed;
      if (speed > cores[i].speed || (speed == cores[i].speed && sorted[at - 1].family >= family))
        break;
      sorted[at] = sorted[at - 1];
    }
    sorted[at].speed = cores[i].speed;
    sorted[at].family = family;
  }
  if (known == 0) return choice->unreadable;
  return sorted[(num_threads < known ? num_threads : known) - 1].family;
}

bnn_status bnn_choose_family(const bnn_choice *choice, const char *name, int32_t num_threads,
                             int32_t *family) {
  bnn_core cores[kBnnMaxCores];
  *family = 0;
  if (name != NULL && *name == 0) name = NULL;
  if (choice == NULL) return name == NULL ? BNN_OK : BNN_ERROR_FAMILY;
  if (name == NULL) name = getenv("BNN_TVM_KERNELS");
  if (name != NULL && *name != 0) {
    while (*family < choice->num_families && strcmp(name, choice->families[*family]) != 0)
      ++*family;
    return *family < choice->num_families ? BNN_OK : BNN_ERROR_FAMILY;
  }
  int32_t count = 0;
#if defined(__aarch64__) /* nobody else has these ids */
  count = bnn_read_cores("/sys/devices/system/cpu", "/proc/cpuinfo", cores);
#endif
  *family = bnn_family_for(choice, cores, count, num_threads);
  return BNN_OK;
}
