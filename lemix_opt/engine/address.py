"""Tuples of arrays that are handed to compiled code by their address.

numba passes a tuple of arrays by value, hundreds of words for a long one, at every call. A type of
its own passes one word, and reads an array's description where it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, intrinsic, models, register_model, typeof_impl, unbox

from lemix_opt.engine.jit import compiled_once


class AddressType(types.Type):  # type: ignore[misc]
    """Type in compiled code of a tuple that lies elsewhere; `tuple_type` is its own type."""

    def __init__(self, name: str, tuple_type: Any) -> None:
        self.tuple_type = tuple_type
        super().__init__(name=name)


@register_model(AddressType)
class _AddressModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, ir.IntType(64))


@infer_getattr
class _Attributes(AttributeTemplate):  # type: ignore[misc]
    key = AddressType

    def generic_resolve(self, address_type: Any, name: str) -> Any:
        known = address_type.tuple_type.fields
        return address_type.tuple_type.types[known.index(name)] if name in known else None


@lower_getattr_generic(AddressType)  # type: ignore[untyped-decorator]
def _read_entry(context: Any, builder: Any, numba_type: Any, address: Any, name: str) -> Any:
    values = context.get_value_type(numba_type.tuple_type)
    place = numba_type.tuple_type.fields.index(name)
    entries = builder.inttoptr(address, values.as_pointer())
    return builder.load(cgutils.gep_inbounds(builder, entries, 0, place))


@intrinsic  # type: ignore[untyped-decorator]
def _write(typing_context: Any, entries: Any, address: Any) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, to = arguments
        builder.store(value, builder.inttoptr(to, value.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(entries, address), lower


def describe(entries: Any, address: int) -> int:
    """Write where the arrays lie and how long they are to an address."""
    _write(entries, address)
    return 0


class Addressed:
    """A named tuple of arrays and numbers that compiled code finds by its address.

    Subclasses set `numba_type`. Numbers are those of the moment it is made; arrays are shared.
    """

    numba_type: AddressType
    __slots__ = ("_room", "address", "columns")

    def __init__(self, columns: Any) -> None:
        self.columns = columns
        # An array's description is at most eleven words: five, a shape and strides.
        self._room = np.zeros(16 * len(columns), dtype=np.int64)
        self.address = int(self._room.ctypes.data)
        if not config.DISABLE_JIT:
            signature = (self.numba_type.tuple_type, types.int64)
            compiled_once(describe, signature)(columns, self.address)

    def __getattr__(self, name: str) -> Any:
        if name not in type(self.columns)._fields:
            raise AttributeError(f"there is no column {name!r}")
        return getattr(self.columns, name)


@typeof_impl.register(Addressed)  # type: ignore[untyped-decorator]
def _type_of(addressed: Addressed, context: Any) -> AddressType:
    return addressed.numba_type


@unbox(AddressType)  # type: ignore[untyped-decorator]
def _address_of(numba_type: Any, addressed: Any, call: Any) -> Any:
    number = call.pyapi.object_getattr_string(addressed, "address")
    address = call.pyapi.long_as_longlong(number)
    call.pyapi.decref(number)
    failed = cgutils.is_not_null(call.builder, call.pyapi.err_occurred())
    return NativeValue(address, is_error=failed)
