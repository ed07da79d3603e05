# %% [markdown]
# # 5. The model
#
# Token map + flow head + schedule = E-CAR. In this notebook you write the flow head, the loss of all stages and the sampling
# loop, put them together with your transformer of notebook 2, and find that the whole equals the kit's number for number.
#
# **After it you can**
# - write the flow head and say what it is told, when, and how often that is paid for;
# - write the loss of all stages and the sampling loop;
# - show what the token map is good for, by spoiling it;
# - account for every FLOP of an image;
# - prove in a short training that a model, its loss and its sampler belong together.
#
# **Before it**: notebook 2 (the transformer), 3 (flow matching) and 4 (windows and transitions). What you wrote in notebook 2
# is taken from `my_ecar.py`, and grows here.
#
# {{time}}
#
# The paper ([arXiv 2412.14170](https://arxiv.org/abs/2412.14170)) has these parts: a token map per stage, a flow model
# that goes part of the way, transitions. How they are wired here is *our reading*; all sizes are this kit's own.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from ecar_lab import ECAR, StageSchedule, cost, data, flow, layers, machine, trace
from ecar_lab.evaluation import metrics
from ecar_lab.teaching import beside_the_kit, mixing, own, setup
from ecar_lab.teaching.check import model as check
from ecar_lab.teaching.explore import model as explore

lab = setup(5)
# The kit's pieces that you will use.
patchify, unpatchify = layers.patchify, layers.unpatchify
endpoints, transition = flow.endpoints, flow.transition

# %% [markdown]
# ## The result first
#
# The whole model is three attributes: `model.schedule` (numbers), `model.transformer` and `model.head` (weights).

# %%
pipe = lab.pipeline("cifar10")
model, schedule = pipe.model, pipe.model.schedule
names = ["automobile", "horse", "ship", "truck"]
events = list(pipe.trace(names, generator=lab.generator(2)))
images = pipe.decode(events[-1].latent) * 2 - 1
explore.show_images(images, names)


# %% [markdown]
# > **Predict.** The head has more weights than the transformer. And while the transformer runs once per stage, the head
# > runs once per step: 8, 6 and 6 times. Which share of an image's FLOPs is the transformer's: a quarter, a tenth, less?


# %%
def count(module):
    """Number of weights."""
    return sum(weight.numel() for weight in module.parameters())


last = schedule.num_stages - 1
weights = {"transformer": count(model.transformer), "head": count(model.head)}
flops = {part: sum(stages) for part, stages in model.flops().items()}
calls = {"transformer": 1, "head": model.inference_steps()[last]}
per_call = {
    "transformer": cost.transformer_flops(model.config, last),
    "head": cost.velocity_flops(model.config, last),
}
explore.show_parts(weights, per_call, calls, flops)
explore.show_shares(weights, flops)

# %% [markdown]
# <details><summary>Explain</summary>
# A block costs about the same per call in both. The transformer pays it once per stage, the head at every step, and
# guidance doubles both where it is on. So a block moved from head to transformer makes the image cheaper. Whether it
# stays as good is another question, and not measured here.
# </details>
#
# ## The flow head
#
# The head is told five things. The **state** `x_tau` and the stage's **token map** are one vector per token, and are
# added. Local time **tau**, **stage** and **class** are one vector per image, and set shift, scale and gate of every
# block (adaLN-zero).
#
# Windows of neighbouring stages overlap in t on purpose (notebook 4), so t does not tell the stage, and tau is 0.5 once
# in each. The kit gives every stage a *slice* of [0, 1] of its own, as long as its window in proportion, with gaps.

# %%
explore.show_times(schedule)

# %% [markdown]
# The head also gets an embedding of the stage, so slices are not its only clue. What each contributes was not
# measured here.
#
# ### Exercise 5.1: conditioning time
#
# Place a local time in its stage's slice.
#
# <details><summary>Hint</summary>
# schedule.time_slice(stage) gives (low, high). Local time 0 belongs to low, local time 1 to high.
# </details>


# %% tags=["exercise"]
def conditioning_time(schedule, stage, local_time):
    """Local time 0..1 (a tensor) -> the time that the head is told, in the stage's slice."""
    # SOLUTION 5.1
    low, high = schedule.time_slice(stage)
    return low + local_time * (high - low)
    # END


# %%
conditioning_time = check.conditioning_time(conditioning_time)
some_times = torch.linspace(0, 1, 5)
with beside_the_kit(conditioning_time):
    for stage in range(schedule.num_stages):
        found = conditioning_time(schedule, stage, some_times)
        torch.testing.assert_close(found, schedule.conditioning_time(stage, some_times))
own.add(conditioning_time)


# %% [markdown]
# Numbers between 0 and 1 are hard to tell apart for a linear layer. So the time comes in as sines and cosines of many
# frequencies, from 1 to 1,024 radians, and goes through a small MLP.


# %%
class TimeEmbedding(nn.Module):
    """Time in [0, 1], (B,) -> (B, D)."""

    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time):
        angles = time[:, None] * 2.0 ** torch.linspace(0, 10, 128, device=time.device)
        return self.mlp(torch.cat((angles.sin(), angles.cos()), dim=-1))


# %%
own.add(TimeEmbedding)

# %% [markdown]
# Now the head, of the blocks that you wrote. Three methods, because they are called unequally often: `read` once per
# stage, `modulations` once per stage for all steps, `forward` at every step. Attention is full inside the stage. A
# token never needs those of other stages: the token map brings what is to be known of them.

# %%
Block, modulate, rotary_table = own.piece("Block", "modulate", "rotary_table")

# %% [markdown]
# ### Exercise 5.2: the flow head
#
# **Step a, modulations.** Place `local_time` in the stage's slice (`conditioning_time`, `self.schedule`) and embed it. Its shape is
# (B,) in training, one time per image, and (K, 1) in sampling, all K times of a stage; the embedding takes (B,) only, so
# flatten and unflatten. Add the embeddings of stage and class, then `silu`. Return what each block's layer
# `modulation` makes of it, and last what `final_modulation` does, as a list.
#
# **Step b, forward.** Patches of the state, embedded, plus the token map as it was read. Then all blocks, with the rotary table of
# this stage alone; its finest side is that of the last stage. Then `modulate` by the last modulation, the layer `out`, and back
# to a map with `unpatchify`.
#
# <details><summary>Hint</summary>
# <code>self.time_embedding(time.flatten()).unflatten(0, time.shape)</code> has shape (B, D) or (K, 1, D).
# <code>modulations[-1].chunk(2, dim=-1)</code> is the last shift and scale.
# </details>


# %% tags=["exercise"]
class FlowHead(nn.Module):
    """The velocity at one moment of one stage; the same weights serve all stages."""

    def __init__(
        self, schedule, token_sides, latent_channels, patch_size, num_classes, width, num_layers,
        num_heads,
    ):  # fmt: skip
        super().__init__()
        self.schedule, self.token_sides, self.patch_size = schedule, token_sides, patch_size
        self.head_dim, token_dim = width // num_heads, latent_channels * patch_size**2
        self.patch_embedding = nn.Linear(token_dim, width)
        self.map_embedding = nn.Linear(width, width, bias=False)
        self.time_embedding = TimeEmbedding(width)
        self.stage_embedding = nn.Embedding(schedule.num_stages, width)
        self.class_embedding = nn.Embedding(num_classes + 1, width)  # the last: no class
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, token_dim)
        for start_at_zero in (*self.final_modulation.parameters(), *self.out.parameters()):
            nn.init.zeros_(start_at_zero)
        for embedding in (self.stage_embedding, self.class_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    def read(self, token_map):
        """M_s (B, N_s, D) -> what is added to every token of the state."""
        return self.map_embedding(token_map)

    def modulations(self, stage, local_time, class_labels):
        """Times (B,) or (K, 1), labels (B,) -> one (..., B, 6D) per block, and (..., B, 2D)."""
        # SOLUTION 5.2a
        time = conditioning_time(self.schedule, stage, local_time)
        embedded = self.time_embedding(time.flatten()).unflatten(0, time.shape)
        embedded = embedded + self.stage_embedding.weight[stage]
        condition = F.silu(embedded + self.class_embedding(class_labels))
        linear = [*(block.modulation for block in self.blocks), self.final_modulation]
        return [layer(condition) for layer in linear]
        # END

    def forward(self, stage, state, read_map, modulations):
        """x_tau (B, C, r, r) -> velocity (B, C, r, r)."""
        # SOLUTION 5.2b
        sides = self.token_sides
        rotary = rotary_table(sides[stage : stage + 1], self.head_dim, sides[-1], state.device)
        x = self.patch_embedding(patchify(state, self.patch_size)) + read_map
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            x = block(x, modulation, rotary)
        shift, scale = modulations[-1].chunk(2, dim=-1)
        return unpatchify(self.out(modulate(x, shift, scale)), self.patch_size)
        # END


# %% [markdown]
# The names of its layers are the kit's, so the shipped weights fit in, with the local mixing of notebook 2 in its blocks.
# Does it give the same velocity?


# %%
def sizes_of(config, schedule):
    """What transformer and head are told alike, from an ECAR's configuration."""
    return dict(
        token_sides=tuple(side // config.patch_size for side in schedule.resolutions),
        latent_channels=config.latent_channels,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        width=config.width,
        num_heads=config.num_heads,
    )


def velocity_of(head, event, local_time):
    """The head's velocity at an event's state."""
    times = torch.full((len(event.latent),), local_time, device=event.latent.device)
    modulations = head.modulations(event.stage, times, event.class_labels)
    return head(event.stage, event.latent, head.read(event.token_map), modulations)


# %%
FlowHead = check.flow_head(FlowHead)

# %%
sizes, config = sizes_of(model.config, schedule), model.config
my_head = FlowHead(schedule=schedule, num_layers=config.head_layers, **sizes)
my_head = mixing.with_local_mixing(my_head).to(lab.device)
my_head.load_state_dict(model.head.state_dict())
starts_of_stages = [event for event in events if event.step == 0]
with torch.no_grad(), beside_the_kit(FlowHead, Block, conditioning_time):
    for event in starts_of_stages:
        found, right = (velocity_of(head, event, 0.0) for head in (my_head, model.head))
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    print("your FlowHead equals the kit's in every stage")
own.add(FlowHead)

# %% [markdown]
# > **Predict.** The last layer and all modulations of a *new* head are zero. What velocity does it
# > give, and what is the loss of a new model: 0, 1, or what else?

# %%
digits = lab.pipeline("digits")
pictures, labels = data.open_dataset("digits", split="train").arrays()
pictures, labels = (part[: lab.pick(720, 240)].to(lab.device) for part in (pictures, labels))
with torch.no_grad():
    latent = digits.tokenizer.encode(pictures / 127.5 - 1)  # bytes to [-1, 1]

torch.manual_seed(lab.seed)
fresh = ECAR.from_preset("digits").to(lab.device)
draw = fresh.draw(len(latent), lab.generator()).to(lab.device)
starts, ends = endpoints(fresh.schedule, latent, draw.noise)
ways = [end - start for start, end in zip(starts, ends, strict=True)]
standing_still = torch.stack([way.square().mean() for way in ways]).cpu()
with torch.no_grad():
    new_loss = fresh.loss(latent, labels, draw)
torch.testing.assert_close(new_loss.per_stage.cpu(), standing_still)
print("loss of a new model, by stage:", *(f"{loss:.3f}" for loss in new_loss.per_stage))

# %% [markdown]
# <details><summary>Explain</summary>
# The velocity is zero everywhere, so the loss is the mean square of what it should have been, E|end - start|². It
# differs by stage: stage 1 goes from noise to half-way only, so its velocity is b · (data - noise) with b = 0.5.
# Losses of different stages are not comparable as they stand; compare each with its own value here. A new model
# that starts anywhere else has a fault in its wiring.
# </details>
#
# ## What the token map is for
#
# The transformer writes a vector per token. Its three main directions as colours, for the last stage. Next to them the
# same maps less their mean over the four images, which is what all of them have in common.

# %%
first_maps = [next(pipe.trace(["ship"], generator=lab.generator(n))).token_map for n in (1, 2)]
assert torch.equal(*first_maps)  # stage 1: two seeds, one map
maps = events[-1].token_map.cpu()
own_part = maps - maps.mean(dim=0)
common = 1 - own_part.square().mean() / (maps - maps.mean(dim=(0, 1))).square().mean()
explore.show_token_maps(maps, own_part, common, images, names)

# %% [markdown]
# In stage 1, where there is no history, the map follows from the class alone, whatever the seed. It could be stored.
# What does the head get out of the map? Spoil it and look at the loss. We use real digits, the shipped digits
# model and its loss at `draw`, and change nothing but the map. The head is still told the true class.
#
# > **Predict.** Which is worst: the map of another image of the same class, one made for another class, or the
# > right map with every token moved on by one?


# %%
def loss_with(token_maps):
    """Velocity error per stage of the digits model when its head reads these maps."""
    head, errors = digits.model.head, []
    for stage, token_map in enumerate(token_maps):
        tau = draw.local_time[:, stage]
        state = starts[stage].lerp(ends[stage], tau[:, None, None, None])
        modulations = head.modulations(stage, tau, labels)
        velocity = head(stage, state, head.read(token_map), modulations)
        errors.append((velocity - (ends[stage] - starts[stage])).square().mean().item())
    return errors


# %%
twin = torch.arange(len(labels), device=lab.device)  # another image of the same class
for digit in range(10):
    members = (labels == digit).nonzero().flatten()
    twin[members] = members.roll(1)
with torch.no_grad():
    maps = digits.model.transformer(ends[:-1], labels)
    spoiled = {
        "its own map": maps,
        "another image's, same class": [m[twin] for m in maps],
        "made for another class": digits.model.transformer(ends[:-1], (labels + 1) % 10),
        "mean of all images' maps": [m.mean(dim=0, keepdim=True).expand_as(m) for m in maps],
        "its own, shifted by one token": [m.roll(1, dims=1) for m in maps],
        "all zeros": [torch.zeros_like(m) for m in maps],
    }
    found = {name: loss_with(given) for name, given in spoiled.items()}

# %%
explore.show_spoiled(found, standing_still.tolist())
torch.testing.assert_close(
    found["another image's, same class"][0], found["its own map"][0], rtol=1e-4, atol=1e-6
)

# %% [markdown]
# <details><summary>Explain</summary>
# Of the three, the shift is worst by far; in stage 2 worse than not moving at all. The map tells each token where it
# is: the head has relative positions only (rotary). A map of the wrong class costs less, because state and class still
# say what is wanted; so does the mean of all maps, which knows nothing of the image. "All zeros" is something the head
# never met.
# </details>
#
# ## The loss
#
# First: what the head learns from. Stage s goes along a straight line from its own start to its own end. The target is
# not `data - noise`: that is the velocity of the whole way, and no stage goes it.
#
# ### Exercise 5.3: state and target
#
# <details><summary>Hint</summary>
# At local time 0 the state is the start, at 1 the end. There is one local time per image: give it the shape
# (B, 1, 1, 1). The velocity of a straight line is the same everywhere along it.
# </details>


# %% tags=["exercise"]
def state_and_target(start, end, local_time):
    """start, end (B, C, r, r) of one stage, local_time (B,) -> state and velocity to learn."""
    # SOLUTION 5.3
    tau = local_time[:, None, None, None]
    return (1 - tau) * start + tau * end, end - start
    # END


# %%
state_and_target = check.state_and_target(state_and_target)
state, target = state_and_target(starts[1], ends[1], draw.local_time[:, 1])
tau = draw.local_time[:, 1, None, None, None]
# The state and its target lead to both ends.
with beside_the_kit(state_and_target):
    torch.testing.assert_close(state - tau * target, starts[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state + (1 - tau) * target, ends[1], atol=1e-5, rtol=1e-5)
own.add(state_and_target)

# %% [markdown]
# Second: how stages are weighed. The finest one has 64 tokens, the coarsest 4 (on CIFAR-10): without weights the
# finest would drown the others. In this kit each stage counts the same: mean within the stage, then mean of the stages.
#
# ### Exercise 5.4: the loss of all stages
#
# <details><summary>Hint</summary>
# One mean per stage, stacked to a tensor of S numbers, and their mean.
# </details>


# %% tags=["exercise"]
def multistage_loss(errors):
    """errors: velocity - target of each stage, (B, C, r_s, r_s) -> one number, with gradient."""
    # SOLUTION 5.4
    return torch.stack([error.square().mean() for error in errors]).mean()
    # END


# %%
multistage_loss = check.multistage_loss(multistage_loss)
with beside_the_kit(multistage_loss):
    still = multistage_loss([start - end for start, end in zip(starts, ends, strict=True)])
    torch.testing.assert_close(still, new_loss.loss)
own.add(multistage_loss)

# %% [markdown]
# Now the model: the schedule, your transformer of notebook 2 and your head.

# %%
MultistageTransformer = own.piece("MultistageTransformer")


class MyECAR(nn.Module):
    """Schedule + transformer + flow head, of the sizes of an ECAR's configuration."""

    def __init__(self, config):
        super().__init__()
        ends = tuple(config.window_ends) if config.window_ends else None
        sizes = (config.latent_size, config.num_stages, ends, config.coupling)
        self.schedule = StageSchedule(*sizes)
        self.null_class, self.latent_channels = config.num_classes, config.latent_channels
        shared = sizes_of(config, self.schedule)
        self.transformer = MultistageTransformer(num_layers=config.transformer_layers, **shared)
        self.head = FlowHead(schedule=self.schedule, num_layers=config.head_layers, **shared)


# %%
own.add(MyECAR)

# %% [markdown]
# ### Exercise 5.5: the loss
#
# **Teacher forcing**: in training the transformer reads the *true* end states of earlier stages, made from the image. So all
# stages are trained in one pass, under the mask of notebook 2. The random numbers of a step come from outside as a
# `draw`: the same draw, the same loss. It holds `noise` (one tensor per stage), `local_time` (B, S) and `class_drop` (B,).
#
# **Step a.** For guidance the model must also know what to do without a class. So a part of the images loses its class
# in training, for transformer and head alike: those whose `class_drop`, a uniform number, is below `class_dropout` get
# `model.null_class`. Then `endpoints(schedule, latent, noise)` of notebook 4 gives starts and ends of all stages, and one call of the
# transformer all token maps. It reads the ends of all stages but the last.
#
# **Step b.** Stage by stage: its own local times, `state_and_target`, the head's modulations, the token map as the head
# reads it, the velocity. What is wanted is velocity - target.
#
# <details><summary>Hint</summary>
# <code>torch.where(condition, where true, where false)</code> decides element by element. Column s of
# <code>draw.local_time</code> belongs to stage s.
# </details>


# %% tags=["exercise"]
def flow_errors(model, latent, class_labels, draw, class_dropout=0.0):
    """Clean latents (B, C, R, R), labels (B,) -> velocity - target of each stage, in a list."""
    # SOLUTION 5.5a
    labels = torch.where(draw.class_drop < class_dropout, model.null_class, class_labels)
    starts, ends = endpoints(model.schedule, latent, draw.noise)
    token_maps = model.transformer(ends[:-1], labels)  # all stages, one masked call
    # END
    errors = []
    # SOLUTION 5.5b
    for stage, token_map in enumerate(token_maps):
        local_time = draw.local_time[:, stage]
        state, target = state_and_target(starts[stage], ends[stage], local_time)
        modulations = model.head.modulations(stage, local_time, labels)
        velocity = model.head(stage, state, model.head.read(token_map), modulations)
        errors.append(velocity - target)
    # END
    return errors


# %% [markdown]
# With the shipped weights and the same draw it has to give the kit's loss: in all, per stage, per bin of tau.

# %%
flow_errors = check.flow_errors(flow_errors)


# %%
def per_bin(squares, draw, bins=8):
    """Mean of a stage's squared errors, (B,), in each of eight bins of local time: (S, 8)."""
    rows = []
    for error, time in zip(squares, draw.local_time.T, strict=True):
        bin_of_image = (time * bins).long().clamp(max=bins - 1)
        rows.append(torch.stack([error[bin_of_image == number].mean() for number in range(bins)]))
    return torch.stack(rows)


# %%
my_digits = MyECAR(digits.model.config).to(lab.device)
my_digits.load_state_dict(digits.model.state_dict())
answers = (flow_errors, FlowHead, MultistageTransformer, Block, conditioning_time, state_and_target)
with torch.no_grad():
    my_loss = digits.model.loss(latent, labels, draw, class_dropout=0.1)
    with beside_the_kit(multistage_loss, *answers):
        errors = flow_errors(my_digits, latent, labels, draw, 0.1)
        torch.testing.assert_close(multistage_loss(errors), my_loss.loss)
        squares = [error.square().mean(dim=(1, 2, 3)) for error in errors]  # one per image
        torch.testing.assert_close(torch.stack(squares).mean(dim=1), my_loss.per_stage)
        torch.testing.assert_close(per_bin(squares, draw), my_loss.per_bin, equal_nan=True)
own.add(flow_errors)
parts = zip(my_loss.per_stage.tolist(), standing_still.tolist(), strict=True)
print("per stage, and as a share of standing still:", *(f"{a:.3f} ({a / b:.0%})" for a, b in parts))

# %%
explore.show_error_over_time(my_loss.per_bin.cpu() / standing_still[:, None])

# %% [markdown]
# ## Sampling, written out
#
# Sampling has no image to take end states from: each stage's own end is the history of the next. Before the loop,
# guidance: `v = v_none + g (v_class - v_none)`, on every channel. A scale of 1 is the velocity with class, and
# should not pay for another.
#
# ### Exercise 5.6: guided velocity
#
# `run_head(1)` gives the velocity (B, C, r, r) with class; `run_head(2)` gives (2B, C, r, r), the half with class
# first, the half without behind it.
#
# <details><summary>Hint</summary>
# tensor.chunk(2) cuts the batch in two. Ask first whether the scale is 1.
# </details>


# %% tags=["exercise"]
def guided_velocity(run_head, scale):
    """The velocity under guidance; runs one half where one is enough."""
    # SOLUTION 5.6
    if scale == 1:
        return run_head(1)
    with_class, without = run_head(2).chunk(2)
    return without + scale * (with_class - without)
    # END


# %%
guided_velocity = check.guided_velocity(guided_velocity)
pair = torch.randn(2, 4, 8, 8, generator=lab.generator())
with beside_the_kit(guided_velocity):
    assert torch.equal(guided_velocity(lambda halves: pair[:halves].clone(), 1.0), pair[:1])
    torch.testing.assert_close(
        guided_velocity(lambda halves: pair[:halves].clone(), 2.5), 2.5 * pair[:1] - 1.5 * pair[1:]
    )
own.add(guided_velocity)


# %% [markdown]
# > **Predict.** Guidance only in the *last* stage: which calls double, of the transformer and of the head?
#
# ### Exercise 5.7: the sampling loop
#
# Once per stage:
#
# **Step a.** The token map, from `model.transformer.step(stage, previous_end, labels, cache)`. `both` holds the labels with class and
# behind them those without. The half without class is needed up to the *last* guided stage, since its keys and values
# are read again; `halves` says so. After that the cache forgets it. The head needs it in guided stages only. So read
# the token map (`model.head.read`) for as many rows as the head will need, and make the modulations of all K times at once: local times
# 0, 1/K, ..., as (K, 1).
#
# **Step b.** Where the stage starts: from noise, or by `transition(schedule, stage, end, noise)` of notebook 4. The noise comes
# from `generator`, (B, C, side, side).
#
# **Step c.** K Euler steps with `guided_velocity`. Its `run_head(halves)` runs the head for `halves` copies of the latent,
# one above the other.
#
# <details><summary>Hint, step a</summary>
# <code>previous.repeat(halves, 1, 1, 1)</code> repeats the end state before for both halves. The head's rows are
# <code>(1 + (guidance[stage] != 1)) * batch</code>.
# </details>
#
# <details><summary>Hint, step c</summary>
# A modulation is (K, rows, ...): step k takes <code>[part[k] for part in modulations]</code>, and of it the rows that
# <code>run_head</code> asks for. A function inside the loop may take them as defaults.
# </details>


# %% tags=["exercise"]
@torch.no_grad()
def generate(model, class_labels, steps, guidance, generator):
    """[(stage, step, latent), ...]: the start of every stage (step 0), and each Euler step."""
    batch, device = len(class_labels), class_labels.device
    both = torch.cat((class_labels, torch.full_like(class_labels, model.null_class)))
    cache, events, latent = model.transformer.new_cache(), [], None
    for stage, side in enumerate(model.schedule.resolutions):
        halves = 1 + any(scale != 1 for scale in guidance[stage:])
        cache.keep(halves * batch)
        # SOLUTION 5.7a
        previous = latent.repeat(halves, 1, 1, 1) if stage else None
        token_map = model.transformer.step(stage, previous, both[: halves * batch], cache)
        rows = (1 + (guidance[stage] != 1)) * batch
        read_map = model.head.read(token_map[:rows])
        times = torch.arange(steps[stage], device=device)[:, None] / steps[stage]
        modulations = model.head.modulations(stage, times, both[:rows])
        # END
        # SOLUTION 5.7b
        shape = (batch, model.latent_channels, side, side)
        noise = torch.randn(shape, generator=generator).to(device)
        latent = transition(model.schedule, stage, latent, noise) if stage else noise
        # END
        events.append((stage, 0, latent))
        for step in range(steps[stage]):
            # SOLUTION 5.7c
            at_time = [part[step] for part in modulations]

            def run_head(halves, stage=stage, x=latent, read_map=read_map, at_time=at_time):
                rows = halves * batch
                now = [part[:rows] for part in at_time]
                return model.head(stage, x.repeat(halves, 1, 1, 1), read_map[:rows], now)

            latent = latent + guided_velocity(run_head, guidance[stage]) / steps[stage]
            # END
            events.append((stage, step + 1, latent))
    return events


# %% [markdown]
# The kit's `trace()` does this too, beside clean estimates, costs and interventions. Same seed, same image? Every
# event of two models, one with guidance and one without:

# %%
generate = check.generate(generate)

# %%
my_cifar = MyECAR(model.config)
for part in (my_cifar.transformer, my_cifar.head):
    mixing.with_local_mixing(part)
my_cifar = my_cifar.to(lab.device)
my_cifar.load_state_dict(model.state_dict())
answers = (generate, guided_velocity, *answers)
for mine, kit, wanted in (
    (my_cifar, model, ["ship", "cat"]),
    (my_digits, digits.model, ["3", "8"]),
):
    ids, settings = kit.class_ids(wanted), (kit.inference_steps(), kit.guidance())
    kit_events = list(trace(kit, wanted, generator=lab.generator(3)))
    with beside_the_kit(*answers):
        my_events = generate(mine, ids, *settings, lab.generator(3))
        for (stage, step, mine_latent), event in zip(my_events, kit_events, strict=True):
            assert (stage, step) == (event.stage, event.step)
            torch.testing.assert_close(mine_latent, event.latent, atol=1e-3, rtol=1e-3)
        gap = max((a[2] - b.latent).abs().max() for a, b in zip(my_events, kit_events, strict=True))
        print(f"{len(my_events)} events equal, to {gap:.0e}")
own.add(generate)

# %%
from_pipeline = pipe(["ship", "cat"], generator=lab.generator(3), output_type="latent").images
ids, plan = model.class_ids(["ship", "cat"]), (model.inference_steps(), model.guidance())
with beside_the_kit(*answers):
    final = generate(my_cifar, ids, *plan, lab.generator(3))[-1][2]
    torch.testing.assert_close(final, from_pipeline, atol=1e-3, rtol=1e-3)

# %% [markdown]
# What guidance costs, by where it is on. PyTorch's counter sees that `generate` pays for no half it does not need.

# %%
choices = ((1, 1, 1), (2.5, 1, 1), (1, 1, 2.5), (1, 2.5, 2.5), (2.5, 2.5, 2.5))
explore.show_guidance_costs({each: model.flops(guidance_scale=each) for each in choices})
counted = machine.count_flops(lambda: list(pipe.trace(["ship"], guidance_scale=[1, 1, 2.5])))
with beside_the_kit(*answers):
    assert counted == machine.count_flops(
        lambda: generate(my_cifar, ids[:1], plan[0], [1, 1, 2.5], lab.generator(3))
    )

# %% [markdown]
# <details><summary>Explain</summary>
# The head doubles in the last stage only. The transformer doubles in all stages up to it: the half without class
# has keys and values of its own, from the first stage on. Guidance in the first stage alone is cheap for both:
# after it the cache forgets the second half.
# </details>
#
# ## Two ways through the transformer
#
# Training calls it once, masked; sampling stage by stage, with a cache. On the history of the last run above both
# must give the same token maps.

# %%
stage_ends = [event for event in kit_events if event.is_stage_end]
history = [event.latent for event in stage_ends[:-1]]
with torch.no_grad():
    masked = digits.model.transformer(history, stage_ends[0].class_labels)
for token_map, event in zip(masked, stage_ends, strict=True):
    torch.testing.assert_close(token_map, event.token_map, atol=1e-5, rtol=1e-5)
print("masked equals cached:", *(tuple(token_map.shape) for token_map in masked))

# %% [markdown]
# What differs is the history itself. Training reads true end states, sampling the model's own: if these are unlike,
# the fine stages meet what they never saw (*exposure bias*). Are they unlike? Compare the two as distributions, by
# Frechet distance over all numbers of an end state. As a floor: two true sets of the same images, other noise.


# %%
def own_ends(labels, generator):
    """End states of stage 1 as the digits model makes them."""
    for event in trace(digits.model, labels.tolist(), generator=generator):
        if event.is_stage_end:
            return event.latent


other_draw = digits.model.draw(len(latent), lab.generator(7)).to(lab.device)
other_ends = endpoints(digits.model.schedule, latent, other_draw.noise)[1]
candidates = {
    "the model's own end states": own_ends(labels, lab.generator(8)),
    "true end states, other noise": other_ends[0],
    "pure noise": starts[0],
}
true = ends[0].flatten(1).cpu()
distances = {
    name: metrics.frechet_distance(part.flatten(1).cpu(), true) for name, part in candidates.items()
}
explore.show_distances(distances)

# %% [markdown]
# Where the first row is about as small as the second, no gap can be seen with so many images. On the CIFAR-10 model the
# kit measured the same by its outcome: real end states take the place of the first k stages' own, and the images come
# nearer to real ones or not (`ecar experiment stage-errors`).

# %%
explore.show_stage_errors(lab.result("stage-errors-cpu"))

# %% [markdown]
# So sampling on the model's own stage 1 costs next to nothing. Stage 2 costs more, and the last stage by itself most.
# (A step from k to k + 1 holds that stage's own error and what later stages make of it; the two are not told apart.)
#
# *Our reading* of why the coarse history does little harm: end states of early stages are noisy in training too. Of
# stage 1 on CIFAR-10, which ends at t = 0.4, noise makes 0.6, and small errors drown in it.
#
# ## Where every FLOP goes
#
# The whole bill of one image, stage by stage.

# %%
guidance, steps = model.guidance(), model.inference_steps()
bill = model.flops()
rows = []
for stage, side in enumerate(schedule.resolutions):
    tokens = model.transformer.tokens_per_stage[: stage + 1]
    halves = 1 + (guidance[stage] != 1)
    setup_cost = cost.head_setup_flops(config, stage, steps[stage]) * halves
    runs = cost.velocity_flops(config, stage), f"{steps[stage]} × {halves}"
    of_transformer, of_head = (bill[part][stage] for part in ("transformer", "head"))
    rows.append((side, tokens[-1], sum(tokens), of_transformer, setup_cost, *runs, of_head))
explore.show_bill(rows, config.latent_channels, config.width)

for scale in (1.0, guidance):
    counted = machine.count_flops(
        lambda scale=scale: list(
            pipe.trace(["ship"], guidance_scale=scale, generator=lab.generator(3))
        )
    )
    formula = cost.total_flops(model.flops(guidance_scale=scale))
    print(f"guidance {scale}: counter {counted:,}, formula {formula:,}")
    assert counted == formula if scale == 1.0 else abs(formula / counted - 1) < 1e-3

# %% [markdown]
# The transformer runs both halves in every stage here; the head where guidance is on.
#
# The formulas (`ecar_lab/cost.py`) count matrix products and attention, 2 FLOPs per multiply-add, without the decoder.
# Without guidance PyTorch's counter finds the same to the last FLOP. With guidance the formula is a trifle too high: it
# counts the embedding of times for both halves, while one serves both.
#
# ## Proof: learn ten images by heart
#
# Before a long training, check that model, loss and sampler belong together: train on ten digits, one per class. If
# all is well the loss falls in every stage, and sampling class k gives back image k.
#
# > **Predict.** On real data the loss stays well above zero (Figure 5.6). How low can it go here?

# %%
few = torch.stack([(labels == digit).nonzero()[0, 0] for digit in range(10)])
batch = few.repeat(4)  # each image with four draws
torch.manual_seed(lab.seed)
small = ECAR.from_preset("digits", width=64, head_layers=3)  # for its sizes and its draw()
student = MyECAR(small.config).to(lab.device)
num_steps = lab.pick(240, 40)
optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.99))
rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps, pct_start=0.1)
generator, curve = lab.generator(), []
for _ in range(num_steps):
    step_draw = small.draw(len(batch), generator).to(lab.device)
    errors = flow_errors(student, latent[batch], labels[batch], step_draw)
    optimizer.zero_grad()
    multistage_loss(errors).backward()
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    rate.step()
    curve.append(torch.stack([error.detach().square().mean().cpu() for error in errors]))
print(f"{count(student):,} weights, {num_steps} steps of {len(batch)} flows per stage")

# %%
explore.show_learning(torch.stack(curve))

# %% [markdown]
# <details><summary>Explain</summary>
# Towards zero. The class says which image it is, and image and state together say which noise it was: nothing is
# left to guess. On real data many images share a class, so the best answer is a mean, and an error stays.
# </details>

# %%
recalled = generate(student, labels[few], [8, 8], [1, 1], lab.generator(1))[-1][2]
difference = (recalled - latent[few]).square().mean().item()
others = (latent[few] - latent[few].roll(1, dims=0)).square().mean().item()
both = digits.decode(torch.cat((latent[few], recalled))) * 2 - 1
explore.show_recalled(both, difference, others, num_steps)

# %% [markdown]
# This proves the wiring, not the model: learning by heart is the opposite of what training is for. Notebook 6 trains the
# model in `my_ecar.py` to draw digits that it has never seen.
#
# ## Look around
#
# One image of the model's own, noised as in training. Choose stage, local time, and the class that head and
# transformer are told.

# %%
explore.velocity(pipe)

# %% [markdown]
# Try: local time 0 in each stage, then 1. Tell the head one class and the transformer another: whom does the clean
# estimate follow? Tell both another class, early in the last stage and late.
#
# <details><summary>Explain</summary>
# At local time 0 the estimate is a guess, coarse in stage 1. At 1 it is the state itself in the last stage, which ends at
# t = 1; the others end noisy, so theirs is still a guess. Told two classes, the estimate follows the transformer's
# from stage 2 on; in stage 1 it lies in between. In the last stage another class changes a little at the start and next
# to nothing at the end: history and state say what is in the picture.
# </details>

# %%
explore.ask_token_map()

# %%
explore.ask_first_loss()

# %% [markdown]
# ## Recap
# - E-CAR is a schedule, a transformer (once per stage) and a flow head (once per step). The head's steps are the bill.
# - The head is told state and map token by token; time in the stage's own slice, stage and class by adaLN.
# - The loss: straight lines from each stage's start to its end, true history, every stage counting the same.
# - Sampling replaces the true history by the model's own.
#
# **What breaks if…** the head is told the bare tau? The half without class is forgotten early? The transition's noise is
# left out (`pipe.trace(["ship"], renoise=False)`)? Change one line and see which assert notices.
#
# **On**: notebook 6 trains your model; the page of `make demo` shows the same stream live, its tab *Inspect* the token
# maps; in the kit read `ecar_lab/model.py`, then `ecar_lab/trace.py`.
