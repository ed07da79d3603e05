# %% [markdown]
# # 0. Start here
#
# E-CAR draws an image in a few stages of growing resolution. In this notebook you watch it do so, find
# out what happens in each stage, and see what the other eleven notebooks will build.
#
# **After it you can**
# - make an image with the shipped model and read the stream of events it comes from;
# - say what a stage gets, does and hands on;
# - tell which stage costs most, and why;
# - find your way around the kit.
#
# **Before it**: Python, and having used PyTorch once.
#
# {{time}}
#
# The method is that of [arXiv 2412.14170](https://arxiv.org/abs/2412.14170). Its sizes, windows and step
# counts are not public: all numbers here are this kit's own.

# %%
from ecar_lab import StageSchedule
from ecar_lab.teaching import beside_the_kit, progress, setup
from ecar_lab.teaching.check import start as check
from ecar_lab.teaching.explore import start as explore

lab = setup(0)

# %% [markdown]
# If a checkpoint named `cifar10` is missing above, run `ecar doctor` in a terminal: it says what is wrong
# and what to do about it.
#
# ## The result first
#
# Two lines make images. The model has 10.0 million parameters and learned CIFAR-10 on one CPU core.

# %%
pipe = lab.pipeline("cifar10")
names = ["automobile", "horse", "ship", "truck"]
out = pipe(names, generator=lab.generator(9))
explore.show_images(out.images, names)

# %% [markdown]
# Vehicles and horses mostly come out well, cats and birds often do not: the model card in
# `data/checkpoints/cifar10` says which. Enough to see how it works, and small enough to run anywhere.
#
# ## One image, stage by stage
#
# `pipe(...)` is a thin wrapper. What happens is a stream of events, and everything in this kit reads that
# one stream: the page of `make demo`, the figures, the tests, these notebooks.

# %%
events = list(pipe.trace(["ship"], generator=lab.generator(11)))
turning_points = [
    (event.stage + 1, event.step, event.t, event.latent.shape[-1])
    for event in events
    if event.step in (0, event.num_steps)
]
explore.tell_turning_points(turning_points)

# %%
explore.show_strip(events, pipe)

# %% [markdown]
# Time `t` runs from noise (0) to data (1): a latent at time t is `x_t = (1 - t) · noise + t · data`.
#
# Look at the times above. The first stage does not go all the way: it stops while much noise is left. Then
# its latent is upsampled, noise is added again, and the next stage goes on.
#
# > **Predict.** Stage 2 starts *earlier* in time than stage 1 ended. Why should one go back?
#
# <details><summary>Explain</summary>
# Upsampling copies every pixel, with its noise, into a block of 2×2. So inside a block the noise is the same four
# times. A latent of the larger size with noise of its own has four different values there. Adding fresh noise makes
# the four differ again, and more noise means an earlier time. (With this model's coupling they still share a quarter of the noise variance; another coupling
# makes it white.) Notebook 4 does the arithmetic and shows what happens without it.
# </details>

# %%
explore.show_overview(events, pipe)

# %% [markdown]
# ## The numbers of the stages
#
# Words and pictures count stages from 1, the coarsest, to S, as the page of `make demo` does. Code counts from 0, as
# Python does: `event.stage` is 0 in stage 1. So does the s of formulas: $M_0$ is the token map of stage 1.
#
# All of this comes from one small object. It holds no weights: a schedule is numbers.

# %%
schedule = pipe.model.schedule
explore.show_stages(schedule)

# %% [markdown]
# ### Exercise 0.1: resolutions
#
# Write the sides of all stages' latents, coarsest first: they double from stage to stage, and the last one
# has the full size.
#
# <details><summary>Hint</summary>
# With s = 0 for the coarsest: stage s is smaller than the last one by a factor of 2 to the power of (S - 1 - s).
# </details>


# %% tags=["exercise"]
def resolutions(latent_size, num_stages):
    """Sides of the stages, coarsest first: (16, 3) -> [4, 8, 16]."""
    # SOLUTION 0.1
    return [latent_size // 2 ** (num_stages - 1 - stage) for stage in range(num_stages)]
    # END


# %%
resolutions = check.resolutions(resolutions)
with beside_the_kit(resolutions):
    assert tuple(resolutions(16, 3)) == StageSchedule(16, 3).resolutions

# %% [markdown]
# ### Exercise 0.2: tokens
#
# The transformer does not see latent pixels but patches of them. How many tokens has each stage?
#
# <details><summary>Hint</summary>
# A latent of side r has r / p patches per row, and as many rows.
# </details>


# %% tags=["exercise"]
def num_tokens(sides, patch_size):
    """Tokens of every stage: ([4, 8, 16], 2) -> [4, 16, 64]."""
    # SOLUTION 0.2
    return [(side // patch_size) ** 2 for side in sides]
    # END


# %%
num_tokens = check.num_tokens(num_tokens)
sizes = schedule.resolutions, pipe.model.config.patch_size
with beside_the_kit(num_tokens):
    assert tuple(num_tokens(*sizes)) == pipe.model.transformer.tokens_per_stage
tokens = num_tokens(*sizes)
print("tokens per stage:", *tokens)

# %% [markdown]
# ## What it costs
#
# > **Predict.** Three stages with 8, 6 and 6 flow steps. What share of all FLOPs does the last one take:
# > a third, two thirds, or more?
#
# ### Exercise 0.3: FLOPs per stage
#
# Every event carries `event.stage` and `event.flops`, the FLOPs since the event before it. Add them up.
#
# <details><summary>Hint</summary>
# <code>events[0].num_stages</code> says how many totals you need.
# </details>


# %% tags=["exercise"]
def flops_per_stage(events):
    """FLOPs of every stage of a run, as a list of S numbers."""
    # SOLUTION 0.3
    totals = [0] * events[0].num_stages
    for event in events:
        totals[event.stage] += event.flops
    return totals
    # END


# %%
flops_per_stage = check.flops_per_stage(flops_per_stage, events)
with beside_the_kit(flops_per_stage):
    assert sum(flops_per_stage(events)) == sum(map(sum, pipe.model.flops().values()))
flops = flops_per_stage(events)

# %%
explore.show_flops(flops, tokens)

# %% [markdown]
# <details><summary>Explain</summary>
# Cost goes with tokens × steps. The last stage has 64 of the 84 tokens; guidance, which runs the head twice,
# is off in the first stage. So a step saved in the last stage is worth many in the first one. A model that does
# all its steps at full size, as DiT does, pays the last stage's price every time: that is where E-CAR saves.
# Notebook 9 measures it.
# </details>
#
# ## Look around
#
# Choose another class and another seed.

# %%
explore.stages(pipe)

# %% [markdown]
# > **Predict, run, explain.** Keep the seed and change the class: what stays? Then keep the class and change
# > the seed. Can you tell from that in which stage it is decided where the object is?
#
# <details><summary>Explain</summary>
# The noise is the seed's, and most of the coarsest end state is noise: with one seed those look nearly alike whatever
# the class. What is decided when cannot be seen from that; notebook 7 forks runs and measures it.
# </details>

# %%
explore.ask_first_stage()

# %% [markdown]
# ## Words and symbols
#
# The notebooks share these; where a letter means something else for a moment, the cell says so.
#
# | word | what it means here |
# |---|---|
# | latent | an image as the tokenizer writes it: a small grid of real numbers |
# | token | a patch of the latent, as one vector |
# | stage | one of S resolutions, each twice as fine as the one before |
# | token map | what the transformer writes for a stage: a vector per token |
# | flow head | the network that gives the velocity; it runs once per step |
# | flow time, window | t from noise (0) to data (1); the part of it that a stage covers, from a to b |
# | local time | a stage's own clock, τ from 0 at its start to 1 at its end |
# | conditioning time | what the head is told instead: τ in a slice of numbers that no other stage has |
# | start, end state | the latent with which a stage begins and ends; all but the last end are noisy |
# | clean estimate | what a state and its velocity say the finished latent is |
# | transition | upsample an end state, add noise, hand it to the next stage |
# | coupling | which noise a transition adds: `independent` (white), `correlated` (no block means), `restart` (noise alone) |
# | history | the end states of earlier stages, which the transformer reads |
# | guidance | running the head with and without class, and exaggerating the difference |
# | draw | all random numbers of a training step |
# | Frechet distance | how far two sets of images are apart, in features of a net of this kit's: not FID |
#
# | symbol | what it means |
# |---|---|
# | s, S | number of a stage (from 0 in code and formulas), number of stages |
# | n, N, M | tokens: of the full size, of a call, that are looked at |
# | D, d | width of the networks, width of an attention head |
# | D_s(x) | the latent x average-pooled to the size of stage s |
# | e_s, M_s | end state and token map of a stage |
# | a_s, b_s | where its window begins and ends |
# | ε, σ | standard normal noise, its standard deviation |
# | c (notebook 4) | the noise that an upsampled state brings; elsewhere the class |
# | Up2 | each pixel repeated in a block of 2×2 |
# | g, v | guidance scale, velocity |
#
# ## The map of the kit
#
# | notebook | builds | in the kit |
# |---|---|---|
# | 1 Tokenizer | images ↔ latents | `ecar_lab/tokenizers/makers.py` |
# | 2 Autoregression | the transformer, its mask and cache | `ecar_lab/transformer.py`, `layers.py` |
# | 3 Flow matching | straight paths from noise to data | `ecar_lab/flow.py` |
# | 4 Stages and transitions | windows, upsample and re-noise | `ecar_lab/schedule.py`, `flow.py` |
# | 5 The model | all three together, loss and sampling | `ecar_lab/model.py`, `trace.py` |
# | 6 Training | the trainer, and what goes wrong | `ecar_lab/training/`, `doctor/` |
# | 7 Generation | guidance, forks, edits | `ecar_lab/interventions.py` |
# | 8 Experiments | the paper's claims, tested | `ecar_lab/experiments/` |
# | 9 Efficiency | FLOPs, time, memory | `ecar_lab/cost.py`, `benchmark/` |
# | 10 Fewer steps | solvers, guidance intervals, flow maps | `ecar_lab/flow.py`, `training/turbo.py` |
# | 11 Your own images | a model of your own folder | `ecar_lab/data/`, `training/warm_start.py` |
#
# In each of them exercises check themselves and say what is wrong; leave one empty, and the notebook goes on
# with the kit's version. Changing a cell breaks nothing: *Kernel → Restart* brings everything back.
#
# ## How far you are
#
# What a check found right, in any notebook of this folder, counts. Come back and run this cell again.

# %%
progress.show()

# %% [markdown]
# ## Recap
# - A stage: token map from the transformer, then a few flow steps inside a window of time.
# - Between stages: upsample, add noise, go on.
# - Most of the cost lies in the last stage, so do few steps there.
#
# **What breaks if…** you ask for a latent whose side does not halve often enough? Try
# `StageSchedule(latent_size=10, num_stages=3)` and read the sentence.
#
# **On**: `make demo` shows the same stream live; notebook 1 begins to build.
