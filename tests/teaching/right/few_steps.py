from itertools import pairwise

import torch


def ab2_by_weights(velocity, state, times, step, previous=None):
    v = velocity(state, step)
    dt = times[step + 1] - times[step]
    if previous is None:
        return state + dt * v, v
    r = dt / (times[step] - times[step - 1])
    return state + dt * ((1 + r / 2) * v - r / 2 * previous), v


def ab2_by_integral(velocity, state, times, step, previous=None):
    v = velocity(state, step)
    dt = times[step + 1] - times[step]
    growth = 0 if previous is None else (v - previous) / (times[step] - times[step - 1])
    return [state + v * dt + growth * dt**2 / 2, v]


def ab2_by_half_way(velocity, state, times, step, previous):
    """The line's value at the middle of the step is its mean."""
    v = velocity(state, step)
    now, then = times[step], times[step + 1]
    slope = v
    if previous is not None:
        share = (then - now) / 2 / (now - times[step - 1])
        slope = torch.lerp(previous, v, 1 + share)
    return torch.add(state, slope, alpha=then - now), v


def grid_in_a_loop(steps, power):
    times = [0.0]
    for i in range(1, steps + 1):
        times.append((i / steps) ** power)
    return times


def guided_first(field, state, t, scale, interval):
    inside = interval[0] <= t and t < interval[1] and scale != 1
    of_class = field(state, t, True)
    if inside:
        none = field(state, t, False)
        return (1 - scale) * none + scale * of_class
    return of_class


def guided_by_lerp(field, state, t, scale, interval):
    if scale == 1.0 or t < interval[0] or t >= interval[1]:
        return field(state, t, True)
    return torch.lerp(field(state, t, False), field(state, t, True), float(scale))


def guided_by_push(field, state, t, scale, interval):
    low, high = interval
    velocity = field(state, t, True).clone()
    if low <= t < high and scale != 1:
        velocity += (scale - 1) * (velocity - field(state, t, False))
    return velocity


def passes_in_a_loop(times, scale, interval):
    count = 0
    for t in times[:-1]:
        count += 2 if scale != 1 and interval[0] <= t < interval[1] else 1
    return count


def rows_in_a_loop(states, spans):
    count, rows = len(states) - 1, []
    for a, b in spans:
        rows.append(
            [states[a], a / count, (b - a) / count, (states[b] - states[a]) * count / (b - a)]
        )
    return rows


def rows_by_parts(states, spans):
    """The mean of the velocities of the walk's parts."""
    count = len(states) - 1
    pace = [count * (b - a) for a, b in pairwise(states)]
    return [
        (states[a], a / count, (b - a) / count, torch.stack(pace[a:b]).mean(0)) for a, b in spans
    ]


RIGHT = {
    "ab2_step": [ab2_by_weights, ab2_by_integral, ab2_by_half_way],
    "time_grid": [
        grid_in_a_loop,
        lambda steps, power: torch.linspace(0, 1, steps + 1, dtype=torch.float64).pow(power),
        lambda steps, power: tuple(i**power / steps**power for i in range(steps + 1)),
    ],
    "guided_velocity": [guided_first, guided_by_lerp, guided_by_push],
    "head_passes": [
        passes_in_a_loop,
        lambda times, scale, interval: (
            len(times) - 1 + sum(interval[0] <= t < interval[1] for t in times[:-1]) * (scale != 1)
        ),
        lambda times, scale, interval: (
            len(times[:-1])
            + len(
                [t for t in times[:-1] if scale != 1 and not (t < interval[0] or t >= interval[1])]
            )
        ),
    ],
    "joined": [
        lambda u, a, v, b: u + b / (a + b) * (v - u),
        lambda u, a, v, b: torch.lerp(v, u, a / (a + b)),
        lambda u, a, v, b: u * (a / (a + b)) + v * (b / (a + b)),
    ],
    "span_rows": [
        rows_in_a_loop,
        rows_by_parts,
        lambda states, spans: tuple(
            (
                states[a],
                torch.tensor(a / (len(states) - 1)),
                (b - a) / (len(states) - 1),
                (states[b] - states[a]) / ((b - a) / (len(states) - 1)),
            )
            for a, b in spans
        ),
    ],
}
