/* Every function and status of bnn_tvm.h that needs no broken machine. */
#include <bnn_tvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition);               \
      ++failures;                                                           \
    }                                                                       \
  } while (0)

static float *x, *y, *h;
static float want_y[24 * 128];
static bnn_context *shared;
static int busy, finished;

static void *hammer(void *unused) {
  (void)unused;
  float *my_y = malloc(sizeof want_y), *my_h = malloc(24 * 40 * 4);
  for (int i = 0; i < 300; ++i) {
    const void *in[] = {x};
    void *out[] = {my_y, my_h};
    bnn_status status = bnn_run(shared, in, out);
    if (status == BNN_ERROR_BUSY) {
      __atomic_fetch_add(&busy, 1, __ATOMIC_RELAXED);
    } else {
      CHECK(status == BNN_OK);
      CHECK(memcmp(my_y, want_y, sizeof want_y) == 0);
      __atomic_fetch_add(&finished, 1, __ATOMIC_RELAXED);
    }
  }
  free(my_y);
  free(my_h);
  return NULL;
}

int main(void) {
  const bnn_api *api = bnn_get_api();
  bnn_context *context = (bnn_context *)1;
  double error = -1, ms[16];

  CHECK(bnn_abi_version() == BNN_ABI_VERSION && api->abi_version == BNN_ABI_VERSION);
  CHECK(api->size == sizeof(bnn_api));
  CHECK(strlen(bnn_version()) > 0 && !strcmp(bnn_source(), "net.onnx"));
  CHECK(bnn_num_inputs() == 1 && bnn_num_outputs() == 2 && bnn_num_layers() == 4);
  CHECK(bnn_input(-1) == NULL && bnn_input(1) == NULL);
  CHECK(bnn_output(-1) == NULL && bnn_output(2) == NULL);
  CHECK(bnn_layer(-1) == NULL && bnn_layer(4) == NULL);
  CHECK(!strcmp(bnn_input(0)->name, "x:0") && !strcmp(bnn_input(0)->dtype, "float32"));
  CHECK(bnn_input(0)->rank == 2 && bnn_input(0)->shape[1] == 96);
  CHECK(bnn_input(0)->nbytes == 24 * 96 * 4 && !strcmp(bnn_input(0)->layout, "NC"));
  CHECK(!strcmp(bnn_output(0)->name, "y \"\303\251\" \\ ?" "?/%d"));
  CHECK(bnn_layer(1)->macs == 24 * 96 * 40 && !strcmp(bnn_layer(1)->kernel, "dense-f32"));
  CHECK(bnn_workspace_bytes() == 24 * 128 * 4);

  CHECK(bnn_create(1, NULL) == BNN_ERROR_ARGUMENT);
  CHECK(bnn_create(0, &context) == BNN_ERROR_ARGUMENT && context == NULL);
  CHECK(bnn_create(257, &context) == BNN_ERROR_ARGUMENT && context == NULL);
  CHECK(bnn_create(-5, &context) == BNN_ERROR_ARGUMENT && context == NULL);
  CHECK(bnn_create(3, &context) == BNN_OK && context != NULL);
  CHECK(bnn_error_message(context)[0] == 0);

  /* One set of kernels: nothing to choose, and the environment does not matter. */
  bnn_context *other = (bnn_context *)1;
  CHECK(bnn_num_families() == 0 && bnn_family_name(0) == NULL && bnn_family_name(-1) == NULL);
  CHECK(!strcmp(bnn_family(context), "") && !strcmp(bnn_family(NULL), ""));
  CHECK(bnn_create_with(1, "cnt", &other) == BNN_ERROR_FAMILY && other == NULL);
  CHECK(bnn_create_with(1, "", &other) == BNN_OK);
  bnn_destroy(other);
  setenv("BNN_TVM_KERNELS", "cnt", 1);
  CHECK(bnn_create_with(1, NULL, &other) == BNN_OK);
  bnn_destroy(other);
  unsetenv("BNN_TVM_KERNELS");
  CHECK(bnn_layer_runs(context, 0) == 1 && bnn_layer_runs(context, 3) == 1);
  CHECK(bnn_layer_runs(context, -1) == 0 && bnn_layer_runs(context, 4) == 0);
  CHECK(bnn_layer_runs(NULL, 0) == 0);

  x = aligned_alloc(64, 24 * 96 * 4);
  y = aligned_alloc(64, 24 * 128 * 4);
  h = aligned_alloc(64, 24 * 40 * 4 + 64);
  for (int i = 0; i < 24 * 96; ++i) x[i] = (float)(i % 13) / 100 - 0.05f;
  const void *in[] = {x};
  void *out[] = {y, h};
  CHECK(bnn_run(NULL, in, out) == BNN_ERROR_ARGUMENT);
  CHECK(bnn_run(context, NULL, out) == BNN_ERROR_ARGUMENT);
  CHECK(!strcmp(bnn_error_message(context), "inputs or outputs is NULL"));
  CHECK(bnn_run(context, in, NULL) == BNN_ERROR_ARGUMENT);
  const void *no_input[] = {NULL};
  CHECK(bnn_run(context, no_input, out) == BNN_ERROR_ARGUMENT);
  CHECK(!strcmp(bnn_error_message(context), "input 0 (x:0) is NULL"));
  void *no_output[] = {y, NULL};
  CHECK(bnn_run(context, in, no_output) == BNN_ERROR_ARGUMENT);
  CHECK(!strcmp(bnn_error_message(context), "output 1 (hidden/out) is NULL"));
  CHECK(bnn_run(context, in, out) == BNN_OK);
  CHECK(bnn_error_message(context)[0] == 0);
  memcpy(want_y, y, sizeof want_y);

  /* Pointers that are not aligned, with guards behind. */
  unsigned char *odd = malloc(sizeof want_y + 16), *odd_h = malloc(24 * 40 * 4 + 16);
  memset(odd, 0xAA, sizeof want_y + 16);
  void *odd_out[] = {odd + 4, odd_h + 4};
  CHECK(bnn_run(context, in, odd_out) == BNN_OK);
  CHECK(memcmp(odd + 4, want_y, sizeof want_y) == 0);
  CHECK(odd[3] == 0xAA && odd[sizeof want_y + 4] == 0xAA);
  CHECK(memcmp(odd_h + 4, h, 24 * 40 * 4) == 0);
  /* No pointer is a multiple of the vectors that kernels load. */
  unsigned char *odd_x = malloc(24 * 96 * 4 + 16);
  memcpy(odd_x + 8, x, 24 * 96 * 4);
  const void *near_in[] = {odd_x + 8};
  void *near_out[] = {odd + 8, odd_h + 8};
  memset(odd, 0xAA, sizeof want_y + 16);
  CHECK(bnn_run(context, near_in, near_out) == BNN_OK);
  CHECK(memcmp(odd + 8, want_y, sizeof want_y) == 0);
  CHECK(odd[7] == 0xAA && odd[sizeof want_y + 8] == 0xAA);
  CHECK(memcmp(odd_h + 8, h, 24 * 40 * 4) == 0);

  CHECK(bnn_run_profiled(context, in, out, NULL) == BNN_ERROR_ARGUMENT);
  CHECK(bnn_run_profiled(NULL, in, out, ms) == BNN_ERROR_ARGUMENT);
  CHECK(bnn_run_profiled(context, in, out, ms) == BNN_OK && ms[1] > 0);

  CHECK(bnn_self_test(NULL, &error) == BNN_ERROR_ARGUMENT);
  CHECK(bnn_self_test(context, &error) == BNN_OK && error >= 0 && error < 1e-3);
  CHECK(bnn_self_test(context, NULL) == BNN_OK);
  bnn_destroy(context);
  bnn_destroy(NULL);
  CHECK(strlen(bnn_error_message(NULL)) > 0);
  for (int status = 0; status < 12; ++status)
    CHECK(strlen(bnn_status_text((bnn_status)status)) > 0);

  /* One context in two threads: busy or right, never wrong. */
  CHECK(bnn_create(2, &shared) == BNN_OK);
  pthread_t threads[2];
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, hammer, NULL);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  CHECK(finished + busy == 600 && finished > 0);
  bnn_destroy(shared);

  free(x), free(y), free(h), free(odd), free(odd_h), free(odd_x);
  if (failures == 0) puts("all checks passed");
  return failures != 0;
}
