"""What decides the speed on this machine, in a form to paste into a bug report."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from numba.core.codegen import get_host_cpu_features

import fastnn
from fastnn import parallel
from fastnn.kernels import jit
from fastnn.kernels.width import SIMD_BITS

# Of dozens of features, those that decide which kernels run and how fast.
_TELLING = ("avx", "avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "amx-tile", "neon", "fp16", "bf16", "sve")
_PACKAGES = ("numpy", "numba", "llvmlite", "scikit-learn")


def machine() -> list[tuple[str, str]]:
    """Return names and values that describe this installation and this machine."""
    n_threads, reason = parallel.default_threads()
    return [
        ("fastnn", fastnn.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((package, version(package)) for package in _PACKAGES),
        ("CPU", cpu_name()),
        ("SIMD", f"{SIMD_BITS} bits; the CPU has {', '.join(cpu_features()) or 'none of ' + ', '.join(_TELLING)}"),
        ("threads", f"{n_threads} ({reason})"),
        ("threading layer", "fastnn's own threads; Numba's layers (tbb, omp, workqueue) are not used"),
        ("kernel cache", _short(jit.cache_folder())),
    ]


def report() -> str:
    """Return `machine()` as aligned lines."""
    lines = machine()
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def cpu_features() -> list[str]:
    """Return the telling features of this CPU, by the names that /proc/cpuinfo has for them."""
    there = {flag[1:] for flag in get_host_cpu_features().split(",") if flag.startswith("+")}
    there |= {"avx512_bf16"} if "avx512bf16" in there else set()  # LLVM's name
    return [feature for feature in _TELLING if feature in there]


def cpu_name() -> str:
    """Return the name the CPU gives itself; Python's own answer is empty on most Linux systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        answer = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return answer.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _short(folder: Path | None) -> str:
    """Name a folder without the parts that tell whose machine this is."""
    if folder is None:
        return f"none: {jit.why_not_kept()}, every process compiles"
    for base, name in ((Path(__file__).parents[1], "."), (Path(os.path.expanduser("~")), "~")):
        if folder.is_relative_to(base):
            return f"{name}/{folder.relative_to(base)}"
    return str(folder)
