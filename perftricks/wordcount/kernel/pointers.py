"""Raw pointers for the kernel: how a named tuple of numpy arrays reaches compiled code.

The exported functions take one argument, the address of a table of array addresses. Inside,
:func:`pointer` turns an address into a typed pointer. Compared with numba's arrays this keeps the
machine code free of negative-index checks and of reference counting, so that it depends on nothing
but itself and can be stored as an object file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

INT8, INT32, INT64, FLOAT64 = types.int8, types.int32, types.int64, types.float64
UINT8, UINT16, UINT64 = types.uint8, types.uint16, types.uint64

Compiled = Callable[..., Any]


@intrinsic
def pointer(typingctx: Any, address: Any, element: Any) -> Any:
    """The address (an integer) as a pointer to elements of the given numba type."""
    result = types.CPointer(element.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, element), codegen


@intrinsic
def prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask the processor to fetch the cache line of an element, which is needed soon."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        int32 = ir.IntType(32)
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            (address.type,),
            ir.FunctionType(ir.VoidType(), [address.type, int32, int32, int32]),
        )
        builder.call(function, [address, int32(0), int32(3), int32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def computed(typingctx: Any, value: Any) -> Any:
    """An integer as it is, by a way that LLVM does not look into.

    What is made of it stays arithmetic: LLVM turns a choice by a condition into a branch where it
    waits for memory, and a branch that depends on the text is guessed wrong every few characters.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        return builder.asm(ir.FunctionType(integer, [integer]), "", "=r,0", args, False)

    return types.int64(types.int64), codegen


@intrinsic
def masked(typingctx: Any, value: Any, mask: Any) -> Any:
    """A float where all bits of the mask are set, 0.0 where none is; without a branch."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(64))
        return builder.bitcast(builder.and_(bits, args[1]), ir.DoubleType())

    return types.float64(types.float64, types.int64), codegen


# No exceptions and no fast math: the order of float sums decides ties. No wrappers for calls from
# Python and C either: only the exported functions are called from outside, and wrappers take a
# third of the time to compile.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def kernel(function: Compiled) -> Compiled:
    """Compile a function of the kernel."""
    decorated: Compiled = njit(**_OPTIONS)(function)
    return decorated


def inlined(function: Compiled) -> Compiled:
    """Like :func:`kernel`, for the small functions of the innermost loops: always inlined."""
    decorated: Compiled = njit(forceinline=True, **_OPTIONS)(function)
    return decorated
