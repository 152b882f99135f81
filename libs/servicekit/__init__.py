"""The one runtime that every Linli service stands on. It knows no service."""

import os

# We start dbmate from a process that has gRPC's threads; gRPC's fork handlers would warn about it on every start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
