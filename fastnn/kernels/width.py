"""How wide the vectors of the kernels are."""

import os

import llvmlite.binding as llvm


def _simd_bits() -> int:
    forced = os.environ.get("FASTNN_SIMD_BITS")
    if forced:
        if forced not in ("128", "256", "512"):
            raise ValueError(f"FASTNN_SIMD_BITS must be 128, 256 or 512, got {forced!r}")
        return int(forced)
    features = llvm.get_host_cpu_features()
    return 512 if features.get("avx512f") else 256 if features.get("avx2") else 128


SIMD_BITS = _simd_bits()
# For some CPUs LLVM prefers half the width, with which an epoch of small networks took a fifth longer.
PREFERENCE = f'"prefer-vector-width"="{SIMD_BITS}"'
