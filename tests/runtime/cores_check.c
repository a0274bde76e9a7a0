/* What the runtime makes of core ids, with the table of a model:
 *
 *   core MIDR                            the family of a core
 *   choose THREADS MIDR:SPEED ...        the family for a machine with these cores
 *   read FOLDER CPUINFO                  MIDR:SPEED of this thread's processors as told by files
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "family.h"

extern const bnn_model bnn_the_model;

int main(int argc, char **argv) {
  const bnn_choice *choice = bnn_the_model.choice;
  bnn_core cores[kBnnMaxCores + 8];
  if (argc == 3 && !strcmp(argv[1], "core")) {
    puts(choice->families[bnn_family_of_core(choice, (uint32_t)strtoul(argv[2], NULL, 0))]);
  } else if (argc >= 3 && argc - 3 <= kBnnMaxCores + 8 && !strcmp(argv[1], "choose")) {
    for (int i = 3; i < argc; ++i) {
      char *colon;
      cores[i - 3].midr = (uint32_t)strtoul(argv[i], &colon, 0);
      cores[i - 3].speed = (uint32_t)strtoul(colon + 1, NULL, 0);
    }
    puts(choice->families[bnn_family_for(choice, cores, argc - 3, atoi(argv[2]))]);
  } else if (argc == 4 && !strcmp(argv[1], "read")) {
    int32_t count = bnn_read_cores(argv[2], argv[3], cores);
    for (int32_t i = 0; i < count; ++i) printf("%#x:%u\n", cores[i].midr, cores[i].speed);
  } else {
    return 1;
  }
  return 0;
}
