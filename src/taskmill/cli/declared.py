"""`taskmill schedules sync`: what a deploy does with schedules, straight on the database."""

from __future__ import annotations

from dataclasses import asdict

from taskmill import compose
from taskmill.runner.load import load_app
from taskmill.runtime.logs import escape
from taskmill.settings import Settings


async def sync(settings: Settings) -> int:
    """Loads the app and prints what became of each schedule, one a line. ConfigError: the app cannot be used; Conflict:
    a schedule of that name is somebody else's, and nothing was changed."""
    app = load_app(settings.app_name)
    app.check()
    done = asdict(await compose.sync_schedules(settings, app.crons))
    for what, names in done.items():
        for name in names:
            print(f"{what:<7}  {escape(name)}")
    if not any(done.values()):
        print(f"{escape(settings.app_name)} declares no schedules")
    return 0
