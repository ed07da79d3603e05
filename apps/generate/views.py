"""What the Generate tab says beside the player: where time, work and memory went, as HTML."""

from __future__ import annotations

from apps.shared.stream import Progress, total


def cost_table(progress: Progress) -> str:
    """Time, operations and memory of each stage so far, and of all of them, with a bar each."""
    whole = total(progress.costs)
    seconds = whole.transformer + whole.head + whole.decode
    names = [f"{number}: {cost.side}×{cost.side}" for number, cost in enumerate(progress.costs, 1)]
    columns = [*progress.costs, whole]
    rows = (
        ("Transformer", "ms", lambda cost: _ms(cost.transformer)),
        ("Flow head", "ms", lambda cost: _ms(cost.head)),
        ("Decode", "ms", lambda cost: _ms(cost.decode)),
        ("Work", "GFLOP", lambda cost: f"{(cost.transformer_flops + cost.head_flops) / 1e9:.2f}"),
        ("Tokens", "", lambda cost: f"{cost.tokens}"),
        ("KV cache", "KiB", lambda cost: f"{cost.cache_bytes / 1024:.0f}"),
    )
    body = ""
    for title, unit, read in rows:
        body += f"<tr><th scope='row'>{title} <small>{unit}</small></th>"
        body += "".join(f"<td>{read(cost)}</td>" for cost in columns[:-1])
        body += f"<td class='all'>{read(whole)}</td></tr>"
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("Stage", *names, "All"))
    bars = "".join(
        f"<span class='{part}' style='flex-grow:{share:.4f}' title='{title}: {_ms(share)} ms'>"
        "</span>"
        for part, title, share in (
            ("transformer", "Transformer", whole.transformer),
            ("head", "Flow head", whole.head),
            ("decode", "Decode", whole.decode),
        )
    )
    shares = (
        f"Of {_ms(seconds)} ms: transformer {_share(whole.transformer, seconds)}, "
        f"flow head {_share(whole.head, seconds)}, decoder {_share(whole.decode, seconds)}."
    )
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='What each stage costs'>"
        "<table><caption>What each stage costs</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<div class='bar' aria-hidden='true'>{bars}</div>"
        f"<p>{shares} Watching (previews and files) took another {_ms(progress.watching)} ms.</p>"
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds else "–"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"
