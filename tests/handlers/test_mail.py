"""EMAIL_SENDING against a real conversation with a small SMTP server."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskmill.app import Context
from taskmill.errors import Fail, Retry
from taskmill.handlers.mail import send_email
from tests.support import free_port

HANG_UP = "hang up"
LETTER = {"to": ["ann@example.com"], "subject": "Hello", "text": "Good day"}


class Server(socketserver.ThreadingTCPServer):
    """Answers as told by command, 250 otherwise; keeps what it got."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.answers: dict[str, str] = {}
        self.commands: list[str] = []
        self.letters: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Conversation(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self._say(self.server.answers.get("HELLO", "220 ready"))
        while line := self.rfile.readline().decode().strip():
            self.server.commands.append(line)
            verb = line.split()[0].upper()
            known = self.server.answers
            default = {"DATA": "354 go on", "QUIT": "221 bye", "AUTH": "235 ok"}.get(verb, "250 ok")
            answer = known.get(line, known.get(verb, default))
            self._say("250-here\r\n250 AUTH PLAIN" if verb == "EHLO" else answer)
            if verb == "DATA" and answer.startswith("354"):
                letter = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    letter += part
                self.server.letters.append(letter)
                if known.get("LETTER") == HANG_UP:
                    return
                self._say(known.get("LETTER", "250 queued"))
            if verb == "QUIT":
                return

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


@pytest.fixture
def server(configure: Callable[..., Any]) -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        configure(
            smtp_host="127.0.0.1", smtp_port=made.port, smtp_security="none", smtp_from="shop@example.org"
        )
        yield made
        made.shutdown()
        thread.join()


def test_a_letter_arrives(server: Server, ctx: Context) -> None:
    """With its headers, in both forms, under an id that stays the same when the run is repeated."""
    payload = {
        **LETTER,
        "to": ["ann@example.com", "bob@example.com"],
        "subject": "Grüße",
        "html": "<p>Good day</p>",
    }
    result = send_email(ctx, payload)
    assert result == {"accepted": 2, "refused": [], "messageId": f"<{ctx.task_id}@example.org>"}
    letter = email.message_from_bytes(server.letters[0], policy=email.policy.default)
    assert (letter["From"], letter["Subject"]) == ("shop@example.org", "Grüße")
    assert letter["To"] == "ann@example.com, bob@example.com"
    assert letter["Message-ID"] == f"<{ctx.task_id}@example.org>"
    assert [part.get_content().strip() for part in letter.iter_parts()] == ["Good day", "<p>Good day</p>"]
    assert send_email(ctx, payload)["messageId"] == result["messageId"]


@pytest.mark.parametrize(
    "payload", [{**LETTER, "to": "ann@example.com"}, {"recipients": ["ann@example.com"], **LETTER}]
)
def test_forms_of_recipients(payload: dict[str, Any], server: Server, ctx: Context) -> None:
    """One address as a text, and the word that SEED.md's newsletter has."""
    assert send_email(ctx, payload)["accepted"] == 1


WRONG_RECIPIENTS: list[Any] = [
    *([], None, 3, {}, ["x"], ["a@b\r\nBcc: eve@example.com"], ["a@b>, <eve@c"], ["a b@c.de"], ["a@b,c@d"]),
    *(["@b.de"], ["a@"], ["a@-b"], [3], ["ä@example.com"], ["a@b.de"] * 101),
]


@pytest.mark.parametrize(
    "change",
    [{"subject": "a\r\nBcc: eve@example.com"}, {"subject": "a\nb"}, {"subject": "a\u2028b"}, {"subject": "x" * 501}]
    + [{"subject": None}, {"subject": ""}, {"text": None}, {"text": 3}, {"html": 3}, {"text": "\ud800"}]
    + [{"to": to} for to in WRONG_RECIPIENTS],
    ids=repr,
)  # fmt: skip
def test_a_wrong_payload_fails_for_good(change: dict[str, Any], server: Server, ctx: Context) -> None:
    """No header can be smuggled in, and nothing is sent."""
    with pytest.raises(Fail, match=r"payload\.\w+"):
        send_email(ctx, {**LETTER, **change})
    assert server.commands == []


@pytest.mark.parametrize("options", [{}, {"smtp_host": "127.0.0.1"}, {"smtp_from": "a@b.example"}], ids=str)
def test_no_server_configured_is_a_clear_failure(
    options: dict[str, str], configure: Callable[..., Any], ctx: Context
) -> None:
    """It names the settings, and is not tried again."""
    configure(**options)
    with pytest.raises(Fail, match="TASKMILL_SMTP_HOST"):
        send_email(ctx, LETTER)


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        ({"RCPT": "550 no such user"}, Fail, "550"),
        ({"RCPT": "451 later"}, Retry, "451"),
        ({"MAIL": "553 not from you"}, Fail, "553"),
        ({"DATA": "421 closing"}, Retry, "421"),
        ({"LETTER": "554 spam\x1b[31m"}, Fail, r"554\): spam \[31m"),
        ({"LETTER": "452 disk full"}, Retry, "452"),
        ({"HELLO": "421 busy"}, Retry, "421"),
    ],
    ids=str,
)
def test_what_the_server_refuses(
    answers: dict[str, str], kind: type[Exception], says: str, server: Server, ctx: Context
) -> None:
    """5xx is for good, 4xx may go well later; its words are told."""
    server.answers = answers
    with pytest.raises(kind, match=says):
        send_email(ctx, LETTER)


def test_one_of_two_recipients_is_refused(server: Server, ctx: Context, port: Any) -> None:
    """The other gets it, and the result tells; a repeat would send to that one twice."""
    server.answers = {"rcpt TO:<bob@example.com>": "550 unknown"}
    result = send_email(ctx, {**LETTER, "to": ["ann@example.com", "bob@example.com"]})
    assert (result["accepted"], result["refused"]) == (1, ["bob@example.com"])
    assert ("WARNING", "recipient refused") in [(level, message) for level, message, _ in port.lines]


def test_a_login(server: Server, ctx: Context, configure: Callable[..., Any]) -> None:
    """With the configured user; its refusal is for good and shows no password."""
    login = {"smtp_user": "shop", "smtp_password": "hunter2"}
    configure(
        smtp_host="127.0.0.1", smtp_port=server.port, smtp_security="none", smtp_from="a@b.example", **login
    )
    send_email(ctx, LETTER)
    assert any(command.startswith("AUTH PLAIN") for command in server.commands)
    server.answers = {"AUTH": "535 wrong"}
    with pytest.raises(Fail, match="login") as caught:
        send_email(ctx, LETTER)
    assert "hunter2" not in str(caught.value)


def test_a_server_without_encryption_gets_nothing(
    server: Server, ctx: Context, configure: Callable[..., Any]
) -> None:
    """When it was asked for."""
    configure(smtp_host="127.0.0.1", smtp_port=server.port, smtp_security="starttls", smtp_from="a@b.example")
    with pytest.raises(Fail, match="TASKMILL_SMTP_SECURITY"):
        send_email(ctx, LETTER)
    assert server.letters == []


@pytest.mark.parametrize("security", ["none", "tls"])
def test_nobody_answers(security: str, ctx: Context, configure: Callable[..., Any]) -> None:
    """Tried again later."""
    configure(smtp_host="127.0.0.1", smtp_port=free_port(), smtp_security=security, smtp_from="a@b.example")
    with pytest.raises(Retry, match="does not answer"):
        send_email(ctx, LETTER)


def test_a_server_that_hangs_up(server: Server, ctx: Context) -> None:
    """In the middle of the conversation: tried again."""
    server.answers = {"LETTER": HANG_UP}
    with pytest.raises(Retry, match="does not answer"):
        send_email(ctx, LETTER)
    assert len(server.letters) == 1
