"""Notebook 2: what its cells show and ask, and controls to look at a model's attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.layers import token_coordinates
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.teaching.explore import autoregression_figures as draw
from ecar_lab.teaching.explore import choice, explorer, whole
from ecar_lab.teaching.explore.attention_run import MEAN, AttentionRun, attention_run, look
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.viz.colours import LatentColours

WAYS = ("token by token, no KV cache", "token by token", "stage by stage")

# -- what is shown ---------------------------------------------------------------------------------


def show_look(run: AttentionRun, stage: int, layer: int, head: int, row: int, column: int) -> None:
    """Figure 2.1: the picture with one query's place, and its attention on every stage's grid."""
    maps = run.maps(run.row(stage, layer, head, run.token_at(stage, row, column)))
    shares = ", ".join(f"{part.sum():.0%}" for part in maps)
    show(
        look(run, stage, layer, head, row, column),
        f"Figure 2.1. Where one token of stage 3 looks: {shares} of its attention go to stages 1, "
        "2 and 3. In stage 2 it picks out the coarse token that covers its own place.",
        "A small picture of a ship with one patch outlined, then the grids of the three stages "
        "coloured by attention. In the middle grid one token is bright: the one that lies over "
        "the outlined patch.",
    )


def show_order_of_calls(sides: Sequence[int]) -> None:
    """Figure 2.2: in which call each token is made."""
    tokens = [side**2 for side in sides]
    show(
        draw.order_of_calls(sides),
        "Figure 2.2. In which call a token is made. "
        f"Token by token: {tokens[-1]} calls. By stages: {len(sides)} calls for {sum(tokens)} "
        "tokens.",
        f"Four grids of numbers. In the first, 8 by 8, the numbers run from 1 to {tokens[-1]}. In "
        "the others, 2 by 2, 4 by 4 and 8 by 8, all tokens of a grid have the same number: 1, 2 "
        "and 3.",
    )


def show_exponents(fitted: Mapping[str, Sequence[float]]) -> None:
    """A table of exponents of n per way: of attention, of the whole block, of seconds."""
    rows = [
        (name, theory, *(f"{power:.2f}" for power in fitted[name]))
        for name, theory in zip(WAYS, (3, 2, 2), strict=True)
    ]
    measured = ("attention, fitted", "block, fitted", "seconds, fitted")
    table(["exponent of n", "attention, n → ∞", *measured], rows)


def show_growth(
    numbers: Sequence[int],
    flops: Mapping[str, Sequence[float]],
    seconds: Mapping[str, Sequence[float]],
    fitted: Mapping[str, Sequence[float]],
    width: int,
) -> None:
    """Figure 2.3: FLOPs and seconds of one block over the tokens n, one line per way.

    Args:
        fitted: way -> exponents of attention, of the block's FLOPs, of seconds.
    """
    panels = {
        "GFLOP": {name: ([f / 1e9 for f in flops[name]], fitted[name][1]) for name in WAYS},
        "seconds": {name: (seconds[name], fitted[name][2]) for name in WAYS},
    }
    more = flops["stage by stage"][-1] / flops["token by token"][-1]
    time = seconds["stage by stage"][-1] / seconds["token by token"][-1]
    show(
        draw.growth_lines(numbers, panels),
        f"Figure 2.3. One block of width {width}: FLOPs and seconds, with exponents through the "
        f"largest {len(numbers[-5:])} sizes. At n = {numbers[-1]} stages take {time:.1%} of the "
        f"time of token by token with a cache, with {more:.1f} times its FLOPs.",
        "Two plots with logarithmic axes and three lines each. In FLOPs the line without a cache "
        "is far above and steeper, the other two lie close together. In seconds stages lie far "
        "below token by token, with and without a cache.",
    )


def show_measured_growth(measured: Mapping[str, Any]) -> None:
    """A table of the exponents of whole generators, from a result of `ecar benchmark`."""
    rows = []
    for name in ("E-CAR", "DiT", "token by token", "token by token, no KV cache"):
        fit = [measured["fits"][name][column]["largest_three"] for column in ("gflop", "seconds")]
        rows.append((name, measured["theory"][name][0], *(f"{value:.2f}" for value in fit)))
    table(["exponent of n, largest three sizes", "theory", "FLOPs", "seconds"], rows)


def show_one_call(together: Sequence[int], work: Sequence[float], times: Sequence[float]) -> None:
    """Figure 2.4: FLOPs and seconds of one call over its tokens, in those of one token."""
    at = len(together) - 1 if 64 not in together else list(together).index(64)
    show(
        draw.one_call(together, work, times),
        "Figure 2.4. One call, relative to a call with one token. "
        f"{together[at]} tokens take {times[at]:.1f} times as long for {work[at]:.0f} times the "
        f"FLOPs; made one by one they would take {together[at]} times as long.",
        "Two lines over the number of tokens in a call, both axes logarithmic. The line of FLOPs "
        "rises steadily; the line of seconds stays near 1 at first and lies far below it all the "
        "way.",
    )


def show_masks(causal: Tensor, by_stages: Tensor, tokens_per_stage: Sequence[int]) -> None:
    """Figure 2.5: the mask of token by token beside that of stage by stage."""
    shares = [f"{mask.float().mean():.0%}" for mask in (causal, by_stages)]
    show(
        draw.mask_pictures(
            {"token by token": causal, "stage by stage": by_stages}, tokens_per_stage
        ),
        f"Figure 2.5. Coloured: open, in the hue of the row's stage. Left {shares[0]} of all "
        f"pairs, right {shares[1]}: each stage sees itself whole and all that lies left of it.",
        "Two square masks of 84 by 84. In the left one the open part is a lower triangle, in the "
        "right one a staircase of three steps, of 4, 16 and 64 rows.",
    )


def show_same_grid(end_state: Tensor, token_map: Tensor, tokenizer: Tokenizer) -> None:
    """Figure 2.6: an end state, the same as the next stage's input, and that stage's output."""
    show(
        draw.same_grid(end_state, token_map, LatentColours.of(tokenizer)),
        "Figure 2.6. The end state of stage 1, the same as input of stage 2, and stage 2's output "
        "M₁ (length of each token's vector). Whole lines: the tokens of stage 2. Dotted: latent "
        "pixels; those of a patch are copies of one pixel of e₀.",
        "Three squares cut by the same white lines into 4 by 4. The first shows the end state of "
        "stage 1 as 16 coloured pixels, the second the same picture after upsampling, the third "
        "the token map as 16 shades.",
    )


def show_token_places(coordinates: Sequence[Tensor]) -> None:
    """Figure 2.7: where the tokens of the stages lie in the image."""
    show(
        draw.token_places(coordinates),
        "Figure 2.7. The tokens of all stages in one image. A coarse token lies in the middle of "
        "the four finer ones that it covers, which is what the assertion above says.",
        "A unit square with three grids of points, of 2, 4 and 8 points per side. Each point of a "
        "coarser grid is in the middle of four points of the next finer one.",
    )


def show_logits(same: Tensor, across: Tensor) -> None:
    """Figure 2.8: logits of two queries with keys of the same content everywhere.

    Args:
        same: between all places of the finest grid: query's row, column, key's row, column.
        across: the same with the keys of a coarser grid.
    """
    places = token_coordinates(len(same)).view(len(same), len(same), 2)
    low, high = places[2, 2, 0].item(), places[5, 5, 0].item()
    cases = {
        "query up left, keys 8×8": (same[2, 2], low, low),
        "query down right, keys 8×8": (same[5, 5], high, high),
        "the same, keys 4×4": (across[5, 5], high, high),
    }
    show(
        draw.logit_maps(cases),
        "Figure 2.8. Logits of a query (cross) with keys of the same content everywhere; yellow is "
        "large. Move the query, and the pattern moves along. On the coarser grid it peaks at the "
        "token that covers the query.",
        "Three heat maps. In the first two the same bright spot surrounds the cross, which lies up "
        "left in one and down right in the other. The third, on a 4 by 4 grid, is brightest in the "
        "cell that holds the cross.",
    )


def show_cache(stages: Sequence[Any]) -> None:
    """A table of what the cache saves per stage.

    Args:
        stages: those of :func:`ecar_lab.benchmark.caching.compare_cache`.
    """
    rows = [
        (
            *(number, it.tokens, it.reused),
            f"{it.uncached_seconds / it.cached_seconds:.1f}",
            f"{it.difference:.0e}",
        )
        for number, it in enumerate(stages, 1)
    ]
    table(["stage", "tokens", "in the cache", "time without / with", "largest difference"], rows)


def show_changes(moved: Mapping[str, Sequence[float]]) -> None:
    """Figure 2.9: how far the token map of each stage moved, with the mask and without."""
    show(
        draw.changes(moved),
        "Figure 2.9. How far the token maps move when e₁ is changed. With the mask only M₂ does. "
        "Without it earlier maps read the future, which they cannot have while sampling.",
        "Two bar charts of three bars. With the block-causal mask the bars of M0 and M1 are zero, "
        "that of M2 is not. Without a mask all three bars are above zero.",
    )


def show_heads(rows: Sequence[tuple[int, float, float, tuple[int, int], int]]) -> None:
    """A table of what each head looks at.

    Args:
        rows: head, share of queries whose favourite covers them, attention to their own stage,
            commonest step to the favourite there, how often.
    """
    table(
        [
            "head of layer 1",
            "queries of stage 3 whose favourite in stage 2 covers them",
            "attention to their own stage",
            "commonest step to the favourite there, (down, right)",
        ],
        [
            (head, f"{covered:.0%}", f"{own:.0%}", f"{move}, {count} times")
            for head, covered, own, move, count in rows
        ],
    )


# -- questions -------------------------------------------------------------------------------------


def ask_cost_of_a_sequence() -> Any:
    """What n tokens cost that are made one after the other."""
    return quiz(
        "What is the time complexity of generating n tokens sequentially using standard "
        "self-attention, and why?",
        {
            "O(n²): attention compares all pairs": "That is one call over n tokens. Sequential "
            "generation makes n calls, and without a cache each compares all pairs so far.",
            "O(n³): n calls, and call k compares k² pairs": "The sum of k² for k = 1 to n is about "
            "n³/3. With a KV cache call k compares k pairs, and the sum is about n²/2.",
            "O(n log n): the calls get longer only slowly": "They get longer in proportion to k, "
            "and what happens in them to its square.",
            "O(n³), with a KV cache too": "The cache leaves one query per call, so k pairs: O(n²).",
        },
        right="O(n³): n calls, and call k compares k² pairs",
    )


def ask_own_stage() -> Any:
    """Why a token may look at all tokens of its stage."""
    return quiz(
        "Why may a token look at all tokens of its own stage, even those behind it?",
        {
            "They are made in the same call": "All inputs of the stage are known before the call: "
            "they come from the stage before. Nothing that is yet to be made is looked at.",
            "It is an approximation that works": "Nothing is approximated: the factor of the chain "
            "rule is the whole stage.",
            "Because rotary positions hide the order": "Positions say where tokens lie; who may be "
            "looked at is the mask's business.",
        },
        right="They are made in the same call",
    )


# -- controls --------------------------------------------------------------------------------------


def attention(pipe: ECARPipeline, name: str = "ship", seed: int = 3):
    """Controls for stage, layer, head and place of the query above its attention."""
    run = attention_run(pipe, name, seed)
    layers, heads, finest = len(run.weights), len(run.weights[0][0]), run.sides[-1]
    last = len(run.sides) - 1

    def redraw(stage: int, layer: int, head: int | str, row: int, column: int) -> Figure:
        return look(run, stage - 1, layer, head, row, column)

    return explorer(
        redraw,
        {
            "stage": choice("stage of the query", range(1, last + 2), last + 1),
            "layer": choice("layer", range(layers)),
            "head": choice("head", [MEAN, *range(heads)]),
            "row": whole("row", 0, finest - 1, finest // 2),
            "column": whole("column", 0, finest - 1, finest // 2),
        },
        {f"layer {layer}": {"layer": layer} for layer in range(layers)},
        caption(run),
        "One panel per layer: the generated picture with the query's patch outlined, beside it the "
        "grids of the three stages coloured by attention weight, below them the row of the mask.",
        columns=1,
    )


def caption(run: AttentionRun) -> str:
    """What the examples show, with the shares as they were measured."""
    last = len(run.sides) - 1
    parts = []
    for layer in range(len(run.weights)):
        shares = " / ".join(f"{share:.0%}" for share in run.shares(last, layer))
        parts.append(f"layer {layer}: {shares}, {run.covered(last, layer, MEAN):.0%}")
    return (
        f"Figure 2.10. The same query in each layer, mean of the heads. Over all queries of "
        f"stage {last + 1}: attention to stages 1 to {last + 1}, then the share of queries "
        f"whose favourite in stage {last} is the token that covers them (by "
        f"chance {1 / run.sides[-2] ** 2:.0%}): "
        f"{'; '.join(parts)}."
    )
