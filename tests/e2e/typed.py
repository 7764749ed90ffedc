"""An app as a user writes it: typed handlers, in a module that both the program and the workers import."""

from __future__ import annotations

from dataclasses import dataclass

from taskmill import Context, Taskmill

app = Taskmill()


@dataclass
class Line:
    product: str
    price: float


@dataclass
class Receipt:
    order: int
    total: float


@app.task(queue="default", priority="HIGH", retry_on=(OSError,))
async def make_receipt(ctx: Context, order: int, lines: list[Line]) -> Receipt:
    if not lines:
        raise ValueError(f"order {order} is empty")
    return Receipt(order, sum(line.price for line in lines))


@app.task
def make_two(ctx: Context, first: int) -> list[str]:
    """A plain function, in a thread, that submits further tasks."""
    return [make_receipt.submit_sync(order, [Line("a", 1.5)]).id for order in (first, first + 1)]
