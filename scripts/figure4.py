"""Figure 4 of the paper: E-MSA against gradient methods for the residual CNN on Fashion-MNIST, per epoch.

The network and the mini-batches are those of Figure 2; the step sizes are tuned anew.
"""

from __future__ import annotations

import sys
from functools import partial

from scripts._images_study import figure

__all__ = ["main"]

main = partial(figure, 4, "fashion", "epoch", __doc__)

if __name__ == "__main__":
    sys.exit(main())
