"""Say on the screen what a run is about to do, and what it found."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wmtp.maths.loss import METHOD


def overview(algo: Any, data: Any, leaks: Sequence[Any], run: Path) -> str:
    """Say what is about to be trained on what."""
    parameters = sum(parameter.numel() for parameter in algo.model.parameters())
    trained = sum(parameter.numel() for parameter in algo.model.parameters() if parameter.requires_grad)
    share = f" ({trained / 1e6:.1f}M trained)" if trained < parameters else ""
    samples = data.samples["train"]
    dropped = (
        f", {len(data.dropped['train'])} left out (too long, or without a solution)" if data.dropped["train"] else ""
    )
    leaked = f"\n{len(leaks)} training problems are in a benchmark in use: see left_out.json" if leaks else ""
    return (
        f"{algo.name}: {parameters / 1e6:.1f}M parameters{share}, {algo.model.heads} heads\n"
        f"loss: {METHOD}\n"
        f"{data.source.name} ({data.source.licence}): {len(samples)} training samples, "
        f"{sum(samples.targets)} target tokens{dropped}{leaked}\n"
        f"run directory: {run}"
    )


def summary(metrics: dict[str, float], run: Path, report: Path, stores: Iterable[Any]) -> str:
    """Say in a few lines what the run found and where to look."""
    lines = [""]
    for key in (key.removeprefix("after/") for key in metrics if key.startswith("after/") and key.endswith("/pass@1")):
        numbers = [
            f"{when} {metrics[f'{when}/{key}']:.3f} "
            f"[{metrics[f'{when}/{key}_low']:.3f}, {metrics[f'{when}/{key}_high']:.3f}]"
            for when in ("before", "after")
            if f"{when}/{key}" in metrics
        ]
        lines.append(f"{key:<24} {'   '.join(numbers)}")
    if "after/val/ce_head0" in metrics:  # the data may have no validation split
        known = [when for when in ("before", "after") if f"{when}/val/ce_head0" in metrics]
        numbers = "   ".join(f"{when} {metrics[f'{when}/val/ce_head0']:.4f}" for when in known)
        lines.append(f"{'val CE of head 0':<24} {numbers}")
    lines.append(f"{'report':<24} {report.with_suffix('.html')}")
    lines.append(f"{'run directory':<24} {run}")
    lines += [f"{'MLflow':<24} {store.ui_command}" for store in stores]
    return "\n".join(lines)
