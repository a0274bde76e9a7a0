/* Runs a compiled model on raw arrays, on a device or under an emulator.
 *
 *   bnn-run MODEL.so run THREADS KERNELS COUNT INPUTS OUTPUTS
 *       COUNT samples one after the other in a file, of each the arrays one after the other
 *   bnn-run MODEL.so test THREADS KERNELS
 *       the embedded test vector; prints the error
 *   bnn-run MODEL.so kernels THREADS KERNELS
 *       prints which family of kernels runs
 *
 * KERNELS names a family; "" leaves the choice to the model.
 *
 * With -DBNN_RUN_STATIC the model is linked in and MODEL.so is ignored. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef BNN_RUN_STATIC
#include <dlfcn.h>
#endif

#include "bnn_tvm.h"

static int fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

static const bnn_api *open_model(const char *path) {
#ifdef BNN_RUN_STATIC
  (void)path;
  return bnn_get_api();
#else
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const bnn_api *(*get_api)(void);
  if (library == NULL) {
    fail("cannot load the model", dlerror());
    return NULL;
  }
  *(void **)&get_api = dlsym(library, "bnn_get_api");
  if (get_api == NULL || get_api()->abi_version != BNN_ABI_VERSION) {
    fail(path, "is no model of this version");
    return NULL;
  }
  return get_api();
#endif
}

/* Room for `count` arrays. NULL if there is not enough memory. */
static void **arrays(int32_t count, const bnn_tensor_info *(*describe)(int32_t)) {
  void **result = calloc((size_t)count + 1, sizeof *result);
  for (int32_t i = 0; result != NULL && i < count; ++i) {
    size_t nbytes = (size_t)describe(i)->nbytes;
    result[i] = malloc(nbytes ? nbytes : 1);
    if (result[i] == NULL) return NULL;
  }
  return result;
}

static int run(const bnn_api *api, bnn_context *context, long count, const char *input,
               const char *output) {
  FILE *source = fopen(input, "rb");
  if (source == NULL) return fail(input, "cannot be read");
  FILE *target = fopen(output, "wb");
  if (target == NULL) return fail(output, "cannot be written");
  void **in = arrays(api->num_inputs(), api->input);
  void **out = arrays(api->num_outputs(), api->output);
  if (in == NULL || out == NULL) return fail("the model's arrays", "too little memory");
  for (long sample = 0; sample < count; ++sample) {
    for (int32_t i = 0; i < api->num_inputs(); ++i)
      if (fread(in[i], 1, (size_t)api->input(i)->nbytes, source) != api->input(i)->nbytes)
        return fail(input, "is too short");
    if (api->run(context, (const void *const *)in, out) != BNN_OK)
      return fail("the model failed", api->error_message(context));
    for (int32_t i = 0; i < api->num_outputs(); ++i)
      if (fwrite(out[i], 1, (size_t)api->output(i)->nbytes, target) != api->output(i)->nbytes)
        return fail(output, "cannot be written");
    /* Whoever waits sees by the file's size that the run goes on. */
    if (fflush(target) != 0) return fail(output, "cannot be written");
  }
  fclose(source);
  if (fclose(target) != 0) return fail(output, "cannot be written");
  return 0;
}

int main(int argc, char **argv) {
  const char *task = argc > 2 ? argv[2] : "";
  int running = argc == 8 && !strcmp(task, "run");
  int testing = argc == 5 && !strcmp(task, "test");
  if (!running && !testing && !(argc == 5 && !strcmp(task, "kernels")))
    return fail("usage",
                "bnn-run MODEL.so run THREADS KERNELS COUNT INPUTS OUTPUTS | test THREADS KERNELS | "
                "kernels THREADS KERNELS");
  const bnn_api *api = open_model(argv[1]);
  bnn_context *context = NULL;
  if (api == NULL) return 1;
  /* Models of older versions have no families, and end their table before them. */
  int choosing = api->size > offsetof(bnn_api, layer_runs);
  bnn_status status = choosing ? api->create_with(atoi(argv[3]), argv[4], &context)
                               : api->create(atoi(argv[3]), &context);
  if (status != BNN_OK) return fail("no context", api->status_text(status));
  int result = 0;
  if (running) {
    result = run(api, context, atol(argv[5]), argv[6], argv[7]);
  } else if (testing) {
    double error = 0;
    if (api->self_test(context, &error) != BNN_OK)
      result = fail("self-test", api->error_message(context));
    printf("%.9g\n", error);
  } else {
    puts(choosing ? api->family(context) : "");
  }
  api->destroy(context);
  return result;
}
