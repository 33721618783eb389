// Pixels of an image as larq_ensemble.runtime.images gives them: cropped in the middle to the
// network's aspect ratio, resized by antialiased bilinear interpolation in fixed point, as Pillow.

const PRECISION = 22; // bits after the point of a weight

/**
 * The pixels of a picture at its own size.
 *
 * @param {ImageBitmap|HTMLVideoElement} picture
 * @returns {{data: Uint8ClampedArray, width: number, height: number}} RGBA.
 */
export function pixelsOf(picture) {
  const width = picture.videoWidth ?? picture.width;
  const height = picture.videoHeight ?? picture.height;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const isTransparent = data.some((value, i) => i % 4 === 3 && value < 255);
  return { data: (isTransparent && straightPixels(picture, width, height)) || data, width, height };
}

/**
 * The colors of transparent pixels: a 2D canvas loses them, a texture doesn't.
 *
 * @returns {Uint8Array|null} RGBA; null where WebGL can't do it.
 */
function straightPixels(picture, width, height) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return data;
}

/** Decodes an image file, turned as its EXIF orientation says, colors as they are stored. */
export const decode = (blob) =>
  createImageBitmap(blob, {
    imageOrientation: "from-image",
    premultiplyAlpha: "none",
    colorSpaceConversion: "none",
  });

/**
 * Crops and resizes pixels to the input of a network.
 *
 * @param {{data: ArrayLike<number>, width: number, height: number}} pixels RGBA.
 * @param {number[]} shape [height, width, channels], 1 or 3 channels.
 * @returns {Uint8Array} [height, width, channels].
 */
export function fit(pixels, [height, width, channels]) {
  const source = withChannels(pixels, channels);
  const [left, top, cropWidth, cropHeight] = crop(pixels.width, pixels.height, width / height);
  const across = weights(pixels.width, left, left + cropWidth, width);
  const down = weights(pixels.height, top, top + cropHeight, height);
  const row = pixels.width * channels;
  const narrow = new Uint8Array(pixels.height * width * channels);
  resample(source, narrow, across, pixels.height, channels, row, channels, width * channels, channels);
  const fitted = new Uint8Array(height * width * channels);
  resample(narrow, fitted, down, width * channels, 1, 1, width * channels, 1, width * channels);
  return fitted;
}

/** [left, top, width, height] of the largest crop in the middle with an aspect ratio. */
export function crop(width, height, ratio) {
  const own = width / height;
  const cropWidth = own > ratio ? ratio * height : width;
  const cropHeight = own < ratio ? width / ratio : height;
  return [(width - cropWidth) * 0.5, (height - cropHeight) * 0.5, cropWidth, cropHeight];
}

/** RGB, or grey by ITU-R 601-2 in Pillow's integers. */
function withChannels({ data, width, height }, channels) {
  const values = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; to < values.length; from += 4) {
    const [red, green, blue] = [data[from], data[from + 1], data[from + 2]];
    if (channels === 1) {
      values[to++] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16;
    } else {
      values[to++] = red;
      values[to++] = green;
      values[to++] = blue;
    }
  }
  return values;
}

/**
 * The weights of a triangle filter for each output: {first, factors}, factors in fixed point.
 *
 * @param {number} size of the input.
 * @param {number} start of the crop.
 * @param {number} end of the crop.
 * @param {number} outputs
 */
function weights(size, start, end, outputs) {
  const from = Math.fround(start); // Pillow takes the crop as float32
  const scale = Math.fround(Math.fround(end) - from) / outputs;
  const support = Math.max(scale, 1);
  return Array.from({ length: outputs }, (_, output) => {
    const center = from + (output + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), size);
    const raw = Array.from({ length: last - first }, (_, i) =>
      Math.max(1 - Math.abs((first + i - center + 0.5) / support), 0)
    );
    const sum = raw.reduce((total, value) => total + value, 0);
    return { first, factors: raw.map((value) => Math.trunc(0.5 + (value / sum) * 2 ** PRECISION)) };
  });
}

/** Resamples along one axis; steps are distances in the arrays. */
function resample(from, to, filters, lines, values, lineFrom, stepFrom, lineTo, stepTo) {
  for (let line = 0; line < lines; line++) {
    filters.forEach(({ first, factors }, output) => {
      for (let value = 0; value < values; value++) {
        let sum = 1 << (PRECISION - 1);
        let at = line * lineFrom + first * stepFrom + value;
        for (const factor of factors) {
          sum += from[at] * factor;
          at += stepFrom;
        }
        to[line * lineTo + output * stepTo + value] = sum >> PRECISION;
      }
    });
  }
}
