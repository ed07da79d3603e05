import torch


def column(values):
    return values.view(1, -1, 1, 1)


def nearest(rows, codebook):
    return codebook[torch.cdist(rows, codebook).argmin(1)]


def kl(mean, log_variance):
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)


WRONG = {
    "compression": [
        (lambda size, f, c: (size // f, 3 * f * f / c), "those of one row"),
        (lambda size, f, c: (size**2 // f, 3 * f / c), "holds for both sides"),
        (lambda size, f, c: (c * (size // f) ** 2, 3 * f * f / c), "the latent's numbers"),
        (lambda size, f, c: ((size // f) ** 2, c / (3 * f * f)), "upside down"),
        (lambda size, f, c: ((size // f) ** 2, f * f / c), "three colour values"),
        (lambda size, f, c: ((size // f) ** 2, 3 * f * f), "several channels"),
        (lambda size, f, c: ((size // f) ** 2, f * f), "counts pixels over positions"),
        (lambda size, f, c: (size // f) ** 2, "return two numbers"),
    ],
    "reparameterise": [
        (lambda mean, lv, noise: mean + lv.exp() * noise, "multiplied by the variance"),
        (lambda mean, lv, noise: mean, "this is the mean"),
        (lambda mean, lv, noise: mean + (lv / 2).exp(), "times noise"),
        (lambda mean, lv, noise: mean + noise, "is not scaled"),
        (lambda mean, lv, noise: mean + lv * noise, "used as it is"),
        (lambda mean, lv, noise: mean + lv / 2 * noise, "take its exp"),
        (lambda mean, lv, noise: mean + (-lv / 2).exp() * noise, "sign of the exponent"),
    ],
    "kl_divergence": [
        (lambda mean, lv: -kl(mean, lv).mean(), "sign is reversed"),
        (lambda mean, lv: 2 * kl(mean, lv).mean(), "factor 1/2"),
        (lambda mean, lv: kl(mean, lv).sum(), "summed over all"),
        (lambda mean, lv: kl(mean, lv).sum((1, 2, 3)).mean(), "summed within an image"),
        (lambda mean, lv: kl(mean, lv), "one KL per number"),
        (lambda mean, lv: 0.5 * (mean**2 + lv.exp() - 1 + lv).mean(), "the wrong sign"),
        (lambda mean, lv: 0.5 * (mean**2 + lv.exp() - lv).mean(), "the -1 is missing"),
        (lambda mean, lv: 0.5 * (mean**2 + (lv / 2).exp() - 1 - lv).mean(), "takes the standard"),
        (lambda mean, lv: 0.5 * (mean**2 + (2 * lv).exp() - 1 - lv).mean(), "variance squared"),
        (lambda mean, lv: 0.5 * (mean**2 + lv.exp() - 1 - lv / 2).mean(), "is halved"),
        (lambda mean, lv: 0.5 * (mean + lv.exp() - 1 - lv).mean(), "not squared"),
        (lambda mean, lv: kl(mean, lv).mean().item(), "return a tensor; .item()"),
        (lambda mean, lv: kl(mean, lv).mean().detach(), "or detach cuts the gradient"),
    ],
    "normalise": [
        (lambda z, m, s: (z - column(m)) * column(s), "multiplies"),
        (lambda z, m, s: z / column(s) - column(m), "shifts after it scales"),
        (lambda z, m, s: (z + column(m)) / column(s), "the mean is added"),
        (lambda z, m, s: z - column(m), "does not scale"),
        (lambda z, m, s: z / column(s), "does not shift"),
        (lambda z, m, s: (z - column(m)) / column(s) ** 2, "divides by the variance"),
        (lambda z, m, s: (z - m) / s, "along the width"),
        (lambda z, m, s: (z - m[:, None]) / s[:, None], "along the height"),
        (lambda z, m, s: z * column(s) + column(m), "undoes the normalising"),
    ],
    "quantise": [
        (lambda rows, book: book[torch.cdist(rows, book).argmax(1)], "farthest"),
        (lambda rows, book: book[(rows @ book.T).argmax(1)], "largest dot product"),
        (lambda rows, book: book[(rows @ book.T).argmin(1)], "smallest dot product"),
        (lambda rows, book: torch.cdist(rows, book).argmin(1), "numbers of the codes"),
        (lambda rows, book: rows, "as they went in"),
        (lambda rows, book: rows + nearest(rows, book), "adds code and row"),
        (lambda rows, book: nearest(rows, book), "no gradient reaches the rows"),
        (
            lambda rows, book: nearest(rows, book) + rows - rows.detach(),
            "also reaches the codebook",
        ),
    ],
}
