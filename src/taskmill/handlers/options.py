"""What the handlers are told. A runner knows no settings: the worker's process puts these into the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

VARIABLE: Final = "TASKMILL_HANDLER_OPTIONS"


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """`media`: the folder below which files are read and written. `smtp_security`: starttls, tls or none."""

    media: Path = Path(".taskmill/media")
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_security: str = "starttls"
    smtp_from: str | None = None
    smtp_user: str | None = None
    smtp_password: str | None = field(default=None, repr=False)
    webhook_allow_private: bool = False

    def environment(self) -> dict[str, str]:
        """The variable for a child process. Whoever may read its environment has its rights already."""
        return {VARIABLE: json.dumps(asdict(self) | {"media": str(self.media)})}

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The inverse of `environment`; the defaults when the variable is not set."""
        text = (os.environ if environment is None else environment).get(VARIABLE)
        if text is None:
            return cls()
        options = cls(**json.loads(text))
        return replace(options, media=Path(options.media))
