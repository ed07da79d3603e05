# %% [markdown]
# # 1. Tokenizer
#
# E-CAR never sees pixels. A tokenizer turns an image into a smaller grid of real numbers, the latent, and
# turns a latent back into an image. In this notebook you build one, train it, and look inside.
#
# **After it you can**
# - say what a latent saves, in numbers, tokens and FLOPs, and what it costs;
# - build and train a small variational autoencoder (VAE) and say where its loss comes from;
# - explain why the latent is shifted and scaled before anything learns from it;
# - judge what a latent forgives: noise, missing channels, pooling, rounding;
# - compare continuous and quantized tokens at equal tokens and at equal bits, and say what has not been measured.
#
# **Before it**: notebook 0; you have trained a network with PyTorch once.
#
# {{time}}
#
# The paper takes a tokenizer off the shelf that makes images 8 times smaller per side, and keeps its
# tokens continuous. The tokenizer built here, its sizes and its loss are our own.

# %%
import math

import torch
from torch import nn

from ecar_lab import ConvTokenizer, cost, data, flow, presets
from ecar_lab.teaching import beside_the_kit, setup
from ecar_lab.teaching.check import tokenizer as check
from ecar_lab.teaching.explore import tokenizer as explore
from ecar_lab.tokenizers import networks, study

lab = setup(1)

# %% [markdown]
# ## The result first
#
# The checkpoint `cifar10` brings its tokenizer along: 0.4 million weights, factor 2, 4 channels. Two
# images are made by the model, two are drawn by the kit's `shapes` set, which this tokenizer has never seen.


# %%
def shapes(split, count, size=32):
    """(count, 3, size, size) drawn images in [-1, 1]."""
    drawn = data.open_dataset("shapes", split=split, image_size=size, limit=count)
    return drawn.arrays()[0] / 127.5 - 1


@torch.no_grad()
def encode(tokenizer, images):
    """Latents on the CPU."""
    return tokenizer.encode(images.to(tokenizer.device)).cpu()


@torch.no_grad()
def decode(tokenizer, latent):
    """Images in [-1, 1] on the CPU."""
    return tokenizer.decode(latent.to(tokenizer.device)).cpu()


# %%
pipe = lab.pipeline("cifar10")
tokenizer = pipe.tokenizer
wanted = ["automobile", "horse", "ship", "truck"]  # as in notebook 0; two of them are enough
made = pipe(wanted, generator=lab.generator(3), output_type="pt").images[:2].cpu()
names = ["automobile", "horse", "star", "triangle"]
images = torch.cat([2 * made - 1, shapes("test", 8)[[6, 3]]])  # (4, 3, 32, 32) in [-1, 1]
latent = encode(tokenizer, images)  # (4, 4, 16, 16)
rebuilt = decode(tokenizer, latent)  # (4, 3, 32, 32)
print(f"{images[0].numel():,} colour values per image, {latent[0].numel():,} numbers per latent")

# %%
explore.show_first_result(tokenizer, images, latent, rebuilt, names)
real = lab.result("evaluate-cifar10")["reference_points"]["reconstructions"]
print(f"on {real['images']:,} real CIFAR-10 test images: {real['psnr']:.1f} dB (ecar evaluate)")

# %% [markdown]
# PSNR is $10 \log_{10}(2^2 / \text{mean squared error})$ for images in $[-1, 1]$: 6 dB more halve the error.
# The generated images are easy: they came out of this very decoder. The drawn shapes, bright and with hard
# edges, are unlike photographs. The printed line is the fair number.
#
# Note that the latent keeps the layout: a position stands for 2×2 pixels and a little around them.


# %%
def psnr(some, other):
    """Peak signal-to-noise ratio of each image, in dB: (B, 3, H, W) twice -> (B,)."""
    return 10 * (4 / (some - other).square().mean(dim=(1, 2, 3))).log10()


print("PSNR:", *(f"{value:.1f}" for value in psnr(rebuilt, images)))

# %% [markdown]
# ## Why a latent at all
#
# ### Exercise 1.1: what a latent saves
#
# A pixel has three colours, a position of the latent has `channels` numbers.
#
# <details><summary>Hint</summary>
# Positions: (image_size // factor) squared. Ratio: colour values of the image over numbers of the latent.
# </details>


# %% tags=["exercise"]
def compression(image_size, factor, channels):
    """(positions of the latent, colour values per latent number): (32, 2, 4) -> (256, 3.0)."""
    # SOLUTION 1.1
    positions = (image_size // factor) ** 2
    return positions, 3 * image_size**2 / (channels * positions)
    # END


# %%
compression = check.compression(compression)
with beside_the_kit(compression):
    assert tuple(compression(32, 2, 4)) == (
        latent[0, 0].numel(),
        images[0].numel() / latent[0].numel(),
    )
cases = [(32, 1), (32, 2), (32, 8), (256, 1), (256, 2), (256, 4), (256, 8)]
saved = [compression(size, factor, 3 if factor == 1 else 4) for size, factor in cases]
explore.show_compression(cases, saved)

# %% [markdown]
# The paper's case is the last row: 256 pixels, factor 8, a latent of 32×32. A 32-pixel image would be left
# with 4×4 positions: three stages would begin at a single one. So our small images use factor 2.
#
# > **Predict.** Tokens are patches of 2×2 positions. From factor 1 to factor 8 at 256 pixels: how many times
# > fewer FLOPs does *attention* need, and how many times fewer does all the rest of a transformer block?

# %%
width = presets.get_preset("imagenet256").model["width"]
factors = [1, 2, 4, 8]
tokens = [compression(256, factor, 4)[0] // 4 for factor in factors]
attention = [cost.attention_flops(n, n, width) for n in tokens]
rest = [cost.block_flops(n, n, width) - a for n, a in zip(tokens, attention, strict=True)]
explore.show_block_costs(factors, tokens, attention, rest, width)

# %% [markdown]
# <details><summary>Explain</summary>
# A factor f leaves 1/f² of the tokens. Projections and MLP cost as much per token, so they fall by f² = 64.
# In attention every token looks at every other one, which costs the square of their number: it falls by
# f to the power of 4, 4,096. Without a latent, attention is most of the cost; with factor 8 it is the least.
# </details>

# %%
explore.ask_factor()

# %% [markdown]
# ## Build it: the variational autoencoder
#
# An encoder gives every latent number a *distribution*: a mean $\mu$ and a variance $\sigma^2$, as its
# logarithm so that it stays positive. Training decodes a draw from it; using the tokenizer, we take the mean.
#
# A draw cannot be differentiated, but it can be written as something that can:
# $z = \mu + \sigma \varepsilon$ with $\varepsilon \sim N(0, 1)$, the *reparameterised* latent.
#
# ### Exercise 1.2: the reparameterised latent
#
# <details><summary>Hint</summary>
# The standard deviation is the square root of the variance, and log sqrt(v) is half of log v.
# </details>


# %% tags=["exercise"]
def reparameterise(mean, log_variance, noise):
    """A draw of N(mean, variance), made of standard normal noise."""
    # SOLUTION 1.2
    return mean + (0.5 * log_variance).exp() * noise
    # END


# %%
train_images, test_images = shapes("train", lab.pick(4096, 512)), shapes("test", lab.pick(256, 64))

# %%
torch.manual_seed(0)
package = ConvTokenizer(width=32, depth=1).to(lab.device)  # the kit's, with random weights
batch = train_images[:8].to(lab.device)
noise = torch.randn(8, 4, 16, 16, generator=lab.generator()).to(lab.device)
mean, std = package.moments(batch)
log_variance = 2 * std.log()
parts = package.training_loss(batch, noise=noise)  # loss, l1, l2, sharpness, coarse, kl, ...
SAME = {"rtol": 1e-3, "atol": 1e-3}  # a GPU rounds convolutions to 10 bits

# %%
reparameterise = check.reparameterise(reparameterise)
with beside_the_kit(reparameterise):
    z = reparameterise(mean, log_variance, noise)
    torch.testing.assert_close((package.decoder(z) - batch).abs().mean(), parts["l1"], **SAME)
print("the kit's training loss decodes the same draw")

# %% [markdown]
# ### The KL term
#
# Left alone, the encoder would make $\sigma$ tiny against the spread of the means, and the decoder would never
# see a latent that is slightly off, as generated ones always are. So there is a price on being far from the
# standard normal, the Kullback-Leibler divergence, per latent number:
#
# $$\mathrm{KL}\big(N(\mu, \sigma^2) \,\|\, N(0, 1)\big) = \mathbb{E}_z\Big[\log \frac{q(z)}{p(z)}\Big]
# = \tfrac{1}{2}\big(\mu^2 + \sigma^2 - 1 - \log \sigma^2\big)$$
#
# It is 0 only at $\mu = 0$, $\sigma = 1$, where a latent number says nothing of its image.
#
# ### Exercise 1.3: the KL term
#
# <details><summary>Hint</summary>
# The formula above for every number, then the mean over all of them. exp(log_variance) is the variance.
# </details>


# %% tags=["exercise"]
def kl_divergence(mean, log_variance):
    """KL(N(mean, variance) || N(0, 1)) per latent number: one number."""
    # SOLUTION 1.3
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    # END


# %%
kl_divergence = check.kl_divergence(kl_divergence)
with beside_the_kit(kl_divergence):
    torch.testing.assert_close(kl_divergence(mean, log_variance), parts["kl"], **SAME)

# The closed form against the expectation it stands for, by drawing.
some, other = torch.distributions.Normal(1.5, 0.5), torch.distributions.Normal(0.0, 1.0)
draws = some.sample((200_000,))
drawn_kl = (some.log_prob(draws) - other.log_prob(draws)).mean().item()
formula = kl_divergence(torch.tensor(1.5), torch.tensor(0.5).square().log()).item()
print(f"N(1.5, 0.5²): formula {formula:.3f}, mean over 200,000 draws {drawn_kl:.3f}")

# %% [markdown]
# ### The networks
#
# The kit's residual blocks do the work, `x + conv(silu(conv(norm(x))))`. To halve the size, a block of 2×2
# pixels becomes channels (`PixelUnshuffle`); the decoder goes the same way back.


# %%
class CompactVAE(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to raw latents (B, C, H/2, W/2) and back."""

    def __init__(self, channels=4, width=32):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),  # (B, 12, H/2, W/2)
            networks.conv3x3(12, width),
            networks.ResidualBlock(width),
            *(networks.GroupNorm(width), nn.SiLU()),
            networks.conv3x3(width, 2 * channels),  # mean, log variance
        )
        self.decoder = nn.Sequential(
            networks.conv3x3(channels, width),
            networks.ResidualBlock(width),
            *(networks.conv3x3(width, width), nn.PixelShuffle(2)),  # (B, width/4, H, W)
            networks.ResidualBlock(width // 4),
            *(networks.GroupNorm(width // 4), nn.SiLU()),
            networks.conv3x3(width // 4, 3),
        )

    def posterior(self, images):
        """Mean and log variance, both (B, C, H/2, W/2)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 4)  # exp must not run away


# %%
vae = CompactVAE().to(lab.device)
vae.encoder.load_state_dict(package.encoder.state_dict())
vae.decoder.load_state_dict(package.decoder.state_dict())
with torch.no_grad():
    own_mean, own_log_variance = vae.posterior(batch)
    torch.testing.assert_close(own_mean, package.encode(batch), **SAME)
    torch.testing.assert_close((0.5 * own_log_variance).exp(), package.moments(batch)[1], **SAME)
    torch.testing.assert_close(vae.decoder(mean).clamp(-1, 1), package.decode(mean), **SAME)
print(f"{sum(p.numel() for p in vae.parameters()):,} weights: moments and images as the package's")

# %% [markdown]
# ### Where a loss of this kind comes from
#
# Let the decoder give a density $p(x \mid z)$ of images, the prior $p(z)$ be standard normal, and $q(z \mid x)$ be the encoder's. For any q,
#
# $$\log p(x) = \log \int p(x \mid z)\,p(z)\,dz = \log \mathbb{E}_{q}\Big[\frac{p(x \mid z)\,p(z)}{q(z \mid x)}\Big]
# \;\ge\; \mathbb{E}_{q}\,[\log p(x \mid z)] - \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big),$$
#
# by Jensen's inequality, for the logarithm is concave. The right side is the *evidence lower bound* (ELBO). Its negative is a loss: a
# reconstruction error and a KL term. With $p(x \mid z)$ a normal density of variance $s^2$ around the decoder's image the first part is
# $|\hat x - x|^2 / 2s^2$ and a constant, with a Laplace density it is the absolute error. So the weight of the KL term stands for a
# choice of s. A weight of 0.003 per number means a small s: reconstruct first. With such a weight, and with terms that belong to
# no density, what follows is no bound any more, but a loss in its image.
#
# ### The loss
#
# With the error $e$ = reconstruction - image, the kit minimises (our choice, not the paper's)
#
# $$R(e) = |e| + e^2 + \tfrac{1}{2}\big(|\partial_x e| + |\partial_y e|\big), \qquad
# \text{loss} = R(\text{full size}) + \tfrac{1}{4} R(\text{half size}) + 0.003\,\mathrm{KL}$$
#
# The gradients weigh up blur, which is an error that sits at edges. The *half size* term decodes the pooled
# latent and compares it with the pooled image: E-CAR's coarse stages live on pooled latents. We come back to it.


# %%
def reconstruction_error(rebuilt, images):
    """R(e): absolute, squared, and half of the error's gradients."""
    e = rebuilt - images
    slopes = e.diff(dim=-1).abs().mean() + e.diff(dim=-2).abs().mean()
    return e.abs().mean() + e.square().mean() + 0.5 * slopes


def vae_loss(vae, images, noise, coarse_weight=0.25):
    """The training loss of a CompactVAE on images (B, 3, H, W), noise (B, C, H/2, W/2)."""
    mean, log_variance = vae.posterior(images)
    z = reparameterise(mean, log_variance, noise)
    fine = reconstruction_error(vae.decoder(z), images)
    half = nn.AvgPool2d(2)
    coarse = reconstruction_error(vae.decoder(half(z)), half(images))
    return fine + coarse_weight * coarse + 3e-3 * kl_divergence(mean, log_variance)


with beside_the_kit(reparameterise, kl_divergence):
    torch.testing.assert_close(vae_loss(vae, batch, noise), parts["loss"], **SAME)
print("the loss is the package's")

# %% [markdown]
# ## Train it
#
# A loop of a few lines is enough here. The kit's own is `ecar train tokenizer --preset cifar10` (or `digits`,
# which needs no download): it adds checkpoints, resuming, several processes and the card of the result.

# %%
STEPS = lab.pick(1000, 25)


def train(model, loss_of, steps=STEPS, batch=16, peak=2e-3, images=train_images, factor=2):
    """Trains on random drawn images, the same ones in every call; returns the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), peak)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1)
    draw, losses = lab.generator(), []
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,), generator=draw)
        noise = torch.randn(batch, 4, *[images.shape[-1] // factor] * 2, generator=draw)
        loss = loss_of(model, images[rows].to(lab.device), noise.to(lab.device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        plan.step()
        losses.append(loss.item())
    return losses


# %%
def as_tokenizer(vae):
    """The same weights in the kit's class."""
    kit = ConvTokenizer(width=32, depth=1).to(lab.device).eval()
    kit.encoder.load_state_dict(vae.encoder.state_dict())
    kit.decoder.load_state_dict(vae.decoder.state_dict())
    return kit


# %%
kit = as_tokenizer(vae)
untrained = decode(kit, encode(kit, test_images[:6]))
losses = train(vae, vae_loss)
continuous = as_tokenizer(vae)
rebuilt = decode(continuous, encode(continuous, test_images))
explore.show_loss(losses)

# %%
explore.show_before_and_after(test_images, untrained, rebuilt)

# %% [markdown]
# ## Shift and scale
#
# The raw latent has whatever mean and spread training gave it. The flow that comes next does not like that.
# It mixes data with standard normal noise, `x_t = (1 - t) · noise + t · data`, so the data should have the
# same size as the noise: mean 0 and standard deviation 1 per channel, *over the training set*.

# %%
raw = torch.cat([encode(continuous, part) for part in train_images[:1024].split(256)])
channel_mean = raw.double().mean((0, 2, 3)).float()
channel_std = raw.double().std((0, 2, 3), correction=0).float()

# %% [markdown]
# ### Exercise 1.4: shift and scale
#
# <details><summary>Hint</summary>
# mean and std have one entry per channel: mean.view(1, -1, 1, 1) lines them up with (B, C, h, w).
# </details>


# %% tags=["exercise"]
def normalise(z, mean, std):
    """Raw latents (B, C, h, w) with mean 0 and standard deviation 1; mean and std are (C,)."""
    # SOLUTION 1.4
    return (z - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    # END


# %%
normalise = check.normalise(normalise)
continuous.fit_statistics(part for part in train_images[:1024].split(256))  # the kit's way
with beside_the_kit(normalise):
    own = normalise(raw[:256], channel_mean, channel_std)
    torch.testing.assert_close(encode(continuous, train_images[:256]), own, **SAME)
normal = normalise(raw, channel_mean, channel_std)
after = normal.mean((0, 2, 3)), normal.std((0, 2, 3))
explore.show_moments(channel_mean, channel_std, *after)

# %% [markdown]
# Shift and scale are saved with the weights (`latent_shift`, `latent_scale = 1 / std`), so that nothing that
# loads the tokenizer can forget them. The KL term had pulled the raw latent near to 1 already. It need not:
# Stable Diffusion's VAE is known for its scale of 0.18215, that is, a standard deviation of about 5.5.
#
# > **Predict.** Halfway, at t = 0.5: what share of the variance of `x_t` is data if its standard deviation is
# > 1? And if it is 5.5, or 0.2?

# %%
t = torch.linspace(0, 1, 101)
share_of_data = {
    spread: (t * spread).square() / ((t * spread).square() + (1 - t).square())
    for spread in (5.5, 1.0, 0.2)
}
explore.show_scale(raw[:64], normal[:64], other, t, share_of_data)

# %% [markdown]
# <details><summary>Explain</summary>
# The share is (tσ)² / ((tσ)² + (1 - t)²). With σ = 1 time means what it says. With σ = 5.5 most of the way is almost
# finished data, with σ = 0.2 most of it is noise, and steps are wasted. For E-CAR it matters more: a stage that
# ends at t = 0.4 should end at a known share of data.
# </details>
#
# The *shape* still differs from the noise: that is what the flow has to learn.
#
# ## What the latent space is like
#
# From here on the shipped tokenizer again.
#
# > **Predict.** Go from the automobile to the horse in a straight line: once through pixels, once through latents.
# > What stands halfway in each?

# %%
shares = [0.0, 0.25, 0.5, 0.75, 1.0]
pixels = torch.stack([torch.lerp(images[0], images[1], share) for share in shares])
between = torch.stack([torch.lerp(latent[0], latent[1], share) for share in shares])
decoded = decode(tokenizer, between)
explore.show_blend(pixels, decoded, shares)

# %% [markdown]
# <details><summary>Explain</summary>
# Both show a cross-fade. This latent is nearly a linear, local recoding of the image: half of one latent plus half
# of another decodes to half of one image plus half of the other. It holds no idea of "between an automobile and a
# horse". Which images are likely is the business of the transformer and the flow.
# </details>
#
# ### What each channel carries

# %%
two = latent[[0, 2]]  # the automobile and the star
switched = [two, *(study.without_channel(two, channel) for channel in range(4))]
explore.show_channels(images[[0, 2]], [decode(tokenizer, part) for part in switched])

# %% [markdown]
# No channel is one thing, such as "brightness". Each takes part in the colours and in the fine structure within
# 2×2 pixels, so without it both go wrong.
#
# ### What it forgives
#
# A generated latent is never exact. How far off may it be?

# %%
rows = []
for sigma in (0.0, 0.05, 0.1, 0.2, 0.5):
    noisy = latent + sigma * torch.randn(latent.shape, generator=lab.generator())
    decoded = decode(tokenizer, noisy)
    made, drawn = psnr(decoded, images).unflatten(0, (2, 2)).mean(1).tolist()
    rows.append((sigma, made, drawn))
explore.show_forgiveness(rows)

# %% [markdown]
# To forgive is what the KL term is for: training decodes draws, and the term keeps their spread from shrinking to
# nothing. Its price is detail. The docstring of `ConvTokenizer` tells how the weight of 0.003 was chosen.
#
# ## The pyramid of one latent
#
# E-CAR's stages aim at the latent average-pooled to 4×4, 8×8 and 16×16.
#
# > **Predict.** Decode each of the three. Will the coarse ones give small images, or rubbish? The decoder
# > is convolutional, so any size goes in.

# %%
levels = flow.pyramid(latent[:1], 3)
decoded = [decode(tokenizer, level) for level in levels]
pooled = flow.pyramid(images[:1], 3)
explore.show_pyramid(tokenizer, levels, decoded, pooled)

# %% [markdown]
# <details><summary>Explain</summary>
# Half the size decodes well: the half size term of the loss trained it. A quarter was never trained, and is worse.
# But is it really that term? A "because" deserves a control.
# </details>
#
# The control: the same autoencoder, images and steps, without the half size term.

# %%
torch.manual_seed(0)
plain_vae = CompactVAE().to(lab.device)
train(plain_vae, lambda vae, images, noise: vae_loss(vae, images, noise, coarse_weight=0.0))
plain = as_tokenizer(plain_vae)


def pooled_psnr(tokenizer, images, ratio):
    """How well the latent pooled by ``ratio`` decodes to the image pooled by it."""
    pool = nn.AvgPool2d(ratio)
    decoded = decode(tokenizer, pool(encode(tokenizer, images)))
    return psnr(decoded, pool(images)).mean().item()


both = {"with the half size term": continuous, "without it": plain}
explore.show_pooled(
    {
        name: [pooled_psnr(model, test_images, ratio) for ratio in (1, 2, 4)]
        for name, model in both.items()
    }
)

# %% [markdown]
# The coarse sizes gain several dB; at full size the two hardly differ. (One seed each.)
#
# ## Continuous or quantized?
#
# The paper's third mechanism: images are continuous, so tokens should be; a code book loses fine detail. That
# is the paper's *claim*.
#
# A vector quantiser replaces each position's vector by the nearest of K learned codes: a token of
# $\log_2 K$ bits. "Nearest" has no gradient. The *straight-through estimator* pretends that nothing was
# replaced: forwards the code, backwards the gradient of the vector it stands for.
#
# ### Exercise 1.5: the nearest code
#
# <details><summary>Hint</summary>
# torch.cdist gives all distances. rows + (codes - rows).detach() has the value of the codes and the
# derivative of the rows.
# </details>


# %% tags=["exercise"]
def quantise(rows, codebook):
    """Rows (N, C) replaced by the nearest codes of (K, C), gradients straight through."""
    # SOLUTION 1.5
    codes = codebook[torch.cdist(rows, codebook).argmin(1)]
    return rows + (codes - rows).detach()
    # END


# %%
quantise = check.quantise(quantise)
quantiser = networks.VectorQuantiser(64, 4)  # the kit's, on (B, C, h, w)
grid = latent.clone().requires_grad_()
rows = grid.movedim(1, -1).flatten(0, -2)  # a row per position
with beside_the_kit(quantise):
    codes = quantise(rows, quantiser.codebook).unflatten(0, (4, 16, 16)).movedim(-1, 1)
    torch.testing.assert_close(codes, quantiser(grid).codes, rtol=1e-4, atol=1e-4)
codes = quantise(rows, quantiser.codebook)
(gradient,) = torch.autograd.grad(codes.sum(), grid)
print("codes as the kit's; the gradient that arrives is", *gradient.unique().tolist())

# %% [markdown]
# The codes themselves learn from a loss of their own: they move to the vectors they stand for (codebook term),
# vectors move to their code (commitment term), and unused codes are pulled in (reach term).
#
# Now the twin of your autoencoder: same networks, same images, same steps, but 512 codes.
#
# Which reconstructs better, and by how much?

# %%
CODES = 512


def kit_loss(model, images, noise):
    """The loss of the kit's own tokenizer; one with codes has no use for the noise."""
    return model.training_loss(images, noise=noise)["loss"]


torch.manual_seed(0)
quantized = ConvTokenizer(width=32, depth=1, kind="vq", codebook_size=CODES).to(lab.device)
train(quantized, kit_loss)
quantized.eval().fit_statistics(part for part in train_images[:1024].split(256))
rebuilt_codes = decode(quantized, encode(quantized, test_images))

# %%
explore.show_codes(test_images, rebuilt, rebuilt_codes, CODES)

# %% [markdown]
# Equal are 256 tokens of 4 numbers, the networks, the steps and the images. Not equal is what a token says. A code
# is worth $\log_2 512 = 9$ bits at most. A continuous token has a *rate*, its KL in bits: an upper bound on what its
# draw says of the image. Rounding is a third view: the continuous latent in few levels per number.


# %%
@torch.no_grad()
def rate_and_quality(model, images):
    """Bits per image by the KL of its posterior, and the PSNR (dB) of what draws decode to."""
    mean, log_variance = model.encoder(images.to(lab.device)).chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 4)
    noise = torch.randn(mean.shape, generator=lab.generator()).to(lab.device)
    drawn = model.decoder(reparameterise(mean, log_variance, noise)).clamp(-1, 1).cpu()
    bits = mean[0].numel() * kl_divergence(mean, log_variance).item() / math.log(2)
    return bits, psnr(drawn, images).mean().item()


rate, drawn_quality = rate_and_quality(continuous, test_images)
clean, rounded = encode(continuous, test_images), []
for bits in range(1, 9):  # per number; a token has four
    coarse = decode(continuous, study.round_latent(clean, bits))
    rounded.append((4 * bits, psnr(coarse, test_images).mean().item()))

# %% [markdown]
# And of the codes: which are in use, and how often? The entropy of that is what a good file of them would need.

# %%
codes = encode(quantized, test_images).to(lab.device)
codes = codes / quantized.latent_scale.view(1, -1, 1, 1) + quantized.latent_shift.view(1, -1, 1, 1)
book = quantized.quantiser.codebook.detach()
ids = torch.cdist(codes.movedim(1, -1).flatten(0, -2), book).argmin(1)
share = torch.bincount(ids).double() / len(ids)
in_use = torch.special.entr(share).sum().item() / math.log(2)  # bits
code_quality = psnr(rebuilt_codes, test_images).mean().item()

# %%
of_code = math.log2(CODES), code_quality
explore.show_bits(rounded, (rate / 256, drawn_quality), of_code, in_use, CODES)

# %% [markdown]
# <details><summary>Explain</summary>
# At equal tokens the continuous one is ahead: it may say more, and that is its advantage. At equal bits a <i>learned</i> code book puts its few codes
# where they are needed, while plain rounding of a latent whose decoder was never told does not.
# </details>
#
# That is no fair comparison yet: the continuous tokenizer was trained to spend twice the bits. It can be trained to spend fewer.
#
# ### At equal bits
#
# The weight of the KL term is a price on bits: a larger one, and the encoder spends fewer. So both kinds can be had at several rates. First count those of
# codes.
#
# ### Exercise 1.6: the bits of an image in codes
#
# Each token is one of `codes` codes, all equally likely.
#
# <details><summary>Hint</summary>
# One of two is one bit, one of four is two: the logarithm to base 2, for each token.
# </details>


# %% tags=["exercise"]
def code_bits(tokens, codes):
    """Bits of an image: (256, 512) -> 2304.0."""
    # SOLUTION 1.6
    return tokens * math.log2(codes)
    # END


# %% [markdown]
# Beside the twins, four more trainings, alike in networks, images, steps and batches; only the bottleneck differs. The bits of the continuous ones are their KL per image, and their
# images are decoded from *draws*, as that rate asks for.
#
# > **Predict.** At equal bits, which is ahead: continuous tokens or codes? And by more or by less than at equal tokens?

# %%
code_bits = check.code_bits(code_bits)
with beside_the_kit(code_bits):
    assert math.isclose(float(code_bits(256, 2)), 256)
curves = {
    "continuous": [rate_and_quality(continuous, test_images)],
    "codes": [(float(code_bits(256, CODES)), code_quality)],
}
for weight in lab.pick((0.03, 0.2), (0.2,)):
    torch.manual_seed(0)
    model = ConvTokenizer(width=32, depth=1, kl_weight=weight).to(lab.device)
    train(model, kit_loss)
    curves["continuous"].append(rate_and_quality(model, test_images))
for codes in lab.pick((16, 128), (16,)):
    torch.manual_seed(0)
    model = ConvTokenizer(width=32, depth=1, kind="vq", codebook_size=codes).to(lab.device)
    train(model, kit_loss)
    rebuilt_now = decode(model, encode(model.eval(), test_images))
    quality = psnr(rebuilt_now, test_images).mean().item()
    curves["codes"].append((float(code_bits(256, codes)), quality))

# %% [markdown]
# ### Exercise 1.7: quality at a number of bits
#
# Measured points seldom lie at equal bits. `points` are pairs (bits, quality) in any order; return the quality at `bits` on the straight line between the two neighbours.
#
# <details><summary>Hint</summary>
# The neighbours: <code>max</code> of the points with at most so many bits, <code>min</code> of those with at least so many (pairs are ordered by
# their first number). Between (a, low) and (b, high) the share is (bits - a) / (b - a); at a measured point a is b.
# </details>


# %% tags=["exercise"]
def quality_at(points, bits):
    """Quality on the straight lines through measured (bits, quality)."""
    # SOLUTION 1.7
    a, low = max(point for point in points if point[0] <= bits)
    b, high = min(point for point in points if point[0] >= bits)
    return low if a == b else low + (high - low) * (bits - a) / (b - a)
    # END


# %%
quality_at = check.quality_at(quality_at)
with beside_the_kit(quality_at):
    assert math.isclose(quality_at([(4.0, 2.0), (0.0, 1.0)], 1.0), 1.25)
compared = [
    (bits, *(float(quality_at(points, bits)) for points in curves.values()))
    for bits in explore.covered(curves)
]
explore.show_equal_bits(curves, compared)

# %% [markdown]
# <details><summary>Explain</summary>
# At equal <i>tokens</i> (Figure 1.9) the continuous ones are ahead by about 1 dB. At equal bits it depends on how many: at 1,024 bits, a book of 16
# codes, they are ahead by more than 3 dB; at 2,304 bits, a book of 512, both are level. Why so small a code book does so badly was not looked into.
# What speaks against reading more into it: one seed, drawn shapes, a short training, straight lines between points. And the two counts are not quite alike.
# A file of codes can be shorter than that, for codes are not equally often used: by the entropy in Figure 1.10 the 512 codes need 7.7 bits each, about
# 1,970 in all, and there they are a little ahead (29.3 against 29.1 dB). The KL of a draw is a bound that only costly coding schemes come near to.
# </details>
#
# So the paper's third mechanism, "continuous tokens reflect images better", holds here where a token may say more, and where bits are few. It is *not* that a
# continuous bit is always worth more: with enough codes the lead is gone. And codes are good for something:
#
# | | codes | continuous tokens |
# |---|---|---|
# | what predicts the next one | a softmax over K: all probabilities at once, exact likelihood, one pass | a density: here a flow head, several passes per stage |
# | trained by | cross entropy, as a language model is; text and images can share one vocabulary | a regression (flow matching) |
# | stored | log2 K bits, whole numbers | rounded somehow, or as numbers of 16 bits |
# | what goes wrong | codes that nobody uses, a gradient that is pretended | a scale that has to be right (Figure 1.5) |
# | what is lost | whatever lies between the codes | nothing by itself; noise by the KL term |
#
# ### And in generation?
#
# `ecar experiment continuous-vs-quantized` also trains a generator of equal size on either kind of token, on
# digits, with three seeds:

# %%
explore.show_measured_tokens(lab.result("continuous-vs-quantized-cpu"))

# %% [markdown]
# Read it with its reservation: the number of tokens and the size of the models are equal, bits per token are *not*.
# 16 continuous tokens beat 16 codes of 10 bits clearly, in reconstruction and in generation. Generation at equal rate was not measured; reconstruction
# at equal rate is Figure 1.11.

# %%
explore.ask_continuous()

# %% [markdown]
# ## The paper's factor
#
# The paper's tokenizer makes images 8 times smaller per side. The kit has such ones too: `ConvTokenizer(downsample_factor=8)`, and `AutoencoderTokenizer`, which wraps the VAEs of
# diffusers. Of the latter only the shape can be shown here, since its weights would have to be fetched: these are random.

# %%
wrapped = explore.vae_of_diffusers()
big = shapes("test", lab.pick(16, 2), 256)
with torch.no_grad():
    print("image", tuple(big[:1].shape), "-> latent", tuple(wrapped.encode(big[:1]).shape))

# %% [markdown]
# One that is trained here, briefly, on drawn shapes of 64 pixels. It is fully convolutional, so it takes other sizes, too.
#
# > **Predict.** The same tokenizer on the same kind of drawing at 32, 64, 128 and 256 pixels: where is it best, and what would it be worth to our 32-pixel models?

# %%
torch.manual_seed(0)
eight = ConvTokenizer(downsample_factor=8, width=16, depth=1).to(lab.device)
drawings = shapes("train", lab.pick(2048, 64), 64)
train(eight, kit_loss, lab.pick(600, 16), 8, images=drawings, factor=8)
of_size = {size: shapes("test", lab.pick(16, 2), size) for size in (32, 64, 128, 256)}
given_back = {
    (factor, size): decode(kind, encode(kind.eval(), drawn)).clamp(-1, 1)
    for factor, kind in ((2, continuous), (8, eight))
    for size, drawn in of_size.items()
}
explore.show_factors(of_size, given_back)

# %% [markdown]
# <details><summary>Explain</summary>
# A position of the latent stands for 8×8 pixels, at every size. In a large drawing most of these blocks are of one colour or hold one edge, and four numbers tell that: edges stay
# sharp. In a small one a block holds half a shape, and it comes back as a blur. PSNR shows less of this than the eye does, from 19 to 21 dB, since something else is wrong at every size: colours.
# The yellow disc comes back orange. So short a training has not learned them; whether a longer one would was not tried.
# A factor is judged beside the image: at 256 pixels factor 8 leaves 32×32 positions and three doublings of stages; at 32 pixels it leaves 4×4, and
# the shapes are gone before any generator has begun. The factor-2 tokenizer was trained longer, on smaller images, and spends sixteen times the numbers, so the two halves of the table say nothing of
# which training was better. Photographs have finer detail than these shapes: how good a factor-8 tokenizer is on them was not measured here.
# </details>
#
# ## The looking glass
#
# Choose an image, disturb its latent, watch the decoder. Noise is added first, then numbers are rounded.

# %%
explore.looking_glass(tokenizer, {name: images[i : i + 1] for i, name in enumerate(names)})

# %% [markdown]
# Try: which channel costs the star most, and which the horse? From how many bits per number on do you see no
# difference?
#
# ## Recap
# - A factor f saves f² of the tokens and f⁴ of the attention; it costs detail, so small images take a small one.
# - A VAE: mean and variance, a reparameterised draw, reconstruction error plus a little KL.
# - Shift and scale make time `t` mean what it says; they travel with the weights.
# - This latent is a compressed image: it blends like pixels, forgives some noise, and can be pooled, because
#   the decoder was trained on pooled latents too.
# - Continuous tokens are the paper's claim. At equal numbers of tokens they are ahead, because a token may say more; at equal bits only where bits are few
#   (Figure 1.11, one seed).
# - A factor of 8 keeps the shapes of large drawings, and blurs those of 32 pixels.
#
# **What breaks if…** a latent is shifted and scaled twice? Decode
# `normalise(latent, tokenizer.latent_shift.cpu(), 1 / tokenizer.latent_scale.cpu())` and look. And what does
# `tokenizer.encode(torch.zeros(1, 3, 33, 33))` say?
#
# **On**: notebook 2 turns latents into tokens and predicts them stage by stage. The tab *Tokenizer* of `make demo`
# takes your own pictures; the code is `ecar_lab/tokenizers/makers.py`, `networks.py` and `study.py`.
