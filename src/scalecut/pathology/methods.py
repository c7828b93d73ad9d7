"""Ways to use a network on patches: which layers of which weights, and what comes out of them.

`pretrained` is the whole network, `cut` the part up to a layer, `scratch` and `cut-random` are the
same with fresh weights, `reset` is the whole network with fresh weights behind the cut. `sweep` is
every cut there is, `up-to-cut` and `all-layers` put the features of many layers side by side, and
`tuned` takes the layers that do best in cross-validation on the training part.

Shapes: n patches, d features.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn.modules.batchnorm import _BatchNorm

from ..cut.network import cut_after
from ..data.images import Image, LeftOut, evenly
from ..errors import DataError, LayerError
from ..features.extract import Computation, Progress, decoded, extract_features
from ..networks.network import Network, randomly_initialised, seeded, take_statistics
from ..networks.points import ProbePoint

NAMES = (
    "pretrained", "scratch", "cut", "cut-random", "reset", "sweep", "up-to-cut", "all-layers",
    "tuned",
)  # fmt: skip
OF_CUT = {"cut", "cut-random", "reset", "up-to-cut"}
TUNED, SWEEP = "tuned", "sweep"
STATISTICS_IMAGES, STATISTICS_BATCH = 128, 32


@dataclass(frozen=True, slots=True)
class Contestant:
    """The layers that a way to use a network reads, and whose weights they have."""

    name: str  # one of NAMES; of a sweep with the layer behind it
    points: tuple[ProbePoint, ...]
    weights: str = "pretrained"  # or `random`, `reset`

    @property
    def layer(self) -> str:
        """Where it ends."""
        return self.points[-1].layer

    @property
    def label(self) -> str:
        """The layer, or the many, as tables name them."""
        return self.layer if len(self.points) == 1 else f"up to {self.layer}"

    @property
    def kind(self) -> str:
        return self.name.split()[0]


def planned(
    names: Sequence[str], points: Sequence[ProbePoint], cut: ProbePoint | None
) -> list[Contestant]:
    """The contestants of these names, in this order; `tuned` chooses among others and is none yet.

    Raises:
        LayerError: if one is cut, but no layer is given.
    """
    if cut is None and OF_CUT & set(names):
        raise LayerError(
            "A contestant is cut, but no layer is given. Give --at LAYER, or --from RUN."
        )
    last, every = (points[-1],), tuple(points)
    at = (cut,) if cut else ()
    upto = every[: every.index(cut) + 1] if cut else ()
    found = []
    for name in names:
        if name == SWEEP:
            found += [Contestant(f"{SWEEP} {point.layer}", (point,)) for point in points]
        elif name != TUNED:
            found.append(
                {
                    "pretrained": Contestant(name, last),
                    "scratch": Contestant(name, last, "random"),
                    "cut": Contestant(name, at),
                    "cut-random": Contestant(name, at, "random"),
                    "reset": Contestant(name, last, "reset"),
                    "up-to-cut": Contestant(name, upto),
                    "all-layers": Contestant(name, every),
                }[name]
            )
    return found


@dataclass(slots=True, eq=False)
class Source:
    """The network, its twins and the patches that all contestants see."""

    network: Network
    images: list[Image]
    look: Computation
    cut: ProbePoint | None = None
    progress: Progress | None = None
    left_out: list[LeftOut] = field(default_factory=list)

    def features(
        self, contestants: Sequence[Contestant], seed: int
    ) -> dict[tuple[str, str], Float32[np.ndarray, "n d"]]:
        """Pooled features by weights and layer, one pass for each kind of weights.

        Patches that cannot be read are NaN, and named in `left_out`.
        """
        found = {}
        for kind in dict.fromkeys(each.weights for each in contestants):
            asked = [p for each in contestants if each.weights == kind for p in each.points]
            unique = list(dict.fromkeys(asked))
            for layer, matrix in self._extracted(self._weighted(kind, seed), unique, kind).items():
                found[kind, layer] = matrix
        return found

    def keep_readable(self) -> np.ndarray:
        """Which patches can be read; the others are left out and named."""
        is_read = np.ones(len(self.images), dtype=bool)
        for _, _, bad in decoded(
            self.images, range(len(self.images)), self.network.preprocessing, self.look.fit,
            batch_size=self.look.batch_size,
        ):  # fmt: skip
            for number, reason in bad.items():
                is_read[number] = False
                self.left_out.append(LeftOut(self.images[number].name, reason))
        self.images = [image for image, good in zip(self.images, is_read, strict=True) if good]
        return is_read

    def trainable(self, contestant: Contestant, seed: int) -> torch.nn.Module:
        """The network up to where the contestant ends, with pooling and a fresh linear unit.

        Raises:
            DataError: if it reads several layers, which cannot be trained as one network.
        """
        if len(contestant.points) > 1:
            raise DataError(
                f"{contestant.name} reads {len(contestant.points)} layers side by side, which is "
                "for --mode frozen. Leave it out, or train sweep."
            )
        network = self._weighted(contestant.weights, seed)
        return seeded(lambda: cut_after(network, contestant.points[-1], head=1), seed)

    def _weighted(self, kind: str, seed: int) -> Network:
        if kind == "random":
            return randomly_initialised(self.network, seed, self._batches(self.network))
        if kind == "reset":
            assert self.cut is not None  # planned() refuses it
            return reset_behind(self.network, self.cut, seed, self._batches)
        return self.network

    def _extracted(
        self, network: Network, points: Sequence[ProbePoint], kind: str
    ) -> Mapping[str, Float32[np.ndarray, "n d"]]:
        stage = {"pretrained": "features", "random": "random twin", "reset": "reset"}[kind]
        found = extract_features(
            network, self.images, points, **asdict(self.look), progress=self.progress, stage=stage
        )
        self.left_out += [each for each in found.left_out if each not in self.left_out]
        whole = {}
        for name, matrix in found.matrices.items():
            whole[name] = np.full((len(self.images), matrix.shape[1]), np.nan, np.float32)
            whole[name][found.is_read] = matrix
        return whole

    def _batches(self, network: Network) -> Iterator[torch.Tensor]:
        """Some of the patches, for the statistics of batch norms."""
        numbers = evenly(len(self.images), STATISTICS_IMAGES)
        own = network.preprocessing
        for _, batch, _ in decoded(
            self.images, numbers, own, self.look.fit, batch_size=STATISTICS_BATCH
        ):
            if len(batch) > 1:
                yield batch.to(network.device)


def reset_behind(
    network: Network,
    cut: ProbePoint,
    seed: int,
    batches: Callable[[Network], Iterable[torch.Tensor]],
) -> Network:
    """The whole network, trained up to the cut and with fresh weights behind it.

    Batch norms behind the cut take their statistics from `batches`.
    """
    twin = randomly_initialised(network, seed)
    kept = {
        name.removeprefix("body."): tensor
        for name, tensor in cut_after(network, cut).state_dict().items()
    }
    twin.module.load_state_dict(kept, strict=False)
    norms = [
        module
        for name, module in twin.module.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" in kept
    ]
    for module in norms:
        module.track_running_stats = False  # keeps those as trained, in use and untouched
    take_statistics(twin.module, batches(twin))
    for module in norms:
        module.track_running_stats = True  # else training would not move them
    return twin
