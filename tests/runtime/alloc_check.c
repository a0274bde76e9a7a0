/* Lets the n-th allocation or thread start fail, for every n, and counts what is not freed. */
#include <bnn_tvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

void *__real_calloc(size_t count, size_t size);
int __real_posix_memalign(void **result, size_t alignment, size_t size);
void __real_free(void *pointer);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static long countdown = -1, live, failed;

static int fails(void) {
  long now = __atomic_fetch_sub(&countdown, 1, __ATOMIC_SEQ_CST);
  if (now == 0) __atomic_fetch_add(&failed, 1, __ATOMIC_SEQ_CST);
  return now == 0;
}

void *__wrap_calloc(size_t count, size_t size) {
  if (fails()) return NULL;
  void *pointer = __real_calloc(count, size);
  if (pointer) __atomic_fetch_add(&live, 1, __ATOMIC_SEQ_CST);
  return pointer;
}

int __wrap_posix_memalign(void **result, size_t alignment, size_t size) {
  if (fails()) return 12;
  int status = __real_posix_memalign(result, alignment, size);
  if (status == 0) __atomic_fetch_add(&live, 1, __ATOMIC_SEQ_CST);
  return status;
}

void __wrap_free(void *pointer) {
  if (pointer) __atomic_fetch_sub(&live, 1, __ATOMIC_SEQ_CST);
  __real_free(pointer);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*body)(void *), void *argument) {
  if (fails()) return 11;
  return __real_pthread_create(thread, attributes, body, argument);
}

static unsigned char x[24 * 96 * 4 + 4], y[24 * 128 * 4 + 4], h[24 * 40 * 4 + 4];

/* Everything that allocates: create, a run with copies, the self-test. */
static bnn_status session(void) {
  bnn_context *context;
  const void *in[] = {x + 4};
  void *out[] = {y + 4, h + 4};
  bnn_status status = bnn_create(3, &context);
  if (status != BNN_OK) {
    if (context != NULL) return (bnn_status)99;
    return status;
  }
  status = bnn_run(context, in, out);
  if (status == BNN_OK) status = bnn_self_test(context, NULL);
  if (status != BNN_OK && bnn_error_message(context)[0] == 0) status = (bnn_status)98;
  bnn_destroy(context);
  return status;
}

int main(void) {
  int seen[100] = {0}, bad = 0;
  for (long n = 0; n < 200; ++n) {
    __atomic_store_n(&failed, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&countdown, n, __ATOMIC_SEQ_CST);
    bnn_status status = session();
    if (__atomic_load_n(&failed, __ATOMIC_SEQ_CST) != (status != BNN_OK)) {
      fprintf(stderr, "allocation %ld: status %d, %ld failed\n", n, (int)status, failed);
      bad = 1;
    }
    ++seen[status];
    if (live != 0) {
      fprintf(stderr, "allocation %ld: %ld not freed\n", n, live);
      bad = 1;
    }
    if (status == BNN_OK) break;
  }
  printf("memory %d thread %d kernel %d ok %d leaks %ld\n", seen[BNN_ERROR_MEMORY],
         seen[BNN_ERROR_THREAD], seen[BNN_ERROR_KERNEL], seen[BNN_OK], live);
  if (!seen[BNN_ERROR_MEMORY] || !seen[BNN_ERROR_THREAD] || !seen[BNN_ERROR_KERNEL] ||
      seen[BNN_OK] != 1)
    bad = 1;
  return bad;
}
