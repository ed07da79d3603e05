import torch

from tests.teaching.wrong.larger import WRONG as LARGER


def put(tau):
    return tau[:, None, None, None]


def state(start, end, tau):
    return (1 - put(tau)) * start + put(tau) * end


def guide(run_head, scale, mix):
    if scale == 1:
        return run_head(1)
    return mix(*run_head(2).chunk(2), scale)


def stages(errors, reduce):
    return torch.stack([reduce(error) for error in errors])


def target_in_place(start, end, tau):
    middle = state(start, end, tau)
    return middle, end.sub_(start)


def coarse_detached(errors):
    *coarse, fine = errors
    return stages([*(e.detach() for e in coarse), fine], lambda e: e.square().mean()).mean()


def squared_in_place(errors):
    return stages([e.pow_(2) for e in errors], lambda e: e.mean()).mean()


def only_above_one(run, scale):
    return run(1) if scale <= 1 else guide(run, scale, lambda c, n, g: n + g * (c - n))


def three_halves(run, scale):
    if scale == 1:
        return run(1)
    with_class, without = run(1), run(2).chunk(2)[1]
    return without + scale * (with_class - without)


WRONG = {
    "conditioning_time": [
        (lambda schedule, stage, tau: tau, "the bare local time"),
        (lambda schedule, stage, tau: schedule.flow_time(stage, tau), "the flow time t"),
        (
            lambda schedule, stage, tau: (
                schedule.time_slice(stage)[0] + tau * schedule.time_slice(stage)[1]
            ),
            "its length, high - low",
        ),
        (lambda schedule, stage, tau: (stage + tau) / schedule.num_stages, "these slices touch"),
        (lambda schedule, stage, tau: schedule.conditioning_time(stage, 1 - tau), "backwards"),
        (
            lambda schedule, stage, tau: (
                schedule.conditioning_time(stage, tau) - schedule.time_slice(stage)[0]
            ),
            "does not begin where the slice does",
        ),
        (
            lambda schedule, stage, tau: tau.add_(stage).div_(schedule.num_stages),
            "argument tau in place",
        ),
        (
            lambda schedule, stage, tau: schedule.conditioning_time(stage, tau).double(),
            "is torch.float64",
        ),
    ],
    "state_and_target": [
        (lambda a, b, tau: (state(b, a, tau), b - a), "swapped in the state"),
        (lambda a, b, tau: ((1 - tau) * a + tau * b, b - a), "along the pixels"),
        (lambda a, b, tau: (b - a, state(a, b, tau)), "return the state first"),
        (lambda a, b, tau: (state(a, b, tau), a - b), "points backwards"),
        (lambda a, b, tau: (state(a, b, tau), b - state(a, b, tau)), "what is left of the way"),
        (lambda a, b, tau: (state(a, b, tau), b), "the end itself"),
        (lambda a, b, tau: state(a, b, tau), "return two tensors"),
        (lambda a, b, tau: None, "is None"),
        (target_in_place, "changed its argument end in place"),
        (lambda a, b, tau: (a + tau.mean() * (b - a), b - a), "the mean of the local times"),
        (lambda a, b, tau: (state(a, b, tau), put(tau) * (b - a)), "the velocity times tau"),
    ],
    "multistage_loss": [
        (lambda errors: stages(errors, lambda e: e.square().mean()).sum(), "adds the stages up"),
        (
            lambda errors: torch.cat([e.flatten() for e in errors]).square().mean(),
            "every latent pixel counts the same",
        ),
        (lambda errors: stages(errors, lambda e: e.square().sum()).mean(), "sums over the pixels"),
        (lambda errors: stages(errors, lambda e: e.abs().mean()).mean(), "absolute values"),
        (
            lambda errors: stages(errors, lambda e: e.square().mean()).mean().item(),
            "no gradient comes back",
        ),
        (coarse_detached, "the error of stage 1 gets no gradient"),
        (squared_in_place, "changed its argument errors in place"),
        (
            lambda errors: stages(errors, lambda e: e.square().mean()).sum() / 3,
            "divides by three stages",
        ),
        (
            lambda errors: stages(errors, lambda e: e.square().mean().sqrt()).mean(),
            "root of each stage",
        ),
        (
            torch.no_grad()(lambda errors: stages(errors, lambda e: e.square().mean()).mean()),
            "no_grad, .detach()",
        ),
    ],
    "guided_velocity": [
        (
            lambda run, scale: guide(run, scale, lambda c, n, g: c + g * (n - c)),
            "the halves are swapped",
        ),
        (
            lambda run, scale: guide(run, scale, lambda c, n, g: c + g * (c - n)),
            "it starts from the half with class",
        ),
        (
            lambda run, scale: guide(run, scale, lambda c, n, g: n + g * c),
            "do not add up to 1",
        ),
        (
            lambda run, scale: run(2)[3:] + scale * (run(2)[:3] - run(2)[3:]),
            "two are enough",
        ),
        (
            lambda run, scale: (lambda c, n: n + scale * (c - n))(*run(2).chunk(2)),
            "throws it away",
        ),
        (only_above_one, "with class alone: ask for two"),
        (three_halves, "3 halves of the head in 2 calls"),
        (lambda run, scale: guide(run, scale, lambda c, n, g: g * (c - n)), "the difference alone"),
    ],
    "flow_head": LARGER["flow_head"],
    "flow_errors": LARGER["flow_errors"],
    "generate": LARGER["generate"],
}
