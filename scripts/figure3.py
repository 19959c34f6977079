"""Figure 3 of the paper: E-MSA against gradient methods for the residual CNN on MNIST, against seconds.

The runs are those of Figure 2: with the same folder, or with `--reuse figure2.json`, nothing is trained again.
"""

from __future__ import annotations

import sys
from functools import partial

from scripts._images_study import figure

__all__ = ["main"]

main = partial(figure, 3, "mnist", "seconds", __doc__)

if __name__ == "__main__":
    sys.exit(main())
