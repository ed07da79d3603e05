import torch
import torch.nn.functional as F

from tests.teaching.right.larger import RIGHT as LARGER


def summed(errors):
    total = 0
    for error in errors:
        total = total + (error**2).mean()
    return total / len(errors)


def lerped(start, end, local_time):
    return start.lerp(end, local_time.view(-1, 1, 1, 1)), end - start


def by_image(start, end, local_time):
    states = [(1 - t) * a + t * b for a, b, t in zip(start, end, local_time, strict=True)]
    return torch.stack(states), -start + end


def guided(run_head, scale):
    if scale != 1:
        both = run_head(2)
        half = len(both) // 2
        return (1 - scale) * both[half:] + scale * both[:half]
    return run_head(1)


def guided_by_lerp(run_head, scale):
    if scale == 1.0:
        return run_head(1)
    with_class, without = run_head(2).unflatten(0, (2, -1))
    return torch.lerp(without, with_class, float(scale))


def guided_in_place(run_head, scale):
    velocity = run_head(1 + (scale != 1))
    if scale == 1:
        return velocity
    with_class, without = velocity.split(len(velocity) // 2)
    with_class -= without
    return with_class.mul_(scale).add_(without)


RIGHT = {
    "conditioning_time": [
        lambda schedule, stage, tau: torch.lerp(
            *map(torch.tensor, schedule.time_slice(stage)), weight=tau
        ),
        lambda schedule, stage, tau: (
            (1 - tau) * schedule.time_slice(stage)[0] + tau * schedule.time_slice(stage)[1]
        ),
        lambda schedule, stage, tau: schedule.conditioning_time(stage, tau),
    ],
    "state_and_target": [
        lerped,
        by_image,
        lambda a, b, tau: (a + tau.reshape(-1, 1, 1, 1) * (b - a), b - a),
    ],
    "multistage_loss": [
        summed,
        lambda errors: sum(F.mse_loss(e, torch.zeros_like(e)) for e in errors) / len(errors),
        lambda errors: torch.stack([e.flatten(1).pow(2).mean(1).mean() for e in errors]).mean(),
    ],
    "guided_velocity": [guided, guided_by_lerp, guided_in_place],
    "flow_head": LARGER["flow_head"],
    "flow_errors": LARGER["flow_errors"],
    "generate": LARGER["generate"],
}
