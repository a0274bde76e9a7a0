/* What the runtime uses of Android's <string.h>; see export/bionic.py. */
#ifndef BNN_BIONIC_STRING_H_
#define BNN_BIONIC_STRING_H_

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count);
int strcmp(const char *a, const char *b);
char *strchr(const char *text, int character);

#endif
