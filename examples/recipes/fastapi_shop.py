"""Taskmill in FastAPI.

TASKMILL_API_URL=http://localhost:3000 TASKMILL_API_KEY=… uvicorn fastapi_shop:web
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from shop_tasks import send_receipt

from taskmill import Client
from taskmill.errors import Unavailable


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    # For what is more than submitting. `.submit` opens its connections at need, and closes them with the loop.
    async with Client() as client:
        web.state.taskmill = client
        yield


web = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    number: int
    email: str


@web.post("/orders", status_code=202)
async def order(order: Order) -> dict[str, str]:
    task = await send_receipt.submit(order=order.number, to=order.email)
    return {"task": task.id}


@web.get("/tasks/{id}")
async def task(id: str, request: Request) -> dict[str, Any]:
    client: Client = request.app.state.taskmill
    found = await client.task(id)
    if found is None:
        raise HTTPException(404)
    return {"status": found.status, "result": found.result, "error": found.error}


@web.exception_handler(Unavailable)
async def unavailable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=503)
