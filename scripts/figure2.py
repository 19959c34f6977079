"""Figure 2 of the paper: E-MSA against gradient methods for the residual CNN on MNIST, loss and accuracy per epoch.

It tunes the step sizes of the gradient methods on validation images, runs several seeds, and writes a picture and all
its numbers. A run that is interrupted goes on where it stopped; `--draw` shows what is done. The full study takes
hours: E-MSA's steps are slow.
"""

from __future__ import annotations

import sys
from functools import partial

from scripts._images_study import figure

__all__ = ["main"]

main = partial(figure, 2, "mnist", "epoch", __doc__)

if __name__ == "__main__":
    sys.exit(main())
