"""The package is described in `setup.cfg`; here is what that cannot say: the part in C.

Without a compiler it is left out, and NumPy does the same, several times slower.
"""

from glob import glob

from setuptools import Extension, setup

PARTS = {
    "collocation._compiled": ("_estimates", "_march", "_measures", "_module", "_moves", "_newton", "_warm"),
    "tape._program": ("_program",),
}


def source(part: str, name: str) -> str:
    """Path of a file of a part."""
    folder = part.rpartition(".")[0]
    return f"ocsolver/{folder}/{name}.c"


setup(
    ext_modules=[
        Extension(
            f"ocsolver.{part}",
            [source(part, name) for name in names],
            extra_compile_args=["-O3", "-fvisibility=hidden"],
            depends=glob("ocsolver/*/*.h"),
            optional=True,
        )
        for part, names in PARTS.items()
    ]
)
