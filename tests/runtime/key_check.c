/* A model.so for Android takes one of the process's thread keys while it is loaded, no more.
 *
 *   key_check MODEL.so */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "bnn_tvm.h"

enum { kKeys = 1024 }; /* glibc's PTHREAD_KEYS_MAX */

static int check(const char *path, bnn_status expected, const char *what) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return fprintf(stderr, "%s: %s\n", what, dlerror()), 1;
  const bnn_api *(*get_api)(void);
  *(void **)&get_api = dlsym(library, "bnn_get_api");
  const bnn_api *api = get_api();
  bnn_context *context = (bnn_context *)&context;
  bnn_status status = api->create(1, &context);
  if (status != expected) return fprintf(stderr, "%s: status %d\n", what, (int)status), 1;
  if ((context == NULL) != (status != BNN_OK)) return fprintf(stderr, "%s: context\n", what), 1;
  if (status != BNN_OK && strstr(api->status_text(status), "thread key") == NULL)
    return fprintf(stderr, "%s: %s\n", what, api->status_text(status)), 1;
  api->destroy(context);
  if (dlclose(library) != 0) return fprintf(stderr, "%s: %s\n", what, dlerror()), 1;
  return 0;
}

int main(int argc, char **argv) {
  static pthread_key_t keys[kKeys];
  int count = 0;
  if (argc != 2) return 2;
  for (int i = 0; i < kKeys + 8; ++i)
    if (check(argv[1], BNN_OK, "load again and again")) return 1;
  while (count < kKeys && pthread_key_create(&keys[count], NULL) == 0) ++count;
  if (check(argv[1], BNN_ERROR_THREAD, "no key left")) return 1;
  pthread_key_delete(keys[--count]);
  if (check(argv[1], BNN_OK, "one key left")) return 1;
  puts("all checks passed");
  return 0;
}
