/* Runs a compiled model on raw arrays, on a device or under an emulator.
 *
 *   bnn-run MODEL.so run THREADS INPUTS OUTPUTS   arrays one after the other in a file
 *   bnn-run MODEL.so test THREADS                 the embedded test vector; prints the error
 *
 * With -DBNN_RUN_STATIC the model is linked in and MODEL.so is ignored. */
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

/* Pointers to `count` arrays, filled from `file` unless it is NULL. NULL on failure. */
static void **arrays(int32_t count, const bnn_tensor_info *(*describe)(int32_t), FILE *file) {
  void **result = calloc((size_t)count + 1, sizeof *result);
  for (int32_t i = 0; result != NULL && i < count; ++i) {
    size_t nbytes = (size_t)describe(i)->nbytes;
    result[i] = malloc(nbytes ? nbytes : 1);
    if (result[i] == NULL || (file != NULL && fread(result[i], 1, nbytes, file) != nbytes))
      return NULL;
  }
  return result;
}

static int run(const bnn_api *api, bnn_context *context, const char *input, const char *output) {
  FILE *file = fopen(input, "rb");
  if (file == NULL) return fail(input, "cannot be read");
  void **in = arrays(api->num_inputs(), api->input, file);
  void **out = arrays(api->num_outputs(), api->output, NULL);
  fclose(file);
  if (in == NULL || out == NULL) return fail(input, "is too short, or memory is");
  if (api->run(context, (const void *const *)in, out) != BNN_OK)
    return fail("the model failed", api->error_message(context));
  file = fopen(output, "wb");
  if (file == NULL) return fail(output, "cannot be written");
  for (int32_t i = 0; i < api->num_outputs(); ++i)
    if (fwrite(out[i], 1, (size_t)api->output(i)->nbytes, file) != api->output(i)->nbytes)
      return fail(output, "cannot be written");
  if (fclose(file) != 0) return fail(output, "cannot be written");
  return 0;
}

int main(int argc, char **argv) {
  int testing = argc == 4 && !strcmp(argv[2], "test");
  if (!testing && !(argc == 6 && !strcmp(argv[2], "run")))
    return fail("usage", "bnn-run MODEL.so run THREADS INPUTS OUTPUTS | test THREADS");
  const bnn_api *api = open_model(argv[1]);
  bnn_context *context = NULL;
  if (api == NULL) return 1;
  bnn_status status = api->create(atoi(argv[3]), &context);
  if (status != BNN_OK) return fail("no context", api->status_text(status));
  int result = 0;
  if (testing) {
    double error = 0;
    if (api->self_test(context, &error) != BNN_OK)
      result = fail("self-test", api->error_message(context));
    printf("%.9g\n", error);
  } else {
    result = run(api, context, argv[4], argv[5]);
  }
  api->destroy(context);
  return result;
}
