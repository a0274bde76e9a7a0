/* The deployment check. Its inputs come from SplitMix64 (Steele, Lea, Flood 2014), as in the
 * compiler's export/test_vector.py, its twin. */
#include "self_test.h"

#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "pool.h"

static uint64_t splitmix64(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* Writes element `index` of an array of `dtype`. Returns 0 if there is no such dtype here. */
static int store(const char *dtype, void *data, uint64_t index, uint64_t raw, double low,
                 double high) {
  uint64_t byte = raw >> 56;
  double real = low + (double)(raw >> 40) * 0x1p-24 * (high - low);
  if (!strcmp(dtype, "float32")) ((float *)data)[index] = (float)real;
  else if (!strcmp(dtype, "float64")) ((double *)data)[index] = real;
  else if (!strcmp(dtype, "uint8")) ((uint8_t *)data)[index] = (uint8_t)byte;
  else if (!strcmp(dtype, "int8")) ((int8_t *)data)[index] = (int8_t)(raw >> 57);
  else if (!strcmp(dtype, "bool")) ((uint8_t *)data)[index] = (uint8_t)(raw >> 63);
  else if (!strcmp(dtype, "int16") || !strcmp(dtype, "uint16"))
    ((uint16_t *)data)[index] = (uint16_t)byte;
  else if (!strcmp(dtype, "int32") || !strcmp(dtype, "uint32"))
    ((uint32_t *)data)[index] = (uint32_t)byte;
  else if (!strcmp(dtype, "int64") || !strcmp(dtype, "uint64")) ((uint64_t *)data)[index] = byte;
  else return 0;
  return 1;
}

static int load(const char *dtype, const void *data, uint64_t index, double *value) {
  if (!strcmp(dtype, "float32")) *value = ((const float *)data)[index];
  else if (!strcmp(dtype, "float64")) *value = ((const double *)data)[index];
  else if (!strcmp(dtype, "uint8") || !strcmp(dtype, "bool"))
    *value = ((const uint8_t *)data)[index];
  else if (!strcmp(dtype, "int8")) *value = ((const int8_t *)data)[index];
  else if (!strcmp(dtype, "int16")) *value = ((const int16_t *)data)[index];
  else if (!strcmp(dtype, "uint16")) *value = ((const uint16_t *)data)[index];
  else if (!strcmp(dtype, "int32")) *value = ((const int32_t *)data)[index];
  else if (!strcmp(dtype, "uint32")) *value = ((const uint32_t *)data)[index];
  else if (!strcmp(dtype, "int64")) *value = (double)((const int64_t *)data)[index];
  else if (!strcmp(dtype, "uint64")) *value = (double)((const uint64_t *)data)[index];
  else return 0;
  return 1;
}

static uint64_t elements(const bnn_tensor_info *info) {
  uint64_t count = 1;
  for (int32_t i = 0; i < info->rank; ++i) count *= (uint64_t)info->shape[i];
  return count;
}

static int fill(const bnn_model *model, int32_t input, void *data) {
  const bnn_tensor_info *info = &model->inputs[input];
  uint64_t count = elements(info), seed = model->test_seed + (uint64_t)input;
  for (uint64_t k = 0; k < count; ++k)
    if (!store(info->dtype, data, k, splitmix64(seed, k), model->test_low, model->test_high))
      return 0;
  return 1;
}

/* 1 if all values are near enough, 0 if not, -1 for a dtype that is not known here. */
static int compare(const bnn_model *model, int32_t output, const void *data, double *max_error) {
  const bnn_expected *expected = &model->expected[output];
  int good = 1;
  for (uint64_t k = 0; k < expected->count; ++k) {
    double want = expected->values[k], got, error, limit;
    if (!load(model->outputs[output].dtype, data, k * expected->stride, &got)) return -1;
    if (got == want || (got != got && want != want)) continue;
    error = got > want ? got - want : want - got;
    limit = model->test_atol + model->test_rtol * (want < 0 ? -want : want);
    if (!(error <= limit)) good = 0;
    if (!(error <= *max_error)) *max_error = error;
  }
  return good;
}

bnn_status bnn_self_test_run(bnn_context *context, double *max_error) {
  const bnn_model *model = &bnn_the_model;
  int32_t num_inputs = model->num_inputs, total = num_inputs + model->num_outputs;
  bnn_status status = BNN_OK;
  *max_error = 0;
  if (model->expected == NULL) return BNN_ERROR_UNSUPPORTED;
  void **arrays = calloc((size_t)total + 1, sizeof *arrays);
  if (arrays == NULL) return BNN_ERROR_MEMORY;
  for (int32_t i = 0; i < total && status == BNN_OK; ++i) {
    const bnn_tensor_info *info =
        i < num_inputs ? &model->inputs[i] : &model->outputs[i - num_inputs];
    arrays[i] = bnn_aligned_alloc(info->nbytes);
    if (arrays[i] == NULL) status = BNN_ERROR_MEMORY;
    else if (i < num_inputs && !fill(model, i, arrays[i])) status = BNN_ERROR_UNSUPPORTED;
  }
  if (status == BNN_OK)
    status = bnn_run(context, (const void *const *)arrays, arrays + num_inputs);
  for (int32_t i = 0; i < model->num_outputs && status == BNN_OK; ++i) {
    int good = compare(model, i, arrays[num_inputs + i], max_error);
    if (good < 0) status = BNN_ERROR_UNSUPPORTED;
    else if (!good) status = BNN_ERROR_SELF_TEST;
  }
  for (int32_t i = 0; i < total; ++i) bnn_aligned_free(arrays[i]);
  free(arrays);
  return status;
}
