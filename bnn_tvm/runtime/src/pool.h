/* A fixed set of threads that run TVM's parallel loops, and the scratch memory of each. */
#ifndef BNN_POOL_H_
#define BNN_POOL_H_

#include <stdint.h>

#include "bnn_tvm.h"

typedef struct bnn_pool bnn_pool;

/* Starts num_threads - 1 threads. */
bnn_status bnn_pool_create(int32_t num_threads, bnn_pool **pool);
void bnn_pool_destroy(bnn_pool *pool);
/* The calling thread works for `pool` until bnn_pool_leave: kernels find the pool through it. The
 * value returned is for bnn_pool_leave. */
void *bnn_pool_enter(bnn_pool *pool);
void bnn_pool_leave(void *previous);

void *bnn_aligned_alloc(uint64_t nbytes);
void bnn_aligned_free(void *pointer);

#endif
