"""The package is described in `setup.cfg`; here is what that cannot say: the part in C.

Without a compiler it is left out, and NumPy does the same, several times slower.
"""

from setuptools import Extension, setup

PARTS = ("_measures", "_newton")

setup(
    ext_modules=[
        Extension(
            f"ocsolver.collocation.{part}",
            [f"ocsolver/collocation/{part}.c"],
            extra_compile_args=["-O3"],
            optional=True,
        )
        for part in PARTS
    ]
)
