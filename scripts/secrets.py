"""Looks for secrets in every file that git knows, with detect-secrets: what it finds is printed, and is an error.

The values that the documentation and the tests show are named here, so that a new one is noticed. In tests and benches
a password for a server on loopback is no finding; a private key, a token or a random text is, there too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parent.parent
SHOWN = re.compile(
    r"pass|taskpass|rootpass|securepassword|secret|task-queue-secrets|password|PASSWORD|admin|your-.*"
    r"|tm_[A-Za-z0-9_…<>.]*|\$[A-Z_{}]+|…|\.\.\.|.* .*"
)
"""Examples, each as a whole; and sentences, which follow the word in prose."""
NO_SECRETS = re.compile(r"requirements(-dev|-tools|-build)?\.lock|.*/package-lock\.json|.*\.(png|gif|ico)")
RELAXED = ("tests/", "bench/", ".ci/", "scripts/services")
KINDS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "Base64HighEntropyString",
    "BasicAuthDetector", "CloudantDetector", "DiscordBotTokenDetector", "GitHubTokenDetector",
    "GitLabTokenDetector", "HexHighEntropyString", "IbmCloudIamDetector", "JwtTokenDetector",
    "KeywordDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector",
    "PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector",
    "TelegramBotTokenDetector", "TwilioKeyDetector",
)  # fmt: skip
LENIENT = ("BasicAuthDetector", "KeywordDetector", "Base64HighEntropyString", "HexHighEntropyString")


def findings(path: str) -> list[str]:
    relaxed = path.startswith(RELAXED)
    limits = {"Base64HighEntropyString": {"limit": 4.5}, "HexHighEntropyString": {"limit": 3.0}}
    plugins = [{"name": k, **limits.get(k, {})} for k in KINDS if not (relaxed and k in LENIENT)]
    filters = [
        {"path": "detect_secrets.filters.allowlist.is_line_allowlisted"},
        {"path": "detect_secrets.filters.heuristic.is_indirect_reference"},
        {"path": "detect_secrets.filters.heuristic.is_templated_secret"},
        {"path": "detect_secrets.filters.heuristic.is_sequential_string"},
        {"path": "detect_secrets.filters.heuristic.is_potential_uuid"},
    ]
    with transient_settings({"plugins_used": plugins, "filters_used": filters}):
        return [
            f"{path}:{found.line_number}: {found.type}"
            for found in scan_file(str(ROOT / path))
            if not SHOWN.fullmatch(found.secret_value or "")
        ]


if __name__ == "__main__":
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 (git is what clones this)  # nosec B607
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    names = [n for n in listed.stdout.decode().split("\0") if n and not NO_SECRETS.fullmatch(n)]
    found = [line for name in names if (ROOT / name).is_file() for line in findings(name)]
    print("\n".join(found))
    sys.exit(
        "a secret in a file: take it out, and make it anew; an example is named in scripts/secrets.py"
        if found
        else 0
    )
