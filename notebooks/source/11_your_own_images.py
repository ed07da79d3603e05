# %% [markdown]
# # 11. Your own images
#
# From a folder of pictures to a model of your own, and to a page that shows it: the kit's commands, one after the other, with what
# each of them is worth. It begins with the weights of a shipped model, so that minutes on a CPU are enough.
#
# **After it you can**
# - say what becomes of a picture on its way into a model, and which files of a folder are left out;
# - decide whether a tokenizer fits your pictures, by a number;
# - say what a warm start keeps and what it has to learn;
# - train, evaluate and show a model of your own, from a terminal;
# - tell a model that has learned from one that repeats.
#
# **Before it**: notebook 0; notebooks 1 and 6 say what happens inside.
#
# {{time}}
#
# Nothing here is in the [paper](https://arxiv.org/abs/2412.14170): sizes, recipe and data are this kit's own. The guide
# `docs/guides/own_folder.md` has the same way in short.

# %%
import shlex

import torch

from ecar_lab import load_tokenizer
from ecar_lab.cli.main import main
from ecar_lab.teaching import beside_the_kit, folders, setup
from ecar_lab.teaching.check import own_images as check
from ecar_lab.teaching.explore import own_images as explore

lab = setup(11)

# %% [markdown]
# ## The folder
#
# Write the path of a folder of yours: one folder per class, and pictures of any size and format in them. Left empty, the notebook draws one: a
# thousand little pictures of four classes, of all sizes, and into one of its folders it puts four files of the kind that lie about in folders:
#
# | file | what it is |
# |---|---|
# | `cut-short.jpg` | half of a picture, a download that broke off |
# | `empty.jpg` | nothing |
# | `no-picture.png` | a web page that says "404 Not Found" |
# | `notes.txt` | somebody's notes |
#
# > **Predict.** Which of the four does the kit leave out when it opens the folder, and which only when it reads the pictures?

# %%
MINE = ""
folder = folders.folder(lab, MINE)

# %% [markdown]
# Below, `ecar(...)` runs a command of the kit just as a terminal does. What has been made already is kept: delete the folder
# `runs/notebook-11` to begin anew. (Where the outputs below say *kept*, an earlier run of this notebook had made it.)


# %%
def ecar(line, makes=None, quietly=False):
    """Runs a command line, unless the file or folder that it makes is there; says what it says."""
    print(f"$ ecar {line}")
    if makes is not None and makes.exists():
        print(f"kept: {makes}")
        return
    with explore.terminal() as captured:
        status = main(shlex.split(line))
    if status:
        raise RuntimeError(captured.stderr)
    if not quietly:
        print(captured.stdout)


work = lab.workspace
FOLDER, SIZE = shlex.quote(str(folder)), 32
ecar(f"data {FOLDER} --image-size {SIZE} --look 5000 --out {work}/sheet.png")
explore.contact_sheet(work / "sheet.png")

# %% [markdown]
# <details><summary>Explain</summary>
# Only <code>notes.txt</code> at once: its name says that it is no picture, so nobody opens it. The other three are called like pictures. They
# count as pictures until they are read, then they are skipped and counted, and the first of them is named in a warning. A training goes
# on without them. A set in which <i>no</i> file can be read is refused.
# </details>
#
# ## What the model will see
#
# The shipped `cifar10` model makes images of 32×32 pixels. A picture is scaled by its shorter side, and what sticks out of the middle square is cut
# off.
#
# ### Exercise 11.1: the square that is kept
#
# Return the edges of the largest square in the middle of a picture. Edges may lie on half pixels.
#
# <details><summary>Hint</summary>
# Its side is the shorter one of both. What is too much, <code>width - side</code>, is cut off half at the left and half at the right.
# </details>


# %% tags=["exercise"]
def middle_square(width, height):
    """(left, top, right, bottom) of the largest square in the middle."""
    # SOLUTION 11.1
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
    # END


# %%
middle_square = check.middle_square(middle_square)
with beside_the_kit(middle_square):
    explore.same_pixels(folder, middle_square)
explore.squares(folder, middle_square)

# %% [markdown]
# What matters to you should lie in the middle, and be seen at 32 pixels. A folder of wide landscapes with something at their edge has to be cut by
# hand first. Transparent pictures are laid on white, and of animations the first frame is taken.

# %%
known, names = folders.pictures(folder, "train")  # (N, 3, 32, 32) in [-1, 1]
unseen, _ = folders.pictures(folder, "test")
print(f"{len(known):,} training images, {len(unseen)} held out; classes: {', '.join(names)}")

# %% [markdown]
# ## The tokenizer
#
# The model works on latents (notebook 1), so nothing it draws can be better than what its tokenizer gives back. The shipped one was trained on
# photographs and has never seen a picture of yours. Should you train your own?
#
# > **Predict.** Which gives your pictures back better: the shipped tokenizer, which has seen fifty thousand photographs many times, or one that
# > is trained a little on nothing but your pictures?

# %%
steps, batch = lab.pick((120, 32), (1, 4))
line = f"train tokenizer --preset cifar10 --dataset {FOLDER} --steps {steps} --batch-size {batch}"
ecar(f"{line} --warmup-steps 10 --output {work}/tokenizer", work / "tokenizer" / "final")


def rebuild(tokenizer, images):
    """Held-out images, encoded and decoded."""
    with torch.no_grad():
        return tokenizer.decode(tokenizer.encode(images)).clamp(-1, 1)


some = unseen[torch.randperm(len(unseen), generator=lab.generator())[:100]]
rebuilt = {
    "shipped": rebuild(load_tokenizer("cifar10"), some),
    f"own, {steps} steps": rebuild(load_tokenizer(work / "tokenizer" / "final"), some),
}
explore.reconstructions(some, rebuilt)

# %% [markdown]
# <details><summary>Explain</summary>
# The numbers stand in the caption. A tokenizer learns edges and colours, which are alike in most pictures, so the shipped one carries over to
# other ones, and a short training does not reach it. About 30 dB and more is hard to tell from the original at this size. An own tokenizer is worth its time
# where that number is low (line drawings, text, microscopy), and then it needs thousands of images, and the model has to learn its latents from the
# start: a warm start knows those of its own tokenizer only.
# </details>
#
# We go on with the shipped one.
#
# ## A warm start
#
# `--init-from cifar10` fills the new model with the weights of the shipped one. All of them fit but one table: the class embedding, which has a row
# per class and a last one for *no class*. Classes are known by name: one that the checkpoint has keeps its row, a new one begins with
# the row of no class.
#
# ### Exercise 11.2: the rows that classes begin with
#
# `own` are the names of your classes, `known` those of the checkpoint. Return the number of the checkpoint's row that each class of yours begins
# with, and at the end the one that no class begins with.
#
# <details><summary>Hint</summary>
# No class is the row after all classes: its number is <code>len(known)</code>.
# </details>


# %% tags=["exercise"]
def first_rows(own, known):
    """Rows of the checkpoint's table for each own class, and for no class."""
    # SOLUTION 11.2
    rows = [known.index(name) if name in known else len(known) for name in own]
    return [*rows, len(known)]
    # END


# %%
first_rows = check.first_rows(first_rows)
before = explore.warm_started("cifar10", names, lab.device)
shipped = lab.pipeline("cifar10", plain=False).model
rows = first_rows(list(names), list(shipped.class_names))
with beside_the_kit(first_rows):
    for new, old in zip(before.model.class_embeddings, shipped.class_embeddings, strict=True):
        torch.testing.assert_close(new.weight, old.weight[rows].to(new.weight))
explore.begins_with(names, rows)

# %% [markdown]
# > **Predict.** Not a step has been taken. The same noise, and one image of each class: what will the model draw for a class that it does not know?
# > And is there a class here that it does know?

# %%
steps = lab.pick(None, [2, 1, 1])
images = torch.cat([explore.made(before, [name], 4, num_inference_steps=steps) for name in names])
explore.beginnings(images, names)

# %% [markdown]
# <details><summary>Explain</summary>
# All new classes look alike: they have one and the same row, and it stands for "anything of the ten". In the folder that was drawn here,
# <code>ship</code> is a name that the checkpoint has, so it begins with that row and draws its idea of a ship, a photographed one. It has to learn
# that ships look otherwise now. If you would rather have a class begin anew, give its folder another name.
# </details>
#
# ## Train
#
# The recipe is the preset's but for size: few steps of few images, and the finest stage, which costs most, on every second image only
# (`--stage-strides`). A training that was killed goes on where it was. `--max-minutes` would end it by the clock instead.

# %%
steps, batch = lab.pick((220, 32), (2, 4))
line = f"train model --preset cifar10 --init-from cifar10 --dataset {FOLDER} --output {work}/model"
line += f" --steps {steps} --batch-size {batch} --warmup-steps 20 --stage-strides 1 1 2"
line += " --log-every 10 --save-every 25 --sample-every 0"
ecar(line, work / "model" / "final")
explore.curve(work / "model", len(known))

# %% [markdown]
# Compare with the shipped model: 33 passes over fifty thousand photographs, ten hours of a core. What makes minutes enough here is that the
# warm start knows latents, edges, smooth surfaces and how stages hand over. And that these pictures are simple.

# %%
result = work / "model" / "final"
each, plan = lab.pick((8, ""), (1, " --steps 2 1 1"))
line = f"sample --checkpoint {result} --classes all --per-class {each}{plan}"
ecar(f"{line} --out {work}/grid.png --strip {work}/stages.png")
explore.finished(work / "grid.png", work / "stages.png")

# %% [markdown]
# ## Is it any good?
#
# `ecar evaluate` compares generated images with the held-out ones on the features of a small classifier, which has to be trained first, on your
# pictures. Its distances compare with each other and with nothing else.

# %%
epochs, count = lab.pick((12, 100), (1, 8))
line = f"train features --dataset {FOLDER} --image-size {SIZE} --epochs {epochs}"
ecar(f"{line} --output {work}/features", work / "features")
line = f"evaluate --checkpoint {result} --dataset {FOLDER} --feature-net {work}/features"
line += f" --num-samples {count} --batch-size 50{plan}"
ecar(f"{line} --out {work}/evaluation.json", work / "evaluation.json", quietly=True)
explore.evaluation(work / "evaluation.json")

# %% [markdown]
# Read it from below. Real training images against the held-out ones: the best that one can hope for, and not 0, for there are few. Reconstructions:
# the best that this tokenizer allows. Then the model. *Classified correctly* asks whether the class can be seen, by a classifier which is not always right on
# real images either. All this from one training, on as many images as the table says: a second training would give other numbers, and a
# small lead of one model over another means nothing here (notebook 8).

# %%
explore.whose_is_better()

# %% [markdown]
# ## Learned, or learned by heart?
#
# With few pictures a model can simply keep them. No distance above would tell: copies of training images look very real. So look at the nearest training image of
# each generated one.
#
# ### Exercise 11.3: the nearest training image
#
# `images` are (B, 3, H, W), `known` (N, 3, H, W). The distance is the root of the mean square of the difference over all colour values. Return the number of the nearest
# known image for each of `images`, and how far it is.
#
# <details><summary>Hint</summary>
# <code>torch.cdist</code> of the flattened images gives all distances as roots of <i>sums</i> of squares. <code>min(dim=1)</code> has both values and indices.
# </details>


# %% tags=["exercise"]
def nearest(images, known):
    """(B,) numbers of the nearest known images, and (B,) their RMS distances."""
    # SOLUTION 11.3
    distances = torch.cdist(images.flatten(1), known.flatten(1))
    found = distances.min(dim=1)
    return found.indices, found.values / images[0].numel() ** 0.5
    # END


# %%
nearest = check.nearest(nearest)
with beside_the_kit(nearest):
    numbers, distances = nearest(known[:5] + 0.01, known)
    torch.testing.assert_close(distances, torch.full((5,), 0.01), rtol=0.05, atol=1e-3)
    assert list(numbers) == [0, 1, 2, 3, 4]
mine = explore.loaded(result, lab.device)
count = lab.pick(64, 4)
asked = [names[k % len(names)] for k in range(count)]
how = lab.pick({}, {"num_inference_steps": [2, 1, 1]})
images = explore.made(mine, asked, 7, **how)
explore.nearest_pairs(images, known, nearest(images, known), lab.pick(8, 4))

# %% [markdown]
# Is that near? The held-out images tell: they are real, and nobody has learned them. If generated images lie nearer to the training images than
# these do, they are closer than an honest new picture would be.
#
# ### Exercise 11.4: how often is the generated one nearer?
#
# Compare every generated image with every held-out one, by their distance to the nearest training image: return the share of these pairs in which the generated image is the
# nearer one. Equal distances count half.
#
# <details><summary>Hint</summary>
# <code>made[:, None] &lt; unseen[None]</code> is a table of all pairs.
# </details>


# %% tags=["exercise"]
def nearer_share(made, unseen):
    """Share of pairs in which a generated image is nearer than a held-out one: 0 to 1."""
    # SOLUTION 11.4
    nearer, equal = made[:, None] < unseen[None], made[:, None] == unseen[None]
    return (nearer.double() + 0.5 * equal.double()).mean().item()
    # END


# %% [markdown]
# > **Predict.** What is this share for a perfect model, for one that repeats its training images, and for one that is blurred?

# %%
nearer_share = check.nearer_share(nearer_share)
distance = {"generated": nearest(images, known)[1], "held out": nearest(unseen, known)[1]}
with beside_the_kit(nearer_share):
    ways = [distance["held out"], distance["generated"]]
    torch.testing.assert_close(float(nearer_share(*ways)) + float(nearer_share(*ways[::-1])), 1.0)
    assert float(nearer_share(torch.zeros(3), distance["held out"])) == 1
copies = float(nearer_share(distance["generated"], distance["held out"]))
explore.verdict(distance, copies)

# %% [markdown]
# <details><summary>Explain</summary>
# Perfect: one half, for its images are as new as the held-out ones. Copies: near 1. Blurred or wrong: that depends. A blurred image lies near to the mean of
# many, so it can be <i>nearer</i> to training images than a sharp new one, without being a copy. So a share above one half is a reason to look at Figure 11.8,
# not a verdict: copies show the same picture twice, blur does not. And this distance is over pixels: it does not see a copy that is shifted or mirrored.
# </details>
#
# Look for yourself.

# %%
explore.neighbours(mine, known, nearest, how)

# %%
explore.against_copies()

# %% [markdown]
# ## The page
#
# `ecar app` serves your model in the browser: generate, look inside, intervene, paint a stage. In JupyterLab the next cell starts it, and it runs until the kernel ends.
# It listens on this machine only.

# %%
print(f"$ ecar app --checkpoint {result}")
print(explore.open_app(result) if lab.profile == "full" else "left out in the fast profile")

# %% [markdown]
# To take it along:
#
# | command | what you get |
# |---|---|
# | `ecar app --checkpoint runs/notebook-11/model/final` | this page again, started from a terminal in the folder `notebooks` |
# | `ecar export onnx --checkpoint ... --out my-model` | the model as files that run without PyTorch (`docs/onnx.md`) |
# | `python -m docs.build_lab --checkpoint ... --out build/mine` | a page that runs the model in the visitor's own browser, for any web server; needs npm once (`docs/browser.md`) |
#
# ## Recap
# - A folder becomes squares of 32 pixels; what is no picture is skipped and counted, and said.
# - A tokenizer is judged by what it gives back of held-out pictures. The shipped one often does.
# - A warm start keeps all but the classes; these are known by name, and new ones begin as no class.
# - Distances need held-out images, a feature net and a count, and compare with nothing else.
# - Beside its nearest training image one sees whether a model repeats.
#
# **What breaks if…** a class has five pictures and another one five hundred? Make such a folder and look at the rows of Figure 11.6. And what does `ecar data` say
# of a folder in which all files are broken?
#
# **On**: longer is better: `--max-minutes 60`, without `--stage-strides`. `ecar train turbo` makes your model faster (notebook 10), `ecar doctor runs/notebook-11/model` says what
# a training suffers from, `docs/guides/own_folder.md` has the long way with everything anew.
