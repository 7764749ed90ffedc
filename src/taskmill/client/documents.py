"""Every operation that the client sends. A test validates each of them against docs/reference/schema.graphql."""

from __future__ import annotations

from typing import Final

_SUMMARY: Final = (
    "id title type queue status priority attempts maxRetries progress error scheduledAt createdAt updatedAt startedAt "
    "completedAt cancelRequestedAt"
)
_TASK: Final = f"{_SUMMARY} description payload result"
_USER: Final = "id email name role createdAt"
_LOGIN: Final = f"accessToken user {{ {_USER} }}"

# -- tasks -----------------------------------------------------------------------------------------------

CREATE_TASK: Final = (
    f"mutation CreateTask($input: CreateTaskInput!) {{ createTask(input: $input) {{ {_TASK} }} }}"
)
CREATE_TASKS: Final = (
    f"mutation CreateTasks($inputs: [CreateTaskInput!]!) {{ createTasks(inputs: $inputs) {{ {_SUMMARY} }} }}"
)
SUBMIT: Final = "mutation Submit($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { id } }"
LOOK: Final = "query Look($id: ID!) { task(id: $id) { status result error attempts progress } }"
CANCEL: Final = "mutation Cancel($id: ID!) { cancelTask(id: $id) { id } }"
UPDATE_TASK: Final = (
    "mutation UpdateTask($id: ID!, $input: UpdateTaskInput!) "
    f"{{ updateTask(id: $id, input: $input) {{ {_TASK} }} }}"
)
CANCEL_TASK: Final = f"mutation CancelTask($id: ID!) {{ cancelTask(id: $id) {{ {_TASK} }} }}"
RETRY_TASK: Final = f"mutation RetryTask($id: ID!) {{ retryTask(id: $id) {{ {_TASK} }} }}"
TASK: Final = f"query Task($id: ID!) {{ task(id: $id) {{ {_TASK} }} }}"
STATUS: Final = "query Status($id: ID!) { task(id: $id) { status } }"
TASKS: Final = (
    "query Tasks($status: TaskStatus, $priority: TaskPriority, $type: String, $queue: String, $limit: Int!, $after: ID) "
    "{ tasks(status: $status, priority: $priority, type: $type, queue: $queue, limit: $limit, after: $after) "
    f"{{ {_SUMMARY} }} }}"
)
LOGS: Final = (
    "query Logs($id: ID!, $limit: Int!, $after: ID) "
    "{ task(id: $id) { logs(limit: $limit, after: $after) { id message level fields createdAt } } }"
)
RUNS: Final = (
    "query Runs($id: ID!, $limit: Int!) { task(id: $id) { runs(limit: $limit) "
    "{ attempt outcome error errorType startedAt endedAt worker traceback } } }"
)
STATS: Final = "query Stats { taskStats { total pending queued processing completed failed cancelled } }"
TASK_UPDATED: Final = (
    f"subscription TaskUpdated($taskId: ID) {{ taskUpdated(taskId: $taskId) {{ {_SUMMARY} }} }}"
)

# -- people ----------------------------------------------------------------------------------------------

LOGIN: Final = f"mutation Login($input: LoginInput!) {{ login(input: $input) {{ {_LOGIN} }} }}"
REGISTER: Final = f"mutation Register($input: RegisterInput!) {{ register(input: $input) {{ {_LOGIN} }} }}"
ME: Final = f"query Me {{ me {{ {_USER} }} }}"
