#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu.h"
#include "family.h"
#include "model.h"
#include "pool.h"
#include "self_test.h"

/* Kernels take no more of a caller's buffer than that its elements are aligned, 8 bytes at most. */
enum { kMaxThreads = 256, kAlign = 64, kElement = 8 };

struct bnn_context {
  bnn_pool *pool;
  unsigned char *arena;
  unsigned char *bounce; /* aligned copies of inputs and outputs, made when first needed */
  const unsigned char **in;
  unsigned char **out;
  int32_t family;
  atomic_flag busy;
  char message[256];
};

static uint64_t aligned(uint64_t nbytes) { return (nbytes + kAlign - 1) / kAlign * kAlign; }

static bnn_status fail(bnn_context *context, bnn_status status, const char *text) {
  snprintf(context->message, sizeof context->message, "%s", text);
  return status;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

bnn_status bnn_create(int32_t num_threads, bnn_context **result) {
  return bnn_create_with(num_threads, NULL, result);
}

bnn_status bnn_create_with(int32_t num_threads, const char *family, bnn_context **result) {
  const bnn_model *model = &bnn_the_model;
  int32_t chosen;
  if (result == NULL) return BNN_ERROR_ARGUMENT;
  *result = NULL;
  if (num_threads < 1 || num_threads > kMaxThreads) return BNN_ERROR_ARGUMENT;
  if (bnn_missing_cpu_feature(model->cpu_features) != NULL) return BNN_ERROR_CPU;
  bnn_status status = bnn_choose_family(model->choice, family, num_threads, &chosen);
  if (status != BNN_OK) return status;
  bnn_context *context = calloc(1, sizeof *context);
  if (context == NULL) return BNN_ERROR_MEMORY;
  context->family = chosen;
  atomic_flag_clear(&context->busy);
  context->in = calloc((size_t)model->num_inputs + 1, sizeof *context->in);
  context->out = calloc((size_t)model->num_outputs + 1, sizeof *context->out);
  context->arena = bnn_aligned_alloc(model->arena_bytes);
  status = BNN_ERROR_MEMORY;
  if (context->in != NULL && context->out != NULL && context->arena != NULL)
    status = bnn_pool_create(num_threads, &context->pool);
  if (status != BNN_OK) {
    bnn_destroy(context);
    return status;
  }
  *result = context;
  return BNN_OK;
}

void bnn_destroy(bnn_context *context) {
  if (context == NULL) return;
  bnn_pool_destroy(context->pool);
  bnn_aligned_free(context->arena);
  bnn_aligned_free(context->bounce);
  free(context->in);
  free(context->out);
  free(context);
}

const char *bnn_family(const bnn_context *context) {
  const bnn_choice *choice = bnn_the_model.choice;
  return context == NULL || choice == NULL ? "" : choice->families[context->family];
}

int32_t bnn_layer_runs(const bnn_context *context, int32_t index) {
  const bnn_choice *choice = bnn_the_model.choice;
  if (context == NULL || index < 0 || index >= bnn_the_model.num_layers) return 0;
  return choice == NULL || (choice->layers[index] >> context->family & 1);
}

static bnn_status make_bounce(bnn_context *context) {
  const bnn_model *model = &bnn_the_model;
  uint64_t total = 0;
  if (context->bounce != NULL) return BNN_OK;
  for (int32_t i = 0; i < model->num_inputs; ++i) total += aligned(model->inputs[i].nbytes);
  for (int32_t i = 0; i < model->num_outputs; ++i) total += aligned(model->outputs[i].nbytes);
  context->bounce = bnn_aligned_alloc(total);
  if (context->bounce == NULL)
    return fail(context, BNN_ERROR_MEMORY, "no memory to align inputs and outputs");
  return BNN_OK;
}

/* Sets context->in and context->out, with copies of what is not aligned. */
static bnn_status bind(bnn_context *context, const void *const *inputs, void *const *outputs) {
  const bnn_model *model = &bnn_the_model;
  uint64_t offset = 0;
  bnn_status status;
  if ((inputs == NULL && model->num_inputs > 0) || (outputs == NULL && model->num_outputs > 0))
    return fail(context, BNN_ERROR_ARGUMENT, "inputs or outputs is NULL");
  for (int32_t i = 0; i < model->num_inputs; ++i) {
    context->in[i] = inputs[i];
    if (inputs[i] == NULL) {
      snprintf(context->message, sizeof context->message, "input %d (%.180s) is NULL", (int)i,
               model->inputs[i].name);
      return BNN_ERROR_ARGUMENT;
    }
    if ((uintptr_t)inputs[i] % kElement != 0) {
      if ((status = make_bounce(context)) != BNN_OK) return status;
      memcpy(context->bounce + offset, inputs[i], (size_t)model->inputs[i].nbytes);
      context->in[i] = context->bounce + offset;
    }
    offset += aligned(model->inputs[i].nbytes);
  }
  for (int32_t i = 0; i < model->num_outputs; ++i) {
    context->out[i] = outputs[i];
    if (outputs[i] == NULL) {
      snprintf(context->message, sizeof context->message, "output %d (%.180s) is NULL", (int)i,
               model->outputs[i].name);
      return BNN_ERROR_ARGUMENT;
    }
    if ((uintptr_t)outputs[i] % kElement != 0) {
      if ((status = make_bounce(context)) != BNN_OK) return status;
      context->out[i] = context->bounce + offset;
    }
    offset += aligned(model->outputs[i].nbytes);
  }
  return BNN_OK;
}

static bnn_status run_bound(bnn_context *context, double *layer_ms) {
  const bnn_model *model = &bnn_the_model;
  bnn_buffers buffers = {context->arena, context->in, context->out};
  double start = layer_ms ? now_ms() : 0;
  for (int32_t i = 0; i < model->num_layers; ++i) {
    if (!bnn_layer_runs(context, i)) {
      if (layer_ms) layer_ms[i] = 0;
      continue;
    }
    if (bnn_model_call(i, &buffers) != 0) {
      snprintf(context->message, sizeof context->message,
               "kernel %.60s of layer %.120s failed (out of memory?)", model->layers[i].kernel,
               model->layers[i].output);
      return BNN_ERROR_KERNEL;
    }
    if (layer_ms) {
      double end = now_ms();
      layer_ms[i] = end - start;
      start = end;
    }
  }
  bnn_model_finish(&buffers);
  return BNN_OK;
}

static bnn_status run(bnn_context *context, const void *const *inputs, void *const *outputs,
                      double *layer_ms) {
  const bnn_model *model = &bnn_the_model;
  if (context == NULL) return BNN_ERROR_ARGUMENT;
  if (atomic_flag_test_and_set(&context->busy)) return BNN_ERROR_BUSY;
  context->message[0] = 0;
  bnn_status status = bind(context, inputs, outputs);
  if (status == BNN_OK) {
    void *previous = bnn_pool_enter(context->pool);
    status = run_bound(context, layer_ms);
    bnn_pool_leave(previous);
  }
  if (status == BNN_OK)
    for (int32_t i = 0; i < model->num_outputs; ++i)
      if (context->out[i] != outputs[i])
        memcpy(outputs[i], context->out[i], (size_t)model->outputs[i].nbytes);
  atomic_flag_clear(&context->busy);
  return status;
}

bnn_status bnn_run(bnn_context *context, const void *const *inputs, void *const *outputs) {
  return run(context, inputs, outputs, NULL);
}

bnn_status bnn_run_profiled(bnn_context *context, const void *const *inputs, void *const *outputs,
                            double *layer_ms) {
  if (context == NULL || layer_ms == NULL) return BNN_ERROR_ARGUMENT;
  return run(context, inputs, outputs, layer_ms);
}

bnn_status bnn_self_test(bnn_context *context, double *max_error) {
  double error = 0;
  if (max_error != NULL) *max_error = 0;
  if (context == NULL) return BNN_ERROR_ARGUMENT;
  bnn_status status = bnn_self_test_run(context, &error);
  if (max_error != NULL) *max_error = error;
  if (status == BNN_ERROR_SELF_TEST)
    snprintf(context->message, sizeof context->message,
             "the self-test differs from the expected values by up to %g", error);
  else if (status == BNN_ERROR_MEMORY || status == BNN_ERROR_UNSUPPORTED)
    fail(context, status, bnn_status_text(status));
  return status;
}

const char *bnn_error_message(const bnn_context *context) {
  return context == NULL ? "the context is NULL" : context->message;
}
