"""Rewritings of the recognised graph, one idea a file; `bnn_tvm.pipeline` holds their order."""
