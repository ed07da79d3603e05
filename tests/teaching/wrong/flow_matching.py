import torch


def pair(state, target=lambda n, d, t: d - n):
    return lambda n, d, t: (state(n, d, t), target(n, d, t))


def line(n, d, t):
    return (1 - t) * n + t * d


def last(times):
    return len(times) - 1


def step_by(length):
    def euler(velocity, state, times, step):
        slope = velocity(state, step)
        return state + length(times, step) * slope, slope

    return euler


def way_back(step_on):
    def step(velocity, state, times, k):
        new, slope = step_on(velocity, state, times, k)
        return new, (times[k + 1] - times[k]) * slope

    return step


def at_times(step_on):
    def step(velocity, state, times, k):
        return step_on(lambda x, index: velocity(x, times[index]), state, times, k)

    return step


def late(velocity, state, times, step):
    slope = velocity(state, step + 1)
    return state + (times[step + 1] - times[step]) * slope, slope


def heun(slope_of, start=lambda state, ahead: state):
    def step_on(velocity, state, times, step):
        length = times[step + 1] - times[step]
        first = velocity(state, step)
        ahead = state + length * first
        slope = slope_of(first, velocity, state, ahead, step)
        return start(state, ahead) + length * slope, slope

    return step_on


def mean_of_states(velocity, state, times, step):
    slope = velocity(state, step)
    ahead = state + (times[step + 1] - times[step]) * slope
    return (state + ahead) / 2, slope


def first_slope_back(velocity, state, times, step):
    length = times[step + 1] - times[step]
    first = velocity(state, step)
    second = velocity(state + length * first, step + 1)
    return state + length * (first + second) / 2, first


euler = step_by(lambda times, k: times[k + 1] - times[k])
mean_of_both = heun(lambda first, v, x, ahead, k: (first + v(ahead, k + 1)) / 2)


def both_in_place(velocity, state, times, step):
    slope = velocity(state, step)
    state += (times[step + 1] - times[step]) * slope
    return state, slope


def asks_twice(velocity, state, times, step):
    return state + (times[step + 1] - times[step]) * velocity(state, step), velocity(state, step)


def asks_five_times(velocity, state, times, step):
    length = times[step + 1] - times[step]
    ahead = state + length * velocity(state, step)
    mean = (velocity(state, step) + velocity(ahead, step + 1)) / 2
    return state + length * mean, (velocity(state, step) + velocity(ahead, step + 1)) / 2


def euler_at_the(number):
    def step_on(velocity, state, times, step):
        if step == number % (len(times) - 1) != 1:
            return euler(velocity, state, times, step)
        return mean_of_both(velocity, state, times, step)

    return step_on


def heun_in_place(velocity, state, times, step):
    length = times[step + 1] - times[step]
    first = velocity(state, step)
    slope = (first + velocity(state + length * first, step + 1)) / 2
    return state.add_(length * slope), slope


def pair_in_place(noise, data, t):
    target = data - noise
    noise *= 1 - t
    return noise + t * data, target


def guided_in_place(none, of, g):
    of -= none
    return none + g * of


WRONG = {
    "training_pair": [
        (pair(lambda n, d, t: t * n + (1 - t) * d), "swapped"),
        (pair(lambda n, d, t: (1 - t).sqrt() * n + t.sqrt() * d), "keep the variance"),
        (pair(lambda n, d, t: n + t * d), "does not fade"),
        (pair(lambda n, d, t: d - n, line), "changed places"),
        (pair(line, lambda n, d, t: n - d), "points backwards"),
        (pair(line, lambda n, d, t: (d - n) / t), "divided by t"),
        (pair(line, lambda n, d, t: d - line(n, d, t)), "the rest of the way"),
        (pair(line, lambda n, d, t: d), "that is the data"),
        (pair(line, lambda n, d, t: n), "DDPM's target"),
        (line, "return two things"),
        (lambda n, d, t: None, "is a return missing?"),
        (pair(lambda n, d, t: (torch.ones_like(t) - t) * n + t * d), "where t is a plain number"),
        (pair_in_place, "changed its argument noise in place"),
        (pair(line, line), "that is the state"),
        (
            pair(lambda n, d, t: line(n, d, t).double()),
            "the state has the right values but is torch.float64",
        ),
        (pair(lambda n, d, t: line(torch.randn_like(n), d, t)), "draws random numbers of its own"),
    ],
    "euler_step": [
        (step_by(lambda times, k: times[k] - times[k + 1]), "goes backwards"),
        (step_by(lambda times, k: times[k + 1]), "time at its end"),
        (step_by(lambda times, k: times[k]), "time at its start"),
        (step_by(lambda times, k: 1 / last(times)), "1 / K"),
        (step_by(lambda times, k: 1), "not multiplied"),
        (late, "that of the step's end"),
        (way_back(euler), "that is the way"),
        (at_times(euler), "not the time"),
        (lambda v, x, times, k: x + (times[k + 1] - times[k]) * v(x, k), "return two things"),
        (both_in_place, "changed its argument state in place"),
        (asks_twice, "asks for the velocity 2 times"),
        (
            lambda v, x, times, k: (v(x, k), x + (times[k + 1] - times[k]) * v(x, k)),
            "the new state comes first",
        ),
        (step_by(lambda times, k: 0.25 if k == 1 else 0.1), "the new state of step 2"),
    ],
    "heun_step": [
        (heun(lambda first, v, x, ahead, k: v(ahead, k + 1)), "only the second"),
        (heun(lambda first, v, x, ahead, k: first), "this is Euler"),
        (mean_of_states, "states are averaged"),
        (heun(lambda first, v, x, ahead, k: (first + v(ahead, k)) / 2), "at the old time"),
        (heun(lambda first, v, x, ahead, k: (first + v(x, k + 1)) / 2), "at the old state"),
        (heun(lambda first, v, x, ahead, k: first + v(ahead, k + 1)), "not halved"),
        (
            heun(
                lambda first, v, x, ahead, k: (first + v(ahead, k + 1)) / 2, lambda x, ahead: ahead
            ),
            "where Euler landed",
        ),
        (first_slope_back, "is the first one"),
        (way_back(mean_of_both), "that is the way"),
        (at_times(mean_of_both), "not the time"),
        (heun_in_place, "changed its argument state in place"),
        (asks_five_times, "asks for the velocity 5 times"),
        (euler_at_the(-1), "the last step is Euler's"),
        (euler_at_the(0), "the first step is Euler's"),
    ],
    "guided": [
        (lambda none, of, g: of + g * (none - of), "wrong side"),
        (lambda none, of, g: of + g * (of - none), "one difference too far"),
        (lambda none, of, g: g * of, "only scaled"),
        (lambda none, of, g: none + g * of, "v_none is not taken off"),
        (guided_in_place, "changed its argument of in place"),
        (
            lambda none, of, g: of if g <= 1 else none + g * (of - none),
            "below 1, too, the formula holds",
        ),
        (
            lambda none, of, g: none + 3 * (of - none),
            "at scale 0.5 has the right shape but differs",
        ),
    ],
    "clean_estimate": [
        (lambda x, v, t: x + t * v, "lies behind"),
        (lambda x, v, t: x - t * v, "to the noise"),
        (lambda x, v, t: x + v, "whole unit of time"),
        (lambda x, v, t: x + v / (1 - t), "divides by 1 - t"),
        (lambda x, v, t: x.add_((1 - t) * v), "changed its argument x in place"),
        (lambda x, v, t: x - (1 - t) * v, "subtracts the way that is left"),
        (lambda x, v, t: (1 - t) * v, "the state is missing"),
    ],
}
