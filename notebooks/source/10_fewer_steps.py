# %% [markdown]
# # 10. Fewer steps
#
# A step is a pass through the flow head, and the passes at full size are most of what an image costs. Here you find
# out what few steps do to a flow, win most of it back with a better solver, and then teach a network to skip.
#
# **After it you can**
# - say where the error of few steps comes from, and measure the order of a solver;
# - write Adams-Bashforth 2 for steps of any length, and choose a grid for it;
# - count what guidance costs, and what an interval saves;
# - say what a flow map is, and make the targets that the kit's few-step head learns from;
# - compare the shipped few-step head with its teacher fairly: cost, time, and what is lost.
#
# **Before it**: notebook 3; notebook 9 for the FLOPs.
#
# {{time}}
#
# None of this is in the [paper](https://arxiv.org/abs/2412.14170), which does not say which solver it uses. The pages
# `docs/theory/solver.md` and `docs/theory/flow_map.md` derive what is used here; papers are listed in
# `docs/bibliography.md`.

# %%
import torch
from torch import nn

from ecar_lab import cost, flow, schedule, trace
from ecar_lab.teaching import beside_the_kit, setup
from ecar_lab.teaching.check import few_steps as check
from ecar_lab.teaching.explore import few_steps as explore
from ecar_lab.teaching.explore.known_flow import EVALUATED, errors_of, gap, moons, order_of, walk
from ecar_lab.training.turbo import SPANS

lab = setup(10)

# %% [markdown]
# ## The result first
#
# Two shipped models and the same noise. `cifar10` gives velocities; `cifar10-turbo` is a copy of its teacher whose head was then
# taught to take few steps. `plain=False` lets both sample in the way that their checkpoints prefer. Where the first cell says
# `False`, the teacher has been trained on since, and the head was taught by an earlier state of it. Each model is held against its
# own flow below, so that does not matter there.

# %%
teacher = lab.pipeline("cifar10", plain=False)
turbo = lab.pipeline("cifar10-turbo", plain=False)
same = explore.same_weights(teacher.model.transformer, turbo.model.transformer)
print("the few-step head still belongs to this teacher's transformer:", same)
names = lab.pick(["airplane", "automobile", "horse", "ship", "truck", "deer"], ["horse", "ship"])


def final(pipe, plan=None, **how):
    """The finished latents of one run, always from the same noise."""
    return list(pipe.trace(names, plan, generator=lab.generator(9), **how))[-1].latent


# %%
FEW = [2, 2, 2]
default = teacher.model.inference_steps()
rows = {
    f"teacher, {explore.told(default)}": teacher.decode(final(teacher)),
    f"teacher, {explore.told(FEW)}": teacher.decode(final(teacher, FEW)),
    f"few-step head, {explore.told(FEW)}": turbo.decode(final(turbo, FEW)),
}
explore.first_result(rows)

# %% [markdown]
# The middle row is what this notebook is about. What went wrong there, how much of it can a better solver mend, and what does the
# last row do instead?
#
# ## A flow that is known exactly
#
# In notebook 3 a network stood for the velocity, and one could not tell its error from that of the steps. Here data is blurred: a
# small normal distribution, of width s, around each of M points m. Then the mean velocity is a formula. Given m,
#
# $$\mathbb{E}[x - \varepsilon \mid x_t, m] = m + \frac{t s^2 - (1 - t)}{(1 - t)^2 + t^2 s^2}\,(x_t - t m) ,$$
#
# and the velocity is the mean of that over all m, each with its probability given $x_t$. `moons` has it, with class (which
# moon) and without. So nothing has to be trained, and every error below is an error of steps.

# %%
N = lab.pick(400, 200)
labels = torch.arange(N) % 2
fields = moons(labels)
velocity = fields.everything
start = torch.randn(N, 2, generator=lab.generator(1), dtype=torch.float64)
exact = walk(velocity, start, schedule.time_grid(lab.pick(512, 256)))[-1]

# At t = 0 the state tells nothing about the data: the velocity leads to the mean of all.
mean = velocity.centres.mean(0).double()
torch.testing.assert_close(velocity(start, 0.0), mean - start)

# %% [markdown]
# ## Where the error comes from
#
# Over a step of length h a particle should move by $\int v\,dt$ along its way. Euler takes v for constant and moves by $h\,v$.
# If v changes evenly, at a rate $\dot v$, that is off by $\tfrac12 h^2 \dot v$. There are $1/h$ steps, so all in all the error is
# proportional to h: *order one*.
#
# > **Predict.** You take twice as many steps of half the length. What happens to the error, if the order is one? And if it is two?

# %%
explore.steps_in_time(velocity, start, 5)

# %% [markdown]
# Right: the velocity of the step before was asked for anyway. A line through it and the present one costs nothing more. That is the method of
# Adams and Bashforth (Bashforth and Adams, 1883). With h' the length of the step before, v' its velocity and $r = h / h'$:
#
# $$x(t + h) \approx x + \int_0^h \Big(v + s\,\frac{v - v'}{h'}\Big)\,ds = x + h\,\Big(v + \frac{r}{2}\,(v - v')\Big) .$$
#
# ### Exercise 10.1: Adams-Bashforth 2
#
# `velocity(state, i)` is the velocity at `times[i]`. `previous` is v', or None if there is none, as on a stage's first step: then
# take Euler's step. Return the new state, and v for the next step to remember.
#
# <details><summary>Hint</summary>
# <code>length = times[step + 1] - times[step]</code>, and <code>before = times[step] - times[step - 1]</code>. What is returned
# second is v itself, not the slope that the step went along.
# </details>


# %% tags=["exercise"]
def ab2_step(velocity, state, times, step, previous=None):
    """x + h (v + r / 2 (v - v')): the new state, and v."""
    # SOLUTION 10.1
    slope = velocity(state, step)
    length = times[step + 1] - times[step]
    if previous is None:
        return state + length * slope, slope
    ratio = length / (times[step] - times[step - 1])
    return state + length * (slope + ratio / 2 * (slope - previous)), slope
    # END


# %% [markdown]
# The check looks at a velocity that is constant and at one that grows evenly with time, for both of which the rule is exact; at the first step;
# and at the error of a whole walk whose end is known.

# %%
ab2_step = check.ab2_step(ab2_step)
uneven = [0.0, 0.1, 0.35, 1.0]
with beside_the_kit(ab2_step):
    mine = walk(velocity, start, uneven, ab2_step)
    torch.testing.assert_close(mine, walk(velocity, start, uneven, flow.ab2_step))

# %%
errors = {
    name: errors_of(step, calls, velocity, start, exact)
    for name, step, calls in (
        ("Euler", flow.euler_step, 1),
        ("Heun", flow.heun_step, 2),
        ("Adams-Bashforth 2", ab2_step, 1),
    )
}
found = {name: order_of(EVALUATED[2:], each[2:]) for name, each in errors.items()}
assert round(found["Euler"]) == 1
assert round(found["Adams-Bashforth 2"]) == 2
explore.orders(errors, found)

# %% [markdown]
# <details><summary>Explain</summary>
# Order one: half the error. Order two: a quarter. Heun (Karras et al., 2022, chose it for diffusion) is of order two as well, but
# it pays two calls per step and remembers nothing. At equal calls its steps are twice as long, which costs more than its smaller
# constant gives back. The price of remembering: where the velocity is steeper than about 1/h, Adams-Bashforth starts to swing
# (<code>docs/theory/solver.md</code>, "Stability").
# </details>
#
# Orders are for small steps. Does it hold for the handful that images get, and for a network? The shipped `digits` model, at equal
# calls, against itself with many steps:

# %%
digits = lab.pipeline("digits")
ten = [str(k) for k in range(10)] * lab.pick(2, 1)


def digit_ends(steps, solver, power=1.0):
    """Finished latents of the digits model, always from the same noise."""
    how = {"solver": solver, "time_power": power, "generator": lab.generator(2)}
    return list(digits.trace(ten, steps, **how))[-1].latent


many = digit_ends(lab.pick(32, 16), "ab2", 1.4)
calls = lab.pick((2, 4, 8, 16), (4, 8))
by_solver = {
    name: [gap(digit_ends(n // flow.EVALUATIONS[name], name), many) for n in calls]
    for name in flow.SOLVERS
}
explore.by_calls(calls, by_solver)

# %% [markdown]
# These are root mean squares; the latent itself has been scaled to about 1. They hold the solver against the model's own flow, not
# against data.
#
# ## Play with it
#
# Choose a solver, how often it may call, and the power of the grid (next section). Where does the order stop mattering?

# %%
explore.solvers(velocity, start, exact)

# %% [markdown]
# ## Where to put the steps
#
# Steps need not be alike. A family with one knob: step i of K begins at $(i / K)^p$.
#
# > **Predict.** The kit's stages go from noise to less noise. Should the first steps be the shorter ones, or the last?
#
# ### Exercise 10.2: an uneven grid
#
# <details><summary>Hint</summary>
# K steps have K + 1 times: 0 and 1 are among them.
# </details>


# %% tags=["exercise"]
def time_grid(steps, power):
    """Local times of a stage's steps: a list of (i / K) ** power, from 0 to 1."""
    # SOLUTION 10.2
    return [(i / steps) ** power for i in range(steps + 1)]
    # END


# %%
time_grid = check.time_grid(time_grid)
with beside_the_kit(time_grid):
    assert time_grid(6, 1.3) == schedule.time_grid(6, 1.3)
explore.grids(6, (0.7, 1.0, 1.5, 2.0))

# %%
POWERS = lab.pick([0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0], [0.6, 1.0, 1.4, 2.0])
K = 6


def plane_error(step, power):
    """Of K steps in the plane."""
    return gap(walk(velocity, start, time_grid(K, power), step)[-1], exact)


in_plane = {
    "Euler": [plane_error(flow.euler_step, p) for p in POWERS],
    "Adams-Bashforth 2": [plane_error(ab2_step, p) for p in POWERS],
}
of_digits = {
    name: [gap(digit_ends(K, solver, p), many) for p in POWERS]
    for name, solver in (("Euler", "euler"), ("Adams-Bashforth 2", "ab2"))
}
explore.over_powers(POWERS, {"the plane": in_plane, "digits, both stages": of_digits}, K)

# %% [markdown]
# <details><summary>Explain</summary>
# Neither in general. What counts is where the velocity turns, and that belongs to the data and to the stage's window, so it is measured. For
# Adams-Bashforth a grid that begins with long steps is the worst in both panels. With memory there is one more reason for a short first step: it is Euler's, the only one of order
# one, and a short step errs little. How long the last steps may be is what the right arm of each bowl shows.
# </details>
#
# The shipped models have their powers in their configuration, chosen by such a measurement:

# %%
explore.own_grids((teacher, turbo))

# %%
explore.why_order_two()

# %% [markdown]
# ## Guidance in an interval
#
# Guidance takes two velocities, with class and without:
# $v_\text{none} + g\,(v_\text{class} - v_\text{none})$ (Ho and Salimans, 2022). So a guided step is two passes through the head. Does
# every step need it? Kynkäänniemi et al., 2024, guide in an interval of noise levels only; the kit in an interval of a stage's
# local time.
#
# ### Exercise 10.3: guided velocity with an interval
#
# `field(state, t, with_class)` is one pass. Guide where `low <= t < high`; elsewhere, and at scale 1, the velocity with class is
# enough, and nothing else is to be computed.
#
# <details><summary>Hint</summary>
# Ask for the velocity with class first: it is needed in any case. Only then decide whether to ask for the other one.
# </details>


# %% tags=["exercise"]
def guided_velocity(field, state, t, scale, interval):
    """v_none + scale (v_class - v_none) inside of the interval, v_class outside."""
    # SOLUTION 10.3
    low, high = interval
    with_class = field(state, t, True)
    if scale == 1 or not low <= t < high:
        return with_class
    without = field(state, t, False)
    return without + scale * (with_class - without)
    # END


# %% [markdown]
# The kit's sampler does it too. One Euler step of stage 1 from the same noise shows which velocity it took at τ = 0:

# %%
guided_velocity = check.guided_velocity(guided_velocity)


def kit_velocity(scale, interval):
    """The velocity of stage 1 at its start, as the sampler takes it."""
    how = {"guidance_interval": interval, "dtype": torch.float32}
    begin, end, *_ = trace(digits.model, [3], 1, scale, lab.generator(8), **how)
    return end.latent - begin.latent


def digits_field(state, t, with_class):
    """The head with class and without, at its start."""
    return kit_velocity(1.0 if with_class else 0.0, (0.0, 1.0))


with beside_the_kit(guided_velocity):
    for interval in ((0.0, 0.5), (0.5, 1.0)):
        ours = guided_velocity(digits_field, None, 0.0, 2.5, interval)
        torch.testing.assert_close(ours, kit_velocity(2.5, interval), atol=1e-4, rtol=1e-4)

# %% [markdown]
# > **Predict.** Eight steps, guided in the first half of the stage. How many passes? And in which half does guidance matter more?
#
# ### Exercise 10.4: passes through the head
#
# Count them for one stage and a solver with one evaluation per step. `times` are the grid's K + 1 times.
#
# <details><summary>Hint</summary>
# A step is guided if it <i>begins</i> inside of the interval. Every step has one pass, a guided one has two, and at scale 1 none is guided.
# </details>


# %% tags=["exercise"]
def head_passes(times, scale, interval):
    """How often a stage runs its head for an image, guidance included."""
    # SOLUTION 10.4
    low, high = interval
    guided = sum(low <= t < high for t in times[:-1])
    return len(times) - 1 + (guided if scale != 1 else 0)
    # END


# %%
head_passes = check.head_passes(head_passes)
with beside_the_kit(head_passes):
    for interval in ((0.0, 1.0), (0.0, 0.3), (0.2, 0.7)):
        second_halves = cost.guided_steps(6, 2.5, interval, 1.3)
        assert head_passes(schedule.time_grid(6, 1.3), 2.5, interval) == 6 + sum(second_halves)

# %%
EIGHT, SCALE = schedule.time_grid(8), 2.5
soft = moons(labels, blur=0.45)  # blurred more: now the moons overlap
intervals = {
    "nowhere": (0.0, 0.0),
    "all the way": (0.0, 1.0),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "0.2 to 0.7": (0.2, 0.7),
}


def guided_end(interval):
    """Where eight steps lead that are guided in an interval."""

    def field(x, t):
        return guided_velocity(soft, x, t, SCALE, interval)

    return walk(field, start, EIGHT, ab2_step)[-1]


# %%
ends = {name: guided_end(interval) for name, interval in intervals.items()}
rows = []
for name, interval in intervals.items():
    one = ends[name][labels == 0]
    spread = (one - one.mean(0)).square().sum(1).mean().sqrt()
    passes = head_passes(EIGHT, SCALE, interval)
    rows.append((name, passes, soft.certainty(ends[name]), spread))
explore.guided_parts(SCALE, rows)

# %%
one_class = {name: end[labels == 0] for name, end in ends.items()}
explore.guided_clouds(one_class, behind=ends["nowhere"])

# %% [markdown]
# <details><summary>Explain</summary>
# Twelve. Guidance says which of the two moons. At the very start the state says nothing yet, and near the end it says it by itself: then
# v_class and v_none are nearly alike, and to exaggerate their difference changes little. So the middle does most: from 0.2 to 0.7 it buys nearly the
# certainty of the whole way for a quarter fewer passes, and keeps more of the spread. Both halves alone buy less. Where the middle lies is a matter of the data.
# </details>
#
# What it saves on the real model, by its own count (`model.flops`), at the teacher's steps:

# %%
plans = {
    "no guidance": {"guidance_scale": 1.0},
    "guided all the way": {"guidance_scale": 2.5, "guidance_interval": (0.0, 1.0)},
    "first half of every stage": {"guidance_scale": 2.5, "guidance_interval": (0.0, 0.5)},
    "as its checkpoint prefers": {},
}


def gflop_of(pipe, plan=None, **how):
    """GFLOP of one image by the model's own formula."""
    return cost.total_flops(pipe.model.flops(plan, **how)) / 1e9


explore.gflop_of_plans(default, {name: gflop_of(teacher, **how) for name, how in plans.items()})

# %% [markdown]
# ### Guidance in one pass
#
# Both velocities can be computed in one *call*: the batch doubled, once with the class and once without. The kit does so. It keeps
# the machine busier, but it is the same work, and FLOPs do not fall.
#
# To halve the work the head must *know* the guided velocity. Tell it the scale g as one more input, and train it on
#
# $$(x - \varepsilon) + (g - 1)\,(v_\text{class} - v_\text{none}) ,$$
#
# where the second part comes from a trained model (Tang et al., 2025). Its mean given the state is the guided velocity, so by the argument of
# notebook 3 that is what is learned, and g stays a slider. The few-step head is told g in this way: one pass per step, at any scale.
#
# ## A map instead of a velocity
#
# Even so a step is only as good as a line through two velocities. Why not ask for what a step needs: where does the flow *end* after a time d?
# The flow map $\Psi$ says so, and so does the *mean velocity* over a span:
#
# $$u(x, t, d) = \frac{\Psi_{t \to t + d}(x) - x}{d} = \frac1d \int_0^d v\,dr , \qquad u(x, t, 0) = v(x, t) .$$
#
# A step $x + d\,u(x, t, d)$ is exact, however long it is.

# %%
explore.spans(velocity, start)

# %% [markdown]
# To go on for $d_1$ and then for $d_2$ is to go on for $d_1 + d_2$. So mean velocities of neighbouring spans determine that of both together.
# Shortcut models (Frans et al., 2025) train on this line alone.
#
# ### Exercise 10.5: two spans make one
#
# <details><summary>Hint</summary>
# Ways add up: d1 · first and d2 · second. A mean velocity is the way through the time.
# </details>


# %% tags=["exercise"]
def joined(first, d1, second, d2):
    """The mean velocity over a span d1 and the span d2 that follows it."""
    # SOLUTION 10.5
    return (d1 * first + d2 * second) / (d1 + d2)
    # END


# %%
joined = check.joined(joined)
fine = walk(velocity, start, schedule.time_grid(64))
first, second, whole = (
    (fine[later] - fine[now]) / ((later - now) / 64) for now, later in ((8, 24), (24, 56), (8, 56))
)
with beside_the_kit(joined):
    torch.testing.assert_close(joined(first, 16 / 64, second, 32 / 64), whole)

# %% [markdown]
# ## What the few-step head learns
#
# `ecar train turbo` lets a trained teacher walk: each stage in 8 steps of Adams-Bashforth, guided. The states at $t = 0, ¼, ½, ¾, 1$
# are kept. From these five the student learns seven spans, the whole, two halves, four quarters, and so the 1, 2 and 4 steps that it will take. Each is a row:
# at this state, at this time, for this span, the mean velocity is that.
#
# ### Exercise 10.6: the targets
#
# `states` is a list of K + 1 states at even times, `spans` a list of pairs (first, last) of numbers in it. Return a list with
# (state, time, span, target) for each; time and span in local time, 0 to 1.
#
# <details><summary>Hint</summary>
# With <code>count = len(states) - 1</code>, state number i is at time i / count. The span from first to last takes (last - first) / count.
# </details>


# %% tags=["exercise"]
def span_rows(states, spans):
    """What a flow map learns from a walk: (state, time, span, mean velocity) of every span."""
    # SOLUTION 10.6
    count, rows = len(states) - 1, []
    for first, last in spans:
        span = (last - first) / count
        rows.append((states[first], first / count, span, (states[last] - states[first]) / span))
    return rows
    # END


# %%
print("spans, in quarters:", SPANS)
span_rows = check.span_rows(span_rows)
five = list(walk(velocity, start, schedule.time_grid(8))[::2])
target = {(a, b): row[3] for (a, b), row in zip(SPANS, span_rows(five, SPANS), strict=True)}
with beside_the_kit(span_rows, joined):
    torch.testing.assert_close(joined(target[0, 2], 0.5, target[2, 4], 0.5), target[0, 4])

# %% [markdown]
# All targets come from one walk, so they agree with each other: the whole's is the mean of the halves'. And given start, class and scale
# the walk is determined. So the loss can fall to 0, and there is nothing to average over: a long span is not a blur.
#
# > **Predict.** In notebook 3 one Euler step from noise landed on the mean of the data. The student will take one step too. Will it?
#
# ### Train it
#
# The network of notebook 3, told the span d and the scale g as well. Its teacher is the exact flow, guided.


# %%
def waves(values, frequencies):
    """Sines and cosines of (B, d): (B, 2 d F), so that small differences are seen."""
    angle = (values[..., None] * values.new_tensor(frequencies)).flatten(1)
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class MeanVelocity(nn.Module):
    """State (B, 2), time, span, scale (B, 1) each and a class (B,) -> (B, 2)."""

    def __init__(self, width=128):
        super().__init__()
        self.first = nn.Linear(2 + 12 + 8 + 8 + 1, width)
        self.class_embedding = nn.Embedding(2, width)
        layers = [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 2)]
        self.rest = nn.Sequential(*(part for layer in layers for part in (nn.SiLU(), layer)))

    def forward(self, state, time, span, scale, label):
        clock = [waves(torch.pi * part, (0.5, 1, 2, 4)) for part in (time, span)]
        seen = (state, waves(state, (1, 2, 4)), *clock, scale.log())
        return self.rest(self.first(torch.cat(seen, dim=1)) + self.class_embedding(label))


# %% [markdown]
# First the teacher walks, once for all: every row of the training comes from these walks.

# %%
WALKS = lab.pick(8000, 1000)
generator = lab.generator(3)
begin = torch.randn(WALKS, 2, generator=generator)
kind = torch.randint(2, (WALKS,), generator=generator)
scale = 3.5 ** torch.rand(WALKS, 1, generator=generator)  # 1 to 3.5, as in the kit
guided = moons(kind).guided(scale)
walked = walk(guided, begin, schedule.time_grid(8))[::2]
walks = span_rows(list(walked), SPANS)

# %%
STEPS, BATCH = lab.pick(2500, 150), 512
torch.manual_seed(lab.seed)
student = MeanVelocity()
optimizer = torch.optim.Adam(student.parameters())
rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=STEPS)
losses = []
for step in range(STEPS):
    state, time, span, target = walks[step % len(walks)]
    rows = torch.randint(WALKS, (BATCH,), generator=generator)
    clock = torch.tensor([time, span]).expand(BATCH, 2).split(1, dim=1)
    error = student(state[rows], *clock, scale[rows], kind[rows]) - target[rows]
    loss = error.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rate.step()
    losses.append(loss.item())
early, late = (sum(part) / len(part) for part in (losses[:70], losses[-70:]))
print(f"mean loss of the first 70 steps {early:.3f}, of the last 70 {late:.5f}")

# %% [markdown]
# Unlike the loss of flow matching this one goes towards 0. Now it samples from noise that it has not seen, in 1, 2 and 4 steps.


# %%
@torch.no_grad()
def leap(steps, scale=1.0):
    """The student in ``steps`` equal spans, one pass each."""
    state, ones = start.float(), torch.ones(N, 1)
    for k in range(steps):
        u = student(state, ones * k / steps, ones / steps, ones * scale, labels)
        state = state + u / steps
    return state


GUIDANCE = 2.0
flow_guided = fields.guided(GUIDANCE)
goal = walk(flow_guided, start, schedule.time_grid(64))[-1]
teacher_ends = {
    k: walk(flow_guided, start, schedule.time_grid(k), ab2_step)[-1] for k in (1, 2, 4, 8)
}
student_ends = {k: leap(k, GUIDANCE) for k in (1, 2, 4)}

# %%
explore.ends_of_both(teacher_ends, student_ends, goal, GUIDANCE)
missed = {k: (gap(teacher_ends[k], goal), gap(student_ends[k], goal)) for k in (1, 2, 4)}
explore.errors_of_both(missed)

# %% [markdown]
# <details><summary>Explain</summary>
# No. Euler's one step follows the velocity at the start, which is the same for all: towards the mean. The student's one step follows the
# mean velocity of its own way, which depends on where it started. It need not be straight for that. What is left is the student's own error, and that
# does not fall with more steps as a solver's does.
# </details>
#
# The kit's head differs in four things. It starts as a copy of its teacher, with both new inputs at zero. An eighth row keeps it an
# ordinary head: span 0, whose target is the guided velocity from data, given above. Its loss weighs rows so that large errors do not drown
# small ones, as MeanFlow does (Geng et al., 2025). And the transformer stays as it was: Hang et al., 2025, put a shortcut on a head alone, too.

# %%
explore.better_than_the_teacher()

# %% [markdown]
# ## The real thing
#
# Back to the two models of the beginning, with their own guidance. GFLOP are counted by the model's own `flops`; time is measured here and
# now, for one image, without the decoder: the least of a few runs. (On a CPU it is the processor's time, all threads together, which other
# programs do not lengthen; on a GPU the clock's.) Each model is compared with *its own flow in many steps*. (Of the few-step head that is
# span 0, which any solver can follow.)
#
# > **Predict.** With steps cut from the teacher's to 2+2+2 and guidance in one pass, by which factor do the GFLOP fall? And the time?

# %%
MANY = lab.pick([12, 12, 12], [6, 6, 6])
own_flow = {"teacher": final(teacher, MANY), "few-step": final(turbo, MANY, solver="ab2")}
pipes = {"teacher": teacher, "few-step": turbo}


def measured(who, plan):
    """Cost, time, distance to the own flow, spread, images and their sharpness of a plan."""
    latent = final(pipes[who], plan)
    images = pipes[who].decode(latent)
    return {
        "gflop": gflop_of(pipes[who], plan),
        "seconds": explore.seconds_of(pipes[who], names[0], plan, lab.pick(5, 1)),
        "distance": gap(latent, own_flow[who]),
        "spread": latent.std().item(),
        "images": images,
        "edges": explore.edges(images),
    }


# %%
arms = [
    ("teacher", default),
    ("teacher", [4, 4, 4]),
    ("teacher", [4, 2, 2]),
    ("teacher", [2, 2, 2]),
    ("few-step", [4, 2, 2]),
    ("few-step", [2, 2, 2]),
    ("few-step", [1, 1, 1]),
]
results = {f"{who}, {explore.told(plan)}": measured(who, plan) for who, plan in arms}
explore.images_of(results)

# %%
explore.costs(results)

# %%
usual = results[f"teacher, {explore.told(default)}"]
explore.closing_table(results, usual)

# %% [markdown]
# <details><summary>Explain</summary>
# The columns "fewer by" and "faster by" say it. FLOPs fall by more than the steps alone, since a guided pass is two of the teacher's and one of the
# student's. Time need not fall as far: coarse stages are small calls, and the transformer, the noise and Python stay (notebook 9).
# A teacher short of steps has a spread well below its own at full steps: its images are pale, as Euler's are. The few-step head keeps the spread.
# </details>
#
# ### What the few-step head loses
#
# Read the last three columns honestly. Its distance to its own flow is above that of the teacher at its usual steps, and more steps bring it
# down only slowly: that error was learned, and a solver cannot mend it. Edges are a crude measure of sharpness; what they say of *these few images* stands in the table.
# It knows 1, 2 and 4 even steps per stage and guidance from 1 to 3.5, and refuses the rest. It is bound to the teacher it was taught by: new weights
# there want a new training here, while a solver works with any. And its distance says how well it follows a flow, not how good images are.
# For that there is the Frechet distance on thousands of images: `docs/results.md`, "Trained for longer", and the model card in
# `data/checkpoints/cifar10-turbo`. There a better solver alone is ahead in quality, and the few-step head in cost. Nothing here was measured on a GPU.
#
# ### Your plans
#
# The table is yours to fill: change the plans, run the cell, and look for the cheapest one that you would accept. A few-step head takes 1, 2 or 4 steps
# in a stage, the teacher any number.

# %%
MINE = [
    ("few-step", [2, 2, 1]),
    ("few-step", [4, 4, 4]),
    ("teacher", [6, 3, 3]),
]
for who, plan in MINE:
    results.setdefault(f"{who}, {explore.told(plan)}", measured(who, plan))
cheapest_first = dict(sorted(results.items(), key=lambda item: item[1]["gflop"]))
explore.closing_table(cheapest_first, usual)

# %% [markdown]
# ## Recap
# - A step errs because the velocity changes on the way. Euler's error falls as 1/K, that of Adams-Bashforth 2 as 1/K², for the same calls.
# - A grid with short first steps suits a solver whose first step is Euler's; the best power is measured.
# - A guided step is two passes. Guide where class and no class still differ; or teach the head the guided velocity.
# - A flow map gives the mean velocity over a span. Spans compose; targets are cut out of a teacher's walk.
# - A few-step head buys cost with a training of its own, and cannot be better than its teacher.
#
# **What breaks if…** the solver remembers the velocity of the stage before? Walk `moons` from 0 to 0.5, then from other noise, and
# hand the first walk's last velocity to `ab2_step` as `previous`.
#
# **On**: `ecar sample --checkpoint cifar10-turbo --steps 2 2 2` from a terminal; `--solver` and `--power` work for every
# model; `ecar train turbo` teaches a head for your own checkpoint; the Compare tab of `make demo` runs two plans side by side.
