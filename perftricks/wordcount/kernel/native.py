"""Machine code of the kernel: compiled once with numba, loaded without numba.

Importing numba takes most of a second, llvmlite (which numba depends on) a tenth of that. The
functions the kernel exports work on raw pointers, allocate nothing and raise nothing, so their
object code needs no runtime library and llvmlite can load it by itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import llvmlite.binding as llvm
import numpy as np

SYMBOL_PREFIX = "perftricks_"


def _initialize() -> None:
    """Make LLVM ready for this machine's processor; harmless when repeated."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _target_machine() -> Any:
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if llvm.get_process_triple().startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )


def processor() -> str:
    """The processor the machine code is for: name and features."""
    features = llvm.get_host_cpu_features().flatten()
    return f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {features}"


def exported_functions() -> tuple[str, ...]:
    """The functions of :mod:`.counting` that the Python side calls."""
    return (
        "count",
        "find_cut",
        "rehash_table",
        "rehash_ngrams",
        "merge_entries",
        "merge_ngrams",
        "write_words",
        "write_entries",
        "place",
    )


def compile_kernel() -> bytes:
    """Compile the exported functions to object code (imports numba; takes several seconds)."""
    from numba import cfunc, types

    from . import counting

    _initialize()
    signature = types.int64(types.CPointer(types.int64))
    whole = llvm.parse_assembly("")
    for name in exported_functions():
        compiled = cfunc(signature, error_model="numpy", fastmath=False)(getattr(counting, name))
        # numba emits the function itself and a wrapper for C that reports exceptions. Nothing here
        # raises, and the wrapper needs numba's runtime: keep the function, `status f(result *,
        # exception **, argument)`, and hide the wrapper.
        wrapper = compiled.native_name
        mangled = wrapper.removeprefix("cfunc.")
        module = llvm.parse_assembly(
            str(compiled.inspect_llvm()).replace(mangled, SYMBOL_PREFIX + name)
        )
        module.get_function("cfunc." + SYMBOL_PREFIX + name).linkage = "internal"
        whole.link_in(module)
    machine = _target_machine()
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(whole, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3)))
    return bytes(machine.emit_object(whole))


def _as_address_table(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.array([a.__array_interface__["data"][0] for a in arrays], np.int64)


class Kernel:
    """The exported functions, callable with arrays; calls release the GIL."""

    def __init__(self, object_code: bytes) -> None:
        _initialize()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)
        self._functions = {}
        for name in exported_functions():
            address = self._engine.get_function_address(SYMBOL_PREFIX + name)
            if not address:
                raise ValueError(f"the object code lacks {name}")
            self._functions[name] = prototype(address)

    def call(self, name: str, arrays: Iterable[np.ndarray]) -> int:
        """Call an exported function with the arrays it expects, contiguous and typed."""
        arrays = tuple(arrays)
        addresses = _as_address_table(arrays)
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        status = self._functions[name](
            ctypes.addressof(result), ctypes.addressof(exception), addresses.ctypes.data
        )
        if status:
            raise RuntimeError(f"the kernel's {name} failed with status {status}")
        return result.value
