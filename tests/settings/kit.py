"""Settings as a process with these variables would have them."""

from __future__ import annotations

import pytest

from taskmill.errors import ConfigError
from taskmill.settings import Settings

GOOD_SECRET = "a-good-secret-of-more-than-32-bytes!"


def load(**environment: str) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return Settings.load()


def refusal(**environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**environment)
    return caught.value.message
