"""The page of a cut network: what the cut keeps of the whole network, and how it was verified."""

from dataclasses import replace

import pandas as pd

from ..figures.analyses import saving_drawing
from ..runs import Run
from .cells import Cell
from .facts import trust, warnings_of
from .page import Check, Section, Shown, Story, Table

NEEDED = (
    *("point.layer", "num_features", "proof.whole", "proof.cut", "proof.batch_size"),
    "proof.lines",
)  # facts of scalecut.json that the page shows


def cut_story(run: Run) -> Story:
    """The page of a cut network."""
    facts = run.facts
    curve, weights = facts.get("curve") or {}, facts.get("weights") or {}
    lines = [facts["choice"]["reason"]] if facts.get("choice") else []
    led = (
        [Section("The curve behind the cut", [str(curve["finding"])])] if "finding" in curve else []
    )
    layer, source = facts["point"]["layer"], weights.get("source")
    used = [f"{facts['num_features']} features", *([f"weights: {source}"] if source else [])]
    return Story(
        name=run.folder.resolve().name,
        title=f"{_network(run)}, cut after {layer}",
        finding=" ".join(facts["proof"]["lines"][:2]),
        question=f"What does {_network(run)} keep, cut after {layer}?",
        checks=[Check("Verified", list(facts["proof"]["lines"])), Check("Network", used)],
        warnings=warnings_of(facts),
        sections=[replace(cut_section(run), lines=lines), *led],
        trust=trust(facts),
        kind="cut",
        written=str(facts.get("written", ""))[:10],
    )


def cut_section(run: Run, figure: str = "saving") -> Section:
    """What a cut keeps of the network's parameters and multiply-accumulates."""
    facts = run.facts
    verified, choice, layer = facts["proof"], facts.get("choice"), facts["point"]["layer"]
    costs = {
        "parameters": ("parameters", 1),
        "multiply-accumulates per image": ("macs", 1),
        f"milliseconds per batch of {verified['batch_size']}": ("seconds", 1e3),
        "peak memory per image, MB": ("peak_bytes", 1e-6),
    }
    # Of pairs, as in the lines above the table: a ratio of medians may contradict it.
    paired = {"seconds": verified.get("seconds_ratio")}
    rows: list[tuple[Cell, ...]] = []
    for name, (key, unit) in costs.items():
        whole, cut, share = verified["whole"].get(key), verified["cut"].get(key), paired.get(key)
        if whole and cut is not None:
            own = None if share else unit * cut
            share = share or cut / whole
            rows.append((name, unit * whole, own, (f"{100 * share:.0f} %", share)))
    return Section(
        f"The cut after {layer}",
        [*([choice["reason"]] if choice else []), *verified["lines"]],
        figures=_kept(run, figure),
        tables=[Table("Savings", ("cost", "whole network", "cut", "share kept"), rows)],
    )


def _kept(run: Run, name: str) -> list[Shown]:
    costs = run.facts.get("costs")
    if not costs:
        return []
    layer, whole = run.facts["point"]["layer"], run.facts["proof"]["whole"]
    drawing = saving_drawing(pd.DataFrame(costs), _network(run), layer, whole)
    note = "Parameters and multiply-accumulates up to each layer, as a share of the whole network."
    return [Shown(name, "Share kept", note, drawing)]


def _network(run: Run) -> str:
    return str(run.facts.get("architecture") or "network")
