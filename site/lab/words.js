// What one sees, in plain words: of each moment of a run.

const percent = (share) => `${Math.round(100 * share)} %`;
const of = (side) => `${side}×${side}`;

// {where, words}; manifest: of the model, moment: of planOf, painted: the stage that was painted.
export function explain(manifest, moment, painted = null) {
  const { stage, step, numSteps, t } = moment;
  const { resolution: side, window } = manifest.stages[stage];
  const last = manifest.stages.length - 1;
  const before = stage ? manifest.stages[stage - 1] : null;
  const factor = manifest.downsample_factor;
  if (stage === last && step === numSteps) {
    const whole = side * factor;
    return {
      where: "Done",
      words: `No noise is left. The decoder turns the ${of(side)} latent into an image of ${of(whole)} `
        + "pixels; what lies between them it has learned from images. Move the slider to see how this one "
        + "came about.",
    };
  }
  if (step === 0 && !before) {
    return {
      where: "Stage 1, before its first step",
      words: `All is noise yet. The transformer has looked at the class once and written down, for each `
        + `of its few tokens, what belongs there. A small flow model will now follow these notes.`,
    };
  }
  if (step === 0) {
    const yours = painted === stage - 1 ? "Your painting" : `The ${of(before.resolution)} latent`;
    return {
      where: `From stage ${stage} to stage ${stage + 1}`,
      words: `${yours} is stretched to ${of(side)} and gets a little fresh noise, so the share of image `
        + `falls from ${percent(before.window[1])} to ${percent(t)}. The transformer looks at all that is `
        + "there and writes new notes, one per token, in a single call.",
    };
  }
  if (step === numSteps) {
    return {
      where: `Stage ${stage + 1} ends`,
      words: `It stops at ${percent(window[1])} image, on purpose: what is missing are details, and those `
        + "are decided on a finer grid. Below the latent is what it points to already.",
    };
  }
  return {
    where: `Stage ${stage + 1}, step ${step} of ${numSteps}`,
    words: `The flow model has moved the ${of(side)} latent a step from noise towards an image: `
      + `${percent(t)} of it is image now. Below it is the picture that it would become if it went `
      + "straight on from here.",
  };
}
