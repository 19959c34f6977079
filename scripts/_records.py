"""Numbers of a run as JSON files, and the software and machine that they belong to."""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ocsolver as oc

__all__ = ["environment", "storable", "write_json"]


def storable(value: Any) -> Any:
    """Round to six digits, and numbers that are not finite to null, because JSON has none."""
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record so that a reader finds the old or the new file, whole."""
    text = json.dumps(storable(record), ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def environment() -> dict[str, Any]:
    """Versions and machine, without names of hosts, users or folders."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "ocsolver": oc.__version__,
        },
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }
