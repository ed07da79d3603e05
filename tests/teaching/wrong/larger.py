"""Typical mistakes in the larger exercises of notebooks 2, 5 and 6."""
# ruff: noqa: E501 (a change of a line is easier to read in one)

from torch import nn

from tests.teaching.right.larger import COMPLEX, INIT, STATE
from tests.teaching.variants import variant


def attention(words, *changes):
    return variant("2.5", *changes), words


def block(words, *changes):
    return variant("2.6", *changes), words


def transformer(words, *changes):
    return variant("2.7", *changes), words


def head(words, *changes):
    return variant("5.2", *changes), words


def loss(words, *changes):
    return variant("5.5", *changes), words


def sampling(words, *changes):
    return variant("5.7", *changes), words


def step(words, *changes):
    return variant("6.5", *changes), words


class NoModule:
    def __init__(self, *sizes):
        pass


class OtherNames(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.query = nn.Linear(width, width)


NORM = "            part = F.layer_norm(part, part.shape[-1:], eps=1e-6)\n"
TURN = "            turned.append(torch.view_as_real(pairs * rotary[:, None]).flatten(-2))\n"
FIRST = "x = x + gate1[:, None] * self.attention(normed, rotary, mask, cache, layer)"
LAST = "return x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2))"
CACHE = """        if cache is not None:
            key, value = cache.extend(layer, key, value)
"""
PATCHES = "return tokens + self.patch_embedding(patchify(upsample(previous_end), self.patch_size))"
MOVE = "latent = latent + guided_velocity(run_head, guidance[stage]) / steps[stage]"
STARTS = "transition(model.schedule, stage, latent, noise) if stage else noise"
DECAY = "min(config.ema_decay, (1 + step) / (10 + step)) if step else 0.0"
MEAN = "    update_average(average, [weight.detach() for weight in weights], decay)\n"

WRONG = {
    "attention": [
        attention("query and key are not normalised", (NORM, "")),
        attention("nothing is turned", (COMPLEX, "            turned.append(part)\n")),
        attention("only the query is turned", (TURN, TURN + "        turned[1] = F.layer_norm(key, key.shape[-1:], eps=1e-6)\n")),
        attention("the value is turned too", ("return [part", "value = torch.view_as_real(torch.view_as_complex(value.unflatten(-1, (-1, 2))) * rotary[:, None]).flatten(-2)\n        return [part")),
        attention("after they are turned", (NORM, ""), (TURN, TURN.replace("turned.append(", "turned.append(F.layer_norm(").replace("flatten(-2))", "flatten(-2), (part.shape[-1],), eps=1e-6))"))),
        attention("the wrong way round", ("pairs * rotary[:, None]", "pairs * rotary[:, None].conj()")),
        attention("not divided by the root", (" / query.shape[-1] ** 0.5", "")),
        attention("divided by d: by its root", ("** 0.5", "")),
        attention("the mask is not used", ("if mask is not None:", "if False:")),
        attention("the mask is turned round", ("masked_fill(~mask", "masked_fill(mask")),
        attention("added as 0 and 1", ("logits.masked_fill(~mask, -torch.inf)", "logits + mask")),
        attention("softmax runs over the queries", ("softmax(dim=-1)", "softmax(dim=-2)")),
        attention("taken apart in another order", (".unflatten(-1, (3, self.num_heads, -1)).unbind(2)", ".unflatten(-1, (self.num_heads, 3, -1)).unbind(3)")),
        attention("mixed up when heads are joined", ("attended.transpose(1, 2).flatten(2)", "attended.reshape(x.shape)")),
        attention("the out layer is missing", ("self.out(attended.transpose(1, 2).flatten(2))", "attended.transpose(1, 2).flatten(2)")),
        attention("the cache is not used", (CACHE, "")),
        attention("another layer, or more than once", ("cache.extend(layer,", "cache.extend(0,")),
        attention("gets no gradient", ("self.qkv(x).unflatten", "self.qkv(x.detach()).unflatten")),
        (lambda width, heads: None, "that is no class: define class Attention"),
        (NoModule, "it is no torch module"),
        (OtherNames, "it has no weights qkv.weight"),
    ],
    "block": [
        block("must be the identity", (INIT, "        self.modulation = nn.Linear(width, 6 * width)\n")),
        block("the gates are missing", ("gate1[:, None] * ", ""), ("gate2[:, None] * ", "")),
        block("attention's gate is missing", ("gate1[:, None] * ", "")),
        block("the MLP's gate is missing", ("gate2[:, None] * ", "")),
        block("shift and scale are swapped", ("shift1, scale1, gate1, shift2, scale2, gate2 =", "scale1, shift1, gate1, scale2, shift2, gate2 =")),
        block("the chunks are taken in pairs", ("shift1, scale1, gate1, shift2, scale2, gate2 =", "shift1, shift2, scale1, scale2, gate1, gate2 =")),
        block("it has three of its own", ("modulate(x, shift2, scale2)", "modulate(x, shift1, scale1)"), ("gate2[:", "gate1[:")),
        block("by 1 + scale", ("modulate(x, shift1, scale1)", "modulate(x, shift1, scale1 - 1)"), ("modulate(x, shift2, scale2)", "modulate(x, shift2, scale2 - 1)")),
        block("there is no LayerNorm", ("modulate(x, shift1, scale1)", "x * (1 + scale1[:, None]) + shift1[:, None]"), ("modulate(x, shift2, scale2)", "x * (1 + scale2[:, None]) + shift2[:, None]")),
        block("x itself is lost", (FIRST, FIRST.replace("x + ", "")), (LAST, LAST.replace("x + ", ""))),
        block("x is lost after the MLP", (LAST, LAST.replace("x + ", ""))),
        block("from before attention", (FIRST, FIRST.replace("x = x", "y = x")), (LAST, LAST.replace("return x +", "return y +"))),
        block("the MLP reads x bare", (LAST, LAST.replace("modulate(x, shift2, scale2)", "x"))),
        block("attention is not given the mask", ("rotary, mask, cache, layer)\n", "rotary, None, cache, layer)\n")),
        block("with a cache it does something else", ("rotary, mask, cache, layer)\n", "rotary, mask)\n")),
    ],
    "multistage_transformer": [
        transformer("embedding of the places is missing", ("position_embedding(self.token_sides[stage], self.width).to(of_stage) + of_stage", "of_stage.expand(self.token_sides[stage] ** 2, -1)")),
        transformer("embedding of the stage is missing", (".to(of_stage) + of_stage", ".to(of_stage)")),
        transformer("the class is missing", ("return tokens + self.class_embedding(class_labels)[:, None]", "return tokens.expand(len(class_labels), -1, -1)")),
        transformer("in a later stage too", (PATCHES, PATCHES + " + self.class_embedding(class_labels)[:, None]")),
        transformer("the patches are missing", (PATCHES, "return tokens.expand(len(class_labels), -1, -1)")),
        transformer("rows and columns of the end state", ("upsample(previous_end)", "upsample(previous_end).transpose(2, 3)")),
        transformer("the final modulation is missing", ("return modulate(x, *self.final_modulation(condition).chunk(2, dim=-1))", "return x")),
        transformer("final modulation are swapped", (".chunk(2, dim=-1))", ".chunk(2, dim=-1)[::-1])")),
        transformer("put silu on it", ("F.silu(self.class_embedding(class_labels))", "self.class_embedding(class_labels)")),
        transformer("run in reverse", ("in enumerate(self.blocks)", "in reversed(list(enumerate(self.blocks)))")),
        transformer("the blocks are not given the mask", ("rotary, mask, cache, layer)", "rotary, None, cache, layer)")),
        transformer("of the tokens at hand", ("finest = self.width // self.num_heads, self.token_sides[-1]", "finest = self.width // self.num_heads, sides[-1]")),
        transformer("every token sees every other", ("self.token_sides, mask).split", "self.token_sides).split")),
        transformer("token-causal", ("block_causal_mask(lengths)", "torch.ones(sum(lengths), sum(lengths)).tril().bool()")),
        transformer("finest first", ("lengths, dim=1))", "lengths, dim=1))[::-1]")),
        transformer("the cache is not used", (", cache=cache)", ")")),
        transformer("share one place in the cache", ("cache, layer)", "cache, 0)")),
    ],
    "flow_head": [
        head("bare local time", ("conditioning_time(self.schedule, stage, local_time)", "local_time")),
        head("the flow time t", ("conditioning_time(self.schedule, stage, local_time)", "self.schedule.flow_time(stage, local_time)")),
        head("the stage is missing", ("        embedded = embedded + self.stage_embedding.weight[stage]\n", "")),
        head("the class is missing", ("embedded + self.class_embedding(class_labels)", "embedded.expand(*embedded.shape[:-2], len(class_labels), -1)")),
        head("the time is missing", (".unflatten(0, time.shape)", ".unflatten(0, time.shape) * 0")),
        head("put silu on it", ("F.silu(embedded + self.class_embedding(class_labels))", "embedded + self.class_embedding(class_labels)")),
        head("modulations returns 2 tensors", (", self.final_modulation]", "]")),
        head("the token map is not used", (" + read_map", "")),
        head("the final modulation is missing", ("self.out(modulate(x, shift, scale))", "self.out(x)")),
        head("final modulation are swapped", ("modulate(x, shift, scale)", "modulate(x, scale, shift)")),
        head("the stage's own", ("self.head_dim, sides[-1]", "self.head_dim, sides[stage]")),
        head("rows and columns", ("patchify(state,", "patchify(state.transpose(2, 3),")),
        head("gets no gradient", (" + read_map", " + read_map.detach()")),
        head("backwards", ("return unpatchify(", "return -unpatchify(")),
    ],
    "flow_errors": [
        loss("no image loses its class", ("draw.class_drop < class_dropout", "draw.class_drop < 0")),
        loss("the transformer alone loses", ("local_time, labels)", "local_time, class_labels)")),
        loss("the head alone loses", ("model.transformer(ends[:-1], labels)", "model.transformer(ends[:-1], class_labels)")),
        loss("reads start states", ("model.transformer(ends[:-1]", "model.transformer(starts[:-1]")),
        loss("local times of the first", ("draw.local_time[:, stage]", "draw.local_time[:, 0]")),
        loss("swapped in the state", (STATE, STATE.replace("starts[stage], ends[stage]", "ends[stage], starts[stage]").replace("\n", "\n        target = -target\n"))),
        loss("the end itself", ("velocity - target", "velocity - ends[stage]")),
        loss("target - velocity", ("velocity - target", "target - velocity")),
        loss("squared already", ("errors.append(velocity - target)", "errors.append((velocity - target).square())")),
        loss("3 times", ("    errors = []\n", "    errors = []\n    model.transformer(ends[:-1], labels), model.transformer(ends[:-1], labels)\n")),
        loss("changed the draw", ("    starts, ends", "    draw.noise[0].mul_(2)\n    starts, ends")),
        loss("gets no gradient", ("read(token_map)", "read(token_map.detach())")),
        loss("one per stage", ("enumerate(token_maps)", "enumerate(token_maps[:-1])")),
    ],
    "generate": [
        sampling("without fresh noise", (STARTS, "transition(model.schedule, stage, latent, 0 * noise) if stage else noise")),
        sampling("only upsampled", (STARTS, "F.interpolate(latent, scale_factor=2) if stage else noise")),
        sampling("noise alone", (STARTS, "noise")),
        sampling("backwards", ("latent + guided_velocity", "latent - guided_velocity")),
        sampling("dt is 1", (MOVE, MOVE.replace(" / steps[stage]", ""))),
        sampling("the latent does not move", (MOVE, "guided_velocity(run_head, guidance[stage])")),
        sampling("not guided", ("guided_velocity(run_head, guidance[stage])", "run_head(1)")),
        sampling("another stage's scale", ("guided_velocity(run_head, guidance[stage])", "guided_velocity(run_head, guidance[2 if stage == 1 else stage])")),
        sampling("modulations of the first", ("part[step] for part", "part[0] for part")),
        sampling("end of the step", ("torch.arange(steps[stage], device=device)", "torch.arange(1, steps[stage] + 1, device=device)")),
        sampling("reads zeros", ("latent.repeat(halves, 1, 1, 1) if stage else None", "0 * latent.repeat(halves, 1, 1, 1) if stage else None")),
        sampling("in a stage that is not guided", ("guided_velocity(run_head, guidance[stage])", "guided_velocity(lambda n: run_head(2)[: n * batch], guidance[stage])"), ("rows = (1 + (guidance[stage] != 1)) * batch", "rows = 2 * batch"), ("read_map = model.head.read(token_map[:rows])", "read_map = model.head.read(token_map.repeat(2, 1, 1)[:rows])")),
        sampling("a half without class too often", ("halves * batch], cache)", "2 * batch], cache)"), ("latent.repeat(halves, 1, 1, 1) if stage", "latent.repeat(2, 1, 1, 1) if stage"), ("cache.keep(halves * batch)", "cache.keep(2 * batch)")),
        sampling("the start of every stage is missing", ("        events.append((stage, 0, latent))\n", "")),
        sampling("keeps what a backward pass needs", ("@torch.no_grad()\n", "")),
        sampling("random numbers of its own", ("torch.randn(shape, generator=generator)", "torch.randn(shape)")),
    ],
    "train_step": [
        step("not clipped, or only after", ("norm = clip([weight.grad for weight in weights], config.grad_clip)", "norm = clip([weight.grad.clone() for weight in weights], config.grad_clip)")),
        step("by its own norm", ("norm = clip([weight.grad for weight in weights], config.grad_clip)", "norm = clip([weight.grad.clone() for weight in weights], 1)\n    for weight in weights:\n        clip([weight.grad], config.grad_clip)")),
        step("rate stays", ('            group["lr"] = config.lr * float(factor)\n', "            pass\n")),
        step("the bare factor", ("config.lr * float(factor)", "float(factor)")),
        step("of the next step", ("lr_factor(step,", "lr_factor(step + 1,")),
        step("stay and add up", ("        optimizer.zero_grad()\n", "")),
        step("the first optimizer alone", ("in optimizers:", "in optimizers[:1]:"), ("    return norm", "    model.zero_grad()\n    return norm")),
        step("before the weights are", (MEAN, ""), ("    for optimizer", f"    decay = {DECAY}\n{MEAN}    for optimizer")),
        step("never moves", (MEAN, "")),
        step("from the start", (DECAY, "config.ema_decay")),
        step("grows without end", (DECAY, "(1 + step) / (10 + step) if step else 0.0")),
        step("in step 0 is not 0", (DECAY, "min(config.ema_decay, (1 + step) / (10 + step))")),
        step("weighs the new weights", (MEAN, MEAN.replace("decay)", "1 - decay)"))),
        step("after clipping", ("    return norm", "    return min(norm, torch.tensor(config.grad_clip))")),
        step("it returns nothing", ("    return norm", "")),
        step("that is the loss", ("    return norm", "    return loss")),
        step("it raised RuntimeError", ("    loss.backward()\n", "    loss.detach().backward()\n")),
    ],
}  # fmt: skip
