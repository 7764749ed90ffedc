"""The handlers that `taskmill up` loads in development when no --app is named: real work on real input.

Their files lie below the data folder's `media/`; results go to `media/results/<task id>/`. For your own, write a
module as this one and name it: `taskmill up --app module:app`.
"""

from __future__ import annotations

from typing import Any

from taskmill.app import Context, Taskmill
from taskmill.handlers.images import make_thumbnails
from taskmill.handlers.mail import send_email
from taskmill.handlers.video import process_video
from taskmill.handlers.webhook import call_webhook

app = Taskmill()

app.task("VIDEO_PROCESSING", timeout=3600, max_retries=2)(process_video)
app.task("IMAGE_THUMBNAILS", timeout=120)(make_thumbnails)
app.task("EMAIL_SENDING", timeout=180, max_retries=5)(send_email)
app.task("WEBHOOK", timeout=30, max_retries=8)(call_webhook)


@app.default
async def record(ctx: Context, payload: Any) -> Any:
    """A task without a type: logs that it was here and returns its payload."""
    shape = sorted(payload)[:20] if isinstance(payload, dict) else type(payload).__name__
    ctx.log("info", "recorded", payload=shape)
    return payload
