"""The package is described in `setup.cfg`; here is what that cannot say: the part in C.

Without a compiler it is left out, and NumPy does the same, several times slower.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "ocsolver.collocation._newton",
            ["ocsolver/collocation/_newton.c"],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
