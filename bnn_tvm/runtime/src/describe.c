/* Constants of the model, texts, and the table for dlopen. */
#include "model.h"

uint32_t bnn_abi_version(void) { return BNN_ABI_VERSION; }
const char *bnn_version(void) { return bnn_the_model.version; }
const char *bnn_source(void) { return bnn_the_model.source; }
int32_t bnn_num_inputs(void) { return bnn_the_model.num_inputs; }
int32_t bnn_num_outputs(void) { return bnn_the_model.num_outputs; }
int32_t bnn_num_layers(void) { return bnn_the_model.num_layers; }
uint64_t bnn_workspace_bytes(void) { return bnn_the_model.arena_bytes; }

const bnn_tensor_info *bnn_input(int32_t index) {
  if (index < 0 || index >= bnn_the_model.num_inputs) return NULL;
  return &bnn_the_model.inputs[index];
}

const bnn_tensor_info *bnn_output(int32_t index) {
  if (index < 0 || index >= bnn_the_model.num_outputs) return NULL;
  return &bnn_the_model.outputs[index];
}

const bnn_layer_info *bnn_layer(int32_t index) {
  if (index < 0 || index >= bnn_the_model.num_layers) return NULL;
  return &bnn_the_model.layers[index];
}

int32_t bnn_num_families(void) {
  return bnn_the_model.choice == NULL ? 0 : bnn_the_model.choice->num_families;
}

const char *bnn_family_name(int32_t index) {
  if (index < 0 || index >= bnn_num_families()) return NULL;
  return bnn_the_model.choice->families[index];
}

const char *bnn_status_text(bnn_status status) {
  switch (status) {
    case BNN_OK: return "no error";
    case BNN_ERROR_ARGUMENT: return "an argument is NULL or out of range";
    case BNN_ERROR_MEMORY: return "out of memory";
    case BNN_ERROR_THREAD: return "a thread could not be started, or the process has no thread key left";
    case BNN_ERROR_CPU: return bnn_the_model.cpu_text;
    case BNN_ERROR_BUSY: return "the context is in use by another thread; make one per thread";
    case BNN_ERROR_KERNEL: return "a kernel failed";
    case BNN_ERROR_SELF_TEST: return "the self-test gave other values than expected";
    case BNN_ERROR_UNSUPPORTED: return "the model carries no test vector that can run here";
    case BNN_ERROR_FAMILY:
      return "the model has no family of kernels of this name (argument or BNN_TVM_KERNELS); ask for "
             "one of bnn_family_name, or for none to leave it to the device";
  }
  return "unknown status";
}

const bnn_api *bnn_get_api(void) {
  static const bnn_api api = {
      BNN_ABI_VERSION, sizeof(bnn_api),     bnn_version,      bnn_source,  bnn_num_inputs,
      bnn_num_outputs, bnn_num_layers,      bnn_input,        bnn_output,  bnn_layer,
      bnn_workspace_bytes, bnn_create,      bnn_destroy,      bnn_run,     bnn_run_profiled,
      bnn_self_test,   bnn_error_message,   bnn_status_text,  bnn_num_families,
      bnn_family_name, bnn_create_with,     bnn_family,       bnn_layer_runs,
  };
  return &api;
}
