#include "current.h"

#include <stddef.h>

#if defined(BNN_THREAD_KEY)
/* For Android, whose linker knows thread-local variables from API level 29 on. A key is one of some
 * 120 that the process has, so it goes when the library is unloaded. */
#include <pthread.h>

static pthread_key_t key;
static int missing;

__attribute__((constructor)) static void make_key(void) {
  missing = pthread_key_create(&key, NULL);
}

__attribute__((destructor)) static void delete_key(void) {
  if (!missing) pthread_key_delete(key);
}

int bnn_current_missing(void) { return missing; }
void *bnn_current(void) { return missing ? NULL : pthread_getspecific(key); }
void bnn_set_current(void *pointer) { if (!missing) pthread_setspecific(key, pointer); }

#else
static _Thread_local void *current;

int bnn_current_missing(void) { return 0; }
void *bnn_current(void) { return current; }
void bnn_set_current(void *pointer) { current = pointer; }
#endif
