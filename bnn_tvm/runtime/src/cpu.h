#ifndef BNN_CPU_H_
#define BNN_CPU_H_

/* The first of `features` (LLVM's names, NULL at the end) that this processor lacks, or NULL.
 * Names that are not in cpu.c's table are taken to be there. */
const char *bnn_missing_cpu_feature(const char *const *features);

#endif
