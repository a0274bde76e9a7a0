/* The pool alone, by its own functions: every turn of a loop runs once, whoever is late. Arguments:
 * rounds, and microseconds that a thread is held up now and then. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool.h"

typedef struct {
  void *sync;
  int32_t num_task;
} env_t;
typedef int32_t (*body_t)(int32_t, env_t *, void *);
extern int32_t (*__TVMBackendParallelLaunch)(body_t, void *, int32_t);
extern void *(*__TVMBackendAllocWorkspace)(int32_t, int32_t, uint64_t, int32_t, int32_t);
extern int32_t (*__TVMBackendFreeWorkspace)(int32_t, int32_t, void *);

enum { kMost = 1000, kContexts = 4 };
static const int kTurns[] = {1, 2, 3, 7, 8, 9, 14, 17, 28, 55, 56, 57, 127, 256, kMost};
static int delay_us, failures;

#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) {                                             \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition);       \
      __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);           \
    }                                                               \
  } while (0)

typedef struct {
  int turns, bad_turn, round;
  int input[kMost], result[kMost], runs[kMost];
} loop_t;

static void hold_up(int us) {
  struct timespec pause = {0, us * 1000L};
  nanosleep(&pause, NULL);
}

/* As TVM cuts a loop. Plain writes: two threads on one turn would be a data race. */
static int32_t body(int32_t task, env_t *env, void *closure) {
  loop_t *loop = *(loop_t **)closure;
  int step = (loop->turns + env->num_task - 1) / env->num_task;
  int end = (task + 1) * step < loop->turns ? (task + 1) * step : loop->turns;
  if (delay_us && (task + loop->round) % 5 == 0) hold_up(delay_us);
  int *scratch = __TVMBackendAllocWorkspace(1, 0, 64 * sizeof(int), 0, 32);
  if (scratch == NULL) return -1;
  for (int i = task * step; i < end; ++i) {
    scratch[i % 64] = loop->input[i];
    loop->result[i] = scratch[i % 64] * 3 + 1;
    ++loop->runs[i];
  }
  __TVMBackendFreeWorkspace(1, 0, scratch);
  return task * step <= loop->bad_turn && loop->bad_turn < end ? -1 : 0;
}

/* Loops after each other, each reading what the last one wrote, as kernels do. */
static void *use_pool(void *argument) {
  int threads = ((int *)argument)[0], rounds = ((int *)argument)[1];
  bnn_pool *pool = NULL;
  loop_t *loop = calloc(1, sizeof *loop);
  CHECK(bnn_pool_create(threads, &pool) == BNN_OK);
  int expected[kMost] = {0};
  for (loop->round = 0; loop->round < rounds; ++loop->round) {
    void *previous = bnn_pool_enter(pool);
    loop->turns = kTurns[loop->round % (int)(sizeof kTurns / sizeof *kTurns)];
    loop->bad_turn = loop->round % 7 == 6 ? loop->round % loop->turns : -1;
    memset(loop->runs, 0, sizeof loop->runs);
    int32_t status = __TVMBackendParallelLaunch(body, &loop, 0);
    CHECK(status == (loop->bad_turn >= 0 ? -1 : 0));
    for (int i = 0; i < kMost; ++i) {
      if (i < loop->turns) expected[i] = loop->input[i] * 3 + 1;
      CHECK(loop->runs[i] == (i < loop->turns) && loop->result[i] == expected[i]);
      loop->input[i] = loop->result[i] % 1000;
    }
    bnn_pool_leave(previous);
    if (loop->round % 50 == 49) hold_up(200); /* long enough for all to fall asleep */
  }
  bnn_pool_destroy(pool);
  free(loop);
  return NULL;
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 100;
  delay_us = argc > 2 ? atoi(argv[2]) : 0;
  static const int kThreads[] = {1, 2, 3, 5, 8};
  for (int i = 0; i < 5; ++i) use_pool((int[]){kThreads[i], rounds});
  pthread_t callers[kContexts];
  int arguments[kContexts][2];
  for (int i = 0; i < kContexts; ++i) {
    arguments[i][0] = i + 1, arguments[i][1] = rounds;
    CHECK(pthread_create(&callers[i], NULL, use_pool, arguments[i]) == 0);
  }
  for (int i = 0; i < kContexts; ++i) pthread_join(callers[i], NULL);
  if (failures == 0) puts("all checks passed");
  return failures != 0;
}
