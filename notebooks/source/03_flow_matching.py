# %% [markdown]
# # 3. Flow matching
#
# The flow head of E-CAR carries a latent from noise towards data. You build that idea in the plane, where all can
# be drawn, measure it against diffusion, and find it again in the kit.
#
# **After it you can**
# - write the objective of flow matching and say what minimises it;
# - walk a field with Euler and Heun, and choose steps by measuring;
# - say what optimal pairs and guidance change and cost;
# - compare flow matching with noise prediction fairly;
# - read the flow head's loss along its window.
#
# **Before it**: notebook 0; PyTorch basics.
#
# {{time}}
#
# Flows that go part of the way are the [paper's](https://arxiv.org/abs/2412.14170) (its section 3.3). The straight
# line, the solver and all sizes are our reading.

# %%
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from ecar_lab import StageSchedule, data, flow, trace
from ecar_lab.baselines import objective
from ecar_lab.teaching import beside_the_kit, setup
from ecar_lab.teaching.check import flow_matching as check
from ecar_lab.teaching.explore import flow_matching as explore

lab = setup(3)

# %% [markdown]
# ## The result first
#
# The last stage of the shipped model: its flow head is called once per step and moves the latent a little.

# %%
pipe = lab.pipeline("cifar10")
events = [e for e in pipe.trace(["ship"], generator=lab.generator(3)) if e.stage == 2]
explore.show_flow(pipe, events)

# %% [markdown]
# What is a good velocity, and why so few steps? Leave images aside for a while.
#
# ## Data in the plane
#
# A point has two numbers. `explore.points` draws fresh ones from four data sets, each in a few classes.

# %%
N = lab.pick(4000, 1000)
real = {name: explore.points(name, N, lab.generator(1))[0] for name in explore.DATA}
noise = torch.randn(N, 2, generator=lab.generator(2))
explore.show_data({"noise": noise, **real})

# %% [markdown]
# ## A straight line for every pair
#
# Take a noise point ε and a data point x, any two. Join them by a line and walk it in one unit of time:
#
# $$x_t = (1 - t)\,\varepsilon + t\,x, \qquad \text{velocity} = \frac{d x_t}{d t} = x - \varepsilon .$$
#
# At t = 0 this is noise, at t = 1 data. The velocity does not depend on t. A network will be shown $x_t$ and t
# and asked for that velocity.
#
# ### Exercise 3.1: the training pair
#
# Return the state and the target velocity.
#
# <details><summary>Hint</summary>
# <code>t</code> has shape (B, 1), so it multiplies points (B, 2) as it is. Going from ε to x takes the difference x - ε.
# </details>


# %% tags=["exercise"]
def training_pair(noise, data, t):
    """The state x_t on the line from noise to data, and the velocity along it."""
    # SOLUTION 3.1
    return (1 - t) * noise + t * data, data - noise
    # END


# %%
training_pair = check.training_pair(training_pair)
moons, t = real["moons"], torch.rand(N, 1, generator=lab.generator(3))
with beside_the_kit(training_pair):
    kit_pair = objective.FlowObjective().corrupt(moons, noise, t.flatten())[:2]
    torch.testing.assert_close(tuple(training_pair(noise, moons, t)), kit_pair)

# A point is also a latent of one pixel with two channels; with S = 1 the kit's stages reduce to this line.
one_stage = StageSchedule(latent_size=1, num_stages=1)
starts, ends = flow.endpoints(one_stage, moons[:, :, None, None], [noise[:, :, None, None]])
with beside_the_kit(training_pair):
    torch.testing.assert_close(starts[0].flatten(1), training_pair(noise, moons, 0.0)[0])
    torch.testing.assert_close(ends[0].flatten(1), training_pair(noise, moons, 1.0)[0])

# %% [markdown]
# ## What the network can learn
#
# A state $x_t$ lies on many lines: different pairs lead through it. Squared error against all of them is least
# at their mean, so the best possible answer is
#
# $$v(x_t, t) = \mathbb{E}\,[\,x - \varepsilon \mid x_t\,].$$
#
# For a finite data set this can be computed. Given x, the noise must have been $(x_t - t x)/(1 - t)$; how
# probable that noise is weighs the candidate x.


# %%
def mean_velocity(state, t, data):
    """E[x - eps | x_t] if x is one of ``data`` (M, d); state (N, d), t < 1."""
    eps = (state[:, None] - t * data) / (1 - t)  # (N, M, d): the noise that each x would need
    weight = (-eps.square().sum(-1) / 2).softmax(-1)  # p(x | x_t)
    return (weight[..., None] * (data - eps)).sum(1)


# %% [markdown]
# > **Predict.** Data on a line, at -1 and +1 only. Noise at +0.5 may be paired with -1, and noise at -0.5 with
# > +1: their lines cross. Do the paths of the mean velocity cross too?

# %%
two = torch.tensor([[-1.0], [1.0]])
begin = torch.linspace(-2, 2, 16)[:, None]
times = torch.linspace(0, 1, 201).tolist()
path = [begin]
for k in range(len(times) - 1):
    path.append(path[-1] + (times[k + 1] - times[k]) * mean_velocity(path[-1], times[k], two))
explore.show_mean_velocity(begin, two, times, torch.stack(path))

# %% [markdown]
# <details><summary>Explain</summary>
# They cannot. At one place and time the field has one velocity, so two paths that met would go on together. Where
# lines of pairs cross, the field takes their mean. It still moves noise to data: at every t the crowd as a whole is
# distributed as the crowd of all lines is. What is lost is straightness: this bending is what costs steps.
# </details>
#
# Two facts were just used. Both take a few lines.
#
# **The mean velocity keeps the crowd.** Let $p_t$ be the density of $x_t$ over all pairs, $\dot x = x - \varepsilon$, and f any smooth
# test function. Then
#
# $$\frac{d}{dt}\,\mathbb{E}\,f(x_t) = \mathbb{E}\,[\nabla f(x_t) \cdot \dot x]
# = \mathbb{E}\,\big[\nabla f(x_t) \cdot \mathbb{E}[\dot x \mid x_t]\big] = \int \nabla f \cdot v\, p_t\,dx
# = -\int f\; \nabla\!\cdot(p_t v)\,dx .$$
#
# It holds for every f, so $\partial_t p_t = -\nabla\cdot(p_t v)$, the *continuity equation*: the very equation that the density of particles
# obeys which follow v. Started alike, as noise, both stay alike at every t (if v is smooth enough for its paths to be unique).
#
# **The pairs may stand in for the mean.** The target we would like, $v(x_t, t)$, is not known, only $\dot x$ of single pairs. For a network u,
#
# $$\mathbb{E}\,|u(x_t) - \dot x|^2 = \mathbb{E}\,|u(x_t) - v(x_t)|^2 + \mathbb{E}\,|v(x_t) - \dot x|^2 ,$$
#
# since the mixed term $2\,\mathbb{E}\,[(u - v) \cdot (v - \dot x)]$ is zero: given $x_t$, the mean of $v - \dot x$ is. The last part does not depend on u.
# So both losses have the *same gradient*, and the last part is what no training removes.
#
# ## A small network
#
# Three hidden layers. It sees place and time by a few sines and cosines too, and a class if it is told one; the
# last row of the table stands for no class, as in the kit.


# %%
def waves(values, frequencies):
    """Sines and cosines of (B, d): (B, 2 d F), so that small differences are seen."""
    angle = (values[..., None] * values.new_tensor(frequencies)).flatten(1)
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class VelocityNet(nn.Module):
    """State (B, 2), time (a number or (B, 1)) and perhaps a class (B,) -> (B, 2)."""

    def __init__(self, num_classes=3, width=128):
        super().__init__()
        self.null_class = num_classes
        self.first = nn.Linear(2 + 12 + 8, width)
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        layers = [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 2)]
        self.rest = nn.Sequential(*(part for layer in layers for part in (nn.SiLU(), layer)))

    def forward(self, state, t, label=None):
        t = torch.as_tensor(t, dtype=state.dtype, device=state.device).expand(len(state), 1)
        seen = (state, waves(state, (1, 2, 4)), waves(torch.pi * t, (0.5, 1, 2, 4)))
        if label is None:
            label = torch.full((len(state),), self.null_class, device=state.device)
        return self.rest(self.first(torch.cat(seen, dim=1)) + self.class_embedding(label))


# %% [markdown]
# The training loop has three places where later sections put something else: what the network is asked for
# (`make_pair`), which noise goes with which data (`match`), and how often it is told the class.

# %%
STEPS, BATCH = lab.pick(2500, 200), 256


def train(name, make_pair=training_pair, match=None, class_dropout=1.0):
    """A network for a data set, and its loss over the last tenth of the training."""
    torch.manual_seed(lab.seed)
    generator, net, losses = lab.generator(), VelocityNet().to(lab.device), []
    optimizer = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=STEPS)
    for _ in range(STEPS):
        data, label = explore.points(name, BATCH, generator)
        noise = torch.randn(BATCH, 2, generator=generator)
        if match is not None:
            noise = match(noise, data)
        t = torch.rand(BATCH, 1, generator=generator)
        label[torch.rand(BATCH, generator=generator) < class_dropout] = net.null_class
        batch = (*make_pair(noise, data, t), t, label)
        state, target, t, label = (part.to(lab.device) for part in batch)
        loss = (net(state, t, label) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(loss.item())
    return net.requires_grad_(False).eval(), sum(losses[-STEPS // 10 :]) / (STEPS // 10)


# %%
net, loss = train("moons")
print(
    f"{sum(p.numel() for p in net.parameters()):,} parameters, {STEPS * BATCH:,} points, loss {loss:.2f}"
)

# %% [markdown]
# The loss does not come near 0. Is the network bad? Compare it at t = 0.5 with nearly the best possible answer:
# the mean velocity over our `N` points.


# %%
def half_way_loss(field):
    """Mean squared error at t = 0.5, on pairs that no training has seen."""
    data = explore.points("moons", N, lab.generator(4))[0]
    state, target = training_pair(noise, data, 0.5)
    return (field(state, 0.5) - target).square().mean().item()


candidates = {
    "always 0": lambda state, t: 0 * state,
    "the network": lambda state, t: net(state.to(lab.device), t).cpu(),
    "the mean velocity": lambda state, t: mean_velocity(state, t, moons),
}
explore.show_losses({name: half_way_loss(field) for name, field in candidates.items()})

# %% [markdown]
# What is left is the spread of the lines around their mean. No network can remove it, so a loss of flow matching
# says little by itself: compare it with other losses, never with 0.
#
# ## Following the field
#
# To make data, start at noise and follow the velocity. `velocity(state, i)` is the velocity at `times[i]`, as in
# the kit.
#
# ### Exercise 3.2: an Euler step
#
# Go from `times[step]` to `times[step + 1]`. Return the new state and the velocity you used.
#
# <details><summary>Hint</summary>
# Way = velocity × time that passes. The times need not be evenly spaced.
# </details>


# %% tags=["exercise"]
def euler_step(velocity, state, times, step):
    """x + dt v(x, t): the new state, and v."""
    # SOLUTION 3.2
    slope = velocity(state, step)
    return state + (times[step + 1] - times[step]) * slope, slope
    # END


# %%
euler_step = check.euler_step(euler_step)
uneven = [0.0, 0.2, 0.3, 1.0]


def field_at(state, index):
    return torch.sin(state) + uneven[index]


with beside_the_kit(euler_step):
    theirs = flow.euler_step(field_at, noise, uneven, 1)
    torch.testing.assert_close(tuple(euler_step(field_at, noise, uneven, 1)), theirs)


# %%
@torch.no_grad()
def walk(field, noise, times, step=euler_step):
    """All states of a run, (K + 1, N, 2); ``field(state, t)`` is a velocity."""
    states = [noise.to(lab.device)]
    for k in range(len(times) - 1):
        states.append(step(lambda state, i: field(state, times[i]), states[-1], times, k)[0])
    return torch.stack(states).cpu()


def even(steps, end=1.0):
    """Times of equal steps from 0."""
    return [end * k / steps for k in range(steps + 1)]


constant = walk(lambda state, t: state.new_tensor([2.0, -1.0]), noise, even(1))
with beside_the_kit(euler_step):
    torch.testing.assert_close(constant[-1], noise + torch.tensor([2.0, -1.0]))

# %% [markdown]
# Where the velocity is constant, one Euler step is exact, however long. So it is bending that asks for steps.
# The field and its crowd:

# %%
fine = walk(net, noise, even(40))
explore.show_field(fine, (0, 16, 32, 39), lambda state, t: net(state.to(lab.device), t).cpu())

# %% [markdown]
# > **Predict.** At t = 0 all arrows point to one place. Where is it, and what do you get from a single Euler step?

# %%
print("mean of the data:", [f"{value:.2f}" for value in real["moons"].mean(0)])
runs = {f"Euler, {k} step{'s' * (k > 1)}": walk(net, noise, even(k)) for k in (1, 2, 4, 16)}
explore.show_euler(runs)

# %% [markdown]
# <details><summary>Explain</summary>
# At t = 0 the state is pure noise and says nothing about x. So the mean velocity is E[x] - ε, and one step from ε
# lands on E[x], the mean of the data, for every ε (the network's come near it). More steps let the state say which x is meant, little by little.
# </details>
#
# ## How good, in how many calls
#
# We need a distance between two sets of points. Sliced Wasserstein: project both on a direction, sort, compare;
# average over directions. Two fresh sets of real data give the floor.


# %%
def sliced_wasserstein(a, b, directions=64):
    """Root mean squared gap between sorted projections of two sets (N, 2)."""
    angle = torch.pi * torch.arange(directions) / directions
    axes = torch.stack((angle.cos(), angle.sin()))  # (2, directions)
    gap = (a @ axes).sort(dim=0).values - (b @ axes).sort(dim=0).values
    return gap.square().mean().sqrt().item()


floor = sliced_wasserstein(explore.points("moons", N, lab.generator(5))[0], real["moons"])
print(f"noise: {sliced_wasserstein(noise, real['moons']):.3f}, other real data: {floor:.3f}")

# %% [markdown]
# ### Exercise 3.3: a Heun step
#
# Euler trusts the velocity at the start. Heun lets Euler look ahead, asks for the velocity there, and takes the
# mean of both from the old state. Two network calls per step.
#
# <details><summary>Hint</summary>
# <code>ahead, first = euler_step(...)</code>; the second velocity is at <code>ahead</code> and at the time <code>step + 1</code>.
# </details>


# %% tags=["exercise"]
def heun_step(velocity, state, times, step):
    """x + dt (v(x, t) + v(ahead, t + dt)) / 2: the new state, and the mean velocity."""
    # SOLUTION 3.3
    ahead, first = euler_step(velocity, state, times, step)
    slope = (first + velocity(ahead, step + 1)) / 2
    return state + (times[step + 1] - times[step]) * slope, slope
    # END


# %%
heun_step = check.heun_step(heun_step)
with beside_the_kit(heun_step):
    theirs = flow.heun_step(field_at, noise, uneven, 1)
    torch.testing.assert_close(tuple(heun_step(field_at, noise, uneven, 1)), theirs)
for name, step in (("euler", euler_step), ("heun", heun_step)):
    with beside_the_kit(step):
        theirs = explore.trajectory(net, noise.to(lab.device), 5, name).cpu()
        torch.testing.assert_close(walk(net, noise, even(5), step), theirs)

# %%
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def miss(states):
    """Distance of a run's end to the moons."""
    return sliced_wasserstein(states[-1], real["moons"])


euler = [miss(walk(net, noise, even(k))) for k in COUNTS]
heun = [miss(walk(net, noise, even(k), heun_step)) for k in COUNTS[:-1]]

# %%
explore.show_solvers(COUNTS, euler, heun, floor)

# %% [markdown]
# ## Straighter by better pairs
#
# We paired noise and data at random, and crossing lines were the price. Pair each batch so that the total squared
# way is least, and lines hardly cross. This is *minibatch* optimal transport: best within a batch of 256, not between the two
# distributions; only with ever larger batches would it come near to that. All that is said of "optimal pairs" here is of these.


# %%
def match(noise, data):
    """The batch's noise in the order that makes sum |data - noise|² least."""
    _, order = linear_sum_assignment(torch.cdist(data, noise).square().numpy())
    return noise[order]


# %%
batch = explore.points("moons", 128, lab.generator(6))[0]
loose = torch.randn(128, 2, generator=lab.generator(7))
starts = {"random pairs": loose, "optimal pairs": match(loose, batch)}
explore.show_pairings(starts, batch)

# %% [markdown]
# > **Predict.** Same network, same number of steps, only paired. What does a single Euler step give now?

# %%
matched, matched_loss = train("moons", match=match)


def bend(states):
    """E |velocity - (x_1 - x_0)|² / E |x_1 - x_0|² of a run: 0 = straight at constant speed."""
    way = states[-1] - states[0]
    velocity = (len(states) - 1) * states.diff(dim=0)
    return ((velocity - way).square().sum(-1).mean() / way.square().sum(-1).mean()).item()


# %%
rows = {}
for name, its_loss, field in (("random", loss, net), ("optimal", matched_loss, matched)):
    distances = [miss(walk(field, noise, even(k))) for k in (1, 2, 4, 64)]
    rows[name] = its_loss, bend(walk(field, noise, even(64))), distances
explore.show_pairing_results(rows)

# %% [markdown]
# <details><summary>Explain</summary>
# Matched noise tells which part of the data is meant already at t = 0, so the mean velocity there is no longer
# E[x] - ε. Paths are nearly straight, and one step nearly suffices. The loss falls too, not because the network is
# better but because less is left to average: hardly any other pair leads through the same state. The price is an
# assignment in every batch, which grows with the cube of its size, and in many dimensions a batch is a poor sample:
# all its points are about equally far apart. The kit pairs at random; so do most image models. (What the paper does
# is not known to us.)
# </details>
#
# ## Diffusion beside it
#
# DDPM takes another road between the same two ends: $x_k = \sqrt{\bar\alpha_k}\,x + \sqrt{1 - \bar\alpha_k}\,\varepsilon$
# over 1000 noise levels k, and asks the network for ε. To keep our clock, level k is time t = 1 - k / 1000.

# %%
LEVELS = 1000
# abar of every level; one more entry, so that level -1 is clean data.
signal = torch.cat(((1 - torch.linspace(1e-4, 0.02, LEVELS)).cumprod(0), torch.ones(1)))


def noise_pair(noise, data, t):
    """DDPM's state, and its target: the noise."""
    level = ((1 - t) * LEVELS).long().clamp(max=LEVELS - 1)
    return signal[level].sqrt() * data + (1 - signal[level]).sqrt() * noise, noise


# %%
kit_noise = objective.EpsilonObjective()
theirs = kit_noise.corrupt(moons, noise, (1 - t).flatten())[:2]
torch.testing.assert_close(noise_pair(noise, moons, t), theirs)
diffusion, _ = train("moons", make_pair=noise_pair)

# %% [markdown]
# The same network, data and training steps. "Weight" is what the loss puts on an error of the clean estimate at a
# given noise level; how often a level is drawn differs too.
#
# | | flow matching | noise prediction (DDPM) |
# |---|---|---|
# | path | $(1-t)\,\varepsilon + t\,x$: straight, even speed | $\sqrt{\bar\alpha}\,x + \sqrt{1-\bar\alpha}\,\varepsilon$: an arc |
# | target | $x - \varepsilon$ | $\varepsilon$ |
# | loss | squared error | squared error |
# | weight on $\lVert\hat x - x\rVert^2$ | $1 / (1-t)^2$: 1 at pure noise | $\bar\alpha / (1-\bar\alpha)$, that is $t^2 / (1-t)^2$: 0 at pure noise |
# | ends | exactly noise, exactly data | almost noise, almost data |
# | sampler | Euler, Heun | DDPM's random steps, or DDIM |
#
# DDIM takes the estimate of x that the predicted noise implies, and mixes it with that noise at a lower level.


# %%
@torch.no_grad()
def ddim(net, noise, levels, limit=None):
    """All states of a run down ``levels``, (K + 1, N, 2); ``limit``: clip the clean estimate."""
    states = [noise.to(lab.device)]
    for level, lower in zip(levels, [*levels[1:], -1], strict=True):
        now, then = signal[level].item(), signal[lower].item()
        eps = net(states[-1], 1 - level / LEVELS)
        clean = (states[-1] - (1 - now) ** 0.5 * eps) / now**0.5
        if limit is not None:
            clean = clean.clamp(-limit, limit)
            eps = (states[-1] - now**0.5 * clean) / (1 - now) ** 0.5
        states.append(then**0.5 * clean + (1 - then) ** 0.5 * eps)
    return torch.stack(states).cpu()


def even_levels(steps):
    """The usual choice: evenly spaced levels, the noisiest first."""
    return [round(LEVELS * (1 - k / steps)) - 1 for k in range(steps)]


# %%
*_, kit = kit_noise.walk(
    lambda x, level, _: diffusion(x, 1 - level / LEVELS), noise.to(lab.device), 8, "euler"
)
torch.testing.assert_close(
    ddim(diffusion, noise, even_levels(8))[-1], kit.state.cpu(), atol=1e-3, rtol=1e-3
)

# %% [markdown]
# A fair comparison gives diffusion a good sampler too. Both paths visit the same mixtures of data and noise, only
# scaled and at other times. So let DDIM stop at the levels whose noise-to-data ratio is the flow's, (1 - t) / t,
# and clip its clean estimate to where data can be.

# %%
ratio = ((1 - signal[:-1]) / signal[:-1]).sqrt()


def flow_levels(steps):
    """The levels with the noise-to-data ratio of the flow's even times."""
    ratios = [steps / k - 1 for k in range(1, steps)]
    return [LEVELS - 1, *(int((ratio - r).abs().argmin()) for r in ratios)]


# %%
limit = real["moons"].abs().max().item()
arms = {
    "flow, Euler": euler,
    "flow, optimal pairs, Euler": [miss(walk(matched, noise, even(k))) for k in COUNTS],
    "noise, DDIM": [miss(ddim(diffusion, noise, even_levels(k))) for k in COUNTS],
    "noise, DDIM, flow's levels, clipped": [
        miss(ddim(diffusion, noise, flow_levels(k), limit)) for k in COUNTS
    ],
}

# %%
explore.show_samplers(COUNTS, arms, floor)

# %% [markdown]
# How many calls does each need to come within six times the floor?

# %%
wanted = 6 * floor


def needed(scores):
    """The first number of calls that is good enough, if there is one."""
    enough = [count for count, score in zip(COUNTS, scores, strict=True) if score <= wanted]
    return enough[0] if enough else None


calls = {name: needed(scores) for name, scores in arms.items()}
explore.show_calls(COUNTS, arms, calls, wanted)

# %% [markdown]
# Why? Calls should go where the path turns. Both samplers follow the same crowd, so express the times of both as the flow's time t:

# %%
turning = walk(net, noise, even(64)).diff(dim=0).diff(dim=0).norm(dim=-1).mean(1)
early = turning[:8].sum() / turning.sum()
seen = [1 / (1 + ratio[level].item()) for level in even_levels(8)]
bends = bend(fine), bend(ddim(diffusion, noise, even_levels(64)))
explore.tell_where_calls_fall(early, seen, bends, blown_up=ratio[-1])

# %% [markdown]
# Half of DDIM's even calls fall before t = 1/8, where little turns. And the first estimate of x divides by an almost
# vanished signal, which blows up a small error of ε. How bent the whole path is does not decide it: the same network
# on the same path does better as soon as its calls fall elsewhere and its estimate is clipped.
#
# At the flow's levels and clipped (the flow is not given that hint), noise prediction is ahead at 2 and 4 calls and
# about even at 8. With one call and from 16 calls on it is behind. In the plane, then, **with a good sampler
# diffusion does as well at 2 to 8 steps**. Flow matching gets there with the plainest one. (One seed.)

# %%
explore.ask_steps_of_diffusion()

# %%
explore.ask_objective()

# %% [markdown]
# ## Play with it
#
# Two more data sets, both pairings, 1,000 particles. Choose a solver and its steps, press play and let time run.
# What is computed once is kept, so moving t only redraws.

# %%
fields = {"moons": {"random": net, "optimal": matched}}
for name in ("rings", "spirals"):
    fields[name] = {"random": train(name)[0], "optimal": train(name, match=match)[0]}
explore.sandbox(fields, real, sliced_wasserstein, noise[:1000].to(lab.device))

# %% [markdown]
# ## A class, and guidance
#
# Told the class in four of five cases, one network learns two fields: $v_\text{class}$ and, with the class left
# out, $v_\text{none}$. Classifier-free guidance goes further in the direction in which the two differ:
#
# $$v = v_\text{none} + g\,(v_\text{class} - v_\text{none}).$$
#
# ### Exercise 3.4: guided velocity
#
# <details><summary>Hint</summary>
# At g = 0 it is v_none, at g = 1 it is v_class; above, it goes beyond.
# </details>


# %% tags=["exercise"]
def guided(v_none, v_class, scale):
    """The velocity with guidance."""
    # SOLUTION 3.4
    return v_none + scale * (v_class - v_none)
    # END


# %% [markdown]
# The kit guides inside its sampler. One Euler step from the same noise shows its velocity at three scales:

# %%
guided = check.guided(guided)
digits = lab.pipeline("digits").model


def kit_velocity(scale):
    """The velocity of stage 1 at its start, as the sampler takes it."""
    start, end, *_ = trace(digits, [3], 1, scale, lab.generator(8), dtype=torch.float32)
    return end.latent - start.latent


with beside_the_kit(guided):
    ours = guided(kit_velocity(0.0), kit_velocity(1.0), 2.5)
    torch.testing.assert_close(ours, kit_velocity(2.5), atol=1e-4, rtol=1e-4)

# %% [markdown]
# > **Predict.** The blobs overlap. Where do samples of one class go when g grows? What is gained, what is lost?

# %%
classy, _ = train("blobs", class_dropout=0.2)
dots, kinds = explore.points("blobs", N, lab.generator(9))
centres = torch.stack([dots[kinds == kind].mean(0) for kind in range(3)])


def sample_class(scale, label=0):
    """Samples of one class, with guidance."""
    label = torch.full((N,), label, device=lab.device)

    def field(state, t):
        return guided(classy(state, t), classy(state, t, label), scale)

    return walk(field, noise, even(16), heun_step)[-1]


# %%
def describe(made):
    """How many lie nearest to their class's centre, and how far they spread."""
    nearest = (torch.cdist(made, centres).argmin(1) == 0).float().mean()
    return nearest.item(), (made - made.mean(0)).square().sum(1).mean().sqrt().item()


# %%
made = {"real": dots[kinds == 0], **{f"g = {g:g}": sample_class(g) for g in (0.0, 1.0, 2.0, 4.0)}}
told = {name: describe(samples) for name, samples in made.items()}
explore.show_guidance(made, dots, told)

# %% [markdown]
# <details><summary>Explain</summary>
# Guidance moves samples to where the class can be told from the others: the overlap is left, and so is much of the
# class itself. The result is not the class but a narrower, shifted one. In images this reads as clearer objects and
# less variety. The shipped CIFAR-10 model is guided in its later stages and not in the first
# (<code>pipe.model.config.guidance_scale</code>); notebook 7 tries other values.
# </details>
#
# ## Part of the way
#
# A flow can stop early. At any time the velocity also says what the data will be: follow it for the time left.
#
# ### Exercise 3.5: the clean estimate
#
# <details><summary>Hint</summary>
# From t to 1 the time left is 1 - t, and the velocity of a straight line stays what it is.
# </details>


# %% tags=["exercise"]
def clean_estimate(state, velocity, t):
    """The data that a state and its velocity point to."""
    # SOLUTION 3.5
    return state + (1 - t) * velocity
    # END


# %%
clean_estimate = check.clean_estimate(clean_estimate)
state, velocity = training_pair(noise, moons, 0.3)
with beside_the_kit(clean_estimate, training_pair):
    ours = clean_estimate(state, velocity, 0.3)
    torch.testing.assert_close(ours, moons, atol=1e-5, rtol=1e-5)
    theirs = flow.clean_estimate(one_stage, 0, state, velocity, 0.3, None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

# %% [markdown]
# Go with the moons' network from t = 0 to 0.5 only.

# %%
half = walk(net, noise, even(8, end=0.5))[-1]
others = explore.points("moons", N, lab.generator(10))[0]
mixed = 0.5 * others + 0.5 * torch.randn(N, 2, generator=lab.generator(11))
guess = clean_estimate(half, net(half.to(lab.device), 0.5).cpu(), 0.5)
shown = {"walked to t = 0.5": half, "mixed at t = 0.5": mixed, "clean estimate": guess}
apart = sliced_wasserstein(half, mixed)
of_two = sliced_wasserstein(0.5 * moons + 0.5 * noise, mixed)
explore.show_half_way({**shown, "data": moons}, apart, of_two)

# %% [markdown]
# So the end of a window is not a small finished image but a noisy distribution, and one knows exactly which. That
# is what E-CAR's coarse stages hand on: $e_s = b_s D_s(x) + (1 - b_s)\,\varepsilon_s$. Fewer steps get there:

# %%
near = [sliced_wasserstein(walk(net, noise, even(k, 0.5))[-1], mixed) for k in COUNTS[:5]]
explore.show_part_way(COUNTS, near, euler)

# %% [markdown]
# The step length is halved as well, and errors of a half-noisy state are covered by its noise. Where the *next*
# stage starts, and how, is the subject of notebook 4.
#
# ## The kit's flow
#
# In the kit a stage's flow has its own clock: local time τ from 0 at its start to 1 at its end. The state is
# (1 - τ) · start + τ · end, the target end - start. For stage 1, start is ε and end $b\,x + (1-b)\,\varepsilon$, so
# the target is $b\,(x - \varepsilon)$: the same velocity, counted per unit of local time, each of which is only b
# units of t.

# %%
tokenizer = lab.pipeline("digits").tokenizer
test = data.open_dataset("digits", split="test")
images, labels = next(test.batches(360, seed=0))
with torch.no_grad():
    latent = tokenizer.encode(images.to(lab.device))
draw = digits.draw(len(latent), lab.generator(12))
starts, ends = flow.endpoints(digits.schedule, latent.cpu(), draw.noise)
clean, end_time = flow.pyramid(latent.cpu(), 2)[0], digits.schedule.ends[0]
torch.testing.assert_close(ends[0] - starts[0], end_time * (clean - draw.noise[0]))

# %% [markdown]
# The shipped digits model, trained before: its loss on test digits in eight bins of local time.
#
# > **Predict.** Stage 1 starts at pure noise and goes half the way. Does its loss rise or fall as it goes?


# %%
@torch.no_grad()
def loss_per_bin(repeats):
    """(S, 8): squared velocity error over local time, of the test digits."""
    total = torch.zeros(digits.schedule.num_stages, 8)
    for seed in range(repeats):
        draw = digits.draw(len(latent), lab.generator(100 + seed)).to(lab.device)
        total += digits.loss(latent, labels.to(lab.device), draw).per_bin.cpu()
    return total / repeats


bins = loss_per_bin(lab.pick(20, 2))
target = [(end - start).square().mean().item() for start, end in zip(starts, ends, strict=True)]

# %%
explore.show_loss_over_time(bins, target)

# %% [markdown]
# <details><summary>Explain</summary>
# It rises. At the start the state is the noise itself; only x is unknown, and a digit of 2×2 numbers varies little
# once its class is known. Later noise and data are mixed, and neither can be told exactly. For Gaussian data of
# variance s² the floor can be worked out: s² / ((1 - t)² + t² s²), which grows until t = 1 / (1 + s²). So a loss
# that rises along the window is no fault. Stage 2 starts from a state that is partly data; its share is higher, and
# least past the middle. Notebook 4 looks at what it starts from.
# </details>
#
# ## Flow or noise prediction, in the kit
#
# The same question on latents, from `ecar experiment flow-vs-diffusion`: a multistage network that denoises every
# stage in full, once with each objective. Stage by stage, given the true earlier stages:

# %%
explore.show_flow_or_noise(lab.result("flow-vs-diffusion-cpu"))

# %% [markdown]
# Flow matching is ahead at every step count here, most of all at few steps. Read it with care: digits of 8 × 8 pixels, a
# short training, one seed, and DDIM with even levels and without clipping, which in the plane was the weaker of its
# two samplers. It says that the change of objective helps *this* network at *these* step counts. It does not
# say that diffusion cannot do as well.
#
# From 4 steps on (flow matching) or 8 (noise prediction) more steps make the end-to-end distance *worse*, while
# recall rises. Why was not looked into. The shipped digits model, larger and trained on nearly five times as many
# images, improves with steps (`docs/results.md`, top). Do not read "more steps are worse" from this table.

# %%
explore.ask_loss()

# %% [markdown]
# ## Recap
# - Flow matching: a straight line for each pair of noise and data, its velocity as the target, squared error.
# - What is learned is the mean velocity. Its paths do not cross; where lines of pairs cross, they bend.
# - Bending costs steps. With enough calls Heun uses them better than Euler; better pairs make straighter paths.
# - Noise prediction learns of the same crowd on another scale; how well it samples depends on where it steps.
# - Guidance trades variety for certainty.
# - A window that ends early ends in a known noisy distribution, reached in fewer steps.
#
# **What breaks if…** you swap 1 - t and t in the state, but leave the target as it is? Train with
# `make_pair=lambda noise, data, t: training_pair(noise, data, 1 - t)` and walk the result: where do particles go?
#
# **On**: notebook 4 joins such flows into stages. `ecar_lab/flow.py` holds the head, the end points and the
# solvers; the Generate tab of `make demo` shows the steps live.
