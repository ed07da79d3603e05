import torch


def euler_by_name(velocity, state, times, step):
    slope = velocity(state, step)
    duration = times[step + 1] - times[step]
    return torch.add(state, slope, alpha=duration), slope


def euler_on_a_copy(velocity, state, times, step):
    slope = velocity(state, step)
    new = state.clone()
    new += slope * (times[step + 1] - times[step])
    return [new, slope]


def euler_mixed(velocity, state, times, step):
    now, then = times[step], times[step + 1]
    slope = velocity(state, step)
    return state - now * slope + then * slope, slope


def heun_plain(velocity, state, times, step):
    dt = times[step + 1] - times[step]
    first = velocity(state, step)
    second = velocity(state + dt * first, step + 1)
    slope = 0.5 * first + 0.5 * second
    return state + dt * slope, slope


def heun_in_halves(velocity, state, times, step):
    dt = times[step + 1] - times[step]
    first = velocity(state, step)
    second = velocity(state + first * dt, step + 1)
    return state + dt / 2 * first + dt / 2 * second, torch.stack((first, second)).mean(0)


def heun_corrected(velocity, state, times, step):
    dt = times[step + 1] - times[step]
    first = velocity(state, step)
    ahead = state + dt * first
    second = velocity(ahead, step + 1)
    return ahead + dt * (second - first) / 2, (first + second) / 2


RIGHT = {
    "training_pair": [
        lambda noise, data, t: (noise + t * (data - noise), data - noise),
        lambda noise, data, t: (t * data + noise - t * noise, -(noise - data)),
        lambda noise, data, t: [data - (1 - t) * (data - noise), data.sub(noise)],
    ],
    "euler_step": [euler_by_name, euler_on_a_copy, euler_mixed],
    "heun_step": [heun_plain, heun_in_halves, heun_corrected],
    "guided": [
        lambda none, of, g: (1 - g) * none + g * of,
        lambda none, of, g: torch.lerp(none, of, float(g)),
        lambda none, of, g: of + (g - 1) * (of - none),
    ],
    "clean_estimate": [
        lambda x, v, t: x - (t - 1) * v,
        lambda x, v, t: x + v - t * v,
        lambda x, v, t: torch.add(x, v, alpha=1 - t),
    ],
}
