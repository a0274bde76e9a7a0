/* What the runtime uses of Android's <stdlib.h>; see export/bionic.py. */
#ifndef BNN_BIONIC_STDLIB_H_
#define BNN_BIONIC_STDLIB_H_

#include <stddef.h>

char *getenv(const char *name);
unsigned long strtoul(const char *text, char **end, int base);
void *calloc(size_t count, size_t nbytes);
void free(void *pointer);
int posix_memalign(void **result, size_t alignment, size_t nbytes);

#endif
