"""JSON as devices write it."""

from typing import Any

import msgspec

from services.ingest.loose import Unusable


def read_document(body: bytes) -> dict[str, Any]:
    """A body as a JSON object. UTF-8, or else GB18030, in which some devices write. Raises Unusable."""
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            # Some count the NUL at the end of a text in C in.
            value = msgspec.json.decode(body.rstrip(b"\0").decode(encoding))
        except UnicodeDecodeError:
            continue
        except (msgspec.DecodeError, RecursionError):
            break
        if isinstance(value, dict):
            return value
        break
    raise Unusable("")
