"""What a fitted model must hold before it is asked anything, checked when it comes from a file."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray, floats, integers
from lemix_opt.errors import FieldError

Part = TypeVar("Part")
_MOST = 2**63
Shape = tuple[int | None, ...]
_NUMBERS: dict[str, tuple[str, Any]] = {
    "f": ("float64", np.float64),
    "i": ("int64", np.int64),
    "U": ("text", np.str_),
}


class State:
    """The attributes of a loaded object: each is asked for by name once, none may be left over.

    Compiled code reads without looking at bounds, and attributes of an object hide its methods, so
    that everything a model is made of is declared by its class, in `check_state`.

    Parameters
    ----------
    owner : object
        What was loaded.
    where : str
        What it is called in errors.
    """

    def __init__(self, owner: object, where: str) -> None:
        self.owner, self.where = owner, where
        self._left: dict[str, Any] = dict(vars(owner))
        for name in self._left:
            if callable(getattr(type(owner), name, None)):
                raise self.refuse(name, "an attribute that hides a method", "none of this name")

    def take(self, name: str) -> Any:
        """Return an attribute of any kind."""
        if name not in self._left:
            raise FieldError("missing", where=self._at(name), expected="an attribute of the model")
        return self._left.pop(name)

    def array(self, name: str, kinds: str, shape: Shape) -> npt.NDArray[Any]:
        """Return an array of some kinds of numbers and a shape, in which None is any length.

        Parameters
        ----------
        name : str
            The attribute.
        kinds : str
            Characters of numpy kinds: ``f`` for float64, ``i`` for int64, ``U`` for text.
        shape : tuple of int or None
            What is expected.
        """
        return self._array(self._at(name), self.take(name), kinds, shape)

    def floats(
        self,
        name: str,
        shape: Shape,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        infinite: bool = False,
    ) -> FloatArray:
        """Return an array of numbers within bounds, see `lemix_opt.checks.floats`."""
        found = self.array(name, "f", shape)
        return floats(self._at(name), found, minimum=minimum, maximum=maximum, infinite=infinite)

    def integers(self, name: str, shape: Shape, minimum: int, maximum: int) -> IntArray:
        """Return an array of whole numbers within bounds."""
        found = self.array(name, "i", shape)
        return integers(self._at(name), found, minimum=minimum, maximum=maximum)

    def arrays(
        self, name: str, shapes: tuple[Shape, ...], minimum: float | None = None
    ) -> tuple[FloatArray, ...]:
        """Return a tuple of arrays of finite numbers."""
        found = self.take(name)
        if type(found) is not tuple or len(found) != len(shapes):
            said = f"{len(found)} entries" if isinstance(found, tuple) else _kind(found)
            raise FieldError(said, where=self._at(name), expected=f"a tuple of {len(shapes)}")
        places = [f"{self._at(name)}[{level}]" for level in range(len(shapes))]
        return tuple(
            floats(place, self._array(place, own, "f", shape), minimum=minimum)
            for place, own, shape in zip(places, found, shapes, strict=True)
        )

    def number(
        self,
        name: str,
        *,
        minimum: float = 0.0,
        maximum: float | None = None,
        infinite: bool = False,
        nan: bool = False,
    ) -> float:
        """Return a number within bounds."""
        found = self.take(name)
        if isinstance(found, bool) or not isinstance(found, int | float | np.number):
            raise FieldError(_kind(found), where=self._at(name), expected="a number")
        if isinstance(found, int) and abs(found) > _MOST:
            raise self.refuse(name, "a whole number of too many digits", f"at most {_MOST}")
        value = float(found)
        if nan and np.isnan(value):
            return value
        own = floats(self._at(name), value, minimum=minimum, maximum=maximum, infinite=infinite)
        return float(own)

    def whole(self, name: str, minimum: int, maximum: int) -> int:
        """Return a whole number within bounds."""
        found = self.take(name)
        if type(found) is not int:
            raise self.refuse(name, _kind(found), "a whole number")
        return int(integers(self._at(name), found, minimum=minimum, maximum=maximum))

    @overload
    def part(self, name: str, kind: type[Part]) -> tuple[Part, State]: ...

    @overload
    def part(self, name: str, kind: type[Part], *, optional: bool) -> tuple[Part, State] | None: ...

    def part(
        self, name: str, kind: type[Part], *, optional: bool = False
    ) -> tuple[Part, State] | None:
        """Return an attribute of exactly one class with its own state, None if it is that."""
        found = self.take(name)
        if optional and found is None:
            return None
        if type(found) is not kind:
            raise FieldError(_kind(found), where=self._at(name), expected=f"a {kind.__name__}")
        return found, State(found, self._at(name))

    def settings(self, *names: str) -> None:
        """Check that attributes are what a parameter may be: a number, a text, or nothing."""
        for name in names:
            found = self.take(name)
            if found is not None and not isinstance(found, bool | int | float | str | np.number):
                raise FieldError(
                    _kind(found), where=self._at(name), expected="a number, a text or nothing"
                )

    def holds(self, name: str) -> bool:
        """Whether an attribute is there that was not asked for yet."""
        return name in self._left

    def end(self) -> None:
        """Check that nothing is left."""
        for name in self._left:
            known = f"only what a {type(self.owner).__name__} has"
            raise FieldError("an unknown attribute", where=self._at(name[:40]), expected=known)

    def refuse(self, name: str, what: str, expected: str) -> FieldError:
        """Return the error about an attribute."""
        return FieldError(what, where=self._at(name), expected=expected)

    def _at(self, name: str) -> str:
        return f"{self.where}.{name}"

    @staticmethod
    def _array(where: str, found: Any, kinds: str, shape: Shape) -> npt.NDArray[Any]:
        names = " or ".join(_NUMBERS[kind][0] for kind in kinds)
        wide = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        expected = f"an array of {names} of shape {wide}"
        if type(found) is not np.ndarray:
            raise FieldError(_kind(found), where=where, expected=expected)
        # Numbers of other widths would be compiled for first.
        known = any(np.issubdtype(found.dtype, _NUMBERS[kind][1]) for kind in kinds)
        if not known or not found.dtype.isnative:
            raise FieldError(f"entries of type {found.dtype}", where=where, expected=expected)
        if found.ndim != len(shape) or any(
            wanted not in (None, size) for size, wanted in zip(found.shape, shape, strict=True)
        ):
            raise FieldError(f"shape {found.shape}", where=where, expected=expected)
        return found


def _kind(found: object) -> str:
    return f"a {type(found).__name__}"
