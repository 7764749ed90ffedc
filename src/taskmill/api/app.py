"""The ASGI application: what is served where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from taskmill.api import meter
from taskmill.api.auth import Tokens
from taskmill.api.edge import Edge, refusal
from taskmill.api.feed import Feed
from taskmill.api.health import Health
from taskmill.api.limits import Limiter
from taskmill.api.options import ApiOptions, AuthOptions
from taskmill.api.page import CDN_POLICY, graphiql
from taskmill.api.schema.build import build_schema
from taskmill.api.schema.context import Services
from taskmill.api.schema.view import GraphQLView
from taskmill.api.users import Accounts
from taskmill.api.work import Desk
from taskmill.runtime.probes import CONTENT_TYPE, Probes
from taskmill.tasks.mill import Mill
from taskmill.tasks.submit import Submitter

GRAPHQL: Final = "/graphql"


def create_app(
    mill: Mill,
    submitter: Submitter,
    feed: Feed,
    accounts: Accounts,
    options: ApiOptions,
    auth: AuthOptions,
    limiter: Limiter,
    desk: Desk,
) -> Starlette:
    """The API over these parts, which the caller starts, stops and closes: `feed.run()` must be running for
    subscriptions to begin, and `accounts.close()` ends its threads."""
    tokens = Tokens(auth.secret, auth.expiration, accounts, auth.previous)
    services = Services(mill, submitter, feed, accounts, tokens, options, limiter, desk)
    schema = build_schema(introspection=options.development)
    view = GraphQLView(schema, services)
    health = Health(mill, timeout=options.health_timeout)
    routes: list[BaseRoute] = [
        Route(GRAPHQL, view, methods=None),
        WebSocketRoute(GRAPHQL, view),
        Route("/health", health.overall),
        Route("/health/database", health.of_database),
        Route("/health/queue", health.of_queue),
        Route("/live", health.live),
        Route("/ready", health.ready),
        Route("/metrics", _metrics(mill.probes)),
    ]
    if options.development:
        page = graphiql()
        routes += [
            Route("/", lambda request: RedirectResponse(GRAPHQL)),
            Route(
                "/graphiql",
                lambda request: HTMLResponse(page, headers={"Content-Security-Policy": CDN_POLICY}),
            ),
        ]
    meter.begin(mill.probes, schema._schema)
    edge = Middleware(Edge, options=options, probes=mill.probes)
    app = Starlette(routes=routes, middleware=[edge], exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False  # the redirect would repeat the Host header
    return app


def _metrics(probes: Probes) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(request: Request) -> Response:
        return Response(probes.render(), media_type=CONTENT_TYPE)

    return metrics


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "NOT_FOUND" if error.status_code == 404 else "BAD_REQUEST"
    return refusal(request.scope, error.status_code, code, f"{error.detail}.", error.headers)
