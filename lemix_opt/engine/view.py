"""`View`: what a policy may know, handed to compiled code by its address.

numba passes a tuple of arrays by value, more than a hundred words for this one, at every call. A
type of its own passes one word, and reads a column's description where it is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, intrinsic, models, register_model, typeof_impl, unbox

from lemix_opt.engine.jit import compiled_once
from lemix_opt.instance import Instance


class Columns(NamedTuple):
    """The columns of a `View`, all read-only."""

    training: npt.NDArray[np.uint8]
    release_s: npt.NDArray[np.float64]
    batch: npt.NDArray[np.int64]
    prompt_tokens: npt.NDArray[np.int64]
    slo_s: npt.NDArray[np.float64]
    node_class: npt.NDArray[np.int64]
    forward_s: npt.NDArray[np.float64]
    backward_s: npt.NDArray[np.float64]
    held_bytes: npt.NDArray[np.float64]
    hop_s: npt.NDArray[np.float64]
    update_s: npt.NDArray[np.float64]
    memory_bytes: npt.NDArray[np.float64]
    capacity_bytes: npt.NDArray[np.float64]
    resident_bytes: npt.NDArray[np.float64]


_DIMENSIONS = (1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2, 2)
_ENTRIES = (types.uint8, types.float64, types.int64, types.int64, types.float64, types.int64)
COLUMN_TYPES = {
    name: types.Array(entry, dimensions, "C", readonly=True)
    for name, entry, dimensions in zip(
        Columns._fields, (*_ENTRIES, *[types.float64] * 8), _DIMENSIONS, strict=True
    )
}
COLUMNS_T = types.NamedTuple(tuple(COLUMN_TYPES.values()), Columns)


class ViewType(types.Type):  # type: ignore[misc]
    """Type of a `View` in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="lemix_opt.View")


VIEW_T = ViewType()


@register_model(ViewType)
class _ViewModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, ir.IntType(64))


@infer_getattr
class _ViewAttributes(AttributeTemplate):  # type: ignore[misc]
    key = ViewType

    def generic_resolve(self, view: Any, name: str) -> Any:
        return COLUMN_TYPES.get(name)


@lower_getattr_generic(ViewType)  # type: ignore[untyped-decorator]
def _read_column(context: Any, builder: Any, view: Any, address: Any, name: str) -> Any:
    columns = builder.inttoptr(address, context.get_value_type(COLUMNS_T).as_pointer())
    place = Columns._fields.index(name)
    return builder.load(cgutils.gep_inbounds(builder, columns, 0, place))


@intrinsic  # type: ignore[untyped-decorator]
def _write(typing_context: Any, columns: Any, address: Any) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, to = arguments
        builder.store(value, builder.inttoptr(to, value.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(columns, address), lower


def describe(columns: Any, address: int) -> int:
    """Write where the columns lie and how long they are to an address."""
    _write(columns, address)
    return 0


class View:
    """What a policy may know: tasks, predicted costs and capacities, all read-only.

    Shapes: T tasks, N nodes, S stages, K node classes; seconds and bytes. Columns by task:
    ``training`` (0 or 1), ``release_s``, ``batch``, ``prompt_tokens``, ``slo_s``; by node:
    ``node_class``; ``forward_s``, ``backward_s``, ``held_bytes`` [K,T,S] (the most a task holds at
    once, `Instance.peak_bytes`), ``hop_s`` [K,T,S−1], ``update_s`` [K,S] (with the
    all-reduce, `Costs.closing_s`), ``memory_bytes``, ``capacity_bytes``, ``resident_bytes`` [N,S].
    """

    __slots__ = ("_room", "address", "columns")

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        # An array's description is at most eleven words: five, a shape and strides.
        self._room = np.zeros(16 * len(columns), dtype=np.int64)
        self.address = int(self._room.ctypes.data)
        if not config.DISABLE_JIT:
            compiled_once(describe, (COLUMNS_T, types.int64))(columns, self.address)

    def __getattr__(self, name: str) -> Any:
        if name not in Columns._fields:
            raise AttributeError(f"a view has no column {name!r}")
        return getattr(self.columns, name)


@typeof_impl.register(View)  # type: ignore[untyped-decorator]
def _type_of(view: View, context: Any) -> ViewType:
    return VIEW_T


@unbox(ViewType)  # type: ignore[untyped-decorator]
def _address_of(numba_type: Any, view: Any, call: Any) -> Any:
    number = call.pyapi.object_getattr_string(view, "address")
    address = call.pyapi.long_as_longlong(number)
    call.pyapi.decref(number)
    failed = cgutils.is_not_null(call.builder, call.pyapi.err_occurred())
    return NativeValue(address, is_error=failed)


def fixed(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """Return a contiguous read-only column."""
    column = np.ascontiguousarray(array, dtype=dtype).view()
    column.setflags(write=False)
    return column


def view_of(instance: Instance) -> View:
    """Return the columns a policy may read."""
    work, costs = instance.workload, instance.costs
    columns = (
        (work.kind, np.uint8),
        (work.release_s, np.float64),
        (work.batch, np.int64),
        (work.prompt_tokens, np.int64),
        (work.slo_s, np.float64),
        (instance.cluster.node_class, np.int64),
        (costs.forward_s, np.float64),
        (costs.backward_s, np.float64),
        (instance.peak_bytes(costs), np.float64),
        (costs.hop_s, np.float64),
        (costs.closing_s, np.float64),
        (instance.cluster.memory_bytes, np.float64),
        (instance.capacity_bytes, np.float64),
        (instance.resident_bytes, np.float64),
    )
    return View(Columns(*(fixed(array, dtype) for array, dtype in columns)))
