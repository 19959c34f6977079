"""The package is described in `setup.cfg`; here is what that cannot say: the part in C.

Without a compiler it is left out, and NumPy does the same, several times slower.
"""

from glob import glob

from setuptools import Extension, setup

PARTS = ("collocation._measures", "collocation._moves", "collocation._newton", "tape._program")

setup(
    ext_modules=[
        Extension(
            f"ocsolver.{part}",
            [f"ocsolver/{part.replace('.', '/')}.c"],
            extra_compile_args=["-O3"],
            depends=glob("ocsolver/collocation/*.h"),
            optional=True,
        )
        for part in PARTS
    ]
)
