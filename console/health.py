"""How this process says that it is alive and ready: the question that `linli health` asks of it, by HTTP on its operations address."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

# What a process listens on when it listens everywhere, and where it answers then.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (never listened on here)
READY, LIVE = "/readyz", "/livez"


def ask(ops_address: str, path: str, *, timeout_s: float) -> tuple[bool, str]:
    """Whether the process that has this operations address answers 200 there, and what it says. Raises nothing: silence is a no."""
    try:
        address = urlsplit(f"//{ops_address}")
        host = address.hostname or "127.0.0.1"
        with closing(HTTPConnection(_HERE.get(host, host), address.port, timeout=timeout_s)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status == 200, answer.read().decode(errors="replace")
    except ValueError as error:  # also of a name that is none, which is found out when it is looked up
        return False, f"{ops_address} is no address: {error}"
    except (OSError, HTTPException) as error:
        return False, f"{ops_address} does not answer: {str(error) or type(error).__name__}"
