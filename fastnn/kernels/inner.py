"""How Numba compiles an entry point, and the functions below it: those to LLVM IR and no further.

By itself Numba optimises every function and turns it into machine code, with all that it calls, and does so again in
each caller; six levels down that was three quarters of the compile time. Here a function stays as it was written until
its entry point is optimised as a whole, of Numba's passes only those that our kernels need are run, and what has been
found out about types is kept, a fifth of the rest. While LLVM works for one entry point, half of the time, Python may
prepare another.
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import types
from numba.core.codegen import JITCodeLibrary, create_pass_builder
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.interpreter import Interpreter
from numba.core.typed_passes import NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    IRProcessing,
    RewriteSemanticConstants,
    TranslateByteCode,
)

from fastnn.kernels.lowering import InnerLower, is_extreme_of_integers


class PlainLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The IR of a function as it was written."""

    _final_module: Any

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout


class Library(PlainLibrary):
    """The IR of one inner function."""

    _shared_module: Any

    def finalize(self) -> None:
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """Return the IR of this function and of all that it calls, each once."""
        if self._shared_module is None:
            module = self._final_module.clone()
            for library in self._callees():
                module.link_in(library._final_module, preserve=True)
            for function in module.functions:
                if not function.is_declaration and function.linkage == llvm.Linkage.external:
                    function.linkage = "linkonce_odr"
            self._shared_module = module
        return self._shared_module

    def _callees(self) -> list[Any]:
        found: dict[Any, None] = {}
        pending = list(self._linking_libraries)
        while pending:
            library = pending.pop()
            if library not in found:
                found[library] = None
                pending += library._linking_libraries
        return list(found)


class EntryLibrary(PlainLibrary):
    """An entry point with all that it calls, optimised once: no Python objects, so no passes for their references."""

    _machine_code: bytes
    _globals: list[str]

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == llvm.Linkage.linkonce_odr:
                # Nobody else calls it, so that what it does not use need not be passed; and nobody else may find it, as
                # by an internal name the linker of other machine code in this process does.
                function.linkage = "private"
        self._machine_code, self._globals = _optimized(self._codegen, self._final_module)
        self._compiled_object = self._machine_code  # the engine takes it, and makes none

    def _finalize_dynamic_globals(self) -> None:
        """Note addresses in this process, with which code cannot be kept, where they are left after optimisation."""
        self._dynamic_globals = [name for name in self._globals if name.startswith("numba.dynamic.globals")]

    def finalize(self) -> None:
        super().finalize()
        self._compiled_object = self._machine_code  # for the cache

    def _get_module_for_linking(self) -> Any:
        """Return the names of the functions for the cache: nobody links an entry point, and IR takes long to load."""
        names = [f.name for f in self.get_defined_functions() if f.linkage == llvm.Linkage.external]
        return llvm.parse_assembly("".join(f'define void @"{name}"() {{ unreachable }}\n' for name in names))


def _optimized(codegen: Any, module: Any) -> tuple[bytes, list[str]]:
    """Return the machine code of a module, optimised, and its variables' names; other threads may compile meanwhile.

    LLVM works on a copy in a context of its own, as it asks of those who use it in several threads.
    """
    module = llvm.parse_bitcode(module.as_bitcode(), llvm.create_context())
    options = {"opt": numba.config.OPT}
    codegen._customize_tm_options(options)
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)
    builder = create_pass_builder(
        machine, numba.config.OPT, numba.config.LOOP_VECTORIZE, numba.config.SLP_VECTORIZE
    )  # fmt: skip
    manager = builder.getModulePassManager()
    with _compiler_unlocked(), llvm.ffi.OutputString() as error:
        _unlocked("LLVMPY_RunNewModulePassManager")(manager, module, builder)
        buffer = _unlocked("LLVMPY_TargetMachineEmitToMemory")(machine, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    lib = llvm.ffi.lib
    code = ctypes.string_at(lib.LLVMPY_GetBufferStart(buffer), lib.LLVMPY_GetBufferSize(buffer))
    lib.LLVMPY_DisposeMemoryBuffer(buffer)
    return code, [variable.name for variable in module.global_variables]


def _unlocked(name: str) -> Any:
    """Return a function of LLVM as it is, without the lock of llvmlite."""
    return getattr(llvm.ffi.lib, name)._cfn


on_unlocking = threading.local()  # .call() in a thread, if any, when others may compile


def others_may_compile() -> None:
    if getattr(on_unlocking, "call", None):
        on_unlocking.call()


@contextlib.contextmanager
def _compiler_unlocked() -> Iterator[None]:
    """Let other threads compile, however often this one has taken Numba's lock."""
    lock = global_compiler_lock._lock
    held = lock._release_save()
    others_may_compile()
    try:
        yield
    finally:
        lock._acquire_restore(held)


class PlainInterpreter(Interpreter):  # type: ignore[misc]
    """Reads bytecode, without a look for blocks of `with` and calls with keywords, which need mending."""

    def post_process(self, peepholes: Any, func_ir: Any) -> Any:
        return func_ir


@register_pass(mutates_CFG=True, analysis_only=False)
class Translation(TranslateByteCode):  # type: ignore[misc]
    _name = "fastnn_inner_translation"

    def run_pass(self, state: Any) -> bool:
        state.func_ir = PlainInterpreter(state.func_id).interpret(state.bc)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class EntryLowering(NativeLowering):  # type: ignore[misc]
    _name = "fastnn_entry_lowering"
    lowering_class = InnerLower


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowering(EntryLowering):
    _name = "fastnn_inner_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        # Callers look the function up by its entry point; nothing ever calls this one.
        entry_point: Any = {}.get
        state.targetctx.insert_user_function(entry_point, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=entry_point)
        return True


class Remembering:
    """A typing context that keeps the types of calls, operators and attributes, which Numba finds anew at each use."""

    def __init__(self, context: Any, known: dict[Any, Any]) -> None:
        self._context, self._known = context, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: Any, kws: Any) -> Any:
        if kws:
            return self._context.resolve_function_type(function, args, kws)
        if is_extreme_of_integers(function, args):  # for which Numba compiles a function
            return types.int64(types.int64, types.int64)
        key = function, args
        if key not in self._known:
            self._known[key] = self._context.resolve_function_type(function, args, kws)
        return self._known[key]

    def resolve_getattr(self, kind: Any, attribute: str) -> Any:
        key = kind, attribute
        if key not in self._known:
            self._known[key] = self._context.resolve_getattr(kind, attribute)
        return self._known[key]


_known_types: dict[Any, Any] = {}


@register_pass(mutates_CFG=True, analysis_only=False)
class TypeInference(NopythonTypeInference):  # type: ignore[misc]
    _name = "fastnn_inner_type_inference"

    def run_pass(self, state: Any) -> bool:
        context = state.typingctx
        state.typingctx = Remembering(context, _known_types)
        try:
            return bool(super().run_pass(state))
        finally:
            state.typingctx = context


class Passes(PassManager):  # type: ignore[misc]
    """Runs its passes, and no checks of the compiler between them."""

    def _runPass(self, index: int, kind: Any, state: Any) -> None:
        kind.analysis = self._analysis
        kind.run_pass(state)


def _pipelines(name: str, lowering: type[NativeLowering]) -> list[Any]:
    passes = Passes(name)
    for kind in (
        Translation, FixupArgs, IRProcessing, RewriteSemanticConstants, DeadBranchPrune, TypeInference, lowering,
        NoPythonBackend,
    ):  # fmt: skip
        passes.add_pass(kind, kind.__name__)
    passes.finalize()
    return [passes]


class Inner(CompilerBase):  # type: ignore[misc]
    def define_pipelines(self) -> list[Any]:
        return _pipelines("fastnn inner function", Lowering)


class Entry(CompilerBase):  # type: ignore[misc]
    def define_pipelines(self) -> list[Any]:
        self.state.library = EntryLibrary(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return _pipelines("fastnn entry point", EntryLowering)
