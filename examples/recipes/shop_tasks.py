"""The tasks of the shops beside this file. A worker runs them: taskmill up --app shop_tasks:app"""

from __future__ import annotations

from dataclasses import dataclass

from taskmill import Context, Taskmill

app = Taskmill()


@dataclass
class Receipt:
    order: int
    to: str
    copies: int


@app.task(queue="mail", retry_on=(OSError,), max_retries=5)
async def send_receipt(ctx: Context, order: int, to: str) -> Receipt:
    """Here the mail would be sent, with `ctx.task_id` as its message id: a run may be repeated."""
    ctx.log("info", "sent", order=order)
    return Receipt(order, to, copies=1)
