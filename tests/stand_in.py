"""HTTP servers that stand in for others in tests. What each answers is beside the tests that ask it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *_arguments: object) -> None: ...


@contextmanager
def serving(handler: type[StandIn], host: str = "127.0.0.1") -> Iterator[int]:
    """A server in a thread, for as long as the block. Yields its port."""
    with ThreadingHTTPServer((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
