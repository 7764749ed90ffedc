"""The ten documents of the specification, as they stand there; only 2025-12-10 has become a day that is still ahead.

Where one says "task-id-here", an id is put in.
"""

from __future__ import annotations

REGISTER = """
mutation Register {
  register(
    input: {
      email: "user@example.com"
      password: "securepassword"
      name: "John Doe"
    }
  ) {
    accessToken
    user {
      id
      email
      name
      role
    }
  }
}
"""

LOGIN = """
mutation Login {
  login(input: { email: "user@example.com", password: "securepassword" }) {
    accessToken
    user {
      id
      email
    }
  }
}
"""

CREATE = """
mutation CreateTask {
  createTask(
    input: {
      title: "Process Video"
      description: "Convert video to multiple formats"
      priority: HIGH
      payload: { videoId: "abc123", formats: ["720p", "1080p", "4K"] }
    }
  ) {
    id
    title
    status
    priority
    createdAt
  }
}
"""

SCHEDULE = """
mutation ScheduleTask {
  createTask(
    input: {
      title: "Send Newsletter"
      description: "Weekly newsletter"
      priority: NORMAL
      scheduledAt: "2095-12-10T09:00:00Z"
      payload: { recipients: ["user1@example.com", "user2@example.com"] }
    }
  ) {
    id
    title
    scheduledAt
  }
}
"""

TASKS = """
query GetTasks {
  tasks(status: PROCESSING, limit: 10) {
    id
    title
    status
    priority
    attempts
    createdAt
    user {
      email
    }
  }
}
"""

TASK = """
query GetTask {
  task(id: "task-id-here") {
    id
    title
    description
    status
    priority
    payload
    result
    error
    attempts
    maxRetries
    startedAt
    completedAt
    logs {
      message
      level
      createdAt
    }
  }
}
"""

RETRY = """
mutation RetryTask {
  retryTask(id: "task-id-here") {
    id
    status
    attempts
  }
}
"""

CANCEL = """
mutation CancelTask {
  cancelTask(id: "task-id-here") {
    id
    status
  }
}
"""

STATS = """
query GetStats {
  taskStats {
    total
    pending
    processing
    completed
    failed
  }
}
"""

UPDATES = """
subscription TaskUpdates {
  taskUpdated {
    id
    title
    status
    updatedAt
  }
}
"""
