/* Runs a compiled model from C: fills its inputs with a ramp, runs it, prints the first outputs.
 *
 *   cc -I "$(python -m bnn_tvm.inspect --include-dir)" main.c ./model.so -o main
 *   LD_LIBRARY_PATH=. ./main [THREADS]
 */
#include <bnn_tvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(const bnn_tensor_info *info) {
  size_t rounded = (size_t)(info->nbytes + 63) / 64 * 64;
  return aligned_alloc(64, rounded ? rounded : 64);
}

static void describe(const char *what, const bnn_tensor_info *info) {
  printf("%s %s: %s [", what, info->name, info->dtype);
  for (int32_t i = 0; i < info->rank; ++i)
    printf("%s%lld", i ? ", " : "", (long long)info->shape[i]);
  printf("] %s\n", info->layout);
}

int main(int argc, char **argv) {
  int32_t num_inputs = bnn_num_inputs(), num_outputs = bnn_num_outputs();
  const void **inputs = calloc((size_t)num_inputs + 1, sizeof *inputs);
  void **outputs = calloc((size_t)num_outputs + 1, sizeof *outputs);
  double *layer_ms = calloc((size_t)bnn_num_layers() + 1, sizeof *layer_ms);
  bnn_context *context = NULL;
  int result = 1;
  if (inputs == NULL || outputs == NULL || layer_ms == NULL) goto done;

  printf("%s, compiled by bnn_tvm %s\n", bnn_source(), bnn_version());
  for (int32_t i = 0; i < num_inputs; ++i) {
    const bnn_tensor_info *info = bnn_input(i);
    void *data = allocate(info);
    if (data == NULL) goto done;
    inputs[i] = data;
    describe("input", info);
    if (!strcmp(info->dtype, "float32"))
      for (uint64_t k = 0; k < info->nbytes / 4; ++k) ((float *)data)[k] = (float)(k % 17) / 8 - 1;
    else
      for (uint64_t k = 0; k < info->nbytes; ++k) ((unsigned char *)data)[k] = (unsigned char)(k % 17);
  }
  for (int32_t i = 0; i < num_outputs; ++i) {
    if ((outputs[i] = allocate(bnn_output(i))) == NULL) goto done;
    describe("output", bnn_output(i));
  }

  bnn_status status = bnn_create(argc > 1 ? atoi(argv[1]) : 1, &context);
  if (status != BNN_OK) {
    fprintf(stderr, "no context: %s\n", bnn_status_text(status));
    goto done;
  }
  if (bnn_run_profiled(context, inputs, outputs, layer_ms) != BNN_OK) {
    fprintf(stderr, "the run failed: %s\n", bnn_error_message(context));
    goto done;
  }
  for (int32_t i = 0; i < bnn_num_layers(); ++i) {
    const bnn_layer_info *layer = bnn_layer(i);
    if (!bnn_layer_runs(context, i)) continue; /* a kernel for other processors */
    printf("%8.3f ms  %s (%s, %s)\n", layer_ms[i], layer->output, layer->kind, layer->kernel);
  }
  for (int32_t i = 0; i < num_outputs; ++i) {
    if (strcmp(bnn_output(i)->dtype, "float32") != 0) continue;
    printf("%s =", bnn_output(i)->name);
    for (uint64_t k = 0; k < bnn_output(i)->nbytes / 4 && k < 10; ++k)
      printf(" %.6g", (double)((float *)outputs[i])[k]);
    printf("\n");
  }
  result = 0;
done:
  bnn_destroy(context);
  for (int32_t i = 0; inputs != NULL && i < num_inputs; ++i) free((void *)inputs[i]);
  for (int32_t i = 0; outputs != NULL && i < num_outputs; ++i) free(outputs[i]);
  free(layer_ms);
  free(outputs);
  free(inputs);
  return result;
}
