import torch


def put(tau):
    return tau[:, None, None, None]


def state(start, end, tau):
    return (1 - put(tau)) * start + put(tau) * end


def guide(run_head, scale, mix):
    if scale == 1:
        return run_head(1)
    return mix(*run_head(2).chunk(2), scale)


def in_place(labels, drop, rate, null):
    labels[drop < rate] = null
    return labels


def stages(errors, reduce):
    return torch.stack([reduce(error) for error in errors])


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
    ],
    "drop_classes": [
        (lambda labels, drop, rate, null: torch.where(drop < rate, labels, null), "it keeps those"),
        (
            lambda labels, drop, rate, null: torch.full_like(labels, null)
            if drop[0] < rate
            else labels,
            "the whole batch",
        ),
        (lambda labels, drop, rate, null: torch.where(drop < rate, 0, labels), "becomes class 0"),
        (
            lambda labels, drop, rate, null: labels if drop.mean() > rate else drop,
            "no image loses its class",
        ),
        (
            lambda labels, drop, rate, null: torch.where(
                torch.rand(labels.shape) < 0.5, null, labels
            ),
            "random numbers of its own",
        ),
        (
            lambda labels, drop, rate, null: torch.where(
                drop < rate, float(null), labels.float()
            ),
            "ids are whole numbers",
        ),
        (in_place, "changes the labels it was given"),
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
            "lost its gradient",
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
        (lambda run, scale: run(1), "with class alone"),
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
    ],
}  # fmt: skip
