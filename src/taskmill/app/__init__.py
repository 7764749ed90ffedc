"""What a user's module is made of: a `Taskmill` with its handlers, and the `Context` that each run gets.

app = Taskmill()

@app.task(queue="media", timeout=600, max_retries=5)
async def process_video(ctx: Context, video_id: str, formats: list[str]) -> Report: ...

task = await process_video.submit(video_id="abc123", formats=["720p"])
report = await task.wait(timeout=60)
"""

from taskmill.app.context import Cancelled, Context, RunPort
from taskmill.app.handler import Call, Handler, submit_in
from taskmill.app.registry import Taskmill
from taskmill.app.submitted import Submitted

__all__ = ["Call", "Cancelled", "Context", "Handler", "RunPort", "Submitted", "Taskmill", "submit_in"]
