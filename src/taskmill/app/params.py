"""What a handler takes besides its context: read from its signature, checked at the submit and again at the run.

(ctx, payload)             one parameter that is called `payload`, or is a dict, Any or without a type:
                           the whole payload. A dataclass, Struct or pydantic model is checked as a whole
(ctx, video_id: str, …)    each parameter is a key of the payload, and what its annotation says
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from taskmill.errors import ConfigError, InvalidPayload, ResultInvalid
from taskmill.model.jsontext import json_text, plain

if sys.version_info >= (
    3,
    14,
):  # annotations are evaluated when they are asked for: some may not be there yet
    import annotationlib

    _LAZY: Mapping[str, Any] = {"annotation_format": annotationlib.Format.FORWARDREF}
else:
    _LAZY: Mapping[str, Any] = {}

_EMPTY: Final = inspect.Parameter.empty
_UNCHECKED: Final = (_EMPTY, Any, object)
_DICTS: Final = ("dict", "Dict", "dict[str, Any]", "Dict[str, Any]", "Any", "object")
_VALUES: Final = (str, int, float, bool, bytes, list, dict, tuple, set, datetime, UUID)
_PYDANTICS: Final = ("pydantic", "annotated_types")
_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Params:
    """Of one function. ConfigError when it cannot be a handler; types that are declared further down are read later."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._name = name_of(function)
        self._hints: dict[str, Any] | None = None
        self._parameters: dict[str, inspect.Parameter] = {}
        self.whole: str | None = None
        """The parameter that gets the whole payload; None: each gets its own."""
        self._first = ""
        """The parameter that gets the context."""
        self._extra: str | None = None
        """The name of its `**rest`, which takes all other keys."""
        self._model: Any = None
        """The type of the whole payload, when that is a dataclass, Struct or pydantic model."""
        self._read_signature()
        self._resolve(late=False)

    def _read_signature(self) -> None:
        try:
            found = list(inspect.signature(self._function, **_LAZY).parameters.values())
        except ValueError:
            self.whole = "payload"  # a function of C without a signature: the first run will tell
            return
        if not found or found[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            raise ConfigError(f"handler {self._name} must take the context first: (ctx, ...)")
        self._first = found[0].name
        rest = found[1:]
        if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in found):
            self.whole = "payload"
            return
        if rest and _takes_all(rest):
            self.whole = rest[0].name
            self._parameters = {rest[0].name: rest[0]}
            return
        self._extra = next((p.name for p in rest if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        named = [p for p in rest if p.kind is not inspect.Parameter.VAR_KEYWORD]
        if any(p.kind not in _KEYWORD for p in named):
            raise ConfigError(
                f"handler {self._name}: its parameters are given by name, so none may stand before a /"
            )
        self._parameters = {p.name: p for p in named}

    def _resolve(self, *, late: bool) -> dict[str, Any]:
        if self._hints is None:
            try:
                hints = typing.get_type_hints(_annotated(self._function), include_extras=True)
            except NameError as error:
                if not late:
                    return {}
                raise ConfigError(
                    f"handler {self._name}: {error}; a type of its signature must be at the top of a module"
                ) from None
            except TypeError as error:
                raise ConfigError(f"handler {self._name}: {error}") from None
            self._check_context(hints)
            if self.whole is not None and _is_model(hints.get(self.whole)):
                self._model = hints[self.whole]
            for name in self._parameters:
                if self.whole is None or self._model is not None:
                    self._check_annotation(name, hints.get(name, _EMPTY))
            self._hints = hints
        return self._hints

    def _check_context(self, hints: Mapping[str, Any]) -> None:
        """Who comes from elsewhere forgets it: `def add(x: int, y: int)`. A value of JSON is no context."""
        first = hints.get(self._first, _EMPTY)
        if (typing.get_origin(first) or first) in _VALUES or _is_model(first):
            raise ConfigError(
                f"handler {self._name} must take the context first: (ctx: Context, {self._first}, ...)"
            )

    def _check_annotation(self, name: str, annotation: Any) -> None:
        if annotation in _UNCHECKED or _by_pydantic(annotation):
            return
        try:
            known = not isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType)
        except (TypeError, NameError) as error:
            raise ConfigError(f"handler {self._name}: parameter {name}: {error}") from None
        if not known:
            raise ConfigError(
                f"handler {self._name}: parameter {name}: {annotation!r} cannot be made from JSON; "
                "use a dataclass, a msgspec.Struct or a pydantic model"
            )

    @property
    def resolved(self) -> bool:
        """Whether all types of the signature were there."""
        return self._hints is not None

    def ready(self) -> None:
        """Reads what could not be read when the function was declared. ConfigError."""
        self._resolve(late=True)

    # -- the submit --------------------------------------------------------------------------------------

    def dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of a call, as JSON text that `load` takes. InvalidPayload names the parameter."""
        try:
            values = self._bound(args, kwargs)
        except TypeError as error:
            raise InvalidPayload(
                f"{self._name}: {error}; after the context it takes {self._form()}"
            ) from None
        try:
            text = json_text(plain(values, back=True))
        except (TypeError, ValueError) as error:
            raise InvalidPayload(f"{self._name}: the payload is not JSON: {error}") from None
        value = json.loads(text)
        if not isinstance(value, dict):
            raise InvalidPayload(f"{self._name}: the payload must be an object, not a {type(value).__name__}")
        self.load(value)
        return text

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.whole is not None:
            return inspect.Signature([_whole_parameter(self.whole)]).bind(*args, **kwargs).args[0]
        parameters = [p.replace(annotation=_EMPTY) for p in self._parameters.values()]
        if self._extra:
            parameters.append(inspect.Parameter(self._extra, inspect.Parameter.VAR_KEYWORD))
        bound = inspect.Signature(parameters).bind(*args, **kwargs).arguments
        extra = bound.pop(self._extra, {}) if self._extra else {}
        return bound | extra

    def _form(self) -> str:
        """Its parameters, as a call has them."""
        if self.whole is not None:
            return f"({self.whole}), a dict"
        names = [n if p.default is _EMPTY else f"{n}=…" for n, p in self._parameters.items()]
        return f"({', '.join([*names, *([f'**{self._extra}'] if self._extra else [])])})"

    # -- the run -----------------------------------------------------------------------------------------

    def load(self, payload: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function is called with after its context. InvalidPayload names the parameter."""
        hints = self._resolve(late=True)
        if self.whole is not None:
            value = payload if self._model is None else _converted(payload, self._model, "payload")
            return (value,), {}
        given = {} if payload is None else payload
        if not isinstance(given, dict):
            raise InvalidPayload(f"payload: an object is expected, not a {type(given).__name__}")
        kwargs: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            if name in given:
                kwargs[name] = _converted(given[name], hints.get(name, _EMPTY), name)
            elif parameter.default is _EMPTY:
                raise InvalidPayload(f"{name}: it is missing")
        rest = {name: value for name, value in given.items() if name not in kwargs}
        if self._extra:
            kwargs |= rest
        # `payload.type` names the handler when the task's own type is not given (it stays in the payload).
        elif unknown := sorted(name for name in rest if name != "type"):
            names = ", ".join(self._parameters) or "none"
            raise InvalidPayload(f"{unknown[0][:100]}: there is no such parameter (there are: {names})")
        return (), kwargs

    def result(self, value: Any) -> Any:
        """A handler's result after its way through JSON, as its annotation says. ResultInvalid."""
        annotation = self._resolve(late=True).get("return", _EMPTY)
        if annotation is type(None) or (annotation not in _UNCHECKED and not _checkable(annotation)):
            return value
        try:
            return _converted(value, annotation, "result")
        except InvalidPayload as error:
            raise ResultInvalid(error.message) from None


def name_of(function: object) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"{getattr(function, '__module__', '?')}.{name}"


def _takes_all(rest: list[inspect.Parameter]) -> bool:
    """Whether the first parameter gets the whole payload."""
    first, *others = rest
    if first.kind is inspect.Parameter.VAR_KEYWORD or any(_required(p) for p in others):
        return False
    if first.name == "payload" or first.kind is inspect.Parameter.POSITIONAL_ONLY:
        return True
    annotation = first.annotation
    if isinstance(annotation, str):
        return not others and annotation.removeprefix("typing.") in _DICTS
    return not others and (annotation in (*_UNCHECKED, dict) or annotation == dict[str, Any])


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is _EMPTY and parameter.kind is not inspect.Parameter.VAR_KEYWORD


def _whole_parameter(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _annotated(function: Any) -> Any:
    """What carries the annotations: of a partial its function, of an object its `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        hasattr(annotation, "__dataclass_fields__")
        or hasattr(annotation, "__pydantic_validator__")
        or issubclass(annotation, msgspec.Struct)
        or typing.is_typeddict(annotation)
    )


def _by_pydantic(annotation: Any) -> bool:
    """Whether a pydantic model, type or constraint is in it: then all of it is pydantic's to check."""
    if hasattr(annotation, "__pydantic_validator__") or hasattr(annotation, "__get_pydantic_core_schema__"):
        return True
    if (
        type(annotation).__module__.partition(".")[0] in _PYDANTICS
    ):  # Annotated[int, Field(gt=0)], PositiveInt
        return True
    return any(_by_pydantic(part) for part in typing.get_args(annotation))


def _checkable(annotation: Any) -> bool:
    if _by_pydantic(annotation):
        return True
    try:
        return not isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType)
    except (TypeError, NameError):
        return False


def _converted(value: Any, annotation: Any, where: str) -> Any:
    if annotation in _UNCHECKED:
        return value
    if _by_pydantic(annotation):
        return _by_adapter(value, annotation, where)
    try:
        return msgspec.convert(value, annotation, str_keys=True, dec_hook=_inner)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise InvalidPayload(f"{where}{path.rstrip('`')}: {text}") from None


def _inner(annotation: type, value: Any) -> Any:
    """For msgspec: a pydantic model within a dataclass or Struct."""
    if not _by_pydantic(annotation):
        raise TypeError(f"{annotation.__name__} cannot be made from JSON")
    try:
        return _by_adapter(value, annotation, "")
    except InvalidPayload as error:
        raise ValueError(error.message) from None


@functools.lru_cache(maxsize=1000)
def _adapter(annotation: Any) -> Any:
    from pydantic import TypeAdapter  # who has a model has it loaded; who has none need not wait for it

    return TypeAdapter(annotation)


def _by_adapter(value: Any, annotation: Any, where: str) -> Any:
    from pydantic import ValidationError

    try:
        # As JSON: a strict model takes a text for a UUID or a time from there only.
        return _adapter(annotation).validate_json(json.dumps(value))
    except ValidationError as error:
        # Not str(error): it shows the value, which may be a secret.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        place = f"{where}{path}".lstrip(".")
        raise InvalidPayload(f"{place}: {first['msg']}" if place else first["msg"]) from None
