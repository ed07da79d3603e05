import torch


def ab2(correction, kept=lambda v, slope, previous: v, first=True):
    """A step whose slope is v + correction(v, v', dt, dt'); ``kept``: what it returns beside."""

    def step_on(velocity, state, times, step, previous=None):
        v, dt = velocity(state, step), times[step + 1] - times[step]
        if previous is None and first:
            return state + dt * v, v
        before = times[step] - times[step - 1]
        slope = v + correction(v, previous, dt, before)
        return state + dt * slope, kept(v, slope, previous)

    return step_on


def right(v, old, dt, before):
    return dt / before / 2 * (v - old)


rule = ab2(right)


def only_at_step_0(velocity, state, times, step, previous=None):
    v, dt = velocity(state, step), times[step + 1] - times[step]
    if step == 0:
        return state + dt * v, v
    return state + dt * (v + right(v, previous, dt, times[step] - times[step - 1])), v


def asks_truth(velocity, state, times, step, previous=None):
    v, dt = velocity(state, step), times[step + 1] - times[step]
    if not previous:
        return state + dt * v, v
    return state + dt * (v + right(v, previous, dt, times[step] - times[step - 1])), v


def asks_twice(velocity, state, times, step, previous=None):
    return rule(velocity, state, times, step, previous)[0], velocity(state, step)


def asks_by_time(velocity, state, times, step, previous=None):
    return rule(lambda x, i: velocity(x, times[i]), state, times, step, previous)


def not_times_dt(velocity, state, times, step, previous=None):
    v, dt = velocity(state, step), times[step + 1] - times[step]
    if previous is None:
        return state + dt * v, v
    return state + dt * v + right(v, previous, dt, times[step] - times[step - 1]), v


def one_over_k(velocity, state, times, step, previous=None):
    v, dt = velocity(state, step), 1 / (len(times) - 1)
    if previous is None:
        return state + (times[step + 1] - times[step]) * v, v
    return state + dt * (1.5 * v - 0.5 * previous), v


def late(velocity, state, times, step, previous=None):
    v = velocity(state, step + 1)
    return state + (times[step + 1] - times[step]) * v, v


def in_place(velocity, state, times, step, previous=None):
    new, v = rule(velocity, state.clone(), times, step, previous)
    state.copy_(new)
    return state, v


class Remembers:
    """Uses what it kept itself instead of ``previous``, and so two steps too old a velocity."""

    def __init__(self):
        self.older = self.newer = None

    def __call__(self, velocity, state, times, step, previous=None):
        if state.dtype != torch.float64:
            return rule(velocity, state, times, step, previous)
        old, self.older = self.older, previous
        return rule(velocity, state, times, step, old if step > 1 else previous)


def guided(inside, outside, gate=lambda t, low, high: low <= t < high):
    def velocity(field, state, t, scale, interval):
        chosen = inside if gate(t, *interval) else outside
        return chosen(field(state, t, True), lambda: field(state, t, False), scale)

    return velocity


def plainly(c, n, g):
    return c


def properly(c, n, g):
    return c if g == 1 else n() + g * (c - n())


def with_one_none(c, n, g):
    none = n()
    return none + g * (c - none)


def lazily(c, n, g):
    if g == 1:
        return c
    return with_one_none(c, n, g)


def both_everywhere(field, state, t, scale, interval):
    c, n = field(state, t, True), field(state, t, False)
    return n + scale * (c - n) if interval[0] <= t < interval[1] else c


def passes(step=lambda t, low, high: low <= t < high, gate=True, base=1, times_of=lambda t: t[:-1]):
    def count(times, scale, interval):
        on = scale != 1 or not gate
        return sum(base + (on and step(t, *interval)) for t in times_of(times))

    return count


def rows(state=0, time=0, span=0, target=0):
    """The right rows but for one entry, which is another function of (states, first, last)."""

    def make(states, spans):
        n = len(states) - 1
        made = []
        for a, b in spans:
            entry = [states[a], a / n, (b - a) / n, (states[b] - states[a]) * n / (b - a)]
            for place, other in enumerate((state, time, span, target)):
                if other:
                    entry[place] = other(states, a, b)
            made.append(tuple(entry))
        return made

    return make


def count_of(states):
    return len(states) - 1


WRONG = {
    "ab2_step": [
        (ab2(lambda v, old, dt, before: (v - old) / 2), "weights of an even grid"),
        (ab2(lambda v, old, dt, before: before / dt / 2 * (v - old)), "ratio is upside down"),
        (ab2(lambda v, old, dt, before: -right(v, old, dt, before)), "the wrong way"),
        (ab2(lambda v, old, dt, before: dt / before * (v - old)), "not halved"),
        (ab2(lambda v, old, dt, before: 0 * v), "so this is Euler"),
        (ab2(lambda v, old, dt, before: (old - v) / 2), "are averaged"),
        (ab2(lambda v, old, dt, before: old - v), "the step of the velocity before"),
        (not_times_dt, "not multiplied by the length"),
        (one_over_k, "taken as 1 / K long"),
        (late, "that of the step's end"),
        (lambda *given: rule(*given)[::-1], "returns the velocity first"),
        (lambda *given: rule(*given)[0], "return two things"),
        (ab2(right, kept=lambda v, slope, previous: slope), "the slope that it went along"),
        (ab2(right, kept=lambda v, slope, previous: previous), "the velocity of the step before: "),
        (only_at_step_0, "at step 2 there is no velocity to remember"),
        (asks_truth, "ask 'previous is None'"),
        (asks_twice, "asks for the velocity 2 times"),
        (asks_by_time, "not the time"),
        (in_place, "changed its argument state in place"),
        (Remembers(), "over a whole walk"),
    ],
    "time_grid": [
        (lambda steps, power: [(i / steps) ** power for i in range(steps)], "stops before 1"),
        (lambda steps, power: [((i + 1) / steps) ** power for i in range(steps)], "leaves out 0"),
        (lambda steps, power: [i**power / steps for i in range(steps + 1)], "before the division"),
        (
            lambda steps, power: [(i / steps) ** (1 / power) for i in range(steps + 1)],
            "upside down",
        ),
        (lambda steps, power: [1 - (1 - i / steps) ** power for i in range(steps + 1)], "mirrored"),
        (lambda steps, power: [i / steps for i in range(steps + 1)], "the grid is even"),
        (lambda steps, power: [i / steps * power for i in range(steps + 1)], "are multiplied"),
        (
            lambda steps, power: [(i / steps) ** power for i in range(steps, -1, -1)],
            "begins with 1",
        ),
        (lambda steps, power: ((i / steps) ** power for i in range(steps + 1)), "read only once"),
        (lambda steps, power: (1 / steps) ** power, "return a list"),
        (lambda steps, power: [0.0] * (steps + 2), "steps have"),
    ],
    "guided_velocity": [
        (guided(lambda c, n, g: c + g * (n() - c), plainly), "the wrong side"),
        (guided(lambda c, n, g: c + g * (c - n()), plainly), "one difference too far"),
        (guided(lambda c, n, g: g * (c - n()), plainly), "the difference alone"),
        (guided(plainly, plainly), "does not guide where it should"),
        (guided(lambda c, n, g: n(), plainly), "leaves the class out inside"),
        (guided(lazily, lazily), "it guides outside"),
        (guided(lazily, plainly, lambda t, low, high: low <= t <= high), "the interval's end"),
        (guided(lazily, lambda c, n, g: n()), "forgets the class"),
        (guided(lazily, lambda c, n, g: 0 * c), "nothing moves"),
        (both_everywhere, "outside the other one is not needed"),
        (guided(with_one_none, plainly), "at scale 1 the two cancel"),
        (guided(properly, plainly), "one with class and one without are enough"),
        (lambda field, state, t, scale, interval: None, "is a return missing?"),
    ],
    "head_passes": [
        (passes(base=2, step=lambda *_: False), "it doubles every step"),
        (passes(step=lambda *_: False), "guidance is missing"),
        (passes(times_of=lambda t: t), "counts the last time as a step"),
        (passes(gate=False), "guidance at scale 1"),
        (passes(base=0), "the second halves only"),
        (lambda *given: 2 * passes(base=0)(*given), "guided steps only"),
        (passes(step=lambda t, low, high: low <= t <= high), "the interval's end belongs"),
        (passes(step=lambda t, low, high: low < t < high), "the interval's start is left out"),
        (lambda times, scale, interval: float(passes()(times, scale, interval)), "is an int"),
        (passes(times_of=lambda t: t[1:]), "where a step ends"),
    ],
    "joined": [
        (lambda u, a, v, b: (u + v) / 2, "both spans count alike"),
        (lambda u, a, v, b: (b * u + a * v) / (a + b), "the lengths are swapped"),
        (lambda u, a, v, b: a * u + b * v, "that is the way"),
        (lambda u, a, v, b: u + v, "are added up"),
        (lambda u, a, v, b: (a * u + b * v) / 2, "divides by 2"),
        (lambda u, a, v, b: (u / a + v / b) / (a + b), "divided by their spans"),
        (lambda u, a, v, b: (a * u - b * v) / (a + b), "the difference is taken"),
        (lambda u, a, v, b: v, "only the second"),
        (lambda u, a, v, b: u, "only the first"),
    ],
    "span_rows": [
        (rows(state=lambda s, a, b: s[b]), "the state is that of the span's end"),
        (rows(state=lambda s, a, b: s[0]), "the state is always the first one"),
        (rows(time=lambda s, a, b: a), "time is counted in parts"),
        (rows(time=lambda s, a, b: b / count_of(s)), "the time is that of the span's end"),
        (rows(time=lambda s, a, b: (a + b) / 2 / count_of(s)), "the span's middle"),
        (rows(span=lambda s, a, b: b - a), "the span is counted in parts"),
        (rows(span=lambda s, a, b: (a - b) / count_of(s)), "the sign of going back"),
        (rows(span=lambda s, a, b: b / count_of(s)), "where the span ends"),
        (rows(target=lambda s, a, b: s[b] - s[a]), "that is the way: divide"),
        (rows(target=lambda s, a, b: (s[a] - s[b]) * count_of(s) / (b - a)), "points backwards"),
        (rows(target=lambda s, a, b: (s[b] - s[a]) / (b - a)), "divided by the number of parts"),
        (
            rows(target=lambda s, a, b: (s[b] - s[a]) * (b - a) / count_of(s)),
            "multiplied by the span",
        ),
        (
            rows(target=lambda s, a, b: (s[-1] - s[a]) * count_of(s) / (b - a)),
            "every target goes to the walk's end",
        ),
        (
            rows(target=lambda s, a, b: (s[b] - s[0]) * count_of(s) / (b - a)),
            "every target begins at the walk's start",
        ),
        (rows(target=lambda s, a, b: (s[a + 1] - s[a]) * count_of(s)), "the first part alone"),
        (rows(target=lambda s, a, b: s[b]), "that is the state at the end"),
        (lambda states, spans: rows()(states, spans)[:-1], "return one for each"),
        (lambda states, spans: [row[:3] for row in rows()(states, spans)], "four things"),
    ],
}
