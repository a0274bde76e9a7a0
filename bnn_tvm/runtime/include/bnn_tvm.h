/* The C API of every model.so that bnn_tvm writes. C11 or C++, no other dependency than libc.
 *
 *   bnn_context *ctx;
 *   if (bnn_create(1, &ctx) != BNN_OK) ...
 *   const void *inputs[] = {pixels};
 *   void *outputs[] = {scores};
 *   if (bnn_run(ctx, inputs, outputs) != BNN_OK) puts(bnn_error_message(ctx));
 *   bnn_destroy(ctx);
 *
 * Link the application with model.so, or dlopen it and ask for `bnn_get_api` alone: several models
 * can then be used side by side. Contexts are independent of each other: any number of threads may
 * each use their own at the same time. Nothing here aborts, exits or prints.
 */
#ifndef BNN_TVM_H_
#define BNN_TVM_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef BNN_API
#define BNN_API __attribute__((visibility("default")))
#endif

/* Grows with every incompatible change of this header. */
#define BNN_ABI_VERSION 1

typedef enum bnn_status {
  BNN_OK = 0,
  BNN_ERROR_ARGUMENT = 1,    /* a null pointer, an index or a thread count out of range */
  BNN_ERROR_MEMORY = 2,      /* an allocation failed */
  BNN_ERROR_THREAD = 3,      /* a thread could not be started, or has no room for its data */
  BNN_ERROR_CPU = 4,         /* this processor lacks an instruction set the model was built for */
  BNN_ERROR_BUSY = 5,        /* the context is in use by another thread */
  BNN_ERROR_KERNEL = 6,      /* a kernel reported an error */
  BNN_ERROR_SELF_TEST = 7,   /* the test vector gave other values than it must */
  BNN_ERROR_UNSUPPORTED = 8, /* the model has no test vector */
  BNN_ERROR_FAMILY = 9       /* the model has no family of kernels of the name asked for */
} bnn_status;

/* An input or output: contiguous, row-major in `shape`, named and laid out as in the ONNX model. */
typedef struct bnn_tensor_info {
  const char *name;
  const char *dtype;  /* NumPy's name: "float32", "uint8", "int64", "bool", ... */
  const char *layout; /* such as "NCHW"; empty if it has no usual name */
  int32_t rank;
  const int64_t *shape; /* `rank` numbers */
  uint64_t nbytes;
} bnn_tensor_info;

/* One kernel call, in execution order. In a model with families of kernels the calls of several
 * follow each other; bnn_layer_runs says which of them a context makes. */
typedef struct bnn_layer_info {
  const char *output; /* ONNX output name that the time belongs to */
  const char *kind;   /* conv, binary-conv, pack, pool, ... */
  const char *kernel; /* the kernel's name */
  uint64_t macs;      /* multiply-accumulates, 0 where that has no meaning */
} bnn_layer_info;

typedef struct bnn_context bnn_context;

/* BNN_ABI_VERSION of the model.so. */
BNN_API uint32_t bnn_abi_version(void);
/* The version of bnn_tvm that compiled the model, and the model's file name. Never NULL. */
BNN_API const char *bnn_version(void);
BNN_API const char *bnn_source(void);

/* Inputs, outputs and layers. An index out of range gives NULL. */
BNN_API int32_t bnn_num_inputs(void);
BNN_API int32_t bnn_num_outputs(void);
BNN_API int32_t bnn_num_layers(void);
BNN_API const bnn_tensor_info *bnn_input(int32_t index);
BNN_API const bnn_tensor_info *bnn_output(int32_t index);
BNN_API const bnn_layer_info *bnn_layer(int32_t index);
/* Bytes of intermediate tensors that each context allocates. */
BNN_API uint64_t bnn_workspace_bytes(void);

/* A model for a generic processor may hold several families of kernels, of which each context runs
 * one; the results are the same. 0 where there is nothing to choose, else the names; an index out
 * of range gives NULL. */
BNN_API int32_t bnn_num_families(void);
BNN_API const char *bnn_family_name(int32_t index);

/* Makes a context that computes with `num_threads` threads: the caller's and num_threads - 1 that
 * live as long as the context. 1 starts none. At most 256. On an error *context is NULL.
 * The family of kernels is the one that the environment variable BNN_TVM_KERNELS names, else the
 * one for the processor: for the slowest of the num_threads fastest cores that the calling thread
 * may run on. */
BNN_API bnn_status bnn_create(int32_t num_threads, bnn_context **context);
/* The same with the family of this name, which is BNN_ERROR_FAMILY if the model lacks it; NULL and
 * "" choose as bnn_create does. */
BNN_API bnn_status bnn_create_with(int32_t num_threads, const char *family, bnn_context **context);
/* The name of the context's family of kernels; empty where there is nothing to choose. */
BNN_API const char *bnn_family(const bnn_context *context);
/* 1 if the context's runs make kernel call `index`, else 0. */
BNN_API int32_t bnn_layer_runs(const bnn_context *context, int32_t index);
/* Stops the threads and frees everything. NULL is allowed. */
BNN_API void bnn_destroy(bnn_context *context);

/* Runs the model once. `inputs` and `outputs` hold one pointer for each input and output, in the
 * order of bnn_input and bnn_output. Outputs must not overlap inputs or each other. Pointers that
 * are multiples of 8, as malloc's are, are used as they are; others cost a copy. The results do not
 * depend on the number of threads. The calling thread needs 256 KB of stack. */
BNN_API bnn_status bnn_run(bnn_context *context, const void *const *inputs, void *const *outputs);
/* The same, and writes bnn_num_layers() times in milliseconds to `layer_ms`: 0 for a
 * call that this context does not make. */
BNN_API bnn_status bnn_run_profiled(bnn_context *context, const void *const *inputs,
                                    void *const *outputs, double *layer_ms);
/* Runs the embedded test vector. Writes the largest absolute error to *max_error if not NULL. */
BNN_API bnn_status bnn_self_test(bnn_context *context, double *max_error);

/* What went wrong in the last call with this context; empty if nothing did. Valid until the next
 * call with it. */
BNN_API const char *bnn_error_message(const bnn_context *context);
/* A sentence for a status, for where there is no context. Never NULL. */
BNN_API const char *bnn_status_text(bnn_status status);

/* All of the above as one table, for dlopen. New members are only ever added at the end. */
typedef struct bnn_api {
  uint32_t abi_version;
  uint32_t size; /* sizeof(bnn_api) of the model.so */
  const char *(*version)(void);
  const char *(*source)(void);
  int32_t (*num_inputs)(void);
  int32_t (*num_outputs)(void);
  int32_t (*num_layers)(void);
  const bnn_tensor_info *(*input)(int32_t index);
  const bnn_tensor_info *(*output)(int32_t index);
  const bnn_layer_info *(*layer)(int32_t index);
  uint64_t (*workspace_bytes)(void);
  bnn_status (*create)(int32_t num_threads, bnn_context **context);
  void (*destroy)(bnn_context *context);
  bnn_status (*run)(bnn_context *context, const void *const *inputs, void *const *outputs);
  bnn_status (*run_profiled)(bnn_context *context, const void *const *inputs, void *const *outputs,
                             double *layer_ms);
  bnn_status (*self_test)(bnn_context *context, double *max_error);
  const char *(*error_message)(const bnn_context *context);
  const char *(*status_text)(bnn_status status);
  int32_t (*num_families)(void);
  const char *(*family_name)(int32_t index);
  bnn_status (*create_with)(int32_t num_threads, const char *family, bnn_context **context);
  const char *(*family)(const bnn_context *context);
  int32_t (*layer_runs)(const bnn_context *context, int32_t index);
} bnn_api;

BNN_API const bnn_api *bnn_get_api(void);

#ifdef __cplusplus
}
#endif
#endif /* BNN_TVM_H_ */
