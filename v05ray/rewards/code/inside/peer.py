"""Calls between a task's tests and the program that they test, each in a process of its own.

Plain data cross as they are. An object that is none stays where it is, and the other side holds a handle: the tests a
`Proxy`, the program a function. Through a proxy the tests do all that an object allows; the program can do no more with
an object of the tests' than call it, if it was handed over. One line each way:

    ["?", OPERATION, FIELD, ...]        a request; the other side may make some of its own before it answers
    ["=", VALUE]                        its result
    ["!", NAME, BASE, MESSAGE]          what it raised: the class's name, and that of its first built-in base
"""

import builtins
import json
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from v05ray.rewards.code.inside import wire

_LONGEST_LINE = 64 * 2**20
_MUTABLE = (list, dict, set, deque, bytearray)


class Gone(RuntimeError):
    """The other process has ended, or what it says cannot be read."""


class Peer:
    """One side of the connection. `serve` answers a request of the other side's."""

    def __init__(self, reads: BinaryIO, writes: BinaryIO) -> None:
        self._reads, self._writes = reads, writes
        self._objects: list[Any] = []
        self._ids: dict[int, int] = {}

    def _keep(self, value: Any) -> int:
        """The number of an object that the other side gets a handle of."""
        if id(value) not in self._ids:
            self._ids[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._ids[id(value)]

    def _send(self, message: Sequence[Any]) -> None:
        try:
            self._writes.write(wire.dump(message))
            self._writes.flush()
        except OSError as error:
            raise Gone("the program has ended") from error

    def _receive(self) -> list[Any]:
        line = self._reads.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise Gone("the program has ended, or said too much")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Gone(f"the program's words cannot be read: {error}") from error
        if not isinstance(message, list) or not message:
            raise Gone("the program's words cannot be read")
        return message

    def request(self, name: str, *fields: Any) -> Any:
        """The other side's answer, as it was wired; raises what `raised` makes of an exception there."""
        self._send(["?", name, *fields])
        while True:
            kind, *rest = self._receive()
            if kind == "=" and len(rest) == 1:
                return rest[0]
            if kind == "!" and len(rest) == 3 and all(isinstance(part, str) for part in rest):
                raise self.raised(*rest)
            if kind != "?" or not rest:
                raise Gone("the program's words cannot be read")
            self._answer(rest[0], rest[1:])

    def serve_on(self) -> None:
        """Answers requests until the other side has gone."""
        while True:
            try:
                kind, *rest = self._receive()
            except Gone:
                return
            if kind == "?":
                self._answer(rest[0], rest[1:])

    def _answer(self, name: str, fields: Sequence[Any]) -> None:
        try:
            answer = ["=", self.serve(name, fields)]
        except Gone:
            raise
        except Exception as error:  # whatever a program raises is passed on to its caller
            base = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
            answer = ["!", type(error).__name__, base, str(error)[:500]]
        self._send(answer)

    def serve(self, name: str, fields: Sequence[Any]) -> Any:
        """Does a request of the other side; returns the result, wired."""
        raise NotImplementedError

    def raised(self, name: str, base: str, message: str) -> BaseException:
        """The exception to raise here for one that was raised there."""
        raise NotImplementedError


_SPECIAL: Mapping[str, Callable[..., Any]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__bool__": bool,
    "__str__": str,
    "__repr__": repr,
    "__int__": int,
    "__float__": float,
    "__abs__": abs,
    "__neg__": operator.neg,
    "__pos__": operator.pos,
    "__invert__": operator.invert,
    "__index__": operator.index,
    "__reversed__": reversed,
    "__round__": round,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__enter__": lambda value: type(value).__enter__(value),
    "__exit__": lambda value, *_: type(value).__exit__(value, None, None, None),
}
_BETWEEN: Mapping[str, Callable[..., Any]] = {
    "__eq__": operator.eq,
    "__ne__": operator.ne,
    "__lt__": operator.lt,
    "__le__": operator.le,
    "__gt__": operator.gt,
    "__ge__": operator.ge,
    "__add__": operator.add,
    "__sub__": operator.sub,
    "__mul__": operator.mul,
    "__matmul__": operator.matmul,
    "__truediv__": operator.truediv,
    "__floordiv__": operator.floordiv,
    "__mod__": operator.mod,
    "__pow__": operator.pow,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
}


class Program(Peer):
    """The program's side of the connection."""

    def __init__(self, reads: BinaryIO, writes: BinaryIO, namespace: Mapping[str, Any]) -> None:
        super().__init__(reads, writes)
        self._namespace = namespace

    def _export(self, value: Any) -> Any:
        if isinstance(value, type) and issubclass(value, Exception):
            base = next(kind.__name__ for kind in value.__mro__ if kind.__module__ == "builtins")
            return ["o", self._keep(value), value.__name__, base]
        return ["o", self._keep(value)]

    def _take(self, wired: Any) -> Any:
        tag, number = wired[:2]
        if tag == "y":
            return self._objects[number]

        def call(*args: Any, **kwargs: Any) -> Any:
            given = [wire.encode(arg, self._export) for arg in args]
            named = {name: wire.encode(arg, self._export) for name, arg in kwargs.items()}
            return wire.decode(self.request("call", number, given, named), self._take)

        return call

    def raised(self, name: str, base: str, message: str) -> BaseException:
        """The built-in exception of that name, for one that the tests raised."""
        return _built_in(base)(message)

    def serve(self, name: str, fields: Sequence[Any]) -> Any:
        """All that the tests may ask of the program's objects."""
        if name == "names":
            return {key: wire.encode(value, self._export) for key, value in self._namespace.items()}
        value, *rest = (wire.decode(field, self._take) for field in fields)
        if name == "call":
            args, kwargs = rest
            result = value(*args, **kwargs)
            # The tests look at what became of the lists that they handed over.
            after = [self._contents(arg) for arg in args]
            return [wire.encode(result, self._export), after]
        if name == "getattr":
            result = getattr(value, *rest)
        elif name == "setattr":
            result = setattr(value, *rest)
        elif name == "isinstance":
            result = isinstance(rest[0], value)
        else:
            result = (_SPECIAL.get(name) or _BETWEEN[name])(value, *rest)
        return wire.encode(result, self._export)

    def _contents(self, value: Any) -> Any:
        return wire.encode(value, self._export) if isinstance(value, _MUTABLE) else None


def _built_in(name: str) -> type[Exception]:
    found = getattr(builtins, name, Exception)
    plain = isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, UnicodeError)
    return found if plain else Exception


class Tests(Peer):
    """The tests' side of the connection."""

    def __init__(self, reads: BinaryIO, writes: BinaryIO) -> None:
        super().__init__(reads, writes)
        self._exceptions: dict[str, type[Exception]] = {}

    def names(self) -> dict[str, Any]:
        """The program's own global names."""
        return {name: self._read(value) for name, value in self.request("names").items()}

    def _read(self, wired: Any) -> Any:
        return wire.decode(wired, self._take)

    def _export(self, value: Any) -> Any:
        if isinstance(value, Proxy):
            return ["y", value._handle]
        if isinstance(value, type) and value in self._exceptions.values():
            raise wire.NotPlain("an exception class of the program's cannot be passed back")
        if callable(value):
            return ["o", self._keep(value)]
        raise wire.NotPlain(f"a {type(value).__name__} of the tests' cannot be passed to the program")

    def _take(self, wired: Any) -> Any:
        tag, number, *rest = wired
        if tag == "y":
            return self._objects[int(number)]
        if tag != "o" or not isinstance(number, int):
            raise ValueError("not a value")
        return self._exception_class(*rest) if rest else Proxy(self, number)

    def _exception_class(self, name: str, base: str) -> type[Exception]:
        return self._exceptions.setdefault(name, type(str(name), (_built_in(base),), {}))

    def raised(self, name: str, base: str, message: str) -> BaseException:
        """One of the program's own classes, or the built-in one."""
        kind = self._exceptions.get(name) or _built_in(base)
        return kind(message)

    def serve(self, name: str, fields: Sequence[Any]) -> Any:
        """The program may call what it was handed, and nothing else."""
        if name != "call":
            raise PermissionError(name)
        number, given, named = fields
        args = [self._read(arg) for arg in given]
        kwargs = {str(key): self._read(arg) for key, arg in named.items()}
        return wire.encode(self._objects[int(number)](*args, **kwargs), self._export)

    def ask(self, name: str, proxy: "Proxy", *args: Any) -> Any:
        """One operation on an object of the program's."""
        return self._read(self.request(name, *(wire.encode(arg, self._export) for arg in (proxy, *args))))

    def call(self, proxy: "Proxy", args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls it; lists and the like among `args` are changed as the program changed them."""
        given = wire.encode(list(args), self._export)
        result, after = self.request(
            "call", wire.encode(proxy, self._export), given, wire.encode(dict(kwargs), self._export)
        )
        for arg, before, now in zip(args, given[1], after, strict=True):
            if isinstance(arg, _MUTABLE) and now is not None and now != before:
                _become(arg, self._read(now))
        return self._read(result)


def _become(value: Any, other: Any) -> None:
    value.clear()
    (value.update if isinstance(value, dict | set) else value.extend)(other)


class Proxy:
    """An object of the program's, as the tests see it.

    It never equals plain data, nor is it less or more, nor is anything computed from both: an object that says so of
    itself would pass any test. With another object of the program's it is compared by the program.
    """

    __slots__ = ("_handle", "_tests")
    _SEEN = ("__name__", "__doc__", "__dict__", "__annotations__", "__qualname__", "__module__")

    def __init__(self, tests: Tests, handle: int) -> None:
        object.__setattr__(self, "_tests", tests)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the object in its own process."""
        return self._tests.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in self._SEEN:
            raise AttributeError(name)
        return self._tests.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._tests.ask("setattr", self, name, value)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Proxy) and self._tests.ask("isinstance", self, value) is True

    def __hash__(self) -> int:
        return hash(self._handle)


def _special(name: str) -> Callable[..., Any]:
    return lambda self, *args: self._tests.ask(name, self, *([] if name == "__exit__" else args))


def _between(name: str) -> Callable[..., Any]:
    def compare(self: Proxy, other: Any) -> Any:
        return self._tests.ask(name, self, other) if isinstance(other, Proxy) else NotImplemented

    return compare


for _name in _SPECIAL:
    setattr(Proxy, _name, _special(_name))
for _name in _BETWEEN:
    setattr(Proxy, _name, _between(_name))
