/* What the runtime uses of Android's <stdio.h>; see export/bionic.py. */
#ifndef BNN_BIONIC_STDIO_H_
#define BNN_BIONIC_STDIO_H_

#include <stddef.h>

typedef struct bionic_file FILE;

FILE *fopen(const char *path, const char *mode);
char *fgets(char *to, int size, FILE *file);
int fclose(FILE *file);
int snprintf(char *restrict to, size_t size, const char *restrict format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
