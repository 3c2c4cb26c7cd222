"""The variants: instruction sets, threads, rounding and seeds; and what arithmetic each one has."""

import hashlib
import json
import os
import subprocess
import sys
from functools import lru_cache

VARIANTS: dict[str, dict[str, str]] = {
    "base": {},
    "plain": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "mkl": {"MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "threads2": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "ROBUST_THREADS": "2"},
    "rounding": {"ROBUST_JITTER": "1e-6"},  # every random number times 1 - 1e-6
    "seeds+1000": {"ROBUST_SHIFT": "1000"},
    "seeds+2000": {"ROBUST_SHIFT": "2000"},
    "seeds+3000": {"ROBUST_SHIFT": "3000"},
}
# with base and the three above, ten seeds from which a finding has its spread
MORE_SEEDS = {f"seeds+{shift}": {"ROBUST_SHIFT": str(shift)} for shift in range(4000, 10000, 1000)}
CONTROLLED = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "ROBUST_SHIFT",
    "ROBUST_JITTER",
    "ROBUST_THREADS",
)
PROBE = """
import hashlib, json, torch
g = torch.Generator().manual_seed(0)
a, x = torch.randn(257, 191, generator=g), torch.randn(8, 16, 14, 14, generator=g)
d = a.double()
parts = {"product32": a.T @ a, "product64": d.T @ d, "tanh": a.tanh(), "sum": a.sum(),
         "convolution": torch.conv2d(x, x[:, :, :3, :3]), "solve": torch.linalg.solve(d.T @ d, d.T)}
print(json.dumps({k: hashlib.sha1(v.contiguous().numpy().tobytes()).hexdigest()[:8]
                  for k, v in parts.items()}))
"""


def environment(variant: str) -> dict[str, str]:
    """The environment variables of a kernel that runs under this variant."""
    kept = {name: value for name, value in os.environ.items() if name not in CONTROLLED}
    return kept | {"OMP_NUM_THREADS": "1"} | (VARIANTS | MORE_SEEDS)[variant]


@lru_cache(maxsize=32)
def arithmetic(variant: str) -> dict[str, str]:
    """Digests of a few results: equal ones mean the same arithmetic on this machine."""
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(
        command, env=environment(variant), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def same_as_base(variant: str) -> bool:
    """Whether the variant changes neither arithmetic nor threads nor draws on this machine."""
    settings = VARIANTS.get(variant, {})
    if variant == "base" or any(name.startswith("ROBUST") for name in settings):
        return False
    return arithmetic(variant) == arithmetic("base")


def fingerprint() -> str:
    """One short digest of the arithmetic of this machine."""
    text = json.dumps(arithmetic("base"), sort_keys=True)
    return hashlib.sha1(text.encode()).hexdigest()[:8]
