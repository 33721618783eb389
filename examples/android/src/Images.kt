package ensemble

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min

/** Bits after the point of a weight. */
private const val PRECISION = 22

/** The weights of the inputs from [first] on, for one output. */
private class Filter(val first: Int, val factors: IntArray)

/**
 * An image as a network takes it, equal to `larq-ensemble predict`'s: cropped in the middle to the
 * network's aspect ratio and resized by antialiased bilinear interpolation in fixed point, as
 * Pillow. (`Bitmap.createScaledBitmap` doesn't antialias.)
 *
 * @param pixels ARGB, of `Bitmap.getPixels`; turn the bitmap as its EXIF orientation says before.
 * @param width of the image.
 * @param height of the image.
 * @param shape (height, width, channels) of the network, 1 or 3 channels.
 * @return values from 0 to 255.
 */
fun fit(pixels: IntArray, width: Int, height: Int, shape: List<Int>): FloatArray {
    val (toHeight, toWidth, channels) = shape
    val ratio = toWidth.toDouble() / toHeight
    val own = width.toDouble() / height
    val cropWidth = if (own > ratio) ratio * height else width.toDouble()
    val cropHeight = if (own < ratio) width / ratio else height.toDouble()
    val left = (width - cropWidth) * 0.5
    val top = (height - cropHeight) * 0.5
    val across = filters(width, left, left + cropWidth, toWidth)
    val down = filters(height, top, top + cropHeight, toHeight)

    val narrow = IntArray(height * toWidth * channels)
    for (y in 0 until height) for (x in 0 until toWidth) for (c in 0 until channels) {
        val filter = across[x]
        narrow[(y * toWidth + x) * channels + c] =
            weighted(filter) { channel(pixels[y * width + filter.first + it], c, channels) }
    }
    return FloatArray(toHeight * toWidth * channels) { at ->
        val row = toWidth * channels
        val filter = down[at / row]
        weighted(filter) { narrow[(filter.first + it) * row + at % row] }.toFloat()
    }
}

private inline fun weighted(filter: Filter, value: (Int) -> Int): Int {
    var sum = 1 shl (PRECISION - 1)
    for (i in filter.factors.indices) sum += filter.factors[i] * value(i)
    return sum shr PRECISION
}

/** Red, green or blue, or grey by ITU-R 601-2 in Pillow's integers. */
private fun channel(color: Int, c: Int, channels: Int): Int {
    val red = color shr 16 and 255
    val green = color shr 8 and 255
    val blue = color and 255
    if (channels == 1) return (19595 * red + 38470 * green + 7471 * blue + 0x8000) shr 16
    return if (c == 0) red else if (c == 1) green else blue
}

/** A triangle filter for each output; Pillow takes the crop as float32. */
private fun filters(size: Int, start: Double, end: Double, outputs: Int): List<Filter> {
    val from = start.toFloat()
    val scale = (end.toFloat() - from).toDouble() / outputs
    val support = max(scale, 1.0)
    return List(outputs) { output ->
        val center = from + (output + 0.5) * scale
        val first = max((center - support + 0.5).toInt(), 0)
        val last = min((center + support + 0.5).toInt(), size)
        val raw = DoubleArray(last - first) { i ->
            max(1 - abs((first + i - center + 0.5) / support), 0.0)
        }
        val sum = raw.sum()
        Filter(first, IntArray(raw.size) { (0.5 + raw[it] / sum * (1 shl PRECISION)).toInt() })
    }
}
