/* What the runtime uses of Android's <pthread.h>; see export/bionic.py.
 *
 * On 64-bit Android a mutex has 40 bytes, a condition variable 48, the attributes of a thread 56;
 * glibc, on which the same library runs under an emulator, has 48, 48 and 64 on arm64. There is room
 * for either, and all are set up by their init functions alone. */
#ifndef BNN_BIONIC_PTHREAD_H_
#define BNN_BIONIC_PTHREAD_H_

#include <stddef.h>

typedef long pthread_t;
typedef int pthread_key_t;
typedef union pthread_opaque {
  long align;
  char room[64];
} pthread_attr_t, pthread_cond_t, pthread_mutex_t;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *),
                   void *argument);
int pthread_join(pthread_t thread, void **result);

int pthread_attr_init(pthread_attr_t *attributes);
int pthread_attr_destroy(pthread_attr_t *attributes);
int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t nbytes);

int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes);
int pthread_mutex_destroy(pthread_mutex_t *mutex);
int pthread_mutex_lock(pthread_mutex_t *mutex);
int pthread_mutex_unlock(pthread_mutex_t *mutex);

int pthread_cond_init(pthread_cond_t *condition, const void *attributes);
int pthread_cond_destroy(pthread_cond_t *condition);
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int pthread_cond_signal(pthread_cond_t *condition);
int pthread_cond_broadcast(pthread_cond_t *condition);

int pthread_key_create(pthread_key_t *key, void (*destroy)(void *));
int pthread_key_delete(pthread_key_t key);
void *pthread_getspecific(pthread_key_t key);
int pthread_setspecific(pthread_key_t key, const void *value);

#endif
