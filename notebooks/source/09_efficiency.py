# %% [markdown]
# # 9. Efficiency
#
# What an image costs in FLOPs, time and memory, by formula and by measurement, beside DiT, a FlowAR-like and
# a MAR-like model of the same size: where the paper's factor of ten comes from, and when it does not come.
#
# **After it you can**
# - count the FLOPs of a transformer block, a stage and an image by hand, and check them with a counter;
# - take a speed-up apart into fewer steps, smaller steps and fuller hardware;
# - predict the cost at 512 and 1024 pixels;
# - name the conditions under which E-CAR saves nothing.
#
# **Before it**: notebooks 2 and 5.
#
# {{time}}
#
# The paper claims 10× fewer FLOPs and 5× less time than DiT for a 256×256 image. Its model sizes and step
# counts are not public. The sizes here are this kit's preset `imagenet256-s` (33.7 million parameters); all models
# have the same number of parameters and random weights. So this notebook is about cost alone. Quality at a
# cost stands at its end, and in notebook 8.

# %%
import torch

from ecar_lab import baselines, cost, machine
from ecar_lab.benchmark.timing import median_seconds, open_gates, open_stream, place, sample
from ecar_lab.doctor.diagnose import efficiency_not_realised
from ecar_lab.teaching import beside_the_kit, setup
from ecar_lab.teaching.check import efficiency as check
from ecar_lab.teaching.explore import efficiency as explore
from ecar_lab.teaching.explore.flops import NAMES, PIXELS, compared, gflop, shape_at

lab = setup(9)

# %% [markdown]
# ## The result first
#
# The whole comparison as `ecar benchmark` measured it, on the machine it names, in one run.

# %%
benchmark = lab.result("benchmark-cpu")
explore.comparison(benchmark)

# %% [markdown]
# (The MAR-like model walks its steps for each of 64 groups of tokens; FlowAR-like takes 24 in each of 4 stages.)
#
# An order of magnitude, then, in FLOPs and in time: for a plan of 4+3+3+2 steps that is ours, on random weights. The rest of
# this notebook asks where it comes from, and its end what is known of the quality.
#
# ## FLOPs of a block
#
# A product of an (N, D) matrix with a (D, E) matrix takes N·D·E multiply-adds, that is 2·N·D·E floating-point
# operations. A block has qkv and output (together four D×D layers), an MLP (two layers of 4·D² weights each), and
# attention: `q kᵀ` and the product of the weights with v, N·M·D multiply-adds each, for N tokens that look at M.
#
# ### Exercise 9.1: FLOPs of a block
#
# <details><summary>Hint</summary>
# Twelve D×D weights for each token; two products of N × M × D for attention; everything times two.
# </details>


# %% tags=["exercise"]
def block_flops(tokens, context, width):
    """FLOPs of one block: N tokens that look at M (context), width D."""
    # SOLUTION 9.1
    linear = 2 * tokens * 12 * width**2
    attention = 2 * 2 * tokens * context * width
    return linear + attention
    # END


# %%
block_flops = check.block_flops(block_flops)
with beside_the_kit(block_flops):
    assert block_flops(64, 84, 256) == cost.block_flops(64, 84, 256)

# %% [markdown]
# > **Predict.** At which number of tokens does attention overtake the linear layers, for a width of 384: about 200,
# > 2,000 or 20,000?

# %%
width = 384
counts = [2**k for k in range(4, 15)]
linear = [block_flops(n, 0, width) / 1e9 for n in counts]
attention = [(block_flops(n, n, width) - block_flops(n, 0, width)) / 1e9 for n in counts]
explore.parts_of_a_block(counts, linear, attention, width)

# %% [markdown]
# <details><summary>Explain</summary>
# 24 N D² = 4 N² D gives N = 6 D. Well below it a transformer's cost is nearly linear in the number of tokens, so "O(n²)" and
# "O(n³)" are statements about large images. At 256 px attention is a small part of every model on this page.
# </details>
#
# ## FLOPs of an image
#
# Per stage: one transformer call, then K_s steps of the head. Guidance runs both twice.

# %%
ecar = open_gates(baselines.build("ecar", shape_at(256))).eval()
ecar = place(ecar, lab.device, lab.dtype)
config, plan = ecar.config, ecar.inference_steps()
stages = range(config.num_stages)
once = [cost.transformer_flops(config, s) for s in stages]
call = [once[s] + cost.head_setup_flops(config, s, plan[s]) for s in stages]
step = [cost.velocity_flops(config, s) for s in stages]
tokens = ecar.transformer.tokens_per_stage
explore.costs_of_stages(tokens, plan, call, step)

# %% [markdown]
# ### Exercise 9.2: FLOPs of a plan
#
# Put them together: the cost of an image, given what each stage pays once, what each of its steps pays, how many
# steps it takes and whether it is guided.
#
# <details><summary>Hint</summary>
# <code>(1 + guided)</code> is 2 for a guided stage and 1 for the others.
# </details>


# %% tags=["exercise"]
def plan_flops(call, step, steps, guided):
    """FLOPs of an image; all four are lists with one entry per stage."""
    # SOLUTION 9.2
    parts = zip(call, step, steps, guided, strict=True)
    return sum((1 + double) * (once + count * each) for once, each, count, double in parts)
    # END


# %%
plan_flops = check.plan_flops(plan_flops)
bill = call, step, plan, [True] * len(plan)
with beside_the_kit(plan_flops):
    assert plan_flops(*bill) == cost.total_flops(ecar.flops(plan, 2.0))
by_hand = plan_flops(*bill)

# %% [markdown]
# A formula can forget something. PyTorch can count the products that really run.

# %%
counted = machine.count_flops(lambda: sample(ecar, plan, guidance=2.0))
print(
    f"formula {by_hand / 1e9:.2f} GFLOP, counted {counted / 1e9:.2f}, ratio {by_hand / counted:.4f}"
)
assert abs(by_hand / counted - 1) < 0.01

# %% [markdown]
# > **Predict.** Which of the four stages takes the largest share of the FLOPs, and which of the time?

# %%
runs = [list(open_stream(ecar, plan, 2.0)) for _ in range(lab.pick(4, 2))][1:]
seconds = [[sum(e.seconds for e in run if e.stage == s) for s in stages] for run in runs]
seconds = [min(values) for values in zip(*seconds, strict=True)]
flops = [sum(e.flops for e in runs[0] if e.stage == s) for s in stages]
explore.shares_of_stages(flops, seconds)

# %% [markdown]
# <details><summary>Explain</summary>
# A call on 4 tokens has hardly any arithmetic in it, but it reads all weights and starts as many kernels as a call on 256.
# Its time is a floor that FLOPs know nothing of. This is the break condition of the paper's first mechanism: the
# saving is real only as far as a stage's tokens fill the machine. More images at once fill it better. How much it shows in the sum
# depends on the machine: the last two stages hold most of the FLOPs.
# </details>
#
# ## Where the factor comes from
#
# DiT makes every step at full size. Compare step by step.
#
# > **Predict.** What is left of the factor if DiT makes do with as many steps as E-CAR takes in all?

# %%
dit_step = gflop("DiT", 256, 2) - gflop("DiT", 256, 1)
dit_50, ours = gflop("DiT", 256, 50), by_hand / 1e9
fewer = 50 / sum(plan)
smaller = dit_step * sum(plan) / ours
explore.two_factors(fewer, smaller, plan, ours, (dit_step, dit_50))

# %% [markdown]
# The cheaper steps have two sources: three of the four stages are small, and a step runs only the head, two thirds of
# the blocks, while the transformer is paid once per stage.

# %%
changes = {
    f"DiT, {sum(plan)} steps": dit_step * sum(plan),
    "the head alone, all at full size": 2 * sum(plan) * step[-1] / 1e9,
    "the head, stage by stage": 2 * sum(k * v for k, v in zip(plan, step, strict=True)) / 1e9,
    "E-CAR, with the transformer": ours,
}
explore.from_dit_to_ecar(changes, sum(plan), dit_50)

# %% [markdown]
# <details><summary>Explain</summary>
# The factor is a product of two of about equal size: cheaper steps, by design, and fewer. Both rest on quality: whether twelve
# steps, only two of them at full size, are enough, and whether DiT needs fifty. A DiT with a better solver, or distilled, narrows it.
# </details>
#
# ### When it does not come
#
# Move the sliders until E-CAR is no longer cheaper.

# %%
explore.calculator()

# %%
many, few = (8, 20, 50, 250), (1, 2, 4, 8, 16)
grid = [[compared(256, k, k, d, 2.0) for d in many] for k in few]
ratios = [[costs["DiT"] / costs["E-CAR"] for costs in row] for row in grid]
explore.grid_of_plans(few, many, ratios)

# %% [markdown]
# The factor is not a property of the method but of two step counts. Below 1× DiT is the cheaper one.
#
# ### Exercise 9.3: steps for a budget
#
# How many steps may a model take for a given number of FLOPs? `fixed` is what it pays once, `per_step` what a step costs.
#
# <details><summary>Hint</summary>
# What is left of the budget after the fixed part, divided by a step; and there is no part of a step.
# </details>


# %% tags=["exercise"]
def steps_for_budget(budget, fixed, per_step):
    """The most whole steps with fixed + steps * per_step <= budget."""
    # SOLUTION 9.3
    return int((budget - fixed) // per_step)
    # END


# %%
steps_for_budget = check.steps_for_budget(steps_for_budget)
fixed = gflop("DiT", 256, 1) - dit_step
with beside_the_kit(steps_for_budget):
    equal = steps_for_budget(ours, fixed, dit_step)
    assert gflop("DiT", 256, equal) <= ours < gflop("DiT", 256, equal + 1)
equal = steps_for_budget(ours, fixed, dit_step)
print(f"for E-CAR's {ours:.1f} GFLOP, DiT may take {equal} steps")

# %% [markdown]
# The fair question to a faster model is not "how much faster than DiT at 50 steps?" but "how good is DiT at as many FLOPs?".
# The last section asks it of trained models.
#
# ## Time, measured here
#
# All of DiT's steps are alike, so a few of them tell the time of fifty. (While the outputs that come with this notebook were made, other
# programs used the same processor: read their ratios and not their seconds. The first table is of a run of its own.)

# %%
dit = open_gates(baselines.build("dit", shape_at(256))).eval()
dit = place(dit, lab.device, lab.dtype)
repeats, few = lab.pick((3, 5), (1, 2))
measured = []
for batch in lab.pick((1, 8), (1, 2)):
    own = median_seconds(lambda b=batch: sample(ecar, plan, 2.0, b), lab.device, repeats)
    of_few = median_seconds(lambda b=batch: sample(dit, few, 2.0, b), lab.device, repeats)
    measured.append((batch, own / batch, of_few * 50 / few / batch))
explore.seconds_of_both(measured, few)

# %% [markdown]
# How much of the machine is that? The yardstick is a plain matrix product, in the same precision, measured now.

# %%
rate = machine.matmul_rate(lab.dtype, lab.device)
used = [
    (batch, ours * 1e9 / own / rate, dit_50 * 1e9 / other / rate) for batch, own, other in measured
]
explore.shares_of_rate(used, rate, lab.dtype)

# %% [markdown]
# Compare the ratio of times with that of FLOPs, 17.4: it may come out below it, or above, as at batch 8 in the first table
# (18.3). Above is no mistake. FLOPs count matrix products only. What else costs time, element-wise work and reading and
# writing memory, is saved too, and a model's rate is a mean over calls of different sizes: E-CAR's finest stage runs about
# as fast as DiT does or faster, which outweighs its slow coarse calls. How much each contributes was not measured.
#
# The kit has a named diagnosis for a saving that stays on paper; `ecar doctor RUN` uses the same function.

# %%
stage_flops = ecar.flops(plan, 2.0)
own_flops = [a + b for a, b in zip(stage_flops["transformer"], stage_flops["head"], strict=True)]
found = efficiency_not_realised(own_flops, seconds, dit_50 * 1e9, measured[0][2])
explore.diagnosis(found)

# %%
explore.what_decides_the_time()

# %% [markdown]
# ## Larger images
#
# The paper's first open question: 512 and 1024 px. Formulas need no weights in memory, so this takes a moment.
#
# > **Predict.** From 256 to 1024 px the number of pixels grows 16 times. How many times do E-CAR's FLOPs grow?

# %%
explore.larger_images({name: [gflop(name, pixels) for pixels in PIXELS] for name in NAMES})

# %%
complexity = lab.result("complexity-cpu")
shown = ("E-CAR", "E-CAR, windows", "DiT", "token by token", "token by token, no KV cache")
explore.growth(complexity, shown)

# %% [markdown]
# <details><summary>Explain</summary>
# The exponent of E-CAR's FLOPs lies between 1 and 2: attention (n²) is a small share at 256 px and most of the FLOPs at 1024 px
# (<code>attention_share</code> in the JSON). DiT's is nearly the same: its cost is the same formula at full size. So the step from
# n³ to n² is one against token by token <b>without</b> a cache; against DiT the saving is a factor, not an exponent. Token by token
# <b>with</b> a cache grows more slowly than both here: nearly all its FLOPs are its head's, which are linear in n. Attention in
# windows takes the n² away.
# </details>
#
# ## Memory
#
# The KV cache holds the keys and values of every token so far, in every layer of the transformer.
#
# ### Exercise 9.4: bytes of the cache
#
# <details><summary>Hint</summary>
# A key and a value of width D for each token and each layer.
# </details>


# %% tags=["exercise"]
def cache_bytes(tokens, layers, width, bytes_per_number):
    """Bytes of the keys and values of all stages; tokens: a list, one number per stage."""
    # SOLUTION 9.4
    return 2 * layers * sum(tokens) * width * bytes_per_number
    # END


# %%
cache_bytes = check.cache_bytes(cache_bytes)
last = runs[0][-1]
size = torch.finfo(lab.dtype).bits // 8
with beside_the_kit(cache_bytes):
    sizes = tokens, config.transformer_layers, config.width, size
    assert 2 * cache_bytes(*sizes) == last.cache_bytes  # two: guided
expected = 2 * cache_bytes(*sizes)
print(f"one guided image of 256 px: {expected / 2**20:.1f} MiB of keys and values at the end")

# %%
explore.peak_memory(benchmark["peers"]["models"])

# %% [markdown]
# ## What else makes it fast
#
# Three levers, timed in one cell.


# %%
def seconds_of_plan(guidance=2.0, batch=1):
    """Median seconds of an image."""

    def image():
        sample(ecar, plan, guidance, batch)

    return median_seconds(image, lab.device, repeats) / batch


many = measured[-1][0]
usual = seconds_of_plan()
levers = {
    "no guidance (other images)": usual / seconds_of_plan(guidance=1.0),
    f"a batch of {many} instead of 1, per image": usual / seconds_of_plan(batch=many),
}
if lab.dtype != torch.float32:
    place(ecar, lab.device, torch.float32)
    name = f"{str(lab.dtype).removeprefix('torch.')} instead of float32"
    levers[name] = seconds_of_plan() / usual
    place(ecar, lab.device, lab.dtype)
explore.levers(levers)

# %% [markdown]
# `torch.compile` helps most where element-wise work is a large share: `ecar benchmark --sections training --compile`
# measures it for training, and `docs/costs.md` has the numbers.
#
# ## At which quality?
#
# Cost alone decides nothing. Trained pairs of equal size are in the kit for CIFAR-10 only, at 32 px.

# %%
shipped = lab.result("shipped-cpu")
explore.shipped.figure(shipped, "9.6")

# %%
explore.shipped.all_points(shipped)
explore.shipped.headline(shipped)

# %% [markdown]
# So the paper's sentence splits in two. As a *cost*, factors of that size are reached, but read them for what they are: the plan
# of 4+3+3+2 steps is ours, the paper's is not public, and the weights are random, so nobody knows how good images with it
# would be. As for *quality*, the lines above are computed from the file of Figure 9.6: at 32 px, one training of each, by a distance that is not FID.
# At 256 px, of which the paper speaks, it is not measured. Nothing on this page was measured on a GPU.

# %%
explore.what_shrinks_the_factor(dit_50 / ours)

# %% [markdown]
# ## Recap
# - A block costs 24 N D² + 4 N M D; below 6 D tokens the linear part rules.
# - The factor against DiT is (fewer steps) × (cheaper steps). Both hold only at equal quality.
# - Time follows FLOPs as far as the calls fill the machine; coarse stages do not.
# - Against DiT the exponent is the same; against token by token without a cache it falls by one.
#
# **What breaks if…** every stage takes as many steps as DiT takes in all? Ask the calculator: then E-CAR costs about as
# much as DiT, and the advantage is gone.
#
# **On**: `ecar benchmark` repeats the first table on your machine; the Compare tab of `make demo` runs both models side
# by side; `ecar_lab/cost.py` holds all formulas. Part 7 of notebook 8 sets stages against quality, parallel work
# against memory and resolution against cost, in one figure.
