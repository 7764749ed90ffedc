"""A first task, with nothing but Python: register, create a task, wait for it, print its result.

python3 examples/first_task.py [http://localhost:3000]     (not given: localhost, at PORT if that is set)
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

BASE = sys.argv[1] if len(sys.argv) > 1 else f"http://localhost:{os.environ.get('PORT') or 3000}"
URL = BASE.rstrip("/") + "/graphql"

REGISTER = """
mutation Register($input: RegisterInput!) { register(input: $input) { accessToken user { email role } } }
"""
CREATE = """
mutation CreateTask($input: CreateTaskInput!) { createTask(input: $input) { id title status } }
"""
LOOK = """
query GetTask($id: ID!) { task(id: $id) { status result error attempts logs { message level } } }
"""


def ask(document: str, variables: dict[str, Any], token: str | None = None) -> Any:
    """The `data` of the answer; ends the program with the message of the first error."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = "Bearer " + token
    body = json.dumps({"query": document, "variables": variables}).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(URL, body, headers), timeout=10
        ) as response:  # the URL is ours  # nosec B310
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
    except OSError as error:
        sys.exit(f"Nothing answers at {URL}: start it with `make up` ({error})")
    if answer.get("errors"):
        sys.exit(answer["errors"][0]["message"])
    return answer["data"]


email = f"user-{uuid.uuid4().hex[:8]}@example.com"
account = {"email": email, "password": "securepassword", "name": "John Doe"}  # of an example  # nosec B105
registered = ask(REGISTER, {"input": account})["register"]
print("registered {email} ({role})".format(**registered["user"]))

token = registered["accessToken"]
task_input = {
    "title": "Process Video",
    "priority": "HIGH",
    "payload": {"videoId": "abc123", "formats": ["720p"]},
}
task = ask(CREATE, {"input": task_input}, token)["createTask"]
print("created {id}: {title}, {status}".format(**task))

for _ in range(100):
    now = ask(LOOK, {"id": task["id"]}, token)["task"]
    if now["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
        break
    time.sleep(0.1)
print("{} after {} attempt(s), result: {}".format(now["status"], now["attempts"], json.dumps(now["result"])))
sys.exit(0 if now["status"] == "COMPLETED" else 1)
