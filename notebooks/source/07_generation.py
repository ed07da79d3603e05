# %% [markdown]
# # 7. Generation
#
# A trained model leaves many choices: steps, guidance, noise, and what to change on the way. You turn each knob,
# look, measure, and pay for it.
#
# **After it you can**
# - generate with the model that you wrote and trained;
# - predict the FLOPs of a plan, and say where a step is worth its price;
# - write guided velocity, and say what guidance buys in which stage;
# - fork a run after any stage, and measure what that stage has decided;
# - switch classes, edit latents, walk between noises;
# - keep an image as a recipe that brings it back.
#
# **Before it**: notebooks 3 to 6 (flow, stages, the model, its training). The first section takes the model that you wrote and
# trained from `my_ecar.py`; without it the shipped digits weights stand in.
#
# {{time}}
#
# Stages and partial denoising are the [paper's](https://arxiv.org/abs/2412.14170); guidance per stage, forks and edits
# are our reading; all numbers are measured on the shipped model.

# %%
import copy
import json

import torch

from ecar_lab import LatentEdit, cost, flow, interventions, trace
from ecar_lab.evaluation import feature_net
from ecar_lab.teaching import beside_the_kit, own, setup
from ecar_lab.teaching.check import generation as check
from ecar_lab.teaching.explore import generation as explore

lab = setup(7)

# %% [markdown]
# ## The result first
#
# Every class the model knows, one row per seed.

# %%
pipe = lab.pipeline("cifar10")
model, names = pipe.model, pipe.class_names
rows = lab.pick(3, 2)
generators = [lab.generator(seed) for seed in range(rows) for _ in names]
out = pipe(names * rows, generator=generators, dtype=lab.dtype)
explore.every_class(out.images, names)

# %% [markdown]
# How good is that? `ecar evaluate` made 5,000 images and asked the kit's own classifier, the *judge* of this
# notebook. Its Frechet distance is on that net's features and is not FID.

# %%
explore.quality(lab.result("evaluate-cifar10"), names)

# %% [markdown]
# Read it with care. The judge classifies generated cats correctly more often than real ones: guidance makes images that are
# *typical*, and a classifier likes those. Recall is the share of real images that have a generated one near them; it
# is lower than that of real images, and guidance costs some of it. By eye, many of those cats are blurs.
#
# ## Your own model
#
# The model in `my_ecar.py`, with the weights of notebook 6 and your own sampling loop: digits first, since it is small.
#
# Notebook 6 took 8 steps per stage. How many are enough for digits to be classified correctly: 1, 2, 4? And does
# guidance help or harm? Guess before you run.

# %%
mine, whose = own.trained(lab.device)
generate, stages = own.piece("generate"), mine.schedule.num_stages
digits = lab.pipeline("digits")
judge_of_digits = feature_net.load_features("features-digits")
wanted = torch.arange(lab.pick(500, 40)) % 10


def draw(steps, scale):
    """Ten digits, and the share of all that are classified correctly."""
    plan = [steps] * stages, [scale] * stages
    latent = generate(mine, wanted.to(lab.device), *plan, lab.generator(3))[-1][2]
    made = 2 * digits.decode(latent).cpu() - 1
    with torch.no_grad():
        found = judge_of_digits(made).logits.argmax(dim=1)
    return made[:10], (found == wanted).float().mean().item()


tried = {(steps, scale): draw(steps, scale) for steps in (1, 2, 4, 8) for scale in (1, 3)}
explore.own_digits(tried, whose, len(wanted))

# %% [markdown]
# The rest of this notebook turns the same knobs on the shipped CIFAR-10 model, where more can go wrong.
#
# Helpers for what follows. Each image gets a generator of its own.

# %%
judge = feature_net.load_features("features-cifar10").to(lab.device)


def run(labels, seeds, **options):
    """All events of a batch; image i has the noise of seeds[i]."""
    generators = [lab.generator(seed) for seed in seeds]
    return list(pipe.trace(labels, generator=generators, dtype=lab.dtype, **options))


def at(events, stage, step=None):
    """The event after a step of a stage; None: where the stage ends."""
    return [e for e in events if e.stage == stage and step in (None, e.step)][-1]


def images(latent):
    """(B, 3, H, W) in [-1, 1]."""
    return 2 * pipe.decode(latent) - 1


@torch.no_grad()
def named(latent):
    """The classes that the judge names, (B,) ids."""
    return judge(images(latent)).logits.argmax(dim=1)


# %% [markdown]
# ## Same seed, same image
#
# The pipeline reads the stream of `trace`, so both give the same latent, bit for bit.

# %%
SHIP = 31  # a seed that makes a ship which one can see
alone = list(pipe.trace("ship", generator=lab.generator(SHIP)))
latent = pipe("ship", generator=lab.generator(SHIP), output_type="latent").images
assert torch.equal(alone[-1].latent, latent)

# %% [markdown]
# > **Predict.** Now the ship is the first image of a batch of four. The batch has *one* generator, seeded as
# > before. In which stages does the ship differ from the one above? And with one generator per image?

# %%
batch = ["ship", "horse", "cat", "truck"]
shared = list(pipe.trace(batch, generator=lab.generator(SHIP)))
one_each = list(pipe.trace(batch, generator=[lab.generator(seed) for seed in (SHIP, 4, 5, 6)]))
gaps = [
    [
        (at(events, s).latent[:1] - at(alone, s).latent).abs().max().item()
        for events in (shared, one_each)
    ]
    for s in range(3)
]
explore.gaps_in_a_batch(gaps)
assert max(each for _, each in gaps) < 1e-4

# %% [markdown]
# <details><summary>Explain</summary>
# One generator draws stage 1 for all four images, the ship's numbers first: they are the old ones. When stage 2
# asks for noise, the other three images have taken numbers that were the ship's, so from there on it is another
# ship. With a generator per image nobody takes anybody's numbers; what is left is rounding. Use a list of
# generators whenever an image should survive a change of the batch.
# </details>
#
# ## Steps per stage
#
# First the price. `model.flops` gives the FLOPs of one image without the decoder; from one step and from two
# steps per stage we read off what a call of the transformer, a reading of the token map, and a flow step cost.

# %%
one, two = model.flops(1, 1.0), model.flops(2, 1.0)
call = one["transformer"]
step = [b - a for a, b in zip(one["head"], two["head"], strict=True)]
read = [a - s for a, s in zip(one["head"], step, strict=True)]
explore.prices(call, read, step)

# %% [markdown]
# ### Exercise 7.1: FLOPs of a plan
#
# What does one image cost? Per stage: one transformer call, one reading of the token map, and the steps.
# Where the guidance of a stage is not 1, the head does everything twice, with and without the class. The
# transformer runs twice up to the *last* such stage, because the half without class needs its own keys and
# values of all earlier stages.
#
# <details><summary>Hint</summary>
# <code>any(scale != 1 for scale in guidance[s:])</code> says whether this stage or a later one is guided.
# </details>


# %% tags=["exercise"]
def plan_flops(steps, guidance, call, read, step):
    """FLOPs of one image; every argument has one number per stage."""
    # SOLUTION 7.1
    total = 0
    for s in range(len(steps)):
        both = 2 if any(scale != 1 for scale in guidance[s:]) else 1
        halves = 2 if guidance[s] != 1 else 1
        total += both * call[s] + halves * (read[s] + steps[s] * step[s])
    return total
    # END


# %%
plan_flops = check.plan_flops(plan_flops)
for steps, guidance in [((8, 6, 6), (1, 2.5, 2.5)), ((4, 2, 2), (1, 1, 1)), ((1, 2, 3), (3, 2, 1))]:
    flops = plan_flops(steps, guidance, call, read, step)
    with beside_the_kit(plan_flops):
        assert flops == cost.total_flops(model.flops(steps, guidance))
    print(f"steps {steps}, guidance {guidance}: {flops / 1e9:.2f} GFLOP")

# %% [markdown]
# Now the same noise with more and more steps. All runs below keep the model's own guidance.

# %%
counts = (1, 2, 4, 8, 16)
some = lab.pick(names, ["automobile", "horse", "ship"])
seeds = range(len(some))
euler = {n: run(some, seeds, num_inference_steps=n)[-1].latent for n in counts}
chosen = [some.index("automobile"), some.index("horse")]
gflop = {n: cost.total_flops(model.flops(n)) / 1e9 for n in counts}
explore.by_steps({n: images(euler[n][chosen]) for n in counts}, gflop)

# %% [markdown]
# ### Euler or Heun?
#
# Heun looks twice at every step: it goes ahead with Euler, looks there, and takes the mean of both
# velocities. So compare at equal FLOPs, not at equal steps.
#
# > **Predict.** At which FLOPs does Heun win: few, many, or everywhere?

# %%
best = run(some, seeds, num_inference_steps=16, solver="heun")[-1].latent


def off(latent):
    """Distance (root mean square) from Heun with 16 steps per stage, which stands for the exact flow."""
    return (latent - best).square().mean().sqrt().item()


heun = {n: run(some, seeds, num_inference_steps=n, solver="heun")[-1].latent for n in counts[:4]}
of_heun = {n: cost.total_flops(model.flops(n, None, "heun")) / 1e9 for n in heun}
errors = {
    "Euler": {gflop[n]: off(euler[n]) for n in counts},
    "Heun": {of_heun[n]: off(heun[n]) for n in heun},
}
explore.solver_errors(errors, len(some))

# %% [markdown]
# <details><summary>Explain</summary>
# Halving the step divides Euler's error by about two and Heun's by about four, once steps are small enough.
# At one or two steps per stage they are not: the second look is then spent on a point that is far off. This is the
# error of the *solver*; the model's own error stays however many steps you take.
# </details>
#
# ### Where does a step buy most?
#
# From 4+4+4, double the steps of one stage at a time.

# %%
found = []
for plan in ((8, 4, 4), (4, 8, 4), (4, 4, 8)):
    closer = off(euler[4]) - off(run(some, seeds, num_inference_steps=plan)[-1].latent)
    extra = cost.total_flops(model.flops(plan)) / 1e9 - gflop[4]
    found.append((plan, extra, closer))
explore.bought(found, off(euler[4]))

# %% [markdown]
# That was the distance to a finely solved flow, of a few images. What counts is how good many images are:
# `ecar experiment steps-and-guidance` measured it with 500 images per row, guidance 2 in the second stage and, in its
# first 30%, in the finest.

# %%
trials = lab.result("steps-and-guidance-cpu")["rows"]

stepped = sorted(
    (r for r in trials if r["kind"] in ("steps", "Euler", "Heun")), key=lambda r: r["gflop"]
)
explore.plans(stepped)

# %%
by_plan = {(r["solver"], *r["num_inference_steps"]): r for r in stepped}
own_row = by_plan["ab2", 4, 4, 4]
heun_row, euler_row = by_plan["heun", 4, 4, 4], by_plan["euler", 12, 12, 12]
part = heun_row["gflop"] / euler_row["gflop"]
print(f"Heun, 4 + 4 + 4: {heun_row['frechet']:.2f}, at {part:.0%} of the cost of", end=" ")
print(f"Euler, 12 + 12 + 12: {euler_row['frechet']:.2f}")
part = own_row["gflop"] / heun_row["gflop"]
print(f"Adams-Bashforth 2, 4 + 4 + 4: {own_row['frechet']:.2f}, at {part:.0%} of Heun's cost")

# %% [markdown]
# More steps in stage 1 buy nothing here. Per GFLOP stage 2 buys most, stage 3 less, though its steps bring the run
# closest. The larger table agrees roughly. Even plans hold their own: 6 + 6 + 6 is cheaper than 2 + 4 + 8 and no
# worse, and with all their steps in stage 1, 8 + 4 + 2 and 16 + 8 + 4 gain nothing over even plans of about their
# cost. Heun with few steps keeps up with Euler with many, for less; the model's own
# solver, which remembers the velocity of the step before (notebook 10), is ahead of both for less still (last lines).
#
# ## Guidance per stage
#
# At every step the head may be asked twice, with the class and without it, and the difference exaggerated:
#
# $$v = v_{\text{none}} + g_s \, (v_{\text{class}} - v_{\text{none}})$$
#
# ### Exercise 7.2: guided velocity
#
# `scales` holds one $g_s$ per stage. Every channel is guided.
#
# <details><summary>Hint</summary>
# At g = 1 the result is the velocity with class, at g = 0 the one without.
# </details>


# %% tags=["exercise"]
def guided(with_class, without, scales, stage):
    """The velocity of a stage, (B, C, r_s, r_s)."""
    # SOLUTION 7.2
    return without + scales[stage] * (with_class - without)
    # END


# %%
guided = check.guided(guided)

# %% [markdown]
# With it we write one whole step of stage 2 ourselves, from its start state, and compare with the trace. No
# cache here: the transformer reads the end state of stage 1 under its mask.


# %%
@torch.no_grad()
def first_step(start):
    """The latent after the first Euler step of a stage, from the event that opens it."""
    labels = torch.cat((start.class_labels, torch.full_like(start.class_labels, model.null_class)))
    ends = [end.repeat(2, 1, 1, 1) for end in start.history]
    token_map = model.transformer(ends, labels, start.stage + 1)[start.stage]
    time = torch.zeros(len(labels), device=lab.device)
    modulations = model.head.modulations(start.stage, time, labels)
    both = start.latent.repeat(2, 1, 1, 1)
    velocity = model.head(start.stage, both, model.head.read(token_map), modulations)
    with_class, without = velocity.chunk(2)
    return (
        start.latent + guided(with_class, without, model.guidance(), start.stage) / start.num_steps
    )


with beside_the_kit(guided):
    found, of_kit = first_step(at(alone, 1, 0)), at(alone, 1, 1).latent
    torch.testing.assert_close(found, of_kit, atol=1e-4, rtol=1e-4)

# %% [markdown]
# > **Predict.** Without running it: by what factor do head and transformer grow from 1.0 to 1.0001, and from
# > 1 / 1 / 1 to 1 / 1 / 2.5?

# %%
assert sum(event.flops for event in alone) == cost.total_flops(model.flops())
costs = {}
for scales in (1.0, 1.0001, (2.5, 1.0, 1.0), (1.0, 1.0, 2.5), (1.0, 2.5, 2.5)):
    costs[scales] = {part: sum(stages) for part, stages in model.flops(None, scales).items()}
explore.guided_prices(costs)

# %% [markdown]
# <details><summary>Explain</summary>
# At exactly 1.0 the half without class has weight 0 and is never computed. Any other number pays for it in
# full: head and transformer double. Guided in the finest stage only, the transformer doubles all the same, in all
# stages; the head doubles in stage 3, where most of its cost is. Guidance in the coarsest stage costs nearly nothing,
# so cost is not why it is off there.
# </details>
#
# Six plans for the same four seeds:

# %%
patterns = [(1, 1, 1), (2.5, 1, 1), (1, 1, 2.5), (1, 2.5, 2.5), (2.5, 2.5, 2.5), (6, 6, 6)]
four = ["automobile", "deer", "horse", "ship"]
plans = {
    " / ".join(map(str, scales)): run(four, range(4), guidance_scale=scales)[-1].latent
    for scales in patterns
}
explore.by_guidance({plan: images(latent) for plan, latent in plans.items()})

# %% [markdown]
# > **Predict.** The shipped model has guidance 1 / 2 / 2. Does guidance in stage 1 help or harm?

# %%
by_guidance = [r for r in trials if r["kind"].startswith("guidance")]
explore.guidances(by_guidance)

# %%
scored = {tuple(r["guidance_scale"]): r for r in by_guidance}
pairs = {
    "alone": (scored[1.0, 1.0, 1.0], scored[2.0, 1.0, 1.0]),
    "beside stages 2 and 3": (scored[1.0, 2.0, 2.0], scored[2.0, 2.0, 2.0]),
}
errors = lab.result("stage-errors-cpu")["rows"]
plain = [r["frechet"] for r in errors if set(r["guidance_scale"]) == {1.0}]
falls = [plain[stage] - plain[stage + 1] for stage in range(3)]
explore.in_stage_1(pairs, falls)

# %% [markdown]
# <details><summary>Explain</summary>
# Guidance trades variety (recall) for typical images (classified correctly): look down the rows of equal guidance. It pays
# where the model makes mistakes, and the last line says where: hardly any of the distance is made in stage 1. Beside
# guidance in the later stages, stage 1's adds nothing: the distance is no better and recall is a few points lower,
# which 500 images barely resolve. Alone it even helps a little. So the reason to leave it off is weak: there is little
# to mend. (Differences of a tenth or two in distance are noise here.)
# </details>
#
# Turn all knobs at once:

# %%
explore.knobs(pipe, "horse")

# %% [markdown]
# ## Forks: what each stage decides
#
# All chance of a run is its noise: one tensor per stage. Keep the noise of the stages up to `kept`, take other
# noise for the later ones, and you have a *fork*: the same run up to there, another one afterwards.
#
# ### Exercise 7.3: the noise of a fork
#
# `base` and `fresh` hold one noise per stage. Return the dict that `trace(noise=...)` takes: stages up to and
# with `kept` from `base`, the others from `fresh`. With `kept = -1` nothing is kept.
#
# <details><summary>Hint</summary>
# A dict comprehension over <code>range(len(base))</code>.
# </details>


# %% tags=["exercise"]
def fork_noise(base, fresh, kept):
    """{stage: noise}."""
    # SOLUTION 7.3
    return {s: base[s] if s <= kept else fresh[s] for s in range(len(base))}
    # END


# %% [markdown]
# The kit can also start from a saved event, `start_from`, and so spare the kept stages' steps. Both must
# give the same image.

# %%
fork_noise = check.fork_noise(fork_noise)
first, other = interventions.stage_noise(model, SHIP), interventions.stage_noise(model, 4)
shortcut = list(pipe.trace("ship", start_from=at(alone, 0), noise=dict(enumerate(other))))
with beside_the_kit(fork_noise):
    whole_run = list(pipe.trace("ship", noise=fork_noise(first, other, 0)))
    assert torch.equal(at(whole_run, 0).latent, at(alone, 0).latent)
    torch.testing.assert_close(shortcut[-1].latent, whole_run[-1].latent, atol=1e-4, rtol=1e-4)

# %% [markdown]
# > **Predict.** Four forks that share stage 1, and four that share stages 1 and 2. Which of the two groups shows
# > the same object in the same place?


# %%
def forks(labels, kept, count):
    """Finished latents, (labels, count, C, R, R): seed 0 up to ``kept``, then other seeds."""
    base, *fresh = (interventions.stage_noise(model, seed) for seed in range(1 + count))
    each = [fork_noise(base, one, kept) for one in fresh] * len(labels)
    noise = {s: torch.cat([one[s] for one in each]) for s in range(3)}
    repeated = [label for label in labels for _ in range(count)]
    events = list(pipe.trace(repeated, noise=noise, dtype=lab.dtype))
    return events[-1].latent.unflatten(0, (len(labels), count))


keeping = {-1: "nothing kept", 0: "stage 1 kept", 1: "stages 1 and 2 kept"}
forked = lab.pick(names, ["automobile", "horse"])
members = {kept: forks(forked, kept, 4) for kept in keeping}

# %%
chosen = [forked.index("automobile"), forked.index("horse")]
some_forks = {keeping[kept]: members[kept][chosen].flatten(0, 1) for kept in (0, 1)}
explore.forks({kept: images(latent) for kept, latent in some_forks.items()})

# %% [markdown]
# In numbers: cut each finished latent into bands, what 4×4 pixels can show, what 8×8 add, what 16×16 add.
# How much of a band's variance between runs is still open after each stage?


# %%
def bands(latent):
    """D_0, and what each finer level adds to the one before."""
    levels = flow.pyramid(latent, 3)
    return [levels[0], *(levels[k] - flow.upsample(levels[k - 1]) for k in (1, 2))]


def open_variance(latent):
    """Variance between the forks of a class, one number per band."""
    parts = bands(latent.flatten(0, 1))
    return torch.tensor([p.unflatten(0, latent.shape[:2]).var(dim=1).mean().item() for p in parts])


variance = {kept: open_variance(members[kept]) for kept in keeping}
still_open = {kept: variance[kept] / variance[-1] for kept in (0, 1)}
base_named = named(run(forked, [0] * len(forked))[-1].latent)[:, None]
report = {}
for kept, latent in members.items():
    apart = (2 * latent.var(dim=1).mean()).sqrt().item()  # two draws differ by twice the variance
    as_base = named(latent.flatten(0, 1)).unflatten(0, latent.shape[:2]) == base_named
    report[keeping[kept]] = apart, as_base.float().mean().item()
explore.apart(report)

# %%
explore.still_open({kept: shares.tolist() for kept, shares in still_open.items()}, len(forked))

# %% [markdown]
# <details><summary>Explain</summary>
# Stage 1 works on the coarsest pixels, yet it leaves much of even them open: its window ends at t = 0.4, where the
# latent is still more noise than picture, and the noise added at the transition drowns part of that. Stage 2
# ends at 0.7 and settles the layout. That is what partial denoising means: a stage does not finish its
# resolution, later ones go on with it. (Our windows; with others the shares would move.) The judge names
# most forks like the run of seed 0, whatever is kept: every stage hears the class.
# </details>
#
# Each stage's noise can also come from a seed of its own. Below, one stage at a time takes another seed:

# %%
explore.seeds(pipe, "automobile")

# %% [markdown]
# ## Change the class on the way
#
# `class_labels_from={s: label}`: from stage s on another class is asked for. Transformer and head both hear of it.

# %%
pairs = [("automobile", "frog"), ("horse", "ship"), ("ship", "truck"), ("airplane", "deer")]
tries = lab.pick(12, 2)
before = [first for first, _ in pairs for _ in range(tries)]
later = [second for _, second in pairs for _ in range(tries)]
seeds = list(range(SHIP, SHIP + tries)) * len(pairs)
switched = {
    f"from stage {stage + 1}": run(before, seeds, class_labels_from={stage: later})[-1].latent
    for stage in (0, 1, 2)
}
switched["never"] = run(before, seeds)[-1].latent

# %%
picks = [index * tries for index in range(len(pairs))]
explore.switches({when: images(latent[picks]) for when, latent in switched.items()}, pairs)
found = {}
for when, latent in switched.items():
    hits = [named(latent) == model.class_ids(wanted) for wanted in (before, later)]
    found[when] = tuple(hit.float().mean().item() for hit in hits)
explore.switched(found)

# %% [markdown]
# Stage 2 is where the object is decided, as in the forks. Switched at stage 3, some images are classified as neither
# class: the judge is asked about something that looks like none.

# %%
explore.cheap_variants()

# %% [markdown]
# ## Edit the latent
#
# `LatentEdit(stage, mask, replacement)` replaces a region at a stage's end (or after any `step`): by zeros, by
# noise as strong as that moment has, or by a tensor such as another run's latent.
#
# ### Exercise 7.4: a mask
#
# The left half of the latent of a stage, as a bool tensor that is True where the latent is to be replaced.
#
# <details><summary>Hint</summary>
# <code>torch.zeros(side, side, dtype=torch.bool)</code>, with the side of that stage; columns are the last index.
# </details>


# %% tags=["exercise"]
def left_half(resolutions, stage):
    """(r_s, r_s) bool."""
    # SOLUTION 7.4
    side = resolutions[stage]
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[:, : side // 2] = True
    return mask
    # END


# %%
left_half = check.left_half(left_half)
with beside_the_kit(left_half):
    assert torch.equal(left_half(model.sides, 1)[0], torch.arange(8) < 4)
ships, autos = (lab.pick(12, 2) * [name] for name in ("ship", "automobile"))
seeds = range(SHIP, SHIP + len(ships))
each = [interventions.stage_noise(model, seed) for seed in seeds]
fixed = {s: torch.cat([noise[s] for noise in each]) for s in range(3)}
run_a, run_b = run(ships, seeds), run(autos, range(50, 50 + len(autos)))
edited, kinds = {}, ("zero", "noise", "paste")
for stage in range(3):
    mask = left_half(model.sides, stage)
    for kind in kinds:
        new = at(run_b, stage).latent if kind == "paste" else kind
        options = {"edits": [LatentEdit(stage, mask, new)], "noise": fixed}
        edited[kind, stage] = run(ships, seeds, **options)[-1].latent

# %% [markdown]
# > **Predict.** The left half of an automobile is pasted into a ship at the end of stage 1, 2 or 3. Where do you
# > see the seam?

# %%
flat = run(ships, seeds, renoise=False)[-1].latent
shown = {"A: ship": run_a[-1].latent, "B: automobile": run_b[-1].latent, "A, no re-noise": flat}
shown |= {f"{kind}, stage {stage + 1}": latent for (kind, stage), latent in edited.items()}
explore.edits({label: images(latent[:1]) for label, latent in shown.items()})


# %%
def seam(latent):
    """How much neighbours differ across the middle column, against everywhere else; 1 = no seam."""
    jumps = images(latent).diff(dim=-1).abs().mean(dim=(0, 1, 2))
    middle = len(jumps) // 2
    return (jumps[middle] / torch.cat((jumps[:middle], jumps[middle + 1 :])).mean()).item()


plain, other_run = run_a[-1].latent, run_b[-1].latent
by_stage = {kind: [seam(edited[kind, stage]) for stage in range(3)] for kind in kinds}
explore.seams(by_stage, without=(seam(plain), seam(other_run)))
detail, without = (bands(latent)[-1].std() for latent in (plain, flat))
print(f"finest detail: {detail:.2f}, without re-noising {without:.2f}")

# %% [markdown]
# <details><summary>Explain</summary>
# Stage 1 decides little, so an edit there leaves little. After stage 2 there is much of either picture to see; stage
# 3 softens the seam and does not remove it. After stage 3 only the decoder comes, and the cut stays. "Noise" there
# equals "zero": at t = 1 a latent without signal holds no noise. Without re-noising the detail is gone: notebook 4.
# </details>
#
# `fixed` gives every stage its noise by hand. Why? An edit with "noise" draws from the generator, and all later
# stages would get other numbers than in run A.
#
# ## From one image to another
#
# Mix the noises of two images half and half. Does that give an image between the two?

# %%
a, b = interventions.stage_noise(model, 3), interventions.stage_noise(model, 20)
middle = (a[2] + b[2]) / 2
print(f"standard deviation: {a[2].std():.2f}, {b[2].std():.2f}, half and half {middle.std():.2f}")
cosine = torch.cosine_similarity(a[2].flatten(), b[2].flatten(), dim=0)
print(f"cosine of the angle: {cosine:.2f}")

# %% [markdown]
# White noises of many dimensions are nearly equally long and at right angles. The middle of the straight line is
# shorter by $\sqrt{1/2}$: noise weaker than the model ever saw it at the start of a stage. Walk along the arc
# instead, with the angle $\omega$ between both:
#
# $$\text{slerp}(u) = \frac{\sin((1-u)\,\omega)\,a + \sin(u\,\omega)\,b}{\sin \omega}, \qquad
# \cos \omega = \frac{a \cdot b}{|a| |b|}$$
#
# ### Exercise 7.5: slerp
#
# One angle for the whole tensor.
#
# <details><summary>Hint</summary>
# <code>torch.cosine_similarity(first.flatten(), second.flatten(), dim=0).acos()</code>.
# </details>


# %% tags=["exercise"]
def slerp(first, second, share):
    """The noise at ``share`` of the arc, 0 = first, 1 = second."""
    # SOLUTION 7.5
    angle = torch.cosine_similarity(first.flatten(), second.flatten(), dim=0).acos()
    start, end = torch.sin((1 - share) * angle), torch.sin(share * angle)
    return (start * first + end * second) / torch.sin(angle)
    # END


# %%
slerp = check.slerp(slerp)
with beside_the_kit(slerp):
    torch.testing.assert_close(slerp(a[2], b[2], 1.0), b[2], atol=1e-4, rtol=1e-4)
shares = (0.0, 0.25, 0.5, 0.75, 1.0)


def walk(way):
    """Latents along the way between a and b in all stages, and the noise's standard deviation."""
    noise = {s: torch.cat([way(a[s], b[s], share) for share in shares]) for s in range(3)}
    events = list(pipe.trace(["automobile"] * len(shares), noise=noise, dtype=lab.dtype))
    return events[-1].latent, "std " + ", ".join(f"{one.std():.2f}" for one in noise[2])


on_line, on_arc = walk(torch.lerp), walk(slerp)

# %% [markdown]
# Classes can be mixed, too: a class is one row in each of two embedding tables, of transformer and head. In a
# copy of the model we overwrite one class's rows by a mix of two others' and draw with it.

# %%
first, second = names.index("automobile"), names.index("horse")
mixer, tries = copy.deepcopy(model), lab.pick(24, 4)


@torch.no_grad()
def mixed(share):
    """Latents of a class that is (1 - share) automobile and share horse, put in the place of class 0."""
    for table_, source in zip(mixer.class_embeddings, model.class_embeddings, strict=True):
        table_.weight[0] = torch.lerp(source.weight[first], source.weight[second], share)
    generators = [lab.generator(seed) for seed in range(tries)]
    return list(trace(mixer, [0] * tries, generator=generators, dtype=lab.dtype))[-1].latent


blends = {share: mixed(share) for share in shares}

# %%
ways = {f"straight line: {on_line[1]}": on_line[0], f"arc: {on_arc[1]}": on_arc[0]}
ways["classes, 0% to 100% horse"] = torch.cat([latent[:1] for latent in blends.values()])
explore.walks({way: images(latent) for way, latent in ways.items()})
found = {}
for share, latent in blends.items():
    votes = named(latent).tolist()
    found[share] = tuple(votes.count(label) / tries for label in (first, second))
explore.votes(found)

# %% [markdown]
# Is the middle anything? On either side the nearer class wins. In the middle the judge mostly sees something else.
# Nobody has taught the model what lies there: it was trained on ten points of this space and on nothing
# between them. (Learning a *new* class: `few-shot` in `docs/results.md`.)
#
# ## Keep it: recipes, GIFs, callbacks
#
# An image is its settings. Written down with the checkpoint and a hash of the pixels, they bring it back, and
# prove it. The page of `make demo` writes the same kind of recipe in its *Runs* tab.


# %%
def bake(recipe):
    """The image of a recipe."""
    settings = ("class_labels", "num_inference_steps", "guidance_scale", "solver")
    generator = lab.generator(recipe["seed"])
    return pipe(**{key: recipe[key] for key in settings}, generator=generator).images[0]


recipe = {"checkpoint": "cifar10", "class_labels": "ship", "seed": SHIP, "num_inference_steps": [8, 6, 6],
          "guidance_scale": [1.0, 2.5, 2.5], "solver": "euler", "torch": torch.__version__}  # fmt: skip
recipe["sha256"] = explore.fingerprint(bake(recipe))
lab.workspace.mkdir(parents=True, exist_ok=True)
(lab.workspace / "ship.json").write_text(json.dumps(recipe, indent=1))
again = json.loads((lab.workspace / "ship.json").read_text())
assert explore.fingerprint(bake(again)) == again["sha256"]
explore.keep(alone, pipe.tokenizer, lab.workspace, f"ship, seed {SHIP}")

# %% [markdown]
# Byte for byte holds on one machine with one version. Another processor or number of threads may round
# differently; then the image is the same to the eye and the hash is not.
#
# `callback_on_step_end(pipe, i, t, {"latents": ...})` is called after every flow step, as in diffusers. What it
# returns as `latents` goes on; setting `pipe._interrupt` stops the run. `output_type` is `pil`, `np`, `pt` (images in
# [0, 1]) or `latent`.

# %%
seen = []


def watch(pipe, index, t, tensors):
    seen.append(f"{index}: {tensors['latents'].std():.2f}")
    pipe._interrupt = index + 1 == sum(model.inference_steps()[:2])  # two stages are enough
    return tensors


how = {"callback_on_step_end": watch, "output_type": "pt"}
stopped = pipe("ship", generator=lab.generator(SHIP), **how).images
explore.watched(seen, stopped)

# %% [markdown]
# Another program can ask the page for all this. With `make demo` running:
#
# ```python
# from gradio_client import Client
#
# app = Client("http://127.0.0.1:7860")
# path, record = app.predict("ship", seed=3, steps=[8, 6, 6], guidance=2.0, api_name="/generate")
# for event in app.submit("ship", seed=3, api_name="/trace"):  # one per step, in order
#     print(event["stage"], event["step"], event["velocity"], event["image"])
# images, recipes = app.predict("ship", stage=1, variants=4, api_name="/fork")
# again, record = app.predict(recipe=recipes[0], api_name="/generate")
# ```
#
# Its `/fork` takes the code's index, which counts from 0: `stage=1` is stage 2 of 3.
#
# ## The bill
#
# Every knob once more, with one image, all in one run: FLOPs as the stream counts them, and seconds against the
# model's own plan.

# %%
edit = LatentEdit(0, left_half(model.sides, 0), "noise")
knobs = {
    "the model's own plan": {},
    "steps 4 + 2 + 2": {"num_inference_steps": [4, 2, 2]},
    "steps 16 + 16 + 16": {"num_inference_steps": 16},
    "Heun, 4 + 4 + 4": {"num_inference_steps": 4, "solver": "heun"},
    "no guidance": {"guidance_scale": 1.0},
    "guidance in all stages": {"guidance_scale": 2.5},
    "guidance in stage 3 only": {"guidance_scale": [1.0, 1.0, 2.5]},
    "fork after stage 1": {"start_from": at(alone, 0)},
    "fork after stage 2": {"start_from": at(alone, 1)},
    "other class from stage 2": {"class_labels_from": {1: "truck"}},
    "an edit": {"edits": [edit]},
    "own noise in every stage": {"noise": dict(enumerate(other))},
    "no re-noise": {"renoise": False},
}


def bill(options):
    """GFLOP of one image, and the seconds of the fastest of a few runs."""
    runs = [
        list(pipe.trace("ship", generator=lab.generator(SHIP), **options))
        for _ in range(lab.pick(5, 1))
    ]
    seconds = min(sum(event.seconds for event in events) for events in runs)
    return sum(event.flops for event in runs[0]) / 1e9, seconds


bill({})  # to warm up
bills = {name: bill(options) for name, options in knobs.items()}
explore.bills(bills)

# %% [markdown]
# Steps and guidance are what you pay for. Forks save what they keep. Everything else, classes, edits and noises, is
# free. Seconds follow FLOPs only roughly: a call on 4 tokens costs more than its FLOPs (notebook 9).

# %%
explore.dearest_plan()

# %% [markdown]
# ## Recap
# - Steps: useless in stage 1 beyond a few, best value in stage 2, costly but needed in stage 3. Heun pays from a few
#   steps per stage on.
# - Guidance trades variety for typical images; it pays in the stages that make mistakes. At 1.0 it is free.
# - Stage 2 decides the picture: forks, class switches and edits all say so. Stage 3 draws detail.
# - All chance is one noise tensor per stage: keep it, swap it, or walk along the arc between two.
# - A list of generators keeps each image apart from its batch; a recipe brings it back.
#
# **What breaks if…** you give `LatentEdit(0, ...)`, in the first stage, a mask of the full size? Start from the last event of a run?
# Name a class that is not there? Try it and read the sentences.
#
# **On**: notebook 8 puts the paper's claims to the test; the *Intervene* tab of `make demo` has forks, switches and
# edits by mouse; `ecar_lab/interventions.py` and `ecar_lab/trace.py` are the code behind them.
