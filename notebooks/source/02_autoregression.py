# %% [markdown]
# # 2. Autoregression
#
# An autoregressive model makes an image piece by piece, each piece knowing those before it. In this notebook
# the pieces grow from single tokens to whole stages, and you build the transformer that does it.
#
# **After it you can**
# - derive the cost of token-by-token generation, O(n³), and say what a KV cache and stages each change about it;
# - build the block-causal mask and explain what training with it has to do with sampling;
# - place the tokens of all stages in one geometry, and say what rotary positions add;
# - write attention with rotary positions, the adaLN-zero block and the multistage transformer, and prove that they equal
#   the kit's.
#
# What you write here goes into a file of your own, `my_ecar.py`. Notebook 5 makes a model of it, notebook 6 trains that
# model, notebook 7 generates with it.
#
# **Before it**: notebook 0, and having seen softmax attention once.
#
# {{time}}
#
# That stages bring O(n³) down to O(n²) is the paper's first mechanism
# ([arXiv 2412.14170](https://arxiv.org/abs/2412.14170), section 3.2). Its transformer is not public: mask,
# positions, widths and layers are our reading.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from ecar_lab import cost, flow, layers, machine, transformer
from ecar_lab.benchmark import caching, timing
from ecar_lab.teaching import beside_the_kit, mixing, own, setup
from ecar_lab.teaching.check import autoregression as check
from ecar_lab.teaching.explore import autoregression as explore

lab = setup(2)
upsample, patchify = flow.upsample, layers.patchify  # you will use these two

# %% [markdown]
# ## The result first
#
# The shipped model makes one image in three transformer calls, one per stage. You can ask each call for the attention of
# a layer: who looked at whom.

# %%
pipe = lab.pipeline("cifar10")
events = list(pipe.trace(["ship"], generator=lab.generator(3), attention_layer=1))
starts = [event for event in events if event.step == 0]
for event in starts:
    _, heads, queries, keys = event.attention.shape
    print(f"stage {event.stage + 1}: {queries} new tokens look at {keys} ({heads} heads)")
run = explore.attention_run(pipe, "ship", 3)
explore.show_look(run, stage=2, layer=1, head=0, row=4, column=4)
row = run.row(stage=2, layer=1, head=0, token=run.token_at(2, 4, 4))
assert run.maps(row)[1].argmax() == run.token_at(1, 4, 4)

# %% [markdown]
# Nobody told the model that this token matters. The mask lets it see earlier stages, shared positions let it find the
# place. You will build both.
#
# ## The chain rule, twice
#
# Token by token, with $c$ the class:
#
# $$p(x \mid c) = \prod_{i=1}^{n} p(x_i \mid x_{<i}, c)$$
#
# Exact, but every factor waits for the tokens before it: n calls. The rule holds for larger pieces too. With $e_s$ the
# end state of a stage, $e_0$ that of the first, $e_{S-1}$ the image's latent:
#
# $$p(e_0, \dots, e_{S-1} \mid c) = \prod_{s=0}^{S-1} p(e_s \mid e_{<s}, c)$$
#
# Exact as well, with S factors. Each is the *joint* distribution of a whole stage. The token map $M_s$ is no sample of
# it: given the earlier stages, it is fixed. The flow head draws, all tokens of the stage together (notebook 3).

# %%
sides = run.sides
tokens = [side**2 for side in sides]
explore.show_order_of_calls(sides)

# %% [markdown]
# ## What one token after the other costs
#
# Attention of N queries to M keys has two products over N·M pairs, `q kᵀ` and weights times v. With width D that is
# `4 N M D` FLOPs, 2 per multiply-add.
#
# Without a cache, call k runs all k tokens through again: $\sum_k 4 k^2 D \approx \tfrac43 n^3 D$. With a
# **KV cache** (keys and values of earlier tokens are kept, not computed again) only the newest token asks:
# $\sum_k 4 k D \approx 2 n^2 D$.
#
# ### Exercise 2.1: one token after the other
#
# Count the FLOPs of attention for n tokens, made in n calls, with and without a KV cache.
#
# <details><summary>Hint</summary>
# Add up cost.attention_flops(queries, keys, width) for k = 1 to n. The keys are always k.
# </details>


# %% tags=["exercise"]
def sequential_flops(n, width, kv_cache):
    """FLOPs of one attention layer: n calls, the k-th with k tokens."""
    # SOLUTION 2.1
    return sum(cost.attention_flops(1 if kv_cache else k, k, width) for k in range(1, n + 1))
    # END


# %%
sequential_flops = check.sequential_flops(sequential_flops)
with beside_the_kit(sequential_flops):
    assert sequential_flops(3, 8, False) == sum(cost.attention_flops(k, k, 8) for k in (1, 2, 3))
    assert sequential_flops(3, 8, True) == sum(cost.attention_flops(1, k, 8) for k in (1, 2, 3))

# %% [markdown]
# ### Exercise 2.2: one stage after the other
#
# Now by stages, with a cache: all tokens of stage s ask at once, and look at their own stage and all earlier ones.
#
# <details><summary>Hint</summary>
# Stage s has tokens_per_stage[s] queries and sum(tokens_per_stage[:s + 1]) keys.
# </details>


# %% tags=["exercise"]
def stage_flops(tokens_per_stage, width):
    """FLOPs of one attention layer: one call per stage."""
    # SOLUTION 2.2
    return sum(
        cost.attention_flops(count, sum(tokens_per_stage[: stage + 1]), width)
        for stage, count in enumerate(tokens_per_stage)
    )
    # END


# %%
stage_flops = check.stage_flops(stage_flops)
config = pipe.model.config
with beside_the_kit(stage_flops):
    assert stage_flops(tokens, config.width) == sum(
        cost.attention_flops(count, cost.contexts(config, stage)[0], config.width)
        for stage, count in enumerate(tokens)
    )

# %% [markdown]
# > **Predict.** For n = 1,024 tokens at full size: which of the three ways has the *fewest* FLOPs of attention?
# > By how much does the cache win over none?

# %%
width = 64


def tokens_of(side):
    """Tokens of three stages that end at side x side."""
    return [(side // 4) ** 2, (side // 2) ** 2, side**2]


for side in (8, 32):
    n = side**2
    three_ways = [sequential_flops(n, width, kv_cache) for kv_cache in (False, True)]
    three_ways.append(stage_flops(tokens_of(side), width))
    counts = [flops / (n**2 * width) for flops in three_ways]
    print("n = {}, in n²D: no cache {:.2f}, cache {:.2f}, stages {:.2f}".format(n, *counts))

# %% [markdown]
# <details><summary>Explain</summary>
# Token by token <em>with</em> a cache has the fewest: it uses half a square of pairs (only earlier tokens), 2 n²D.
# Stages use the whole square of the last stage, and a third of it again for looking at earlier ones; summed over many
# stages 4 · 64/45 n²D = 5.7 n²D. Without a cache it is (4/3) n · n²D, so the cache wins by a factor of about 2n/3.
# So a KV cache alone brings O(n³) down to O(n²). Stages are no saving in attention's FLOPs over it; what they save
# comes next.
# </details>
#
# ## Count it, time it
#
# A formula is a claim. Here is a block of the kit, called in the three ways. Cost does not depend on what is fed in,
# so that is random.

# %%
torch.manual_seed(lab.seed)
# open_gates: a fresh block is the identity, see below. modulation: how the class acts, see there too.
block = timing.open_gates(layers.Block(width, num_heads=2)).eval().requires_grad_(False)
block = block.to(lab.device)
modulation = block.modulation(torch.randn(1, width, device=lab.device))


def angles(side, finest):
    """Rotary table of one grid; positions are explained below."""
    return layers.rotary_table((side,), width // 2, finest, lab.device)


# %%
def one_by_one(side, kv_cache):
    """n = side² calls of the block; returns what each new token came out as, (1, n, D)."""
    x = torch.randn(1, side**2, width, generator=lab.generator(1)).to(lab.device)
    turns = angles(side, side)
    mask = transformer.block_causal_mask((1,) * side**2, lab.device)
    cache, out = transformer.KVCache(1, side**2), []
    for k in range(side**2):
        if kv_cache:
            y = block(x[:, k : k + 1], modulation, turns[k : k + 1], cache=cache)
        else:
            y = block(x[:, : k + 1], modulation, turns[: k + 1], mask[: k + 1, : k + 1])
        out.append(y[:, -1:])
    return torch.cat(out, dim=1)


torch.testing.assert_close(one_by_one(6, True), one_by_one(6, False), atol=1e-5, rtol=1e-5)


# %%
def stage_by_stage(side):
    """Three calls of the block, at side/4, side/2 and side."""
    cache = transformer.KVCache(1, sum(tokens_of(side)))
    for here in (side // 4, side // 2, side):
        x = torch.randn(1, here**2, width, generator=lab.generator(1)).to(lab.device)
        block(x, modulation, angles(here, side), cache=cache)


def closed_form(side):
    """FLOPs of the block in the three ways: projections and MLP, 24 D² per token, and attention."""
    calls, counts = range(1, side**2 + 1), tokens_of(side)
    stages = (cost.block_flops(n, sum(counts[: s + 1]), width) for s, n in enumerate(counts))
    queries_and_keys = ([(k, k) for k in calls], [(1, k) for k in calls])
    sequential = [
        sum(cost.block_flops(*pair, width) for pair in pairs) for pairs in queries_and_keys
    ]
    return [*sequential, sum(stages)]


# %%
ways = {
    "token by token, no KV cache": lambda side: one_by_one(side, kv_cache=False),
    "token by token": lambda side: one_by_one(side, kv_cache=True),
    "stage by stage": stage_by_stage,
}
for side in lab.pick((8, 12), (4, 8)):
    counted = [machine.count_flops(lambda way=way, side=side: way(side)) for way in ways.values()]
    assert counted == closed_form(side)
    print(f"n = {side**2}: counted {counted}, equal to the formula")

# %% [markdown]
# PyTorch's counter watches the products that really happen, and agrees to the last one: the formula may stand for
# larger n. Time is measured, here and now, the fastest of a few runs.

# %%
grids = lab.pick((8, 12, 16, 20, 24, 28, 32), (4, 8, 12))
seconds = {name: [] for name in ways}
for side in grids:
    for name, way in ways.items():
        slow = side > 20 and "no KV cache" in name
        repeats = 10 if way is stage_by_stage else 1 if slow else 3
        tries = (
            timing.seconds_of(lambda way=way, side=side: way(side), lab.device)
            for _ in range(repeats)
        )
        seconds[name].append(min(tries))
uncached, cached, staged = (values[-1] for values in seconds.values())
print(
    f"n = {grids[-1] ** 2}, times with a cache = 1: none {uncached / cached:.1f}, stages {staged / cached:.3f}"
)

# %%
numbers = [side**2 for side in grids]
flops = dict(zip(ways, zip(*map(closed_form, grids), strict=True), strict=True))
attention = {
    "token by token, no KV cache": [sequential_flops(n, width, False) for n in numbers],
    "token by token": [sequential_flops(n, width, True) for n in numbers],
    "stage by stage": [stage_flops(tokens_of(side), width) for side in grids],
}


def power(values):
    """The exponent p of n^p: slope of log value over log n, least squares, the largest five."""
    n, value = torch.tensor([numbers[-5:], values[-5:]], dtype=torch.float64).log()
    return (torch.cov(torch.stack((n, value)))[0, 1] / n.var()).item()


fitted = {name: [power(x[name]) for x in (attention, flops, seconds)] for name in ways}
explore.show_exponents(fitted)

# %% [markdown]
# An exponent of *seconds* over so few sizes also holds caches and kernels of the machine; it may lie above the theory.

# %%
explore.show_growth(numbers, flops, seconds, fitted, width)

# %% [markdown]
# - **The block's FLOPs grow more slowly than n³ and n².** Projections and MLP cost 24 D² for every token, linear in n
#   (squared without a cache). Attention, 4 M D, overtakes them where a token sees M > 6 D others.
# - **In FLOPs, cache and stages lie together.** It is the cache that removes the cube.
# - **In seconds they do not.** Token by token makes n calls that wait for one another, stages make S.
#
# The kit has measured whole generators too, up to 1,024 px. DiT, which makes all tokens in every call, grows much as
# E-CAR does: what separates these two is a factor (fewer steps, and cheaper ones), not an exponent (notebook 9).

# %%
explore.show_measured_growth(lab.result("complexity-cpu"))
call_of_one = 1, sum(tokens), config.width  # a query, the keys, the width
share = cost.attention_flops(*call_of_one) / cost.block_flops(*call_of_one)
print(f"attention's share of a block's FLOPs in the shipped model's finest stage: {share:.0%}")

# %% [markdown]
# Token by token (cached) grows least here: its head's steps, linear in n, are most of its FLOPs.

# %%
explore.ask_cost_of_a_sequence()

# %% [markdown]
# ## When stages do not help
#
# The first mechanism has a break condition: "If attention computation cannot be effectively parallelized within
# stages".
#
# > **Predict.** One call of the block with 64 tokens has some 70 times the FLOPs of a call with one token. How
# > many times longer does it take?

# %%
together = lab.pick((1, 4, 16, 64, 256, 1024), (1, 16, 64))


def call(count):
    """One call of the block with so many tokens."""
    x = torch.ones(1, count, width, device=lab.device)
    return block(x, modulation, angles(32, 32)[:count])


took = [
    min(
        timing.seconds_of(lambda count=count: call(count), lab.device)
        for _ in range(lab.pick(30, 10))
    )
    for count in together
]
times = [value / took[0] for value in took]
work = [cost.block_flops(count, count, width) / cost.block_flops(1, 1, width) for count in together]

# %%
explore.show_one_call(together, work, times)

# %% [markdown]
# <details><summary>Explain</summary>
# A call has a price of its own: Python, launching kernels, reading the weights. Up to some number of tokens that is
# most of it, so more tokens come almost for free. This is what stages live on. It is also why they do not speed
# up what is small already. Where the tokens of a stage had to be made one by one, the number of calls would be n
# again, and the gain gone.
# </details>
#
# ## Who may look at whom
#
# While sampling, later stages do not exist yet. In training they do: one pass over
# `[class | Up2(e_0) | ... | Up2(e_{S-2})]` gives all token maps, and a mask hides from each stage what it will not have
# when sampling.
#
# ### Exercise 2.3: block-causal mask
#
# Tokens of all stages stand in one row, coarsest first. Row i, column j is True where token i may look at j: j's
# stage is i's own or an earlier one.
#
# <details><summary>Hint</summary>
# Write down each token's stage with torch.repeat_interleave; then compare all with all, as stage[:, None] against
# stage[None, :].
# </details>


# %% tags=["exercise"]
def block_causal_mask(tokens_per_stage):
    """(N, N) bool over all tokens: True where the row may look at the column."""
    # SOLUTION 2.3
    numbers = torch.arange(len(tokens_per_stage))
    stage = torch.repeat_interleave(numbers, torch.tensor(tokens_per_stage))
    return stage[:, None] >= stage[None, :]
    # END


# %%
block_causal_mask = check.block_causal_mask(block_causal_mask)
with beside_the_kit(block_causal_mask):
    of_kit = transformer.block_causal_mask(tuple(tokens), torch.device("cpu"))
    assert torch.equal(block_causal_mask(tokens), of_kit)
own.add(block_causal_mask)
mask = block_causal_mask(tokens).to(lab.device)
causal = torch.ones_like(mask).tril()
explore.show_masks(causal, mask, tokens)

# %% [markdown]
# ## What a stage reads
#
# A language model reads token i - 1 where it writes token i. Here the input at the place of a token is what the
# stage before left *at that place*: its end state, upsampled by two and cut into patches. So input and output of
# stage s lie on the very same grid. Stage 1 has nothing to read: all its tokens start as the class.

# %%
end_states, labels = list(starts[-1].history), starts[-1].class_labels  # e_0 and e_1 of the ship
token_map = starts[1].token_map
assert patchify(upsample(end_states[0]), config.patch_size).shape[1] == token_map.shape[1]
explore.show_same_grid(end_states[0], token_map, pipe.tokenizer)

# %% [markdown]
# End states are still noisy, on purpose: notebook 4 says why.
#
# ## Where a token lies
#
# A token of stage 1 covers a quarter of the image, one of stage 3 a sixty-fourth. To relate them, give every token
# the coordinates of its centre in the image, from 0 to 1.
#
# ### Exercise 2.4: where a token lies
#
# Write the centres of a side × side grid as rows (y, x), row by row.
#
# <details><summary>Hint</summary>
# Along one axis the centres are (i + 1/2) / side. torch.cartesian_prod makes all pairs, the first one slowest.
# </details>


# %% tags=["exercise"]
def token_coordinates(side):
    """Centres of a side x side grid in [0, 1]²: (N, 2) as (y, x), row by row."""
    # SOLUTION 2.4
    centres = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(centres, centres)
    # END


# %%
token_coordinates = check.token_coordinates(token_coordinates)
with beside_the_kit(token_coordinates):
    of_kit = layers.token_coordinates(8)
    torch.testing.assert_close(token_coordinates(8), of_kit, check_dtype=False)
    # Two rows of two rows, two columns of two columns.
    fine = token_coordinates(4).view(2, 2, 2, 2, 2).mean(dim=(1, 3)).flatten(0, 1)
    torch.testing.assert_close(fine, token_coordinates(2), check_dtype=False)
own.add(token_coordinates)

# %%
explore.show_token_places([token_coordinates(side) for side in sides])

# %% [markdown]
# ## Rotary positions
#
# Attention itself knows no places. Rotary positions turn pairs of channels of query and key by angles
# proportional to y and x. With $R_p$ the turn at place p, a logit is $(R_p q)^\top (R_r k) = q^\top R_{r-p}\,k$: it
# depends on the *difference* of the places only, and on nothing else of them. Because coordinates are shared, that
# holds across stages too.
#
# Two neighbouring channels (a, b) are a complex number a + ib, and a turn by an angle is a product with
# $e^{i \cdot \text{angle}}$. This table holds those factors. Half of the pairs turn with y, half with x; the slowest
# turns 1 radian over the image, the fastest a quarter turn between neighbours of the finest grid.


# %%
def rotary_table(sides, head_dim, finest_side, device):
    """e^(i angle) for the tokens of several stages, one after the other: (N, d / 2), complex."""
    highest = max(2.0, finest_side * torch.pi / 2)  # radians over the image
    frequencies = highest ** torch.linspace(0, 1, head_dim // 4)  # from 1 to the highest
    places = torch.cat([token_coordinates(side) for side in sides]).float()  # (N, 2)
    angles = (places[:, :, None] * frequencies).flatten(1)
    return torch.polar(torch.ones_like(angles), angles).to(device)


# %%
with beside_the_kit(token_coordinates):
    of_kit = layers.rotary_table((2, 4, 8), 16, 8, lab.device)
    torch.testing.assert_close(rotary_table((2, 4, 8), 16, 8, lab.device), of_kit)
own.add(rotary_table)

# %%
head_dim = 64
content = F.layer_norm(torch.randn(head_dim, generator=lab.generator(5)), (head_dim,))


def turned(side):
    """The same content at every place of a grid, turned as its place demands: (N, d)."""
    pairs = torch.view_as_complex(content.view(-1, 2))  # (d / 2,)
    table = rotary_table((side,), head_dim, 8, torch.device("cpu"))
    return torch.view_as_real(pairs * table).flatten(1)


def logits(query_side, key_side):
    """q·k / sqrt(d) of all places of two grids: (N, M)."""
    return turned(query_side) @ turned(key_side).T / head_dim**0.5


same = logits(8, 8).view(8, 8, 8, 8)  # query's row and column, key's row and column
torch.testing.assert_close(same[2, 2, 4, 5], same[3, 1, 5, 4], atol=1e-4, rtol=1e-4)
torch.testing.assert_close(same[:-1, :, :-1], same[1:, :, 1:], atol=1e-4, rtol=1e-4)

# %%
across = logits(8, 4).view(8, 8, 4, 4)
assert across[5, 5].argmax() == run.token_at(1, 5, 5)
explore.show_logits(same, across)

# %% [markdown]
# Relations alone are not enough: in stage 1 all tokens start alike, and only relations to one another would keep
# them so. Therefore a fixed sine-cosine embedding of the coordinates is added to the input as well.


# %%
def position_embedding(side, width):
    """Sines and cosines of the coordinates at width / 4 frequencies: (N, D)."""
    frequencies = torch.pi * 2.0 ** torch.linspace(0, 5, width // 4)
    angles = token_coordinates(side).float()[:, :, None] * frequencies  # (N, 2, D / 4)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)


# %%
with beside_the_kit(token_coordinates):
    torch.testing.assert_close(position_embedding(4, 64), layers.position_embedding(4, 64))
own.add(position_embedding)

# %% [markdown]
# ## Build the transformer
#
# Three larger exercises. Each is a class with a scaffold: the layers are there, you write what they do, step by step.
# The check goes through the steps in order and says which one it misses. Keep the names of the layers: they are
# the kit's, so the shipped weights fit in.
#
# While sampling, earlier tokens are needed as keys and values only. So a cache keeps those.


# %%
class KVCache:
    """Keys and values of all tokens so far, one pair per layer."""

    def __init__(self):
        self.kept = {}

    def extend(self, layer, key, value):
        """Adds those of new tokens, (B, h, N, d); returns those of all tokens so far."""
        if layer in self.kept:
            key = torch.cat((self.kept[layer][0], key), dim=2)
            value = torch.cat((self.kept[layer][1], value), dim=2)
        self.kept[layer] = key, value
        return key, value

    def keep(self, batch):
        """Forgets all but the first images of the batch."""
        self.kept = {n: (k[:batch], v[:batch]) for n, (k, v) in self.kept.items()}


# %%
lots = torch.randn(3, 2, 4, 5, 16, generator=lab.generator(8))  # three calls with five tokens each
mine, theirs = KVCache(), transformer.KVCache(num_layers=1, capacity=15)
for lot in lots:
    found, wanted = mine.extend(0, lot, -lot), theirs.extend(0, lot, -lot)
torch.testing.assert_close(tuple(found), tuple(wanted))
own.add(KVCache)

# %% [markdown]
# The kit's `KVCache` sets its memory aside once instead of copying; what it returns is the same.
#
# ### Exercise 2.5: attention
#
# **Step a.** `qkv` gives 3·D channels per token, in the order (3, heads, d). Take them apart. Query and key go through
# LayerNorm over the d channels of their head, without weights (QK-norm). Their length is then $\sqrt d$, so no logit
# exceeds $\sqrt d$, however large the weights grow in training. Then turn query and key by `rotary`, (N, d/2) complex: pairs of
# neighbouring channels, as in `turned` above. Return query, key and value, each (B, h, N, d).
#
# **Step b.** With a cache, go on with what `cache.extend` returns. Then
# $\text{softmax}(q k^\top / \sqrt d)\, v$, where `mask` (N, M), if there is one, is True where a query may look. Join
# the heads again, and mix them by the layer `out`.
#
# <details><summary>Hint, step a</summary>
# <code>self.qkv(x).unflatten(-1, (3, heads, -1))</code> has shape (B, N, 3, h, d), and <code>.unbind(2)</code> takes it
# apart. The table needs a dimension for the heads: <code>rotary[:, None]</code>.
# </details>
#
# <details><summary>Hint, step b</summary>
# <code>logits.masked_fill(~mask, -torch.inf)</code>, or <code>F.scaled_dot_product_attention(query, key, value,
# attn_mask=mask)</code> for all of it. Before the heads are joined with <code>flatten(2)</code> they stand behind the tokens:
# <code>transpose(1, 2)</code>.
# </details>


# %% tags=["exercise"]
class Attention(nn.Module):
    """Multi-head attention with QK-norm and rotary positions: x (B, N, D) -> (B, N, D)."""

    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x, rotary):
        """Query and key, normalised and turned, and value: each (B, h, N, d)."""
        # SOLUTION 2.5a
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        turned = []
        for part in (query, key):  # (B, N, h, d)
            part = F.layer_norm(part, part.shape[-1:], eps=1e-6)
            pairs = torch.view_as_complex(part.unflatten(-1, (-1, 2)))  # (B, N, h, d / 2)
            turned.append(torch.view_as_real(pairs * rotary[:, None]).flatten(-2))
        return [part.transpose(1, 2) for part in (*turned, value)]
        # END

    def forward(self, x, rotary, mask=None, cache=None, layer=0):
        query, key, value = self.project(x, rotary)
        # SOLUTION 2.5b
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, h, N, M)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        attended = logits.softmax(dim=-1) @ value  # (B, h, N, d)
        return self.out(attended.transpose(1, 2).flatten(2))
        # END


# %%
Attention = check.attention(Attention)

# %%
x = torch.randn(2, 84, 64, generator=lab.generator(6)).to(lab.device)
turns = layers.rotary_table(tuple(sides), 16, sides[-1], lab.device)
mine, theirs = (kind(64, 4).to(lab.device) for kind in (Attention, layers.Attention))
mine.load_state_dict(theirs.state_dict())
with beside_the_kit(Attention):
    found, of_kit = mine(x, turns, mask), theirs(x, turns, mask)
    torch.testing.assert_close(found, of_kit, atol=1e-5, rtol=1e-4)
own.add(Attention)

# %%
query, key, _ = theirs.project(1000 * x, turns)
largest = (query @ key.transpose(-1, -2)).abs().max().item() / 16**0.5
print(f"inputs 1000 times too large, largest logit {largest:.2f}, sqrt(d) = {16**0.5:.0f}")

# %% [markdown]
# Then the block. The class acts by adaLN-zero: a linear map of its embedding gives shift, scale and gate for attention and
# for the MLP, and that map starts at zero. Two small parts of it, finished:


# %%
class SquaredReLU(nn.Module):
    """max(x, 0)²"""

    def forward(self, x):
        return F.relu(x).square()


def modulate(x, shift, scale):
    """LayerNorm(x) * (1 + scale) + shift; x (B, N, D), shift and scale (B, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


# %%
own.add(SquaredReLU, modulate)

# %% [markdown]
# ### Exercise 2.6: the adaLN-zero block
#
# **Step a.** Make the layer `self.modulation`, D to 6·D, with weight and bias at zero.
#
# **Step b.** `modulation` (B, 6D) is what that layer gives; it is called from outside. Cut it into shift, scale, gate for
# attention, and the same three for the MLP. Then
#
# $$x \leftarrow x + \text{gate}_1 \cdot \text{attention}(\text{modulate}(x)), \qquad
# x \leftarrow x + \text{gate}_2 \cdot \text{mlp}(\text{modulate}(x))$$
#
# <details><summary>Hint</summary>
# <code>nn.init.zeros_</code> sets a weight to zero in place. <code>modulation.chunk(6, dim=-1)</code>; a gate is (B, D)
# and needs a dimension for the tokens.
# </details>


# %% tags=["exercise"]
class Block(nn.Module):
    """A transformer block whose norms and gates are set by a condition (adaLN-zero)."""

    def __init__(self, width, num_heads):
        super().__init__()
        self.attention = Attention(width, num_heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), SquaredReLU(), nn.Linear(4 * width, width)
        )
        # SOLUTION 2.6a
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        # END

    def forward(self, x, modulation, rotary, mask=None, cache=None, layer=0):
        # SOLUTION 2.6b
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)  # each (B, D)
        normed = modulate(x, shift1, scale1)
        x = x + gate1[:, None] * self.attention(normed, rotary, mask, cache, layer)
        return x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2))
        # END


# %% [markdown]
# > **Predict.** What does a fresh block do to its input?

# %%
Block = check.block(Block)

# %%
condition = torch.randn(2, 64, generator=lab.generator(7)).to(lab.device)
mine, theirs = (kind(64, 4).to(lab.device) for kind in (Block, layers.Block))
with beside_the_kit(Block, Attention):
    change = mine(x, mine.modulation(condition), turns) - x
    print("a fresh block changes its input by", change.abs().max().item())
    mine.load_state_dict(timing.open_gates(theirs).state_dict())
    with_gates_open = mine(x, mine.modulation(condition), turns, mask)
    of_kit = theirs(x, theirs.modulation(condition), turns, mask)
    torch.testing.assert_close(with_gates_open, of_kit, atol=1e-4, rtol=1e-4)
    print("with its gates open by", f"{(with_gates_open - x).abs().max().item():.2g}")

# %%
own.add(Block)

# %% [markdown]
# <details><summary>Explain</summary>
# Nothing: both gates are zero, so the block is the identity. A deep stack then starts as a shallow one, and each block
# joins in as far as training opens its gates. The price: a fresh model's output says nothing about a mistake in it,
# so tests here open the gates first.
# </details>
#
# Now the whole:
#
# `[class | Up2(e_0) | ... | Up2(e_{S-2})] -> [M_0 | M_1 | ... | M_{S-1}]`
#
# ### Exercise 2.7: the multistage transformer
#
# **Step a, embed.** The input tokens of one stage: places (`position_embedding`) and stage (row s of `stage_embedding`), and
# in stage 1 (index 0) the class, in a later one the patches of the upsampled end state before it.
#
# **Step b, run.** All blocks. The condition is `silu` of the class embedding; each block's own layer `modulation` makes its
# modulation from it. At the end `modulate` once more, by the two halves of `final_modulation`. The rotary table is
# that of the stages at hand (`sides`), its finest side the model's.
#
# **Step c, forward.** Training: the tokens of all stages in one row, one call of `run` under the block-causal mask; the maps
# stage by stage, in a list.
#
# **Step d, step.** Sampling: the tokens of one stage, with the cache.
#
# <details><summary>Hint, steps a and b</summary>
# <code>patchify(upsample(previous_end), self.patch_size)</code> has one row of numbers per token, for
# <code>patch_embedding</code>. The table's channels per head are D / heads. Hand mask, cache and the block's number on.
# </details>
#
# <details><summary>Hint, steps c and d</summary>
# Stage 1 has nothing before it: <code>(None, *end_states)</code>. <code>tensor.split(lengths, dim=1)</code> takes the maps
# apart.
# </details>


# %% tags=["exercise"]
class MultistageTransformer(nn.Module):
    """Token maps of all stages: in one masked call, or stage by stage with a cache."""

    def __init__(
        self, token_sides, latent_channels, patch_size, num_classes, width, num_layers, num_heads
    ):
        super().__init__()
        self.token_sides, self.patch_size = token_sides, patch_size
        self.width, self.num_heads = width, num_heads
        self.patch_embedding = nn.Linear(latent_channels * patch_size**2, width)
        self.stage_embedding = nn.Embedding(len(token_sides), width)
        self.class_embedding = nn.Embedding(num_classes + 1, width)  # the last: no class
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.final_modulation = nn.Linear(width, 2 * width)
        for start_at_zero in self.final_modulation.parameters():
            nn.init.zeros_(start_at_zero)
        for embedding in (self.stage_embedding, self.class_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    def new_cache(self):
        return KVCache()

    def embed(self, stage, previous_end, class_labels):
        # SOLUTION 2.7a
        of_stage = self.stage_embedding.weight[stage]
        tokens = position_embedding(self.token_sides[stage], self.width).to(of_stage) + of_stage
        if stage == 0:
            return tokens + self.class_embedding(class_labels)[:, None]
        return tokens + self.patch_embedding(patchify(upsample(previous_end), self.patch_size))
        # END

    def run(self, x, class_labels, sides, mask=None, cache=None):
        # SOLUTION 2.7b
        head_dim, finest = self.width // self.num_heads, self.token_sides[-1]
        rotary = rotary_table(sides, head_dim, finest, x.device)
        condition = F.silu(self.class_embedding(class_labels))  # (B, D)
        for layer, block in enumerate(self.blocks):
            x = block(x, block.modulation(condition), rotary, mask, cache, layer)
        return modulate(x, *self.final_modulation(condition).chunk(2, dim=-1))
        # END

    def forward(self, end_states, class_labels):
        # SOLUTION 2.7c
        before = enumerate((None, *end_states))
        x = torch.cat([self.embed(s, end, class_labels) for s, end in before], dim=1)
        lengths = [side**2 for side in self.token_sides]
        mask = block_causal_mask(lengths).to(x.device)
        return list(self.run(x, class_labels, self.token_sides, mask).split(lengths, dim=1))
        # END

    def step(self, stage, previous_end, class_labels, cache):
        # SOLUTION 2.7d
        x = self.embed(stage, previous_end, class_labels)
        return self.run(x, class_labels, self.token_sides[stage : stage + 1], cache=cache)
        # END


# %% [markdown]
# ## Cached equals full
#
# With the shipped weights the maps of one masked call equal the kit's. And then the claim that all rests on: sampling
# stage by stage with the cache gives the very same maps. Otherwise the model would be trained for something else than
# it is used for.
#
# The blocks of the shipped CIFAR-10 model have one part more than yours: before the MLP a depthwise 3x3 convolution lets
# each token look at its eight neighbours in the map of its stage. `mixing.with_local_mixing` puts the kit's into your blocks, in
# front of `mlp`, so that the weights fit.

# %%
MultistageTransformer = check.multistage_transformer(MultistageTransformer)

# %%
kit = pipe.model.transformer
net = MultistageTransformer(
    token_sides=tuple(sides),
    latent_channels=config.latent_channels,
    patch_size=config.patch_size,
    num_classes=config.num_classes,
    width=config.width,
    num_layers=config.transformer_layers,
    num_heads=config.num_heads,
)
net = mixing.with_local_mixing(net)
net.load_state_dict(kit.state_dict())
net = net.to(lab.device).eval().requires_grad_(False)

# %%
with torch.no_grad(), beside_the_kit(MultistageTransformer, Block, Attention, block_causal_mask):
    masked = net(end_states, labels)
    torch.testing.assert_close(masked, kit(end_states, labels), atol=1e-4, rtol=1e-4)
    cache = net.new_cache()
    stepped = [net.step(s, end, labels, cache) for s, end in enumerate((None, *end_states))]
    gaps = [(a - b).abs().max().item() for a, b in zip(stepped, masked, strict=True)]
    assert max(gaps) < 1e-4
    print("cached against masked, largest difference:", *(f"{gap:.1e}" for gap in gaps))

# %%
own.add(MultistageTransformer)

# %% [markdown]
# > **Predict.** Token by token the cache saved a whole power of n. How much of the transformer's work can it save stage
# > by stage: a quarter, a half, nearly all?

# %%
compared = caching.compare_cache(kit, end_states, labels, repeats=lab.pick(60, 5))
assert compared.difference < 1e-5
explore.show_cache(compared.stages)
again = sum(it.tokens + it.recomputed for it in compared.stages) / sum(tokens)
without, with_it = (
    sum(getattr(it, f"{kind}_seconds") for it in compared.stages) for kind in ("uncached", "cached")
)
print(
    f"whole run without cache: {again:.2f} times the tokens, {without / with_it:.2f} times the time"
)

# %% [markdown]
# <details><summary>Explain</summary>
# Each stage has four times the tokens of the one before, so all earlier ones together are at most a third of it. Without a
# cache each stage computes those again on top of its own tokens: at most 4/3 of the tokens in all, so the cache saves at
# most a quarter. Time differs because here the arm without cache makes six calls instead of three; one masked call per
# stage would need three. The cache does not change the order of growth here.
# </details>
#
# ## Break it: causality
#
# > **Predict.** Change e₁, the end state of stage 2, which stage 3 reads. Which token maps move? And which would move if the mask let everybody see
# > everybody?

# %%
noise = torch.randn(end_states[1].shape, generator=lab.generator(9)).to(lab.device)
changed = [end_states[0], end_states[1] + noise]


def maps_under(allowed, ends):
    """The token maps of all stages under a mask."""
    x = [net.embed(s, end, labels) for s, end in enumerate((None, *ends))]
    return net.run(torch.cat(x, dim=1), labels, tuple(sides), allowed).split(tokens, dim=1)


# %%
moved = {}
for name, allowed in (("block-causal mask", mask), ("no mask", None)):
    runs = (maps_under(allowed, ends) for ends in (changed, end_states))
    moved[name] = [
        (after - before).square().mean().sqrt().item() for after, before in zip(*runs, strict=True)
    ]
with beside_the_kit(block_causal_mask):
    assert max(moved["block-causal mask"][:2]) < 1e-6 < min(moved["no mask"])

# %%
explore.show_changes(moved)

# %% [markdown]
# <details><summary>Explain</summary>
# All three: without a mask M₀ and M₁ read e₁, which comes after them. Trained so, coarse stages would use what finer ones
# hold. While sampling the finer ones are not there, and the coarse maps would be others than those of training.
# </details>
#
# ## Look around
#
# Choose a query and see where it looks: stage, layer, head, and its place on the finest grid.

# %%
explore.attention(pipe)

# %% [markdown]
# > **Predict, run, explain.** Look at the four heads of layer 1 at one place, then move the place. Which heads follow it?
# > Then go to stage 1: what is there to look at?

# %%
rows = []
for head in range(config.num_heads):
    looks = [run.maps(run.row(2, 1, head, token)) for token in range(tokens[2])]
    ahead = [look[2].argmax().item() for look in looks]
    moves = [(b // 8 - a // 8, b % 8 - a % 8) for a, b in enumerate(ahead)]
    commonest = max(moves, key=moves.count)
    at_home = sum(look[2].sum().item() for look in looks) / len(looks)
    rows.append((head, run.covered(2, 1, head), at_home, commonest, moves.count(commonest)))
explore.show_heads(rows)

# %% [markdown]
# <details><summary>Explain</summary>
# Head 0 of layer 1 follows the place into stage 2, for all 64 queries: it looks up the coarse token that covers it. The
# other heads look mostly at a neighbour in their own stage, each in one direction for most queries: the
# difference of places at work. Stage 1 has only its own four tokens, with the class in them.
# </details>

# %%
explore.ask_own_stage()

# %% [markdown]
# ## Recap
# - Token by token without a cache costs O(n³) in attention; a KV cache or stages bring it to O(n²). At common sizes the
#   linear part, projections and MLP, hides much of it.
# - Stages save calls that wait for one another: S instead of n. That is time more than FLOPs, and only where a call with
#   many tokens is cheap.
# - One masked pass over all stages, as in training, equals stage-by-stage sampling with a cache.
# - Shared coordinates and rotary positions let a token find the coarse one that covers it.
#
# **What breaks if…** the mask is token-causal? Call `maps_under(causal, end_states)`: its maps are not `stepped`,
# since while sampling a stage sees itself whole. And if coordinates are not normalised, a fine token's place means
# another place in the coarse stage.
#
# Open `my_ecar.py`, beside this notebook: a transformer that you wrote. `own.add` put it there, one piece after the other.
#
# **On**: notebook 3 builds what the token map conditions, the flow. The tab *Inspect* of `make demo` shows attention,
# mask and cache live. In the kit: `ecar_lab/transformer.py`, `layers.py`, `cost.py`, `benchmark/caching.py`.
