"""`python -m infra.sandbox_provider`: runs the sandbox provider until it is stopped."""

import argparse
import os
import sys
from pathlib import Path

import uvicorn

from infra.sandbox_provider.server import Settings, application
from infra.sandbox_provider.signatures import generate_key
from servicekit.config import SettingsError, load


def main() -> None:
    """Reads arguments and environment, and serves."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.sandbox_provider",
        description="A payment provider for development and tests. Keys come from the environment: LINLI_SANDBOX_KEY is the provider's "
        "private key as id:base64, LINLI_SANDBOX_MERCHANT_KEYS the merchant's public keys as id:base64,id:base64, each also as _FILE.",
    )
    parser.add_argument("--address", default="127.0.0.1:7090", help="where to listen (default: %(default)s)")
    parser.add_argument("--state", type=Path, default=Path("sandbox_provider.sqlite"), help="the file of its books (default: %(default)s)")
    parser.add_argument("--notify", default="", metavar="URL", help="send every notification here instead of where its order says")
    parser.add_argument("--generate-key", action="store_true", help="print a new private and public key, and stop")
    arguments = parser.parse_args()
    if arguments.generate_key:
        sys.stdout.write("private {}\npublic  {}\n".format(*generate_key()))
        return
    host, _, port = arguments.address.rpartition(":")
    try:
        app = application(load(Settings, "sandbox", os.environ), arguments.state, notify_url=arguments.notify)
    except (SettingsError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    uvicorn.run(app, host=host.strip("[]"), port=int(port), log_config=None, access_log=False, server_header=False)


if __name__ == "__main__":
    main()
