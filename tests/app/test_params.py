"""What a handler takes: read from its signature, checked at the submit and at the run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, Json, PositiveInt, computed_field, field_validator

from taskmill import Context, Taskmill
from taskmill.app.params import Params
from taskmill.errors import ConfigError, InvalidPayload, ResultInvalid


class Size(Enum):
    SMALL = "small"


@dataclass
class Point:
    x: int
    y: int = 0


class Clip(msgspec.Struct):
    start: float
    at: datetime | None = None


class Options(BaseModel):
    quality: int = Field(ge=1, le=10)
    when: datetime | None = None
    tags: set[str] = set()

    @field_validator("quality")
    @classmethod
    def not_seven(cls, value: int) -> int:
        if value == 7:
            raise ValueError("seven is taken")
        return value


class Aliased(BaseModel):
    video_id: str = Field(alias="videoId")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    id: UUID
    at: datetime
    tags: set[str] = set()
    page: HttpUrl | None = None
    numbers: Json[list[int]] = Field(default_factory=list, validate_default=False)

    @computed_field
    def day(self) -> int:
        return self.at.day


class Holder(msgspec.Struct):
    inner: Options
    plain: Plain | None = None


class Plain:
    pass


class Row(TypedDict):
    name: str


ID = UUID("12345678-1234-5678-1234-567812345678")

VALUES: list[tuple[Any, Any, Any]] = [
    (str, "é", "é"),
    (int, 3, 3),
    (float, 3, 3),
    (bool, True, True),
    (list[str], ("a", "b"), ["a", "b"]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[int, str], {1: "a"}, {"1": "a"}),
    (set[int], {1}, [1]),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (str | None, None, None),
    (Literal["a", "b"], "b", "b"),
    (Annotated[int, msgspec.Meta(ge=0)], 0, 0),
    (datetime, datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00Z"),
    (date, date(2026, 1, 2), "2026-01-02"),
    (UUID, ID, str(ID)),
    (Decimal, Decimal("1.50"), "1.50"),
    (bytes, b"ab", "YWI="),
    (Size, Size.SMALL, "small"),
    (Point, Point(1, 2), {"x": 1, "y": 2}),
    (list[Point], [Point(1)], [{"x": 1, "y": 0}]),
    (Clip, Clip(1.5), {"start": 1.5, "at": None}),
    (Options, Options(quality=3, tags={"t"}), {"quality": 3, "when": None, "tags": ["t"]}),
    (list[Options] | None, [Options(quality=3)], [{"quality": 3, "when": None, "tags": []}]),
    (Aliased, Aliased(videoId="v"), {"videoId": "v"}),
    (Holder, Holder(Options(quality=3)), {"inner": {"quality": 3, "when": None, "tags": []}, "plain": None}),
    (
        Strict,
        Strict(id=ID, at=datetime(2026, 1, 2, tzinfo=UTC), tags={"t"}, numbers="[1]"),  # type: ignore[arg-type]
        {"id": str(ID), "at": "2026-01-02T00:00:00Z", "tags": ["t"], "page": None, "numbers": "[1]"},
    ),
    (HttpUrl, HttpUrl("http://a.example/b"), "http://a.example/b"),
    (PositiveInt, 1, 1),
    (Row, Row(name="n"), {"name": "n"}),
    (Any, {"a": [1, None]}, {"a": [1, None]}),
]


def params_for(annotation: Any) -> Params:
    def two(ctx: Context, value: Any, n: int = 0) -> None: ...

    two.__annotations__["value"] = annotation
    return Params(two)


@pytest.mark.parametrize(("annotation", "value", "text"), VALUES, ids=[str(v[0])[:40] for v in VALUES])
def test_a_value_comes_back_as_its_type(annotation: Any, value: Any, text: Any) -> None:
    """As JSON on its way, and what it was at the run."""
    params = params_for(annotation)
    dumped = json.loads(params.dump((), {"value": value}))
    assert dumped == {"value": text}
    args, kwargs = params.load(dumped)
    assert args == ()
    expected = list(value) if annotation == list[str] else value
    assert kwargs == {"value": expected}
    assert type(kwargs["value"]) is type(expected) or annotation is float


WRONG: list[tuple[Any, Any, str]] = [
    (str, 3, "value: Expected `str`, got `int`"),
    (int, "3", "value: Expected `int`, got `str`"),
    (int, None, "value: Expected `int`, got `null`"),
    (list[str], ["a", 1], "value[1]: Expected `str`, got `int`"),
    (Point, {"y": 1}, "value: Object missing required field `x`"),
    (list[Point], [{"x": "s"}], "value[0].x: Expected `int`, got `str`"),
    (Annotated[int, msgspec.Meta(ge=0)], -1, "value: Expected `int` >= 0"),
    (Size, "large", "value: Invalid enum value 'large'"),
    (Options, {"quality": 11}, "value.quality: Input should be less than or equal to 10"),
    (Options, {"quality": 7}, "value.quality: Value error, seven is taken"),
    (Aliased, {"video_id": "v"}, "value.videoId: Field required"),
    (Annotated[int, Field(gt=0)], 0, "value: Input should be greater than 0"),
    (PositiveInt, -1, "value: Input should be greater than 0"),
    (Strict, {"id": str(ID), "at": 3}, "value.at: Input should be a valid datetime"),
    (Holder, {"inner": {"quality": 11}}, "value.inner: quality: Input should be less than or equal to 10"),
    (Holder, {"inner": {"quality": 1}, "plain": {}}, "value.plain: Plain cannot be made from JSON"),
    (datetime, "yesterday", "value: Invalid RFC3339 encoded datetime"),
]


@pytest.mark.parametrize(("annotation", "value", "text"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_what_is_wrong_is_said_by_name(annotation: Any, value: Any, text: str) -> None:
    """At the submit and at the run the same."""
    params = params_for(annotation)
    for check in (lambda: params.dump((), {"value": value}), lambda: params.load({"value": value})):
        with pytest.raises(InvalidPayload) as caught:
            check()
        assert caught.value.message == text
        assert caught.value.code == "INVALID_PAYLOAD"


def test_a_secret_value_is_not_shown() -> None:
    """pydantic's own text would hold it."""
    with pytest.raises(InvalidPayload) as caught:
        params_for(Options).load({"value": {"quality": "hunter2"}})
    assert "hunter2" not in caught.value.message


def video(ctx: Context, video_id: str, formats: list[str], quality: int = 5) -> None: ...


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"video_id": "a"}, "formats: it is missing"),
        (
            {"video_id": "a", "formats": [], "size": 1},
            "size: there is no such parameter (there are: video_id, formats, quality)",
        ),
        ([1], "payload: an object is expected, not a list"),
        (None, "video_id: it is missing"),
    ],
)
def test_a_payload_that_is_no_call(payload: Any, text: str) -> None:
    """At the run: from an API that knows no signatures."""
    with pytest.raises(InvalidPayload) as caught:
        Params(video).load(payload)
    assert caught.value.message == text


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'video_id'"),
        ((), {}, "after the context it takes (video_id, formats, quality=…)"),
        (("a", [], 1, 2), {}, "too many positional arguments"),
        (("a", []), {"size": 1}, "unexpected keyword argument 'size'"),
        (("a", [object()]), {}, "the payload is not JSON"),
        (("a", [float("nan")]), {}, "not JSON compliant"),
        (("x" * 300_000, []), {}, "bytes as JSON, at most 262,144"),
    ],
)
def test_a_call_that_cannot_be(args: Any, kwargs: Any, text: str) -> None:
    """At the submit, as Python says it, with the handler's name."""
    with pytest.raises(InvalidPayload, match="video: ") as caught:
        Params(video).dump(args, kwargs)
    assert text in caught.value.message


def test_what_is_not_given_takes_the_functions_default() -> None:
    """Of the worker's code, not of the submitter's: it is left out of the payload."""
    params = Params(video)
    text = params.dump(("a",), {"formats": ["720p"]})
    assert json.loads(text) == {"video_id": "a", "formats": ["720p"]}
    assert params.load(json.loads(text)) == ((), {"video_id": "a", "formats": ["720p"]})


def test_the_key_that_names_the_handler_may_stay() -> None:
    """An API client may say the type in the payload; it is no unknown parameter."""
    assert Params(video).load({"type": "video", "video_id": "a", "formats": []})[1] == {
        "video_id": "a",
        "formats": [],
    }


def test_other_keys_where_the_function_takes_them() -> None:
    """`**rest` gets them, also one of the same name."""

    def handler(ctx: Context, a: int, **rest: Any) -> None: ...

    params = Params(handler)
    assert json.loads(params.dump((), {"a": 1, "rest": 2, "c": 3})) == {"a": 1, "rest": 2, "c": 3}
    assert params.load({"a": 1, "b": 2})[1] == {"a": 1, "b": 2}


def old_payload(ctx: Context, payload: int) -> None: ...
def old_dict(ctx: Context, options: dict[str, Any]) -> None: ...
def old_any(ctx: Context, x: Any) -> None: ...
def old_bare(ctx, x): ...  # type: ignore[no-untyped-def]
def old_default(ctx: Context, payload: dict[str, str], more: int = 3) -> None: ...


@pytest.mark.parametrize(
    "function",
    [old_payload, old_dict, old_any, old_bare, old_default, print, partial(lambda a, ctx, payload: None, 1)],
)
def test_one_parameter_gets_the_whole_payload(function: Any) -> None:
    """When it is called payload, or has no type that says otherwise: unchecked, whatever it is."""
    params = Params(function)
    for payload in ({"a": 1}, [1], None):
        assert params.load(payload) == ((payload,), {})
    assert params.dump(({"a": 1},), {}) == '{"a":1}'
    with pytest.raises(InvalidPayload, match="must be an object, not a list"):
        params.dump(([1],), {})


def test_a_model_as_the_whole_payload() -> None:
    """Its fields are the keys, and they are checked."""

    def handler(ctx: Context, payload: Point) -> None: ...

    params = Params(handler)
    assert params.dump((Point(1),), {}) == '{"x":1,"y":0}'
    assert params.load({"x": 1}) == ((Point(1),), {})
    with pytest.raises(InvalidPayload, match=r"payload\.x: Expected `int`"):
        params.load({"x": "1"})


def test_a_handler_without_parameters() -> None:
    """Takes an empty payload."""

    def handler(ctx: Context) -> None: ...

    assert Params(handler).dump((), {}) == "{}"
    assert Params(handler).load({}) == ((), {})
    with pytest.raises(InvalidPayload, match="there are: none"):
        Params(handler).load({"a": 1})


def bad_class(ctx: Context, a: Plain, b: int) -> None: ...
def bad_union(ctx: Context, a: int | Point | Clip, b: int) -> None: ...
def bad_position(ctx: Context, a: int, /, b: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (bad_class, "cannot be made from JSON"),
        (bad_union, "parameter a: Type unions may not contain more than one"),
        (bad_position, "none may stand before a /"),
    ],
)
def test_types_that_json_does_not_have(function: Any, text: str) -> None:
    """Are refused where the handler is declared."""
    with pytest.raises(ConfigError, match=text):
        Params(function)


def later(ctx: Context, a: Late, b: int = 0) -> Late: ...  # type: ignore[empty-body]
def never(ctx: Context, a: Nowhere, b: int = 0) -> None: ...  # type: ignore[name-defined]  # noqa: F821


LATER = Params(later)


@dataclass
class Late:
    n: int


def test_types_may_be_declared_further_down() -> None:
    """They are looked up when they are needed first."""
    assert LATER.load({"a": {"n": 1}}) == ((), {"a": Late(1)})
    assert LATER.result({"n": 2}) == Late(2)


def test_a_type_that_is_nowhere() -> None:
    """Ends the start of a runner, with the place named."""
    app = Taskmill()
    app.task(never)
    with pytest.raises(ConfigError, match=r"never: name 'Nowhere' is not defined; a type .* top of a module"):
        app.check()


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Point, {"x": 1}, Point(1)),
        (list[Options], [{"quality": 2}], [Options(quality=2)]),
        (datetime, "2026-01-02T03:00:00Z", datetime(2026, 1, 2, 3, tzinfo=UTC)),
        (None, None, None),
        (None, 3, 3),
        (Any, [1], [1]),
        (Plain, {"a": 1}, {"a": 1}),
    ],
)
def test_a_result_takes_the_type_that_is_returned(annotation: Any, value: Any, expected: Any) -> None:
    """After its way through JSON; what JSON cannot make stays as it is."""

    def handler(ctx: Context, a: int, b: int) -> Any: ...

    handler.__annotations__["return"] = annotation
    assert Params(handler).result(value) == expected


def test_a_result_of_another_type() -> None:
    """The worker ran other code: it is said, with the place."""
    with pytest.raises(ResultInvalid, match=r"result\.n: Expected `int`"):
        LATER.result({"n": "x"})
