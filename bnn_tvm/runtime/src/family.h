/* Which family of kernels a context runs. */
#ifndef BNN_FAMILY_H_
#define BNN_FAMILY_H_

#include "cores.h"
#include "model.h"

/* The family of the core with this MIDR_EL1. */
int32_t bnn_family_of_core(const bnn_choice *choice, uint32_t midr);

/* The family for `num_threads` threads on these cores; those whose id is 0 are passed over.
 *
 * Loops are shared out in equal parts, so a run takes as long as its slowest thread, and the
 * scheduler puts busy threads on the fastest cores that are free: what counts is the slowest of
 * the `num_threads` fastest cores. Of equally fast ones those of the later family come first:
 * where speeds are not known, families are listed from small cores to big ones. */
int32_t bnn_family_for(const bnn_choice *choice, const bnn_core *cores, int32_t count,
                       int32_t num_threads);

/* Sets *family, by `name`, else by the environment's BNN_TVM_KERNELS, else by the cores; NULL and
 * "" count as no name. A model without a choice has no names and does not ask the environment. */
bnn_status bnn_choose_family(const bnn_choice *choice, const char *name, int32_t num_threads,
                             int32_t *family);

#endif
