"""The Open Inference Protocol over gRPC, beside REST: the same model, queue, limits and counters."""
