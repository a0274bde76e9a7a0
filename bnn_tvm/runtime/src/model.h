/* What the generated model.c gives to the runtime: constants and one function. */
#ifndef BNN_MODEL_H_
#define BNN_MODEL_H_

#include "bnn_tvm.h"

typedef struct bnn_expected {
  uint64_t stride;
  uint64_t count;
  const float *values; /* at flat positions 0, stride, 2 * stride, ... */
} bnn_expected;

typedef struct bnn_known_core {
  int32_t implementer, part; /* of MIDR_EL1; part -1 is any */
  int32_t family;
} bnn_known_core;

/* Families of kernels among which each context has one; numbers are places in `families`. */
typedef struct bnn_choice {
  int32_t num_families;
  const char *const *families;
  const uint8_t *layers; /* for each kernel call a bit for each family that makes it */
  int32_t num_cores;
  const bnn_known_core *cores;
  int32_t unknown;    /* for a core that `cores` lacks */
  int32_t unreadable; /* where no core can be identified */
} bnn_choice;

typedef struct bnn_model {
  const char *version;
  const char *source;
  int32_t num_inputs, num_outputs, num_layers;
  const bnn_tensor_info *inputs, *outputs;
  const bnn_layer_info *layers;
  uint64_t arena_bytes;
  const char *const *cpu_features; /* LLVM's names, NULL at the end */
  const char *cpu_text;            /* what BNN_ERROR_CPU says: the same names */
  const bnn_expected *expected;    /* one per output, or NULL without a test vector */
  uint64_t test_seed;
  double test_atol, test_rtol, test_low, test_high;
  const bnn_choice *choice; /* NULL where every kernel call is made in every run */
} bnn_model;

typedef struct bnn_buffers {
  unsigned char *arena;
  const unsigned char *const *in;
  unsigned char *const *out;
} bnn_buffers;

extern const bnn_model bnn_the_model;
/* Runs kernel call `layer`; 0 is success. */
int32_t bnn_model_call(int32_t layer, const bnn_buffers *buffers);
/* Fills outputs that no kernel writes (an output that is an input, a constant or a copy). */
void bnn_model_finish(const bnn_buffers *buffers);

#endif
