"""Finding the app by name."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest

from taskmill.app import Taskmill
from taskmill.errors import ConfigError
from taskmill.runner.load import load_app


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module to be written to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return f"user_{secrets.token_hex(4)}"


def write(name: str, body: str) -> None:
    Path(f"{name}.py").write_text(f"from taskmill import Taskmill\n{body}\n")


def test_an_app_in_the_working_folder(module: str) -> None:
    """By its attribute, also a nested one."""
    write(module, "app = Taskmill()\nclass Box: inner = app")
    assert isinstance(load_app(f"{module}:app"), Taskmill)
    assert load_app(f"{module}:Box.inner") is load_app(f"{module}:app")


@pytest.mark.parametrize("name", ["", "module", ":app", "module:", "a/b.py:app"])
def test_a_name_of_the_wrong_form(name: str) -> None:
    """The message shows the right one."""
    with pytest.raises(ConfigError, match="write it as module:attribute"):
        load_app(name)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "has no 'app'"),
        ("app = 7", "is not a Taskmill but of type int"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("x = 1\n1 / 0", r"ZeroDivisionError: division by zero \(user_\w+\.py, line 3\)"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError"),
        ("app = Taskmill()\napp.task('A', timeout=-1)", "timeout=-1 is not"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_what_goes_wrong_is_one_line(module: str, body: str, text: str) -> None:
    """With the name of the app, and where in the user's code."""
    write(module, body)
    with pytest.raises(ConfigError, match=text) as caught:
        load_app(f"{module}:app")
    assert caught.value.message.startswith(f"app '{module}:app'")
    assert "\n" not in caught.value.message


def test_a_module_that_is_not_there(module: str) -> None:
    """Says where it was looked for."""
    with pytest.raises(
        ConfigError, match=f"there is no module '{module}' in the working folder or on PYTHONPATH"
    ):
        load_app(f"{module}:app")
    with pytest.raises(ConfigError, match=f"there is no module '{module}'"):
        load_app(f"{module}.part:app")
