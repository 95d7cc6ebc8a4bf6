/* From a picture to the frame that the encoder takes: the same numbers as mixqsam.deployed.image, which resizes with
   Pillow. Pillow's bilinear filter is a triangle as wide as the reduction, in two passes that round to bytes: rows
   first (Pillow 13 takes columns first for some tall pictures, where single values then differ by one). */

/* Bits behind the point of Pillow's weights. */
const POINT = 22;

/** Height and width of an image whose longer side becomes `side`; see mixqsam.resize.resized_size. */
export function resizedSize(height, width, side) {
  const scale = side / Math.max(height, width);
  return [Math.max(1, Math.floor(height * scale + 0.5)), Math.max(1, Math.floor(width * scale + 0.5))];
}

/** For each output place: where its inputs begin, and their weights in whole numbers. */
function weightsOf(size, target) {
  const scale = size / target;
  const support = Math.max(scale, 1), slope = 1 / support;
  return Array.from({ length: target }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const shares = [];
    for (let at = first; at < last; at++) shares.push(Math.max(0, 1 - Math.abs((at - centre + 0.5) * slope)));
    const sum = shares.reduce((one, other) => one + other, 0);
    return { first, weights: Int32Array.from(shares, (share) => Math.trunc((share / sum) * 2 ** POINT + 0.5)) };
  });
}

/** One pass along lines: `count` lines that begin at `line`·index, of places `step` apart, three channels each. */
function resizeLines(source, result, weights, { count, line, step, targetLine, targetStep }) {
  for (let index = 0; index < count; index++) {
    for (let place = 0; place < weights.length; place++) {
      const { first, weights: own } = weights[place];
      let red = 1 << (POINT - 1), green = red, blue = red;
      for (let k = 0, at = index * line + first * step; k < own.length; k++, at += step) {
        red += source[at] * own[k];
        green += source[at + 1] * own[k];
        blue += source[at + 2] * own[k];
      }
      const to = index * targetLine + place * targetStep;
      result[to] = red >> POINT;
      result[to + 1] = green >> POINT;
      result[to + 2] = blue >> POINT;
    }
  }
}

/** RGBA of a canvas → RGB. */
function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

/** RGB [height, width, 3] of bytes at another size. */
export function resize(rgb, height, width, newHeight, newWidth) {
  let pixels = rgb;
  if (newWidth !== width) {
    const wide = new Uint8ClampedArray(height * newWidth * 3);
    const steps = { count: height, line: 3 * width, step: 3, targetLine: 3 * newWidth, targetStep: 3 };
    resizeLines(pixels, wide, weightsOf(width, newWidth), steps);
    pixels = wide;
  }
  if (newHeight !== height) {
    const high = new Uint8ClampedArray(newHeight * newWidth * 3);
    const steps = { count: newWidth, line: 3, step: 3 * newWidth, targetLine: 3, targetStep: 3 * newWidth };
    resizeLines(pixels, high, weightsOf(height, newHeight), steps);
    pixels = high;
  }
  return pixels;
}

/** RGBA of a picture → float32 [1, 3, side, side]: scaled, normalised, zeros at the right and below. */
export function makeFrame(rgba, height, width, image) {
  const [newHeight, newWidth] = resizedSize(height, width, image.longest);
  const pixels = resize(withoutAlpha(rgba), height, width, newHeight, newWidth);
  const frame = new Float32Array(3 * image.side ** 2);
  for (let channel = 0; channel < 3; channel++) {
    /* In float32, as numpy computes it. */
    const [factor, mean, std] = [image.factor, image.mean[channel], image.std[channel]].map(Math.fround);
    const values = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(Math.fround(byte * factor) - mean) / std);
    for (let row = 0; row < newHeight; row++) {
      const to = channel * image.side ** 2 + row * image.side;
      for (let column = 0, from = 3 * row * newWidth + channel; column < newWidth; column++, from += 3) frame[to + column] = values[pixels[from]];
    }
  }
  return frame;
}

/** Height and width that the decoder draws masks at, which keeps thin images; see ExportedPredictor. */
export function drawnSize(height, width, longest) {
  const least = Math.ceil(Math.max(height, width) / (2 * longest));
  return [Math.max(least, height), Math.max(least, width)];
}
