"""The parts of the schema, put together."""

from __future__ import annotations

from functools import cache
from typing import Any

import strawberry
from graphql import GraphQLError
from graphql.execution import Executor
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types import ExecutionContext

from taskmill.api.schema.fleet import FleetQueries
from taskmill.api.schema.guard import carry_out, extensions
from taskmill.api.schema.key import KeyMutations, KeyQueries
from taskmill.api.schema.live import Subscription
from taskmill.api.schema.people import PeopleMutations, PeopleQueries
from taskmill.api.schema.roles import enforce
from taskmill.api.schema.scalars import SCALARS
from taskmill.api.schema.schedule import ScheduleQueries
from taskmill.api.schema.schedule_write import ScheduleMutations
from taskmill.api.schema.task import TaskQueries
from taskmill.api.schema.task_write import TaskMutations
from taskmill.api.schema.user import UserMutations, UserQueries
from taskmill.api.schema.work import WorkMutations, WorkQueries


@strawberry.type
class Query(TaskQueries, UserQueries, PeopleQueries, KeyQueries, ScheduleQueries, WorkQueries, FleetQueries):
    pass


@strawberry.type
class Mutation(TaskMutations, UserMutations, PeopleMutations, KeyMutations, WorkMutations, ScheduleMutations):
    pass


class Schema(strawberry.Schema):
    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        """Nothing: faults.py logs what deserves it, with the request's id."""


class Execution(StrawberryGraphQLCoreExecutionContext):
    def build_per_event_executor(self, payload: Any) -> Executor[Any]:
        """With a store of its own for collected fields. graphql-core 3.3 shares one over all updates of a subscription, by
        lists that each update makes anew: it finds none of them again, and keeps them all while the client listens."""
        executor = super().build_per_event_executor(payload)
        executor._relevant_sub_fields = {}
        return executor


@cache
def build_schema(*, introspection: bool) -> Schema:
    """The schema; `introspection` False hides it from those who ask it about itself."""
    schema = Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        extensions=extensions(introspection=introspection),
        execution_context_class=Execution,
        config=StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=True),
    )
    enforce(schema._schema)  # the one place that graphql-core's own schema is in
    carry_out(schema._schema)
    return schema
