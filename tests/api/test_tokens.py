"""Tokens that are none: RELIABILITY.md rows 68 to 70 and 73, and the change of the secret that signs them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import jwt
import pytest

from taskmill.api import auth as auth_module
from taskmill.api.auth import Tokens, key_id
from taskmill.errors import Unauthenticated
from tests.api.kit import SECRET, Api, running
from tests.api.test_auth import ME, user_id
from tests.api.wire import Answer, exchange, request

OTHER: Final = b"the secret of before, 32 bytes or more"
PEM: Final = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
JWK: Final = {"kty": "oct", "k": base64.urlsafe_b64encode(b"attacker's own key of 32 bytes!!").decode()}


def part(value: object) -> str:
    """One part of a token: JSON of a value, or a text as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def made(who: str, header: Mapping[str, Any] | None = None, key: bytes = SECRET, **changes: Any) -> str:
    """A token made by hand, for a library refuses to make most of these. None leaves a claim or header out; `raw`
    is put into the claims as it is."""
    now = int(time.time())
    claims = {
        "iss": "taskmill", "aud": "taskmill-api", "typ": "access", "sub": who, "ver": 1, "jti": "x",
        "iat": now, "exp": now + 3600,
    }  # fmt: skip
    raw = changes.pop("raw", "")
    body = json.dumps({k: v for k, v in (claims | changes).items() if v is not None})[:-1] + raw + "}"
    head = {"alg": "HS256", "typ": "JWT", "kid": key_id(SECRET)} | dict(header or {})
    signed = f"{part({k: v for k, v in head.items() if v is not None})}.{part(body)}"
    return f"{signed}.{part_of_bytes(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def part_of_bytes(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(token: str) -> str:
    return token.rpartition(".")[0] + "."


Make = Callable[[str], str]


def headed(key: bytes = SECRET, **header: Any) -> Make:
    """Of tokens that are good but for their header (and key)."""
    return lambda sub: made(sub, header, key)


def bare(**header: Any) -> Make:
    """The same without a signature."""
    return lambda sub: unsigned(made(sub, header))


NONES: Final = ("none", "None", "nOnE")
KIDS: Final[tuple[object, ...]] = (
    "../../dev/null", "' OR 1=1 --", "x" * 10_000, "", "00000000", None, 1, [key_id(SECRET)], {},
)  # fmt: skip
ALGORITHMS: Final[dict[str, Make]] = {
    **{f"alg {alg}": headed(alg=alg) for alg in (*NONES, "", "RS256", "ES256", "HS512", "EdDSA")},
    **{f"alg {alg} unsigned": bare(alg=alg) for alg in (*NONES, "HS256")},
    "no alg": lambda sub: made(sub, {"alg": None}),
    "alg list": lambda sub: made(sub, {"alg": ["HS256"]}),
    "signed with a public key": lambda sub: made(sub, key=PEM),
    "signed with a JWK": lambda sub: made(sub, key=json.dumps(JWK).encode()),
    "signed with nothing": lambda sub: made(sub, key=b""),
    "signed with kid": lambda sub: made(sub, key=key_id(SECRET).encode()),
    "cut signature": lambda sub: made(sub)[:-2],
    "two parts": lambda sub: made(sub).rpartition(".")[0],
    "four parts": lambda sub: made(sub) + ".x",
}
CLAIMS: Final[dict[str, Make]] = {
    "expired": lambda sub: made(sub, exp=int(time.time()) - 60),
    "not yet": lambda sub: made(sub, nbf=int(time.time()) + 3600),
    "issued later": lambda sub: made(sub, iat=int(time.time()) + 3600),
    "no exp": lambda sub: made(sub, exp=None),
    "exp text": lambda sub: made(sub, exp=str(int(time.time()) + 3600)),
    "exp float": lambda sub: made(sub, exp=time.time() + 3600.5),
    "exp 1e400": lambda sub: made(sub, exp=None, raw=', "exp": 1e400'),
    "exp -1": lambda sub: made(sub, exp=-1),
    "exp true": lambda sub: made(sub, exp=True),
    "exp list": lambda sub: made(sub, exp=[int(time.time()) + 3600]),
    "exp NaN": lambda sub: made(sub, exp=None, raw=', "exp": NaN'),
    "exp of 5000 digits": lambda sub: made(sub, exp=None, raw=f', "exp": {"9" * 5000}'),
    "iss wrong": lambda sub: made(sub, iss="taskmill.evil"),
    "iss prefix": lambda sub: made(sub, iss="task"),
    "iss list": lambda sub: made(sub, iss=["taskmill"]),
    "aud wrong": lambda sub: made(sub, aud="other"),
    "aud list": lambda sub: made(sub, aud=["taskmill-api", "other"]),
    "aud list of one": lambda sub: made(sub, aud=["taskmill-api"]),
    "aud prefix": lambda sub: made(sub, aud="taskmill-ap"),
    "no aud": lambda sub: made(sub, aud=None),
    "refresh": lambda sub: made(sub, typ="refresh"),
    "typ list": lambda sub: made(sub, typ=["access"]),
    "ver text": lambda sub: made(sub, ver="1"),
    "ver later": lambda sub: made(sub, ver=2),
    "sub number": lambda sub: made(sub, sub=1),
    "sub object": lambda sub: made(sub, sub={"id": sub}),
    "claims are a list": lambda sub: f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part([])}.x",
}
HEADERS: Final[dict[str, Make]] = {
    **{f"kid {kid!r:.20}": headed(kid=kid) for kid in KIDS},
    "kid of nothing": lambda sub: made(sub, {"kid": "../../dev/null"}, key=b""),
    "jku": lambda sub: made(sub, {"jku": "http://127.0.0.1:9/jwks.json"}),
    "x5u": lambda sub: made(sub, {"x5u": "http://127.0.0.1:9/cert.pem"}),
    "jwk": lambda sub: made(sub, {"jwk": JWK}, key=b"attacker's own key of 32 bytes!!"),
    "x5c": lambda sub: made(sub, {"x5c": ["MIIB"]}),
    "crit": lambda sub: made(sub, {"crit": ["b64"], "b64": False}),
    "typ of another kind": lambda sub: made(sub, {"typ": "at+jwt"}),
    "header is a list": lambda sub: part(["alg"]) + made(sub)[made(sub).index(".") :],
}
ROWS: Final = {"68": ALGORITHMS, "69": CLAIMS, "70": HEADERS}


class TestForged:
    async def test_good(self, api: Api) -> None:
        """What these are made from is good as it is."""
        assert (await api.ok(ME, token=made(await user_id(api))))["me"]

    @pytest.mark.parametrize("row", list(ROWS))
    async def test_refused(self, api: Api, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each is 401 UNAUTHENTICATED, and no file is opened and no host asked for it."""
        import builtins
        import socket

        sub = await user_id(api)
        monkeypatch.setattr(builtins, "open", _never)
        monkeypatch.setattr(socket, "getaddrinfo", _never)
        wrong = {}
        for name, make in ROWS[row].items():
            response = await api.post({"query": ME}, token=make(sub))
            code = response.json()["errors"][0]["extensions"]["code"] if "errors" in response.json() else "ok"
            if (response.status_code, code) != (401, "UNAUTHENTICATED"):
                wrong[name] = (response.status_code, code)
        assert wrong == {}

    @pytest.mark.parametrize(
        "value",
        [
            "Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer a b", "Token abc", "Bearer\tabc", "Bearer,abc",
            "Bearer null", "Bearer undefined", "Bearer tm_", "Negotiate", "", " ", "Bearer \u00e9",
        ],
    )  # fmt: skip
    async def test_other_credentials(self, api: Api, value: str) -> None:
        """Row 73: another scheme, or no token behind it, is 401."""
        answer = await ask(api, value)
        assert (answer.status, answer.code) == (401, "UNAUTHENTICATED")

    async def test_two_headers(self, api: Api) -> None:
        """Row 73: two credentials are none, good as they may be."""
        answer = await ask(api, f"Bearer {api.token}", f"Bearer {api.token}")
        assert (answer.status, answer.code) == (401, "UNAUTHENTICATED")

    async def test_huge(self, api: Api) -> None:
        """Row 73: a token of 100 kB is refused, as a token or as a head that is too large."""
        assert (await ask(api, "Bearer " + "x" * 100_000)).status in (401, 431)

    @pytest.mark.parametrize("form", ["bearer {}", "BEARER {}", "Bearer   {}", "Bearer {}   ", "  Bearer {}"])
    async def test_lenient_forms(self, api: Api, form: str) -> None:
        """Row 73: the scheme in any case, and blanks around the token."""
        answer = await ask(api, form.format(api.token))
        assert json.loads(answer.body)["data"]["me"]


async def ask(api: Api, *credentials: str) -> Answer:
    """`me` with these Authorization headers, byte for byte."""
    headers = [b"Authorization: " + value.encode() for value in credentials]
    body = json.dumps({"query": ME}).encode()
    return await exchange(int(api.base.rpartition(":")[2]), request(body, *headers))


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("a token made the server open or resolve something")


class TestRotation:
    """JWT_SECRET and JWT_SECRET_PREVIOUS."""

    @pytest.fixture
    def old(self, api: Api) -> Tokens:
        return Tokens(OTHER, timedelta(hours=1), api.accounts)

    @pytest.fixture
    def new(self, api: Api) -> Tokens:
        return Tokens(SECRET, timedelta(hours=1), api.accounts, OTHER)

    async def test_old_token_holds(self, api: Api, old: Tokens, new: Tokens) -> None:
        """What the secret of before signed still verifies, and each token names its secret."""
        user = (await new.check(api.token or "")).user
        assert (await new.check(old.issue(user))).user.id == user.id
        assert jwt.get_unverified_header(old.issue(user))["kid"] == key_id(OTHER)

    async def test_signs_with_the_new(self, api: Api, old: Tokens, new: Tokens) -> None:
        """The secret of before signs no more: a server that knows only the new one takes the new tokens."""
        user = (await new.check(api.token or "")).user
        token = new.issue(user)
        assert (await api.ok(ME, token=token))["me"]
        with pytest.raises(Unauthenticated):
            await old.check(token)

    async def test_taken_away(self, api: Api, old: Tokens) -> None:
        """Without JWT_SECRET_PREVIOUS its tokens are 401."""
        user = (await api.accounts.list())[0]
        assert (await api.post({"query": ME}, token=old.issue(user))).status_code == 401

    async def test_served(self, store_url: str) -> None:
        """A server that is given both takes what the one of before signed."""
        async with running(store_url, previous=OTHER) as api:
            await api.register("user")
            user = (await api.accounts.list())[0]
            token = Tokens(OTHER, timedelta(hours=1), api.accounts).issue(user)
            assert (await api.ok(ME, token=token))["me"]["email"] == "user@example.com"

    async def test_kid_is_no_choice(self, api: Api, new: Tokens) -> None:
        """A token that names the one secret and is signed with the other is none."""
        sub = await user_id(api)
        for kid, key in ((key_id(SECRET), OTHER), (key_id(OTHER), SECRET)):
            with pytest.raises(Unauthenticated):
                await new.check(made(sub, {"kid": kid}, key=key))


async def test_known_tokens_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of tokens that were verified has a bound."""
    monkeypatch.setattr(auth_module, "KNOWN_MOST", 3)
    user = (await api.accounts.list())[0]
    tokens = Tokens(SECRET, timedelta(hours=1), api.accounts)
    for _ in range(10):
        await tokens.check(tokens.issue(user))
    assert len(tokens._known) <= 3
