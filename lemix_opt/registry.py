"""Names for things that can be chosen by name, with entry points for other distributions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from lemix_opt.errors import FieldError, LemixError, check_keywords, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Factories by name: built-in ones by dotted path, others through an entry-point group.

    Parameters
    ----------
    kind : str
        What the names stand for, used in errors ("solver", "policy", …).
    group : str
        Entry-point group other distributions add to.
    builtin : dict of str to str
        Name to ``"module:attribute"``; imported only when asked for.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._paths = dict(builtin)
        self._extra: dict[str, Callable[..., T]] = {}

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Add a factory at run time; a name that is taken raises."""
        if name in self.names():
            raise LemixError(f"{self.kind} {name!r} is registered already", expected="a new name")
        self._extra[name] = factory

    def _plugins(self) -> dict[str, Any]:
        return {e.name: e for e in entry_points(group=self.group) if e.name not in self._paths}

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted({*self._paths, *self._extra, *self._plugins()})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def factory(self, name: str) -> Callable[..., T]:
        """Return the factory called `name`; an unknown name raises `UnknownNameError`."""
        if name in self._extra:
            return self._extra[name]
        if name in self._paths:
            module, _, attribute = self._paths[name].partition(":")
            found: Callable[..., T] = getattr(import_module(module), attribute)
            return found
        plugins = self._plugins()
        if name not in plugins:
            raise unknown(self.kind, name, self.names())
        try:
            loaded: Callable[..., T] = plugins[name].load()
        except (ImportError, AttributeError) as error:
            raise LemixError(
                f"{self.kind} {name!r} cannot be loaded: {error}",
                where=f"entry point {plugins[name].value}",
                hint="Check with 'lemix versions' whether another folder shadows its package",
            ) from error
        return loaded

    def parameters(self, name: str) -> tuple[str, ...]:
        """Names of the keywords the factory takes."""
        return tuple(inspect.signature(self.factory(name)).parameters)

    def create(self, name: str, **parameters: Any) -> T:
        """Build the thing called `name`; unknown keywords raise, naming the nearest known one.

        Raises
        ------
        UnknownNameError
            For an unknown name or keyword.
        FieldError
            If a keyword without default is missing.
        """
        factory = self.factory(name)
        known = inspect.signature(factory).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            check_keywords(f"{self.kind} {name!r}", parameters, known)
        for key, parameter in known.items():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if needed and key not in parameters:
                raise FieldError(f"no {key!r}", where=f"{self.kind} {name!r}", expected="a value")
        return factory(**parameters)
