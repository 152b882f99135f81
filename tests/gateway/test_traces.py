"""Who decides which requests are traced."""

import pytest

from tests.gateway.conftest import run_gateway, run_upstream
from tests.support import Servers


@pytest.mark.parametrize(("trusted_proxies", "flag"), [("", "00"), ("10.0.0.0/8", "00"), ("10.0.0.0/8, 127.0.0.0/8", "01")])
async def test_only_a_proxy_that_is_trusted_has_a_trace_sampled(servers: Servers, trusted_proxies: str, flag: str) -> None:
    settings = {"LINLI_GATEWAY_TRUSTED_PROXIES": trusted_proxies}
    async with run_upstream() as upstream, run_gateway(servers, upstream.address, settings) as phone:
        await phone.get("/v1/parking/lots/lot-1", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert upstream.last.metadata["traceparent"] == f"00-{'a' * 32}-{'b' * 16}-{flag}"
