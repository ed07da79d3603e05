"""The training loop that tokenizers and models share, on Hugging Face Accelerate.

A `Task` says what one step computes and what comes out at the end; the `Trainer` does the rest:
precision, accumulation, clipping, averaged weights, the learning-rate plan, logs, checkpoints,
resuming, the time box and a safe stop on SIGTERM, SIGINT or SIGHUP.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor

from ecar_lab.data.feeds import Batch, Prefetcher
from ecar_lab.data.progress import Bar
from ecar_lab.device import autocast, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.files import atomic_directory, output_file, write_json
from ecar_lab.generator import LatentGenerator
from ecar_lab.machine import count_flops, matmul_rate
from ecar_lab.training import state
from ecar_lab.training.agreement import of_the_first
from ecar_lab.training.config import TrainConfig
from ecar_lab.training.launch import Launch, Window, compile_networks, without_compiling
from ecar_lab.training.log import DivergenceGuard, Meter, RunLog
from ecar_lab.training.optim import Plan, build_optimizers, lr_factor
from ecar_lab.training.processes import share_of
from ecar_lab.training.sharding import collected, spread, whole
from ecar_lab.training.task import Task

logger = logging.getLogger(__name__)
SETTLE_SECONDS = 30.0  # how long a time box watches the rate before it fixes the number of steps
SETTLE_STEPS = 8
PROBE_IMAGES = 8
REPLAN = 0.05  # a plan is revised when the rest of the run has become longer or shorter by this


class Trainer:
    """Runs a task to its end, to the end of its time box, or to a signal."""

    def __init__(self, cfg: TrainConfig, task: Task, launch: Launch):
        self.cfg, self.task = cfg, task
        accelerator = self.accelerator = launch.accelerator
        self.folder, self.stop, self.clock = launch.folder, launch.stop, launch.clock
        self.run_folder = cfg.run_folder
        self.device = accelerator.device
        self.dtype = pick_dtype(self.device, cfg.dtype)
        self.global_batch = share_of(cfg, accelerator).global_batch
        self.main = accelerator.is_main_process
        task.model.train()
        task.objective.to(self.device)
        self.flops_per_image, unused = self._probe()
        if cfg.compile:
            compile_networks((task.objective, *task.teachers), self.device)
        self.all_weights_used = not unused
        self.spread = task.fsdp and accelerator.num_processes > 1
        if self.spread:
            plain = cast(LatentGenerator, copy.deepcopy(task.model))
            task.generator = plain.to("cpu" if self.main else "meta")
            spread(task.objective, self.device)
        elif task.fsdp:
            logger.warning("fsdp spreads weights over processes, and there is one: start several")
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True, find_unused_parameters=unused
        )
        trained = {name: p for name, p in task.trained.named_parameters() if p.requires_grad}
        self.parameter_names, self.parameters = list(trained), list(trained.values())
        self.optimizers = build_optimizers(task.trained, cfg)
        self.objective = (
            task.objective if self.spread else accelerator.prepare_model(task.objective)
        )
        self.stepped = [accelerator.prepare_optimizer(o) for o in self.optimizers]
        self.averages = {"ema": EMAModel(self.parameters, decay=cfg.ema_decay, foreach=True)}
        if task.second_ema_decay is not None:
            decay = task.second_ema_decay
            self.averages["second_ema"] = EMAModel(self.parameters, decay=decay, foreach=True)
        for average in self.averages.values():
            average.to(self.device)
        self.meter = Meter(self.device)
        self.guard = DivergenceGuard(cfg.divergence_factor)
        self.step = 0  # done so far
        self.started, self.seconds_before = launch.started, 0.0  # the latter by earlier parts
        self.plan = Plan(total=cfg.steps, settled=cfg.max_minutes is None)
        self.last_row: dict[str, Any] = {}

    # -- the run ---------------------------------------------------------------------------------

    def run(self) -> Path:
        """Trains and exports; returns the run folder.

        Raises:
            EcarError: divergence, a full disk, no checkpoint that fits. The last good checkpoint
                is intact in every case.
            KeyboardInterrupt: SIGINT ended the run. SystemExit: SIGTERM or SIGHUP did. It is saved
                if it had made a step, and has left no result.
        """
        resumed = state.resume(self)
        self._save_config()
        cfg = self.cfg
        log = None
        if self.main:
            log = RunLog(self.run_folder, self.step, cfg.log_with, cfg.to_dict())
        peak = self._matmul_rate() if self.main else 0.0
        load = Prefetcher(self.task.load) if self.task.prefetch else self.task.load
        bar = Bar(
            total=self.plan.total,
            initial=self.step,
            desc=self.cfg.kind,
            disable=not self.main,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        )
        if self.main:
            logger.info("training from step %d in %s", self.step, self.run_folder)
        try:
            with self.stop.patient():
                saved = self.step if resumed else 0
                saved, interrupted = self._loop(load, log, bar, peak, saved)
                if saved != self.step:
                    state.save(self)
            bar.close()
            if interrupted or self.stop.number:  # the latter came with the last step
                self._end_interrupted()
            self.stop.state = "stopped before the result was written: train again to write it"
            self._export(log)
        finally:
            bar.close()
            if isinstance(load, Prefetcher):
                load.close()
            self.task.close()
            if log is not None:
                log.close()
        if self.accelerator.num_processes > 1:
            self._end_processes()
        return self.run_folder

    def _loop(
        self,
        load: Callable[[int], list[Batch]],
        log: RunLog | None,
        bar: Bar,
        peak: float,
        saved: int,
    ) -> tuple[int, bool]:
        """Steps until the plan, the time box or a signal ends it.

        Returns:
            The last saved step, and whether it was a signal.
        """
        cfg = self.cfg
        window = self._window()
        pace = self._window()  # measures the rate for the time box, slow first steps left out
        first_step = self.step
        while not any(ended := self._ended()):
            if self.step == first_step + 3:
                pace = self._window()
            loading = self.clock()
            batches = load(self.step)
            window.waited += self.clock() - loading
            rate = cfg.lr * lr_factor(self.step, self.plan, cfg.warmup_steps, cfg.lr_floor)
            self.task.at(self.plan.at(self.step))
            self._optimizer_step(batches, rate)
            self.step += 1
            bar.update()
            if not self.plan.settled:
                self._settle(pace, bar)
            last = self.step == self.plan.total
            if self.step % cfg.log_every == 0 or last:
                self._log(log, bar, window, rate, peak)
                window = self._window()
            if cfg.sample_every and (self.step % cfg.sample_every == 0 or last):
                self._sample(log)
            if self.step % cfg.save_every == 0 or last:
                self._replan(pace, bar)
                state.save(self)
                saved, pace = self.step, self._window()
        return saved, ended[1]

    def _end_interrupted(self) -> NoReturn:
        """Leaves a run that a signal ended, saved but without a result."""
        if self.main and self.step == 0:
            logger.warning("%s", self.stop.state)
        elif self.main:
            logger.warning(
                "stopped after step %d of %s, before the result was written: the same command "
                "goes on from there",
                self.step,
                self.plan.total or "a time box",
            )
        self.stop.end()

    def _window(self) -> Window:
        return Window(self.step, self.clock)

    def _optimizer_step(self, batches: list[Batch], rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        share = 1 / self.accelerator.num_processes
        for batch in batches:
            with self.accelerator.accumulate(self.objective):
                with autocast(self.device, self.dtype):
                    loss, parts = self.objective(*batch)
                self.accelerator.backward(loss)
                self.meter.add(self.step, {"loss": loss, **parts}, share / len(batches))
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.parameters, self.cfg.grad_clip)
                    self.meter.add(self.step, {"gradient_norm": whole(cast(Tensor, norm))}, share)
                for optimizer in self.stepped:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
        for average in self.averages.values():
            average.step(self.parameters)

    def practise(self, step: int, progress: float) -> None:
        """One step as at that place of a run, and nothing else: to be timed."""
        self.task.at(progress)
        self._optimizer_step(self.task.load(step), self.cfg.lr)

    # -- where the run ends ----------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Time spent so far, all parts of the run together."""
        return self.seconds_before + self.clock() - self.started

    @property
    def seconds_left(self) -> float:
        """What is left of the time box."""
        return 60.0 * (self.cfg.max_minutes or float("inf")) - self.seconds

    def _ended(self) -> tuple[bool, bool]:
        """Whether the run is at the end of its steps or its time, and whether it was told to stop;
        the same in all processes."""
        done = self.plan.total is not None and self.step >= self.plan.total
        over = self.main and self.seconds_left <= 0
        signals = 1000.0 * bool(self.stop.number)  # one sum for both; never 1000 processes
        wanted = self._sum(signals + over)
        return done or wanted % 1000 > 0, wanted >= 1000

    def _settle(self, pace: Window, bar: Bar) -> None:
        """Fixes the number of steps once the rate is known."""
        box = 60.0 * cast(float, self.cfg.max_minutes)
        enough = pace.seconds >= min(SETTLE_SECONDS, 0.05 * box)
        ready = self.main and enough and self.step - pace.first >= SETTLE_STEPS
        total = int(self._sum(float(self._steps_in_box(pace)) if ready else 0.0))
        if total and total == self.cfg.steps:
            self.plan.settled = True  # the box holds them all
        elif total:
            self.plan = self.plan.revised(self.step, total)
            bar.total = total
            if self.main:
                logger.info("the time box holds %d steps", total)

    def _replan(self, pace: Window, bar: Bar) -> None:
        """Before a checkpoint: fits the rest of the curve to the time that is really left."""
        total = self.plan.total
        boxed = self.cfg.max_minutes is not None and self.plan.settled and total is not None
        if not boxed or self.step >= total or self.step - pace.first < SETTLE_STEPS:
            return
        wanted = int(self._sum(float(self._steps_in_box(pace)) if self.main else 0.0))
        if abs(wanted - total) > REPLAN * (total - self.step):
            self.plan = self.plan.revised(self.step, wanted)
            bar.total = self.plan.total

    def _steps_in_box(self, pace: Window) -> int:
        rest = max(self.seconds_left, 0.0) / pace.seconds * (self.step - pace.first)
        return max(min(self.step + int(rest), self.cfg.steps or sys.maxsize), self.step + 1)

    def _sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        return cast(Tensor, self.accelerator.reduce(tensor, "sum")).item()

    # -- logs and pictures -----------------------------------------------------------------------

    def _log(self, log: RunLog | None, bar: Bar, window: Window, rate: float, peak: float) -> None:
        self.meter.share(self.accelerator)
        means, first_bad = self.meter.means(), float(self.meter.first_bad)
        self.meter.reset()
        seconds, steps = window.seconds, self.step - window.first
        per_second = steps * self.global_batch / seconds
        flops = per_second * self.flops_per_image / self.accelerator.num_processes
        left = self._seconds_to_go(seconds / steps)
        row = {
            "step": self.step,
            "images": self.step * self.global_batch,
            **means,
            "lr": rate,
            "images_per_second": per_second,
            "data_wait": window.waited / seconds,
            "flops_per_second": flops,
            "mfu": flops / peak if peak else None,
            "seconds": self.seconds,
            "seconds_left": left,
        }
        if log is not None:
            self.folder.check()
            log.write(row)
        self.last_row = row
        bar.set_postfix_str(f"loss {means['loss']:.4f}, {per_second:.0f} images/s")
        self.guard.check(self.step, means["loss"], first_bad, means["gradient_norm"], rate)

    def _seconds_to_go(self, per_step: float) -> float | None:
        by_steps = None if self.plan.total is None else (self.plan.total - self.step) * per_step
        if self.cfg.max_minutes is None:
            return by_steps
        box = max(self.seconds_left, 0.0)
        return box if by_steps is None else min(box, by_steps)

    def _sample(self, log: RunLog | None) -> None:
        with self.averaged():
            picture = None if log is None else self.task.sample(self.step)
        if log is None or picture is None:
            return
        file = self.run_folder / "samples" / f"step-{self.step:08d}.png"
        self.folder.check()
        try:
            with output_file(file) as fresh:
                picture.save(fresh)
        except EcarError as error:
            logger.warning("%s", error)
        log.picture("samples", picture, self.step)

    @contextlib.contextmanager
    def averaged(self, name: str = "ema") -> Generator[None]:
        """Within the block the model of the main process holds the averaged weights and is in
        evaluation mode: where weights are spread, a whole copy of it."""
        average = self.averages[name]
        if self.spread:
            with self._gathered(average), without_compiling():
                yield
            return
        if not self.main:
            yield
            return
        average.store(self.parameters)
        average.copy_to(self.parameters)
        self.task.model.eval()
        try:
            with without_compiling():
                yield
        finally:
            average.restore(self.parameters)
            self.task.model.train()

    @contextlib.contextmanager
    def _gathered(self, average: EMAModel) -> Generator[None]:
        """Within the block the main process's copy of the model holds these weights, whole."""
        named = dict(zip(self.parameter_names, average.shadow_params, strict=True))
        generator = self.task.generator
        weights = collected(named, self.main)
        if not self.main:
            yield
            return
        generator.load_state_dict(weights, strict=False)  # the buffers stay as they are
        generator.to(self.device).eval()
        try:
            yield
        finally:
            generator.to("cpu")

    def _export(self, log: RunLog | None) -> None:
        errors = self._held_out_errors()
        best = of_the_first(self.accelerator, min(errors, key=errors.__getitem__, default="ema"))
        with self.averaged(best):
            if self.main:
                self._write_result(log, best, errors)
        self.accelerator.wait_for_everyone()

    def _write_result(self, log: RunLog | None, best: str, errors: dict[str, float]) -> None:
        if errors and log is not None:
            named = {f"held_out_error_{name}": error for name, error in errors.items()}
            log.write({"step": self.step, **named})
        report = {
            "steps": self.step,
            "planned_steps": self.plan.total,
            "images": self.step * self.global_batch,
            "minutes": self.seconds / 60.0,
            "processes": self.accelerator.num_processes,
            "flops_per_image": self.flops_per_image,
            "last": self.last_row,
            "ema_decay": self.averages[best].decay,
        }
        self.folder.check()
        with atomic_directory(self.run_folder / "final") as folder:
            results = self.task.export(folder, report)
        if results and log is not None:
            log.write({"step": self.step, **results})
        logger.info("the result is in %s", self.run_folder / "final")

    def _held_out_errors(self) -> dict[str, float]:
        """The error of each set of averaged weights; empty where there is nothing to choose."""
        errors = {}
        for name in self.averages if len(self.averages) > 1 else ():
            with self.averaged(name):
                if self.main:
                    errors[name] = self.task.held_out_error()
        return errors

    # -- what is measured and written once ---------------------------------------------------------

    def _probe(self) -> tuple[int, bool]:
        """FLOPs of one image's forward and backward pass, and whether some weight goes unused."""
        objective = copy.deepcopy(self.task.objective)  # gradients and buffers stay untouched
        position = self.task.position(0)
        rows = min(PROBE_IMAGES, self.cfg.batch_size)
        batch = [
            part[:rows] if isinstance(part, Tensor) else part.slice(0, rows)
            for part in self.task.load(0)[0]
        ]

        def one_pass() -> None:
            with autocast(self.device, self.dtype):
                loss, _ = objective(*batch)
            loss.backward()

        flops = count_flops(one_pass) // rows
        unused = any(p.grad is None for p in objective.parameters() if p.requires_grad)
        self.task.restore(position)
        return flops, unused

    def _end_processes(self) -> None:
        """Leaves the group of processes, after DDP has left it.

        DDP's reducer gives the group up without letting go of Python's lock. Were it the last to
        hold the group, it could wait for ever for the group's thread, which waits for that lock.
        """
        del self.objective
        self.accelerator.free_memory()
        gc.collect()  # accelerate collects before it lets go
        self.accelerator.end_training()

    def _matmul_rate(self) -> float:
        return matmul_rate(self.dtype, self.device)

    def _save_config(self) -> None:
        if self.main:
            write_json(self.run_folder / "config.json", self.cfg.to_dict())
        self.accelerator.wait_for_everyone()
