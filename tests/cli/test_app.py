"""`ecar app`: served as the switches say, or explained."""

import pytest

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint


def test_the_app_is_served_with_the_switches_given(monkeypatch):
    import apps.demo

    served = {}
    monkeypatch.setattr(apps.demo, "launch", lambda **switches: served.update(switches))
    assert cli.main(["app", "--checkpoint", "tiny", "--port", "7999"]) == 0
    assert served["checkpoint"] == "tiny"
    assert served["port"] == 7999
    assert served["host"] == "127.0.0.1"
    assert cli.main(["demo", "--browser"]) == 0
    assert (served["checkpoint"], served["browser"]) == ("cifar10-turbo", True)


def test_an_app_that_is_not_there_is_explained(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("ecar_lab.cli.app.home", lambda: tmp_path)
    for command in ("app", "demo"):
        assert "is not whole: install the package" in complaint(capsys, cli.main([command]))


@pytest.mark.parametrize("port", ["many", "99999"])
def test_a_port_variable_that_is_no_port_is_named(monkeypatch, capsys, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    assert port in complaint(capsys, cli.main(["app"]))
