#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "current.h"

/* A worker looks this often for new work before it sleeps: some 20 microseconds, less than a
 * kernel takes and more than the gap between two kernels. */
enum { kSpins = 4000, kScratchSlots = 8, kAlignment = 64, kStackBytes = 1 << 20 };

/* TVM's closure of a parallel loop (its runtime/c_backend_api.h). */
typedef struct bnn_parallel_env {
  void *sync_handle;
  int32_t num_task;
} bnn_parallel_env;
typedef int32_t (*bnn_parallel_body)(int32_t task, bnn_parallel_env *env, void *closure);

typedef struct bnn_scratch {
  void *data;
  uint64_t nbytes;
  int used;
} bnn_scratch;

/* Kernels call TVM's process-wide slots, which know no context: the thread says whose it is, by
 * bnn_current, its bnn_worker or NULL. */
typedef struct bnn_worker {
  bnn_pool *pool;
  pthread_t thread;
  int32_t index;
  int parallel; /* inside a parallel loop: an inner one runs inline */
  bnn_scratch scratch[kScratchSlots];
} bnn_worker;

struct bnn_pool {
  int32_t num_threads, num_started;
  int locks; /* the mutex and condition variables exist */
  pthread_mutex_t mutex;
  pthread_cond_t work, done;
  atomic_uint generation; /* one more for each job */
  atomic_int pending;     /* workers that have not finished the job */
  atomic_int failed;      /* a task of the job returned non-zero */
  atomic_int stop;
  atomic_int asleep;  /* workers that wait for `work`, or are about to */
  atomic_int waiting; /* the caller waits for `done`, or is about to */
  bnn_parallel_body body;
  void *closure;
  bnn_worker workers[];
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __asm__ volatile("pause");
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

void *bnn_aligned_alloc(uint64_t nbytes) {
  void *pointer = NULL;
  if (nbytes > SIZE_MAX - kAlignment) return NULL;
  if (posix_memalign(&pointer, kAlignment, nbytes ? (size_t)nbytes : 1) != 0) return NULL;
  return pointer;
}

void bnn_aligned_free(void *pointer) { free(pointer); }

static void run_task(bnn_worker *worker) {
  bnn_pool *pool = worker->pool;
  bnn_parallel_env env = {NULL, pool->num_threads};
  worker->parallel = 1;
  if (pool->body(worker->index, &env, pool->closure) != 0) atomic_store(&pool->failed, 1);
  worker->parallel = 0;
}

/* Who sleeps says so before it looks once more; who wakes changes what is looked at before it asks
 * whether anyone sleeps. Either the sleeper sees the change or the waker sees the sleeper, and
 * nobody takes the mutex while all are awake. */
static void await_job(bnn_pool *pool, unsigned seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (atomic_load(&pool->generation) != seen) return;
    relax();
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->asleep, 1);
  while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->work, &pool->mutex);
  atomic_fetch_sub(&pool->asleep, 1);
  pthread_mutex_unlock(&pool->mutex);
}

static void announce(bnn_pool *pool) {
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->asleep) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->mutex);
}

static void await_workers(bnn_pool *pool) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (atomic_load(&pool->pending) == 0) return;
    relax();
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->waiting, 1);
  while (atomic_load(&pool->pending) != 0) pthread_cond_wait(&pool->done, &pool->mutex);
  atomic_store(&pool->waiting, 0);
  pthread_mutex_unlock(&pool->mutex);
}

static void report_done(bnn_pool *pool) {
  if (atomic_fetch_sub(&pool->pending, 1) != 1 || atomic_load(&pool->waiting) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_signal(&pool->done);
  pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument) {
  bnn_worker *worker = argument;
  bnn_pool *pool = worker->pool;
  bnn_set_current(worker);
  for (unsigned seen = 0;; ++seen) {
    await_job(pool, seen);
    if (atomic_load(&pool->stop)) return NULL;
    run_task(worker);
    report_done(pool);
  }
}

static int32_t parallel_launch(bnn_parallel_body body, void *closure, int32_t num_task) {
  bnn_worker *self = bnn_current();
  (void)num_task; /* 0 for every loop that the compiler makes: as many as there are threads */
  if (self == NULL || self->parallel || self->pool->num_threads == 1) {
    bnn_parallel_env env = {NULL, 1};
    return body(0, &env, closure);
  }
  bnn_pool *pool = self->pool;
  pool->body = body;
  pool->closure = closure;
  atomic_store(&pool->failed, 0);
  atomic_store(&pool->pending, pool->num_threads - 1);
  announce(pool);
  run_task(self);
  await_workers(pool);
  return atomic_load(&pool->failed) ? -1 : 0;
}

/* Large temporaries of a kernel. A thread keeps its blocks for the next kernel, so that a run
 * allocates nothing once every kernel has run. */
static void *workspace_alloc(int32_t device_type, int32_t device_id, uint64_t nbytes,
                             int32_t dtype_code, int32_t dtype_bits) {
  (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
  bnn_worker *self = bnn_current();
  if (self == NULL) return NULL;
  bnn_scratch *choice = NULL;
  for (int i = 0; i < kScratchSlots; ++i) {
    bnn_scratch *slot = &self->scratch[i];
    if (slot->used) continue;
    if (slot->nbytes >= nbytes && slot->data != NULL) {
      if (choice == NULL || choice->nbytes < nbytes || slot->nbytes < choice->nbytes)
        choice = slot;
    } else if (choice == NULL) {
      choice = slot;
    }
  }
  if (choice == NULL) return NULL;
  if (choice->data == NULL || choice->nbytes < nbytes) {
    bnn_aligned_free(choice->data);
    choice->data = bnn_aligned_alloc(nbytes);
    choice->nbytes = choice->data ? nbytes : 0;
  }
  choice->used = choice->data != NULL;
  return choice->data;
}

static int32_t workspace_free(int32_t device_type, int32_t device_id, void *pointer) {
  (void)device_type, (void)device_id;
  bnn_worker *self = bnn_current();
  if (self == NULL) return -1;
  for (int i = 0; i < kScratchSlots; ++i) {
    if (self->scratch[i].used && self->scratch[i].data == pointer) {
      self->scratch[i].used = 0;
      return 0;
    }
  }
  return -1;
}

/* The slots that TVM's code reads: weak and null in the kernels' object, defined here. */
int32_t (*__TVMBackendParallelLaunch)(bnn_parallel_body, void *, int32_t) = parallel_launch;
void *(*__TVMBackendAllocWorkspace)(int32_t, int32_t, uint64_t, int32_t, int32_t) = workspace_alloc;
int32_t (*__TVMBackendFreeWorkspace)(int32_t, int32_t, void *) = workspace_free;

bnn_status bnn_pool_create(int32_t num_threads, bnn_pool **result) {
  size_t nbytes = sizeof(bnn_pool) + (size_t)num_threads * sizeof(bnn_worker);
  *result = NULL;
  if (bnn_current_missing()) return BNN_ERROR_THREAD;
  bnn_pool *pool = calloc(1, nbytes);
  if (pool == NULL) return BNN_ERROR_MEMORY;
  pool->num_threads = num_threads;
  pool->num_started = 1;
  for (int32_t i = 0; i < num_threads; ++i) {
    pool->workers[i].pool = pool;
    pool->workers[i].index = i;
  }
  *result = pool;
  if (num_threads == 1) return BNN_OK;
  pthread_attr_t attributes;
  if (pthread_mutex_init(&pool->mutex, NULL) != 0) goto failed;
  if (pthread_cond_init(&pool->work, NULL) != 0) goto no_work;
  if (pthread_cond_init(&pool->done, NULL) != 0) goto no_done;
  pool->locks = 1;
  if (pthread_attr_init(&attributes) != 0) goto failed;
  pthread_attr_setstacksize(&attributes, kStackBytes);
  for (int32_t i = 1; i < num_threads; ++i) {
    bnn_worker *worker = &pool->workers[i];
    if (pthread_create(&worker->thread, &attributes, worker_main, worker) != 0) break;
    ++pool->num_started;
  }
  pthread_attr_destroy(&attributes);
  if (pool->num_started == num_threads) return BNN_OK;
  goto failed;
no_done:
  pthread_cond_destroy(&pool->work);
no_work:
  pthread_mutex_destroy(&pool->mutex);
failed:
  bnn_pool_destroy(pool);
  *result = NULL;
  return BNN_ERROR_THREAD;
}

void bnn_pool_destroy(bnn_pool *pool) {
  if (pool == NULL) return;
  if (pool->locks) {
    atomic_store(&pool->stop, 1);
    announce(pool);
    for (int32_t i = 1; i < pool->num_started; ++i) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
  }
  for (int32_t i = 0; i < pool->num_threads; ++i)
    for (int k = 0; k < kScratchSlots; ++k) bnn_aligned_free(pool->workers[i].scratch[k].data);
  free(pool);
}

void *bnn_pool_enter(bnn_pool *pool) {
  void *previous = bnn_current();
  bnn_set_current(&pool->workers[0]);
  /* A kernel that failed may have left its blocks marked. No job is running now. */
  for (int32_t i = 0; i < pool->num_threads; ++i)
    for (int k = 0; k < kScratchSlots; ++k) pool->workers[i].scratch[k].used = 0;
  return previous;
}

void bnn_pool_leave(void *previous) { bnn_set_current(previous); }
