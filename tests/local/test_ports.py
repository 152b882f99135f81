"""Which port is chosen: the remembered one, the wanted one, or a free one."""

import socket
from pathlib import Path

from infra.local.ports import CHOICE, choose_port, is_free


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def test_a_port_is_free_until_somebody_listens_on_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_a_listener_on_all_addresses_takes_the_port_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as holder:
        assert not is_free(holder.getsockname()[1])


def test_the_wanted_port_is_used_when_it_is_free(tmp_path: Path) -> None:
    wanted = a_free_port()

    assert choose_port(tmp_path, "gateway", wanted) == wanted


def test_without_a_wish_the_port_lies_below_those_of_outgoing_connections(tmp_path: Path) -> None:
    assert choose_port(tmp_path, "gateway", None) in CHOICE


def test_a_new_wish_goes_before_the_remembered_port(tmp_path: Path) -> None:
    choose_port(tmp_path, "gateway", None)
    wanted = a_free_port()

    assert choose_port(tmp_path, "gateway", wanted) == wanted


def test_a_remembered_port_that_is_taken_by_now_is_replaced(tmp_path: Path) -> None:
    remembered = choose_port(tmp_path, "gateway", None)

    with socket.create_server(("127.0.0.1", remembered)):
        assert choose_port(tmp_path, "gateway", None) != remembered


def test_two_listeners_of_one_folder_never_get_the_same_port(tmp_path: Path) -> None:
    wanted = a_free_port()

    assert choose_port(tmp_path, "client", wanted) == wanted
    assert choose_port(tmp_path, "mqtt", wanted) != wanted


def test_a_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    for damage in ("", "[]", '{"gateway": 1}', '{"gateway": {"used": "x"}}', "\0"):
        (tmp_path / "ports.json").write_text(damage)
        assert choose_port(tmp_path, "gateway", None) in CHOICE
