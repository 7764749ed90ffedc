"""EMAIL_SENDING: one message to the configured SMTP server.

{"to": ["ann@example.com"], "subject": "Hello", "text": "…", "html": "<p>…</p>"}
→ {"accepted": 1, "refused": [], "messageId": "<…>"}
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Final

from taskmill.app import Context
from taskmill.errors import Fail, Retry
from taskmill.handlers.files import text_of
from taskmill.handlers.options import HandlerOptions

TIMEOUT: Final = 30.0
"""Seconds for each step of the conversation."""
RECIPIENTS_LIMIT: Final = 100
SUBJECT_LIMIT: Final = 500
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def send_email(ctx: Context, payload: Any) -> dict[str, Any]:
    """A run that is repeated sends again, under the same Message-ID: mail is delivered at least once."""
    options = HandlerOptions.read()
    message = _message(options, payload, ctx.task_id)
    if options.smtp_host is None or options.smtp_from is None:
        raise Fail("no mail server is configured: set TASKMILL_SMTP_HOST and TASKMILL_SMTP_FROM")
    try:
        refused = _send(options, message)
    except smtplib.SMTPRecipientsRefused as error:
        raise _by_code(
            max(code for code, _ in error.recipients.values()), "all recipients are refused"
        ) from None
    except smtplib.SMTPAuthenticationError as error:
        raise Fail(f"the mail server refuses the login of TASKMILL_SMTP_USER ({error.smtp_code})") from None
    except smtplib.SMTPResponseException as error:
        raise _by_code(error.smtp_code, _text(error.smtp_error)) from None
    except smtplib.SMTPNotSupportedError as error:
        raise Fail(
            f"the mail server cannot do what TASKMILL_SMTP_SECURITY or the login needs: {error}"
        ) from None
    except (OSError, smtplib.SMTPException) as error:
        raise Retry(f"the mail server does not answer ({type(error).__name__})") from None
    recipients = message["To"].addresses
    for address in refused:
        ctx.log("warning", "recipient refused", address=address)
    ctx.log("info", "sent", recipients=len(recipients) - len(refused))
    return {
        "accepted": len(recipients) - len(refused),
        "refused": refused,
        "messageId": message["Message-ID"],
    }


def _message(options: HandlerOptions, payload: Any, task_id: str) -> EmailMessage:
    recipients = _recipients(payload)
    subject = text_of(payload, "subject", "the subject, a text")
    if len(subject) > SUBJECT_LIMIT or _CONTROL.search(subject):
        raise Fail(f"payload.subject: expected at most {SUBJECT_LIMIT} characters in one line")
    text = text_of(payload, "text", "the message, a text")
    html = payload.get("html")
    if html is not None and not isinstance(html, str):
        raise Fail("payload.html: expected a text")
    message = EmailMessage()
    message["From"] = options.smtp_from or "nobody@localhost.invalid"
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject
    message["Date"] = formatdate()
    domain = (options.smtp_from or "@localhost").rpartition("@")[2]
    message["Message-ID"] = f"<{task_id}@{domain}>"
    try:
        message.set_content(text)
        if html is not None:
            message.add_alternative(html, subtype="html")
    except UnicodeError:
        raise Fail("payload.text, payload.html: half a surrogate pair is no text") from None
    return message


def _recipients(payload: Any) -> list[str]:
    value = payload.get("to", payload.get("recipients")) if isinstance(payload, dict) else None
    wanted = [value] if isinstance(value, str) else value
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= RECIPIENTS_LIMIT:
        raise Fail(f"payload.to: expected 1 to {RECIPIENTS_LIMIT} e-mail addresses")
    for address in wanted:
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            raise Fail(f"payload.to: {str(address)[:100]!r} is not an e-mail address")
    return list(dict.fromkeys(wanted))


def _send(options: HandlerOptions, message: EmailMessage) -> list[str]:
    """The addresses that were refused while others were not."""
    host = options.smtp_host or ""
    name = socket.gethostname()
    context = ssl.create_default_context() if options.smtp_security != "none" else None
    server: smtplib.SMTP
    if options.smtp_security == "tls":
        server = smtplib.SMTP_SSL(host, options.smtp_port, name, timeout=TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(host, options.smtp_port, name, timeout=TIMEOUT)
    with server:
        if options.smtp_security == "starttls":
            server.starttls(context=context)
        if options.smtp_user is not None:
            server.login(options.smtp_user, options.smtp_password or "")
        return sorted(server.send_message(message))


def _by_code(code: int, text: str) -> Fail | Retry:
    """SMTP's own distinction: 4xx may go well later, 5xx will not."""
    said = f"the mail server refuses it ({code}): {text}"
    return Retry(said) if 400 <= code < 500 else Fail(said)


def _text(said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return _CONTROL.sub(" ", text)[:300]
