"""Every operation that the client sends. A test validates each of them against docs/reference/schema.graphql."""

from __future__ import annotations

from typing import Final

_SUMMARY: Final = (
    "id title type queue status priority attempts maxRetries progress error scheduledAt createdAt updatedAt startedAt "
    "completedAt cancelRequestedAt"
)
_TASK: Final = f"{_SUMMARY} description payload result"
_USER: Final = "id email name role createdAt disabled"
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
USERS: Final = (
    f"query Users($limit: Int!, $after: ID) {{ users(limit: $limit, after: $after) {{ {_USER} }} }}"
)
SET_USER_ROLE: Final = (
    f"mutation SetUserRole($id: ID!, $role: Role!) {{ setUserRole(id: $id, role: $role) {{ {_USER} }} }}"
)
DISABLE_USER: Final = f"mutation DisableUser($id: ID!) {{ disableUser(id: $id) {{ {_USER} }} }}"
ENABLE_USER: Final = f"mutation EnableUser($id: ID!) {{ enableUser(id: $id) {{ {_USER} }} }}"
CHANGE_PASSWORD: Final = (
    "mutation ChangePassword($input: ChangePasswordInput!) "
    f"{{ changePassword(input: $input) {{ {_LOGIN} }} }}"
)
LOGOUT_EVERYWHERE: Final = "mutation LogoutEverywhere { logoutEverywhere }"

# -- keys ------------------------------------------------------------------------------------------------

_KEY: Final = f"id name role queues prefix createdAt expiresAt lastUsedAt revokedAt user {{ {_USER} }}"
CREATE_API_KEY: Final = (
    "mutation CreateApiKey($input: CreateApiKeyInput!) "
    f"{{ createApiKey(input: $input) {{ key apiKey {{ {_KEY} }} }} }}"
)
API_KEYS: Final = (
    f"query ApiKeys($limit: Int!, $after: ID) {{ apiKeys(limit: $limit, after: $after) {{ {_KEY} }} }}"
)
REVOKE_API_KEY: Final = f"mutation RevokeApiKey($id: ID!) {{ revokeApiKey(id: $id) {{ {_KEY} }} }}"

# -- schedules -------------------------------------------------------------------------------------------

_PLAN: Final = (
    "id name cron timezone type title description priority queue maxRetries misfire overlap enabled startsAt endsAt "
    "nextFire lastFire waiting declaredBy createdAt updatedAt"
)
_SCHEDULE: Final = f"{_PLAN} payload lastTask {{ id status }}"
CREATE_SCHEDULE: Final = (
    "mutation CreateSchedule($input: CreateScheduleInput!) "
    f"{{ createSchedule(input: $input) {{ {_SCHEDULE} }} }}"
)
UPDATE_SCHEDULE: Final = (
    "mutation UpdateSchedule($id: ID!, $input: UpdateScheduleInput!) "
    f"{{ updateSchedule(id: $id, input: $input) {{ {_SCHEDULE} }} }}"
)
DELETE_SCHEDULE: Final = f"mutation DeleteSchedule($id: ID!) {{ deleteSchedule(id: $id) {{ {_SCHEDULE} }} }}"
PAUSE_SCHEDULE: Final = f"mutation PauseSchedule($id: ID!) {{ pauseSchedule(id: $id) {{ {_SCHEDULE} }} }}"
RESUME_SCHEDULE: Final = f"mutation ResumeSchedule($id: ID!) {{ resumeSchedule(id: $id) {{ {_SCHEDULE} }} }}"
RUN_SCHEDULE_NOW: Final = f"mutation RunScheduleNow($id: ID!) {{ runScheduleNow(id: $id) {{ {_TASK} }} }}"
SCHEDULES: Final = (
    f"query Schedules($limit: Int!, $after: ID) {{ schedules(limit: $limit, after: $after) {{ {_PLAN} }} }}"
)
SCHEDULE: Final = f"query Schedule($id: ID!) {{ schedule(id: $id) {{ {_SCHEDULE} }} }}"
NEXT_FIRES: Final = (
    "query NextFires($id: ID!, $n: Int!) { schedule(id: $id) { nextFires(n: $n) { at local note } } }"
)
HISTORY: Final = (
    "query History($id: ID!, $limit: Int!) "
    "{ schedule(id: $id) { history(limit: $limit) { nominalAt at outcome taskId } } }"
)

# -- the fleet -------------------------------------------------------------------------------------------

WORKERS: Final = (
    "query Workers($limit: Int!, $after: ID) { workers(limit: $limit, after: $after) "
    "{ id name host queues types slots running version startedAt lastSeen } }"
)
QUEUES: Final = (
    "query Queues($limit: Int!, $after: String) { queues(limit: $limit, after: $after) "
    "{ name pending queued processing completed failed cancelled oldestWaitingAt workers } }"
)

# -- work: the protocol of remote workers, which taskmill.worker speaks by these too -----------------------


def _work(field: str, kind: str, selection: str = "") -> str:
    return f"mutation($input: {kind}!) {{ {field}(input: $input) {selection} }}"


_SETTLED: Final = "{ id fence state }"
REGISTER_WORKER: Final = _work("registerWorker", "RegisterWorkerInput", "{ leaseSeconds maxRetries }")
DEREGISTER_WORKER: Final = _work("deregisterWorker", "LeaveInput")
CLAIM_TASKS: Final = _work(
    "claimTasks",
    "ClaimTasksInput",
    "{ tasks { id fence queue type title payload priority attempt maxRetries suspect leaseSeconds } waitedSeconds }",
)
CANCEL_SIGNALS: Final = (
    "query($worker: ID!, $waitSeconds: Float!) "
    "{ cancelSignals(worker: $worker, waitSeconds: $waitSeconds) { id fence } }"
)
RENEW_TASKS: Final = _work("renewTasks", "RenewTasksInput", "{ id fence state leaseSeconds }")
COMPLETE_TASK: Final = _work("completeTask", "CompleteTaskInput", _SETTLED)
FAIL_TASK: Final = _work("failTask", "FailTaskInput", _SETTLED)
RELEASE_TASK: Final = _work("releaseTask", "ReleaseTaskInput", _SETTLED)
SETTLE_TASKS: Final = _work("settleTasks", "SettleTasksInput", _SETTLED)
APPEND_LOGS: Final = _work("appendLogs", "AppendLogsInput")
SUBMIT_TASKS: Final = _work("submitTasks", "SubmitTasksInput")
