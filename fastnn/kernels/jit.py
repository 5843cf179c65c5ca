"""The one decorator of every kernel: its compiler flags, and where its machine code is kept."""

import atexit
import contextlib
import dataclasses
import errno
import functools
import hashlib
import logging
import os
import pickle
import re
import shutil
import signal
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import caching

from fastnn.kernels.collector import without_collections
from fastnn.kernels.forks import compiling, makers, waiting
from fastnn.kernels.inner import Entry, Inner, on_unlocking, others_may_compile
from fastnn.kernels.listening import call_apart
from fastnn.kernels.room import TO_COMPILE, TO_LOAD, check_room_for_a_thread, has_room

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# No fast-math: every rounding is written out, FMAs as `simd.fma`. What LLVM may contract or reorder it does one way in
# a vectorised loop and another way in its remainder; so a row has the same bits wherever it comes to lie, and NaN stays
# visible.
# No counting of references: the caller holds the arrays.
FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
INTERNAL: dict[str, Any] = {**FLAGS, "no_cpython_wrapper": True, "forceinline": True, "pipeline_class": Inner}


def check_compiler() -> None:
    """Check that Numba compiles: functions that work on machine code and pointers have no other way to run.

    Raises
    ------
    RuntimeError
        If it has been told not to.
    """
    if numba.config.DISABLE_JIT:
        raise RuntimeError(
            "fastnn needs Numba's compiler, got NUMBA_DISABLE_JIT=1 (or DISABLE_JIT in numba.config);"
            " unset it, or debug with NUMBA_BOUNDSCHECK=1"
        )


check_compiler()


class Kernel:
    """A function for other kernels to call, which Numba takes for its dispatcher.

    That is made when a compiler first asks for it; a process that finds all machine code on disk needs none.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.py_func, self._options = function, options

    @functools.cached_property
    def dispatcher(self) -> Any:
        return numba.njit(**self._options)(self.py_func)

    @property
    def _numba_type_(self) -> Any:
        return self.dispatcher._numba_type_


def jit(function: Callable[..., Any]) -> Any:
    """Make a function a kernel that is inlined wherever it is called."""
    return Kernel(function, **INTERNAL)


def jit_apart(function: Callable[..., Any]) -> Any:
    """Make a function a kernel that is not inlined: large, and called once a block or not at all in small networks.

    LLVM takes less time over two functions than over one twice as long.
    """
    return Kernel(function, **{**INTERNAL, "forceinline": False})


# Settings of Numba that leave the machine code as it is; joblib's workers have them, and must find the cache.
AT_RUN_TIME = {
    "NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS", "CACHE_DIR", "CACHE_LOCATOR_CLASSES", "THREADING_LAYER",
    "THREADING_LAYER_PRIORITY",
}  # fmt: skip

_is_ending = threading.Event()


def _let_compile_end() -> None:
    """Wait for a compile that Ctrl-C has left alone: LLVM aborts where the interpreter ends before it."""
    if not compiling.acquire(blocking=False):
        _is_ending.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C ends the process at once
        compiling.acquire()
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            # The process is to end by SIGINT, as shells want it; Python forgets that when a compiler calls `exec`.
            with contextlib.suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")
    compiling.release()


atexit.register(_let_compile_end)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function has returned; Python threads that ask at the same time wait for the first.

    On Ctrl-C nobody waits, but what the function compiles is finished, and kept.
    """
    results: dict[Any, Any] = {}

    def call(*arguments: Any) -> None:
        with compiling:
            if arguments not in results:
                results[arguments] = function(*arguments)

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        if arguments not in results:
            call_apart(call, *arguments)
        return results[arguments]

    return wrapper


@dataclasses.dataclass
class Start:
    """How an entry point came about."""

    name: str
    is_compiled: bool  # rather than found on disk
    folder: Path | None
    seconds: float  # others' included, where this process waited for them


starts: list[Start] = []  # of this process


@dataclasses.dataclass
class Wanted:
    """An entry point; with `nogil` it lets other Python threads run."""

    function: Callable[..., Any]
    signature: Any
    name: str
    nogil: bool = True
    made: Any = None  # the compiled function, once it is there


def entry_points(*wanted: Wanted) -> list[Any]:
    """Compile each function for its signature, or load it from the cache.

    Those that are to be compiled take turns in a thread each: LLVM works for one while Python prepares the next, best
    those first for which LLVM takes longest. Each has a folder of its own: Numba's cache can cross two signatures of
    one function when two processes compile them at the same time.
    """
    check_compiler()  # it may have been set since
    with compiling, without_collections():
        missing = [one for one in wanted if one.made is None]
        calls = [functools.partial(_make, one) for one in missing]
        if all(is_cached(one.name) for one in missing):
            starts.extend(call() for call in calls)
        else:
            with _note_of_waiting():
                starts.extend(_at_once(calls) if len(calls) > 1 else [calls[0]()])
        return [one.made for one in wanted]


def _make(wanted: Wanted) -> Start:
    begin, name = time.perf_counter(), wanted.name
    base = _folder_with(name) or cache_folder()
    dispatcher = numba.njit(pipeline_class=Entry, **{**FLAGS, "nogil": wanted.nogil})(wanted.function)
    folder = None if base is None else base / name
    if folder is not None:
        _note_use(folder.parent)
        dispatcher._cache = Cache(wanted.function, folder)
    with _member(makers, threading.get_ident()), _alone(folder):
        _compile(dispatcher, wanted.signature, folder)
    dispatcher.disable_compile()
    found = sum(dispatcher.stats.cache_hits.values())
    _ready.add(name)
    wanted.made = dispatcher
    return Start(name, not found, folder, time.perf_counter() - begin)


def _at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what calls return, each made to its end in a thread of its own, if there can be so many.

    One begins when the one before has come to LLVM, or waits for another process, or to its end. The first error is
    raised.
    """
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []
    warnings: list[tuple[str, tuple[Any, ...]]] = []

    def work(i: int) -> None:
        _thread.warnings, on_unlocking.call = warnings, turns[i].set
        try:
            results[i] = calls[i]()
        except BaseException as error:
            errors.append(error)
        _thread.warnings = on_unlocking.call = None
        turns[i].set()

    turns = [threading.Event() for _ in calls]
    threads = [threading.Thread(target=work, args=(i,), name="fastnn call", daemon=True) for i in range(len(calls))]
    for i, thread in enumerate(threads):
        try:
            check_room_for_a_thread()
            thread.start()
        except RuntimeError:  # there can be no more threads
            work(i)
        turns[i].wait()
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    for message, values in warnings:
        _warn(message, *values)
    if errors:
        raise errors[0]
    return results


def address_in_memory(dispatcher: Any) -> int:
    """Return where the machine code of an entry point begins, as other machine code calls it."""
    (compiled,) = dispatcher.overloads.values()
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


NOTE_AFTER = 1.0  # seconds
_notes = threading.Semaphore()  # one in a process


@contextlib.contextmanager
def _note_of_waiting() -> Iterator[None]:
    """Tell the user why a block takes more than a second, the first time in a process."""

    def tell() -> None:
        if _notes.acquire(blocking=False):
            lost = f"{why_not_kept()}, so the next process does it again"
            _warn("compiling the kernels; %s", "this machine keeps them" if cache_folder() else lost)

    timer = threading.Timer(NOTE_AFTER, tell)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # there can be no more threads: then without
        check_room_for_a_thread()
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


_thread = threading.local()


def _warn(message: str, *values: Any) -> None:
    """Log a warning, which goes to stderr where nobody has set up a handler.

    A thread of `_at_once` leaves it to the one that waits for it, as a handler may fork, or compile: it would wait for
    that one.
    """
    if getattr(_thread, "warnings", None) is not None:
        _thread.warnings.append((message, values))
        return
    logger = logging.getLogger("fastnn")
    if all(isinstance(handler, logging.NullHandler) for handler in _handlers(logger)):
        say(message % values)
    else:
        logger.warning(message, *values)


def say(line: str) -> None:
    """Write a line to stderr; a job goes on where that is closed (`2>&-`), or its disk is full."""
    if sys.stderr is not None:  # None is stdout to `print`
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr)


def _handlers(logger: logging.Logger | None) -> list[logging.Handler]:
    """Return all that a logger's records come to."""
    if logger is None:
        return []
    return logger.handlers + (_handlers(logger.parent) if logger.propagate else [])


# -- the cache ---------------------------------------------------------------------------------------------------------

PATIENCE = 300.0  # seconds to wait for another process that compiles the same
LOOKS_APART = 0.05
_lock_files: set[IO[bytes]] = set()  # that are open


@contextlib.contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Let one process at a time compile an entry point; the others wait, and then find it on disk.

    The system frees the lock of a process that dies. Without locks, on some network file systems, all of them compile.
    """
    if folder is None or _is_kept(folder):
        yield
        return
    try:
        file = open(folder.with_suffix(".lock"), "ab", buffering=0)  # noqa: SIM115
    except OSError:
        yield
        return
    with file, _member(_lock_files, file):
        deadline = time.monotonic() + PATIENCE
        while not _lock(file) and not _is_kept(folder) and time.monotonic() < deadline:
            others_may_compile()  # what that process does not
            with _member(waiting, threading.get_ident()):
                if _is_ending.wait(LOOKS_APART):
                    raise SystemExit  # of this thread, for whose code nobody waits any more
        try:
            yield
        finally:
            _unlock(file)


@contextlib.contextmanager
def _member(members: set[Any], member: Any) -> Iterator[None]:
    """Let something be a member of a set meanwhile."""
    members.add(member)
    try:
        yield
    finally:
        members.discard(member)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file as long as it is open; False if another process has it, True too if there are no locks."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def _unlock(file: IO[bytes]) -> None:
    """Free a lock, for a child too that was forked meanwhile and has the file; closing here alone would not."""
    if sys.platform != "win32" and not file.closed:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _close_lock_files() -> None:
    """In a child, which would have the locks of a parent that dies."""
    for file in _lock_files:
        file.close()
    _lock_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_lock_files)

OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # say nothing about the files


def _compile(dispatcher: Any, signature: Any, folder: Path | None) -> None:
    """Compile or load a dispatcher; what is wrong with the cache costs time, and a line in the log, but no more."""
    _check_room(is_kept=folder is not None and _is_kept(folder))
    try:
        dispatcher.compile(signature)
    except Exception as error:  # whatever Numba makes of a damaged file
        if folder is None or isinstance(error, MemoryError):
            raise
        if dispatcher.overloads:
            _warn("compiled kernels cannot be kept in %s: %r", folder, error)
            return
        _warn("compiled kernels in %s cannot be used, so they are compiled again: %r", folder, error)
        if getattr(error, "errno", None) not in OWN_LIMITS:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        _compile(dispatcher, signature, None)


def _check_room(is_kept: bool) -> None:
    n, action = (TO_LOAD, "load") if is_kept else (TO_COMPILE, "compile")
    if not has_room(n):
        raise MemoryError(
            f"to {action} its kernels fastnn needs {n >> 20} MiB of memory, more than this process may have; raise"
            " its limit (such as `ulimit -v`), or hold less data"
            + ("" if is_kept else ", or run `fastnn warmup` before")
        )


class Locator(caching._CacheLocator):  # type: ignore[misc]
    """Tells Numba's cache where to keep a function: here, whatever its settings say and wherever the source lies.

    Numba's own locators refuse folders that can only be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_cache_path(self) -> str:
        return str(self.folder)

    def get_source_stamp(self) -> str:
        return ""  # the folder is of one version of all sources

    def get_disambiguator(self) -> str:
        return ""


class CacheFiles(caching.CompileResultCacheImpl):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        self._locator, self._filename_base = Locator(folder), function.__name__


CHECKSUM_SIZE = 16


class CheckedFiles(caching.IndexDataCacheFile):  # type: ignore[misc]
    """End with a checksum: a damaged byte of machine code would end the process that runs it, or worse."""

    def _dump(self, value: Any) -> bytes:
        content: bytes = super()._dump(value)
        return content + _checksum(content)

    def _load_data(self, name: str) -> Any:
        path = Path(self._data_path(name))
        if path.is_dir():  # to Numba a file that cannot be opened is one that is gone, and it cannot write here either
            raise ValueError(f"{name} is a folder")
        whole = path.read_bytes()
        content = whole[:-CHECKSUM_SIZE]
        if whole[-CHECKSUM_SIZE:] != _checksum(content):
            raise ValueError(f"the checksum of {name} is wrong")
        return pickle.loads(content)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=CHECKSUM_SIZE).digest()


class Cache(caching.FunctionCache):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        self._impl_class = functools.partial(CacheFiles, folder=folder)
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = CheckedFiles(self._cache_path, self._impl.filename_base, locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As Numba's own, which first fills its tables for compiling: a tenth of a second."""
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """As Numba's own, without a hash of the function and its cells, which may differ from process to process.

        The folder is of one entry point of one version of all sources.
        """
        return sig, codegen.magic_tuple()


_ready: set[str] = set()


def is_ready(name: str) -> bool:
    """Whether an entry point is there, in this process or on disk, so that nobody waits for the compiler."""
    if name not in _ready and is_cached(name):
        _ready.add(name)
    return name in _ready


def is_cached(name: str) -> bool:
    """Whether the machine code of an entry point is on disk."""
    return _folder_with(name) is not None


def _folder_with(name: str) -> Path | None:
    return next((folder for folder in cache_folders() if _is_kept(folder / name)), None)


def _is_kept(folder: Path) -> bool:
    try:
        return all(any(folder.glob(f"*.{kind}")) for kind in ("nbi", "nbc"))  # Numba's index, and the code
    except OSError:  # within a folder of somebody else's
        return False


# As they are at the import: what this process compiles is of these, whatever an upgrade makes of them meanwhile.
# An install may have bytecode alone.
_FILES = (sorted(Path(__file__).parent.glob(kind)) for kind in ("*.py", "*.pyc"))
_SOURCES = next((_checksum(b"".join(file.read_bytes() for file in files)).hex() for files in _FILES if files), "")


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of this version's machine code on this CPU, or None where no candidate is writable."""
    for folder in cache_folders():
        try:
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if is_new:
            _remove_unused(folder.parent)
        if os.access(folder, os.W_OK):
            return folder
    return None


def why_not_kept() -> str:
    """Return why there is no `cache_folder`."""
    if not numba.config.OPT:
        return "with NUMBA_OPT=0 they cannot be kept"
    return "no folder is writable" if _SOURCES else "fastnn lies in no folder, and cannot tell its versions apart"


UNUSED_AFTER = 90 * 86400  # seconds
_FOLDER = re.compile(r"kernels-[0-9a-f]{16}(-[0-9a-f]{32})?")  # of ours, or one that is being removed


def _note_use(folder: Path) -> None:
    """Have a folder's time of change say when it was last used, where we may write it."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def _remove_unused(base: Path) -> None:
    """Remove the folders of other versions and CPUs that nobody has used for long.

    Other processes may do so at the same time, or use one after all: it goes at once, under another name, and who then
    misses it compiles.
    """
    with contextlib.suppress(OSError):
        for folder in list(base.iterdir()):
            if _FOLDER.fullmatch(folder.name):
                _remove_if_unused(folder)


def _remove_if_unused(folder: Path) -> None:
    with contextlib.suppress(OSError):
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > UNUSED_AFTER:
            doomed = folder.rename(folder.with_name(f"{folder.name[:24]}-{uuid.uuid4().hex}"))
            shutil.rmtree(doomed, ignore_errors=True)


@functools.cache
def cache_folders() -> list[Path]:
    """Return where this version's machine code for this CPU may be kept; what others have left there is used too."""
    if not numba.config.OPT or not _SOURCES:  # without optimisation it has addresses of this process
        return []
    package = Path(__file__).parents[1]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = numba.config.CACHE_DIR
    bases = [Path(chosen)] if chosen else [package / "__pycache__", Path(home) / "fastnn"]
    # Without a home the "~" stays.
    return [base / f"kernels-{_fingerprint()}" for base in bases if base.parts[:1] != ("~",)]


def _fingerprint() -> str:
    """Hash all that decides the machine code; Numba's own key sees one source file and no setting."""
    settings = (
        sorted((key, value) for key, value in os.environ.items() if key.startswith("FASTNN_SIMD")),
        [(name, getattr(numba.config, name)) for name in _settings_of_code()],
        (sys.version, numba.__version__, llvmlite.__version__, np.__version__),
        (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()),
    )
    return hashlib.sha256(f"{_SOURCES} {settings!r}".encode()).hexdigest()[:16]


def _settings_of_code() -> list[str]:
    """Return the names of Numba's settings, which the environment, a file or a program may set; not those of CUDA."""
    names = (name for name in dir(numba.config) if name.isupper() and "CUDA" not in name)
    return [name for name in names if name not in AT_RUN_TIME]
