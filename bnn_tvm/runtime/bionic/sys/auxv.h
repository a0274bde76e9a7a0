/* What the runtime uses of Android's <sys/auxv.h>; see export/bionic.py. */
#ifndef BNN_BIONIC_SYS_AUXV_H_
#define BNN_BIONIC_SYS_AUXV_H_

unsigned long getauxval(unsigned long type);

#endif
