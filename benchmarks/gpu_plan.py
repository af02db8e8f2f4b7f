"""How fast would training and inference be on a GPU? An ESTIMATE from the compiled program: `python -m
benchmarks.gpu_plan [--target h200]`.

XLA compiles the real programs for a GPU that is not there. Which kernels run, what they read, write and multiply and
how much memory they need are facts of the compiled program; how long they take is guessed, at three levels of rates
(`gpu/target.py`). No time here is measured, and none of it belongs beside measured ones.

Needs Linux, JAX's CUDA plugin in one version (the text of programs changes between versions), and no GPU: in an
environment of its own with Python 3.12, `pip install -e ".[gpu-plan]"`, 3 GB. A program compiles for minutes;
`--programs DIR` keeps them.

Writes benchmarks/results/estimate-<target>.json with versions, commit and rates; with `--only` the file is named after
the programs as well. Exits with 1 where a plan contradicts
the project's own count of FLOPs by more than 2 %, or more than 3 % of its time belong to no stage.
"""

import json
import sys
from pathlib import Path

import tyro

from benchmarks.gpu.guards import broken
from benchmarks.gpu.kernels import kernels_of, unknown_loops
from benchmarks.gpu.plan import Plan, largest_batch, make_plan
from benchmarks.gpu.program import read_program
from benchmarks.gpu.programs import Compiled, Work, compile_for, works
from benchmarks.gpu.target import LEVELS, LOOP_ROUNDS, Target, read_target
from benchmarks.measuring import RESULTS, save, show
from crystal.console import console


def compiled(name: str, work: Work, target: Target, programs: Path | None) -> Compiled:
    """The program, from `programs` where it is there."""
    kept = programs / f"{target.name}-{name}.json" if programs else None
    if kept and kept.exists():
        return Compiled(**json.loads(kept.read_text()))
    console.print(f"compiling {name} for {target.name}")
    found = compile_for(target, work)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found._asdict()))
    return found


def tell(name: str, plan: Plan, target: Target, costliest: int) -> None:
    """Print a program's stages and the kernels that cost most."""
    whole = plan.seconds()
    show(
        f"ESTIMATE, {name} on {target.name}, nothing measured: time by stage at middle rates",
        ["stage", "ms", "share", "GB", "TFLOP", "kernels", "mostly bound by"],
        [
            [
                stage.name,
                f"{stage.seconds * 1e3:.2f}",
                f"{stage.seconds / whole:.1%}",
                f"{stage.gigabytes:.2f}",
                f"{stage.gigaflops / 1e3:.2f}",
                str(stage.kernels),
                stage.bound,
            ]
            for stage in plan.stages()
        ],
    )
    show(
        f"ESTIMATE, {name} on {target.name}: kernels that cost most",
        ["ms", "times", "bound by", "kind", "result", "stage", "line"],
        [
            [
                f"{alike.seconds * 1e3:.3f}",
                f"{alike.times:.0f}",
                alike.bound,
                alike.kind,
                alike.result,
                alike.stage,
                alike.line,
            ]
            for alike in plan.costliest(costliest)
        ],
    )


def summary(plans: dict[str, Plan], target: Target) -> None:
    """Print one line a program."""
    show(
        f"ESTIMATE for {target.name}, nothing measured: images a second at three levels of rates",
        ["program", *LEVELS, "ms at middle", "kernels", "GB moved", "GFLOP an image", "temporary GiB", "memory GiB"],
        [
            [
                name,
                *(f"{plan.batch / plan.seconds(level):.0f}" for level in LEVELS),
                f"{plan.seconds() * 1e3:.1f}",
                str(plan.launches),
                f"{plan.gigabytes:.0f}",
                f"{plan.flops / plan.batch / 1e9:.0f}",
                f"{plan.temporary / 2**30:.2f}",
                f"{plan.memory / 2**30:.2f}",
            ]
            for name, plan in plans.items()
        ],
    )


def batches_that_fit(plans: dict[str, Plan], target: Target) -> dict[str, int]:
    """The largest batch of each kind of work that was planned at two batches."""
    kinds: dict[str, dict[int, int]] = {}
    for name, plan in plans.items():
        kinds.setdefault(name.rpartition("-")[0], {})[plan.batch] = plan.memory
    return {kind: largest_batch(memory, target.memory_bytes) for kind, memory in kinds.items() if len(memory) == 2}


def main(
    target: str = "h200",
    only: tuple[str, ...] = (),
    size: int = 512,
    costliest: int = 15,
    programs: Path | None = None,
    out: Path | None = None,
) -> None:
    """Compile, count, price, write.

    Args:
        target: a file of benchmarks/gpu/targets, without its ending.
        only: programs, such as train-16 or paper-64; default: all.
        size: side of the square images.
        costliest: kernels to list.
        programs: folder in which compiled programs are kept, and looked for. Empty it when the code changes.
        out: file of results; default: in benchmarks/results.
    """
    gpu, wanted = read_target(target), works(size)
    unknown = sorted(set(only) - set(wanted))
    if unknown:
        raise SystemExit(f"--only {' '.join(unknown)}: there are {', '.join(wanted)}")
    plans: dict[str, Plan] = {}
    rules: dict[str, list[str]] = {}
    for name in only or wanted:
        work = wanted[name]
        found = compiled(name, work, gpu, programs)
        program = read_program(found.text)
        kernels = kernels_of(program, rounds=LOOP_ROUNDS)
        plans[name] = make_plan(
            kernels,
            gpu,
            batch=work.batch,
            model_flops=found.model_flops,
            temporary=found.temporary,
            memory=found.memory,
        )
        rules[name] = broken(program, plans[name], training=work.training)
        tell(name, plans[name], gpu, costliest)
        console.print(f"{unknown_loops(program)} loops of unknown length are counted with {LOOP_ROUNDS} rounds")
    summary(plans, gpu)
    fit = batches_that_fit(plans, gpu)
    for kind, batch in fit.items():
        console.print(f"ESTIMATE: the largest batch of {kind} that fits into {gpu.memory_bytes / 1e9:.0f} GB: {batch}")
    path = save(
        "ESTIMATE, nothing measured: how fast would training and inference be on a GPU?",
        "estimate",
        out=out or RESULTS / f"{'-'.join(('estimate', target, *only))}.json",
        settings={"target": target, "image_size": size, "loop_rounds": LOOP_ROUNDS},
        rates={
            "target": {k: v for k, v in vars(gpu).items() if k != "xla"},
            "levels": {n: v._asdict() for n, v in LEVELS.items()},
        },
        programs={name: {**plan.to_dict(costliest), "broken_rules": rules[name]} for name, plan in plans.items()},
        largest_batch=fit,
    )
    console.print(str(path))
    faults = [f"{name}: {fault}" for name, plan in plans.items() for fault in plan.faults()]
    for fault in faults:
        console.print(f"NOT TO BE BELIEVED: {fault}")
    for name, sentences in rules.items():
        for sentence in sentences:
            console.print(f"{name} breaks a rule (benchmarks/gpu/guards.py): {sentence}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    tyro.cli(main)
