"""Other right solutions of the larger exercises of notebooks 2, 5 and 6."""
# ruff: noqa: E501 (a change of a line is easier to read in one)

from tests.teaching.variants import variant

LOGITS = """        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, h, N, M)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        attended = logits.softmax(dim=-1) @ value  # (B, h, N, d)
"""
FUSED = """        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
"""
ADDED = """        logits = torch.einsum("bhnd,bhmd->bhnm", query / query.shape[-1] ** 0.5, key)
        if mask is not None:
            logits = logits + torch.zeros(mask.shape).masked_fill(mask.logical_not(), float("-inf"))
        attended = torch.einsum("bhnm,bhmd->bhnd", torch.softmax(logits, 3), value)
"""
COMPLEX = """            pairs = torch.view_as_complex(part.unflatten(-1, (-1, 2)))  # (B, N, h, d / 2)
            turned.append(torch.view_as_real(pairs * rotary[:, None]).flatten(-2))
"""
REAL = """            a, b = part[..., 0::2], part[..., 1::2]
            cos, sin = rotary.real[:, None], rotary.imag[:, None]
            turned.append(torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2))
"""
BY_HAND = """part = (part - part.mean(-1, keepdim=True)) / (
                part.var(-1, keepdim=True, unbiased=False) + 1e-6
            ).sqrt()"""
UNDER_NO_GRAD = """        self.modulation = nn.Linear(width, 6 * width)
        with torch.no_grad():
            self.modulation.weight.zero_()
            self.modulation.bias.zero_()
"""
INIT = """        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
"""
ERRORS = """        modulations = model.head.modulations(stage, local_time, labels)
        velocity = model.head(stage, state, model.head.read(token_map), modulations)
        errors.append(velocity - target)
"""
STATE = "        state, target = state_and_target(starts[stage], ends[stage], local_time)\n"

RIGHT = {
    "attention": [
        variant("2.5", (LOGITS, FUSED)),
        variant("2.5", (LOGITS, ADDED), (COMPLEX, REAL)),
        variant("2.5", ("part = F.layer_norm(part, part.shape[-1:], eps=1e-6)", BY_HAND)),
    ],
    "block": [
        variant("2.6", (INIT, UNDER_NO_GRAD)),
        variant("2.6", ("modulation.chunk(6, dim=-1)", "modulation.unflatten(-1, (6, -1)).unbind(-2)")),
        variant(
            "2.6",
            ("x = x + gate1[:, None] * self.attention", "y = gate1.unsqueeze(1) * self.attention"),
            ("layer)\n        return x +", "layer)\n        x = torch.add(x, y)\n        return x +"),
        ),
    ],
    "multistage_transformer": [
        variant(
            "2.7",
            ("return modulate(x, *self.final_modulation(condition).chunk(2, dim=-1))",
             "a, b = self.final_modulation(condition).split(self.width, -1)\n"
             "        return F.layer_norm(x, (self.width,), eps=1e-6) * (b[:, None] + 1) + a[:, None]"),
        ),
        variant(
            "2.7",
            ("if stage == 0:", "if previous_end is None:"),
            ("self.stage_embedding.weight[stage]", "self.stage_embedding(torch.tensor(stage))"),
        ),
        variant(
            "2.7",
            ("return list(self.run(x, class_labels, self.token_sides, mask).split(lengths, dim=1))",
             "y = self.run(x, class_labels, self.token_sides, mask)\n"
             "        return [y[:, sum(lengths[:s]) : sum(lengths[: s + 1])] for s in range(len(lengths))]"),
            ("self.token_sides[stage : stage + 1]", "(self.token_sides[stage],)"),
        ),
    ],
    "flow_head": [
        variant(
            "5.2",
            ("        embedded = embedded + self.stage_embedding.weight[stage]\n", ""),
            ("embedded + self.class_embedding(class_labels)",
             "self.class_embedding(class_labels) + self.stage_embedding.weight[stage] + embedded"),
        ),
        variant(
            "5.2",
            ("return [layer(condition) for layer in linear]", "return tuple(f(condition) for f in linear)"),
        ),
        variant(
            "5.2",
            ("for block, modulation in zip(self.blocks, modulations[:-1], strict=True):\n"
             "            x = block(x, modulation, rotary)",
             "for number, block in enumerate(self.blocks):\n"
             "            x = block(x, modulations[number], rotary)"),
            ("sides[stage : stage + 1]", "(sides[stage],)"),
        ),
    ],
    "flow_errors": [
        variant("5.5", ("state, target = state_and_target(starts[stage], ends[stage], local_time)",
                        "state = starts[stage].lerp(ends[stage], local_time.view(-1, 1, 1, 1))\n"
                        "        target = ends[stage] - starts[stage]")),
        variant("5.5", ("torch.where(draw.class_drop < class_dropout, model.null_class, class_labels)",
                        "class_labels.masked_fill(draw.class_drop < class_dropout, model.null_class)")),
        variant("5.5", (ERRORS, """        read = model.head.read(token_map)
        errors += [model.head(stage, state, read, model.head.modulations(stage, local_time, labels))]
        errors[-1] = errors[-1] - target
""")),
    ],
    "generate": [
        variant("5.7", ("rows = (1 + (guidance[stage] != 1)) * batch",
                        "rows = batch if guidance[stage] == 1 else 2 * batch")),
        variant("5.7", ("torch.arange(steps[stage], device=device)[:, None] / steps[stage]",
                        "torch.linspace(0, 1, steps[stage] + 1, device=device)[:-1].unsqueeze(1)")),
        variant(
            "5.7",
            ("guided_velocity(run_head, guidance[stage])", "velocity"),
            ("            latent = latent + velocity", """            velocity = run_head(1 + (guidance[stage] != 1))
            if len(velocity) > batch:
                a, b = velocity.split(batch)
                velocity = guidance[stage] * a + (1 - guidance[stage]) * b
            latent = latent + velocity"""),
        ),
    ],
    "train_step": [
        variant("6.5", ("norm = clip([weight.grad for weight in weights], config.grad_clip)",
                        "norm = nn.utils.clip_grad_norm_(weights, config.grad_clip)")),
        variant("6.5", ("        optimizer.zero_grad()\n", ""),
                ("    loss.backward()\n", "    model.zero_grad()\n    loss.backward()\n"),
                ("    return norm", "    model.zero_grad()\n    return norm.item()")),
        variant("6.5", ("update_average(average, [weight.detach() for weight in weights], decay)",
                        "with torch.no_grad():\n"
                        "        for mean, weight in zip(average, weights, strict=True):\n"
                        "            mean += (1 - decay) * (weight - mean)")),
    ],
}  # fmt: skip
