"""Train a network with all its weights on patches, as `graziani2021` did (4.4).

Global average pooling and one linear unit are the caller's (`cut_after(network, layer, head=1)`);
here come Adam, the mean squared error and the epochs, by PyTorch Lightning, which the extra
`finetune` brings. What happens in an epoch follows from the seed and the epoch's number alone, so
that a fit which was killed goes on behind its last whole epoch, to the same numbers: to the last
bit on a CPU with the same number of threads.

Shapes: n images, m to train on, v to validate on, k to test on, e epochs.
"""

import copy
import logging
import re
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..cache import setting_hash
from ..data.decoding import fitted
from ..data.images import Image
from ..errors import DataError, ModelError, OutputError
from ..features.extract import Progress, decoded, resolved_device, resolved_precision
from ..networks.network import Preprocessing, tensors_sha256

if TYPE_CHECKING:  # an extra, and seconds to import
    from pytorch_lightning import LightningModule, Trainer

MOST_BYTES = 2 * 10**9  # of decoded pictures kept in memory; more are decoded in every epoch
NONE = np.array([], dtype=np.int64)
LOSS, VALIDATION_LOSS = "losses", "validation_losses"
LAST = "last"  # the checkpoint of the last whole epoch
RECIPE = 1  # part of every fingerprint: raise it when the same settings would give other numbers


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained; the defaults are those of `graziani2021`, except for the target.

    Args:
        patience: stop after so many epochs without a better validation loss; 0 for never.
        keep_best: predict with the weights of the epoch best in validation, not of the last.
        raw_target: train on the target as it is, as in the paper. By default it is standardised by
            the training part: with few patches, Adam never gets from 0 to an area of 300 px.
        precision: `float32`, `bfloat16` (mixed), or `auto`: mixed on a GPU, float32 elsewhere.
        device: `auto`, `cpu` or as torch names it.
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    batch_size: int = 32
    patience: int = 0
    keep_best: bool = False
    raw_target: bool = False
    precision: str = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Which images are trained on, tested on and validated on, by their numbers."""

    train: Int64[np.ndarray, " m"]
    test: Int64[np.ndarray, " k"]
    validation: Int64[np.ndarray, " v"] = field(default_factory=lambda: NONE)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What a trained network says of the test images, and how it came there.

    Losses are mean squared errors of the target as it is trained on: where it is standardised, 1
    is no better than the mean.
    """

    predictions: Float64[np.ndarray, " k"]
    losses: Float64[np.ndarray, " e"]  # of each epoch, while the weights change
    validation_losses: Float64[np.ndarray, " f"]  # after each epoch; none without such a part
    epoch: int  # whose weights predict, counted from 1


def finetuned(
    module: nn.Module,
    images: Sequence[Image],
    target: Float64[np.ndarray, " n"],
    parts: Parts,
    place: Path,
    *,
    preprocessing: Preprocessing,
    fit: str = "squash",
    training: Training | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    stage: str = "finetune",
) -> Fit:
    """Train a copy of the network, all its weights, and predict the target of the test images.

    Args:
        module: from images (n, 3, h, w) to (n, 1). Make its new layers under a seed: a fit is known
            again by the weights it starts from.
        place: a folder of fits. Each has its own in it, named by all that its numbers follow from,
            with a TensorBoard log, the last whole epoch until the fit is finished, and then the
            result, which is what the same call gives from then on.
        seed: of the order of images, and of what is random inside the network.
        stage: what the progress is called, from the second epoch on with the loss of the last. It
            counts the images that are trained on, over all epochs.

    Raises:
        DataError: if an image cannot be read, too few are there to train or validate on, or the
            loss is not finite.
        ModelError: if Lightning is not installed, the network does not give one number an image, or
            a batch does not fit into memory.
        OutputError: if the place cannot be written.
    """
    _check_installed()
    training = _resolved(training or Training())
    _check(target, parts, training)
    own = target[parts.train]
    mean, scale = (0.0, 1.0) if training.raw_target else (own.mean(), own.std())
    history = _History(progress, stage, training.epochs * len(parts.train))
    batches = _Batches(
        images, (target - mean) / scale, preprocessing, fit, training.batch_size, parts.train
    )
    with _told_in_words(training, place):
        copied = copy.deepcopy(module).to(training.device)
        copied = copied.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        folder = place / _fingerprint(copied, batches, parts, training, seed)[:16]
        result = folder / "fit.npz"
        if not result.is_file():
            held = batches.in_memory(np.concatenate([parts.train, parts.validation, parts.test]))
            task = _task(copied, held, parts, training, seed, history)
            epoch = _train(task, history, folder, training)
            outputs = _predicted(copied, held.of(parts.test), training.device)
            _write(result, outputs=outputs, epoch=epoch, **history.losses)
            (folder / f"{LAST}.ckpt").unlink()
        with np.load(result) as stored:
            outputs, epoch = stored["outputs"], int(stored["epoch"])
            history.losses = {name: stored[name].tolist() for name in history.losses}
    history.tell(history.n_images)
    losses, validation_losses = map(np.array, history.losses.values())
    return Fit(mean + scale * outputs, losses, validation_losses, epoch)


# --- inside --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Batches:
    """Pictures as the network takes them and their targets, decoded in the background."""

    images: Sequence[Image]
    target: Float64[np.ndarray, " n"]  # as it is trained on
    preprocessing: Preprocessing
    fit: str
    size: int
    rows: Int64[np.ndarray, " r"]  # in this order

    def of(self, rows: Int64[np.ndarray, " r"]) -> "_Batches":
        return replace(self, rows=rows)

    def __iter__(self) -> Iterator[tuple[Float32[Tensor, "b 3 h w"], Float32[Tensor, " b"]]]:
        """An image that would be alone joins the batch before it: batch norm needs two."""
        last = self.size + 1 if len(self.rows) % self.size == 1 else 0
        n = max(0, len(self.rows) - last)
        for rows, size in ((self.rows[:n], self.size), (self.rows[n:], last)):
            for numbers, inputs, bad in decoded(
                self.images, rows.tolist(), self.preprocessing, self.fit, batch_size=size
            ):
                for number, reason in bad.items():
                    raise DataError(
                        f"{self.images[number].name}: {reason}. Leave it out, or mend the file."
                    )
                inputs = inputs.contiguous(memory_format=torch.channels_last)
                yield inputs, torch.from_numpy(self.target[numbers]).float()

    def in_memory(self, rows: Int64[np.ndarray, " r"]) -> "_Batches":
        """The same with the images of these rows decoded once for all, if there is room."""
        own, frame = self.preprocessing, self.preprocessing.frame(self.fit)
        if 3 * frame.height * frame.width * len(rows) > MOST_BYTES:
            return self

        def shown(row: int) -> Image:
            image = self.images[row]
            return Image(image.name, fitted(image.decode(), frame, own.interpolation, own.fill()))

        images = list(self.images)
        with ThreadPoolExecutor(max_workers=max(2, torch.get_num_threads())) as workers:
            for row, image in zip(rows, workers.map(shown, rows.tolist()), strict=True):
                images[row] = image
        return replace(self, images=images, fit="squash")  # which leaves them as they are


@dataclass(slots=True, eq=False)
class _History:
    """The epochs that are done, and who is told how far it came.

    The best weights travel with the last in one file: Lightning's own best file is forgotten when
    the folder moves.
    """

    progress: Progress | None
    stage: str
    n_images: int  # of all epochs
    losses: dict[str, list[float]] = field(default_factory=lambda: {LOSS: [], VALIDATION_LOSS: []})
    best: dict[str, Tensor] | None = None  # weights of the best epoch, where they are kept

    def best_epoch(self) -> int:
        return int(np.argmin(self.losses[VALIDATION_LOSS])) + 1

    def tell(self, n_done: int) -> None:
        if self.progress:
            last = f": loss {self.losses[LOSS][-1]:.3g}" if self.losses[LOSS] else ""
            self.progress(self.stage + last, n_done, self.n_images)


def _task(
    module: nn.Module,
    batches: _Batches,
    parts: Parts,
    training: Training,
    seed: int,
    history: _History,
) -> "LightningModule":
    """The network with its optimiser, losses and images, as Lightning asks for them."""
    from pytorch_lightning import LightningModule

    class Task(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = module.train().requires_grad_(True)
            self.n_done = 0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.module.parameters(), lr=training.learning_rate)

        def train_dataloader(self) -> _Batches:
            rng = np.random.default_rng([seed, self.current_epoch, 0])
            return batches.of(rng.permutation(parts.train))

        def val_dataloader(self) -> _Batches | list:
            return batches.of(parts.validation) if len(parts.validation) else []

        def on_train_epoch_start(self) -> None:
            rng = np.random.default_rng([seed, self.current_epoch, 1])
            torch.manual_seed(int(rng.integers(2**63)))
            self.n_done = self.current_epoch * len(parts.train)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return self.loss(batch, LOSS)

        def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
            self.loss(batch, VALIDATION_LOSS)

        def loss(self, batch: tuple[Tensor, Tensor], name: str) -> Tensor:
            inputs, target = batch
            loss = mse_loss(self.module(inputs).squeeze(1).float(), target)
            if not torch.isfinite(loss):
                raise DataError(
                    f"The loss is {loss.item()} in epoch {self.current_epoch + 1}, with a learning "
                    f"rate of {training.learning_rate:g}. Give a smaller one, such as "
                    f"{training.learning_rate / 10:g}."
                )
            self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(target))
            return loss

        def on_train_batch_end(self, outputs: object, batch: tuple, batch_idx: int) -> None:
            self.n_done += len(batch[1])
            history.tell(self.n_done)

        def on_train_epoch_end(self) -> None:
            for name, values in history.losses.items():
                if name in self.trainer.callback_metrics:
                    values.append(float(self.trainer.callback_metrics[name]))
            if training.keep_best and history.best_epoch() == len(history.losses[LOSS]):
                history.best = copy.deepcopy(self.module.state_dict())

        def on_save_checkpoint(self, checkpoint: dict) -> None:
            checkpoint["history"] = history.losses, history.best

        def on_load_checkpoint(self, checkpoint: dict) -> None:
            history.losses, history.best = checkpoint["history"]

    return Task()


def _train(task: "LightningModule", history: _History, folder: Path, training: Training) -> int:
    """Train from the last whole epoch in the folder on; gives the epoch whose weights it left."""
    last = folder / f"{LAST}.ckpt"
    with _quiet(), _left_as_found(training.device):
        trainer = _trainer(folder, training)
        trainer.fit(task, ckpt_path=last if last.is_file() else None, weights_only=True)
    if history.best is None:
        return len(history.losses[LOSS])
    task.get_submodule("module").load_state_dict(history.best)
    return history.best_epoch()


def _trainer(folder: Path, training: Training) -> "Trainer":
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
    from pytorch_lightning.loggers import TensorBoardLogger

    class Stopping(EarlyStopping):
        """Also before the first epoch, if the fit had ended so when it was killed."""

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = self.stopped_epoch > 0

    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder, filename=LAST, save_on_train_epoch_end=True, enable_version_counter=False
        )
    ]
    if training.patience:
        callbacks.append(
            Stopping(VALIDATION_LOSS, patience=training.patience, check_on_train_epoch_end=True)
        )
    device = torch.device(training.device)
    return Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=1 if device.type == "cpu" else [device.index or 0],
        precision=training.precision,  # pyright: ignore[reportArgumentType]
        plugins=[LightningEnvironment()],  # else it takes a SLURM job for tasks of its own
        max_epochs=training.epochs,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
        callbacks=callbacks,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _predicted(module: nn.Module, batches: _Batches, device: str) -> Float64[np.ndarray, " r"]:
    """What the network gives, in float32 however it was trained."""
    module.to(device).eval()
    with torch.inference_mode():
        outputs = torch.cat([module(inputs.to(device)).cpu() for inputs, _ in batches])
    if outputs.shape[1:] != (1,):
        raise ModelError(
            f"The network gives {tuple(outputs.shape)} for {len(outputs)} images, but one number "
            "an image is trained. Give it a head of one output."
        )
    return outputs[:, 0].double().numpy()


def _fingerprint(
    module: nn.Module, batches: _Batches, parts: Parts, training: Training, seed: int
) -> str:
    """Everything that a fit's numbers follow from.

    Code is no part of a state dict: what the network answers to two images stands for it.
    """
    images = {
        name: [batches.images[row].key() for row in getattr(parts, name)]
        for name in Parts.__slots__
    }
    answer = _predicted(module, batches.of(parts.train[:2]), training.device)
    return setting_hash(
        {
            "recipe": RECIPE,
            "tensors": tensors_sha256(module),
            "text": re.sub(r"0x[0-9a-f]+", "", str(module)),  # addresses differ from run to run
            "answer": [f"{value:.2e}" for value in answer],
            "images": images,
            "target": batches.target[np.concatenate([parts.train, parts.validation])].tolist(),
            "preprocessing": asdict(batches.preprocessing),
            "fit": batches.fit,
            "training": asdict(training),
            "seed": seed,
            "torch": torch.__version__,
        }
    )


def _write(path: Path, **arrays: Any) -> None:
    """The file is whole or absent."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.savez(unfinished, allow_pickle=False, **arrays)
    unfinished.replace(path)


def _resolved(training: Training) -> Training:
    """The device that there is, and the precision in Lightning's words."""
    device = resolved_device(training.device)
    precision, kind = resolved_precision(training.precision, device), torch.device(device).type
    if training.precision == "auto":
        mixed = "bf16-mixed" if precision == "bfloat16" else "16-mixed"
        name = mixed if kind == "cuda" else "32-true"  # on a processor, bfloat16 is to be asked for
    else:
        name = "bf16-mixed" if precision == "bfloat16" else "32-true"
    return replace(training, device=device, precision=name)


def _check_installed() -> None:
    if not all(map(find_spec, ("pytorch_lightning", "tensorboard"))):
        raise ModelError(
            "Mode finetune needs pytorch-lightning and tensorboard. Install scalecut[finetune]."
        )


def _check(target: Float64[np.ndarray, " n"], parts: Parts, training: Training) -> None:
    n, own = len(parts.train), target[parts.train]
    if n < 2 or not len(parts.test):
        raise DataError(
            f"There are {n} images to train on and {len(parts.test)} to test on. Give 2 or more, "
            "and 1 or more."
        )
    used = np.concatenate([own, target[parts.validation]])
    if not np.isfinite(used).all() or np.ptp(own) == 0:
        raise DataError(
            f"The target of {n} images to train on is {own.min():g} to {own.max():g}. Give finite "
            "targets that differ."
        )
    if training.epochs < 1 or training.batch_size < 2 or training.learning_rate <= 0:
        raise DataError(
            f"{training.epochs} epochs in batches of {training.batch_size} at a learning rate of "
            f"{training.learning_rate:g} train nothing. Give 1 epoch or more, batches of 2 or more "
            "and a rate above 0."
        )
    if (training.patience or training.keep_best) and not len(parts.validation):
        raise DataError(
            "Stopping early and keeping the best epoch need images to validate on, and there are "
            "none. Cut patches with a validation part, or train a fixed number of epochs."
        )


@contextmanager
def _told_in_words(training: Training, place: Path) -> Iterator[None]:
    """What goes wrong outside the network, in a line that can be acted upon."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"Training on a batch of {training.batch_size} does not fit into the memory of "
            f"{training.device}. Give a smaller one, such as --batch-size "
            f"{max(2, training.batch_size // 2)}."
        ) from error
    except OSError as error:
        raise OutputError(
            f"{place} cannot be written ({error.strerror or error}). Give a folder that can; what "
            "was trained up to the last whole epoch is kept."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its banners, tips and warnings."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _left_as_found(device: str) -> Iterator[None]:
    """The random state, gradient mode, cuDNN and Ctrl-C of the process as they were."""
    cudnn: Any = torch.backends.cudnn
    before, on_interrupt = (cudnn.deterministic, cudnn.benchmark), signal.getsignal(signal.SIGINT)
    forked = [torch.device(device)] if torch.device(device).type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=forked), torch.enable_grad():
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
    except SystemExit as ended:  # what Lightning makes of Ctrl-C, and of SIGTERM without a status
        if isinstance(ended.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from ended
        raise SystemExit(ended.code or 128 + signal.SIGTERM) from ended
    finally:
        cudnn.deterministic, cudnn.benchmark = before
