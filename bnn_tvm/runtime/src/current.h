/* One pointer for each thread. */
#ifndef BNN_CURRENT_H_
#define BNN_CURRENT_H_

/* Whether the process had no room left for it when this library was loaded. */
int bnn_current_missing(void);
/* What this thread set last, NULL before. */
void *bnn_current(void);
void bnn_set_current(void *pointer);

#endif
