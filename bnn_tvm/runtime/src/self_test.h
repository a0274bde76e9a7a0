#ifndef BNN_SELF_TEST_H_
#define BNN_SELF_TEST_H_

#include "bnn_tvm.h"

/* Makes the inputs of the test vector, runs them and compares; *max_error is always written. */
bnn_status bnn_self_test_run(bnn_context *context, double *max_error);

#endif
