/* What the runtime uses of Android's <time.h>; see export/bionic.py. The clock's number is the
 * kernel's. */
#ifndef BNN_BIONIC_TIME_H_
#define BNN_BIONIC_TIME_H_

#define CLOCK_MONOTONIC 1

struct timespec {
  long tv_sec, tv_nsec;
};

int clock_gettime(int clock, struct timespec *result);

#endif
