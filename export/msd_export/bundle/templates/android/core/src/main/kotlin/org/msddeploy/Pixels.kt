package org.msddeploy

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

private const val OPAQUE = 255
private const val WHITE = 255
private const val FRACTION_BITS = 22
private const val ONE = 1 shl FRACTION_BITS
private const val HALF = 1 shl (FRACTION_BITS - 1)

// 1 MB of stored pixels at a time.
private const val BLOCK_PIXELS = 1 shl 18

/** The stored pixels of a decoded image, read in blocks, so that a photo is not copied whole. */
public fun interface PixelSource {
    /**
     * Writes a block as ARGB, 8 bits each, row by row without gaps, as
     * `bitmap.getPixels(into, 0, width, x, y, width, height)` does on Android.
     *
     * @param into At least [width] * [height] long.
     */
    public fun read(into: IntArray, x: Int, y: Int, width: Int, height: Int)
}

/**
 * A decoded image before its orientation is applied.
 *
 * @property width Stored pixels across.
 * @property height Stored pixels down.
 * @property orientation That of EXIF or XMP, 1 to 8; any other value means upright.
 * @property isPremultiplied Whether colours are multiplied by their opacity and rounded to the
 *   nearest integer. Over white they become the same pixels as straight colours.
 * @param onClose Frees the pixels when the image is closed.
 */
public class Picture(
    public val width: Int,
    public val height: Int,
    public val orientation: Int = 1,
    public val isPremultiplied: Boolean = false,
    private val onClose: () -> Unit = {},
    private val source: PixelSource,
) : AutoCloseable {
    init {
        if (width < 1 || height < 1) {
            throw BundleException("Image of $width by $height pixels. Decode it again.")
        }
    }

    /** Frees the pixels, which must not be read afterwards. */
    override fun close() {
        onClose()
    }

    /** Reads a block of stored pixels, each as 0xRRGGBB over white in the lower 24 bits. */
    internal fun readOverWhite(into: IntArray, x: Int, y: Int, width: Int, height: Int) {
        source.read(into, x, y, width, height)
        for (index in 0 until width * height) {
            val pixel = into[index]
            val opacity = pixel ushr 24
            if (opacity != OPAQUE) {
                into[index] = packed(
                    overWhite(red(pixel), opacity),
                    overWhite(green(pixel), opacity),
                    overWhite(blue(pixel), opacity),
                )
            }
        }
    }

    private fun overWhite(value: Int, opacity: Int): Int =
        if (isPremultiplied) {
            min(value + WHITE - opacity, WHITE)
        } else {
            (value * opacity + WHITE * (OPAQUE - opacity) + 127) / 255
        }

    public companion object {
        /**
         * Returns an image of bytes, row by row without gaps.
         *
         * @param channels 1 (grey), 3 (RGB) or 4 (RGB and opacity, not premultiplied).
         */
        public fun ofBytes(
            bytes: ByteArray,
            width: Int,
            height: Int,
            channels: Int,
            orientation: Int = 1,
        ): Picture {
            val size = 1L * width * height * channels
            if (channels !in setOf(1, 3, 4) || bytes.size.toLong() != size) {
                throw BundleException(
                    "Image of $width by $height pixels: $channels channels, ${bytes.size} bytes." +
                        " Pass 1, 3 or 4 channels and a byte for each of every pixel.",
                )
            }
            val second = if (channels == 1) 0 else 1
            return Picture(width, height, orientation) { into, left, top, across, down ->
                for (y in 0 until down) {
                    for (x in 0 until across) {
                        val at = ((top + y) * width + left + x) * channels
                        val opacity = if (channels == 4) bytes[at + 3].toInt() and 255 else OPAQUE
                        into[y * across + x] = opacity shl 24 or packed(
                            bytes[at].toInt() and 255,
                            bytes[at + second].toInt() and 255,
                            bytes[at + 2 * second].toInt() and 255,
                        )
                    }
                }
            }
        }
    }
}

/** How an image of another aspect ratio is handled: padded with white, or cropped. */
public enum class ResizeMode(internal val key: String) { FIT("fit"), CROP("crop") }

/**
 * How an image becomes a model's input, as preprocess.json has it.
 *
 * @property height Height of the result in pixels.
 * @property width Width of the result in pixels.
 * @property mode Whether the image is padded or cropped.
 * @property maxPixels The most pixels of an image.
 */
public class ImageSpec internal constructor(
    public val height: Int,
    public val width: Int,
    public val mode: ResizeMode,
    public val maxPixels: Int = MAX_PIXELS,
) {
    /**
     * Returns the model's input of an image: upright, over white, resized, padded or cropped.
     *
     * Computes no other pixels. Memory: about 1 MB for a block of stored rows, or one row if that
     * is longer; 12 bytes for each pixel of the result, and 4 MB if the image is turned by 90
     * degrees.
     *
     * @return RGB, uint8 `[height, width, 3]`.
     * @throws BundleException The image has more than [maxPixels] pixels.
     */
    public fun pixels(picture: Picture): ByteArray {
        checkSize(picture.width, picture.height)
        val turn = picture.orientation
        val isTurned = turn in 5..8
        val uprightWidth = if (isTurned) picture.height else picture.width
        val uprightHeight = if (isTurned) picture.width else picture.height
        val isWider = uprightWidth.toLong() * height > uprightHeight.toLong() * width
        var scaledWidth = width.toLong()
        var scaledHeight = height.toLong()
        if (isWider == (mode == ResizeMode.FIT)) {
            scaledHeight = scaled(uprightHeight, width, uprightWidth)
        } else {
            scaledWidth = scaled(uprightWidth, height, uprightHeight)
        }
        val horizontal = Side(uprightWidth, scaledWidth, width, isReversed = turn in MIRRORED)
        val vertical = Side(uprightHeight, scaledHeight, height, isReversed = turn in UPENDED)
        val scaled = if (isTurned) {
            resizeTurned(picture, horizontal, vertical)
        } else {
            resize(picture, horizontal, vertical)
        }
        val left = (width - horizontal.count) / 2
        val top = (height - vertical.count) / 2
        val result = ByteArray(height * width * 3) { WHITE.toByte() }
        for (y in 0 until vertical.count) {
            for (x in 0 until horizontal.count) {
                val at = 3 * ((top + y) * width + left + x)
                val pixel = scaled[y * horizontal.count + x]
                result[at] = red(pixel).toByte()
                result[at + 1] = green(pixel).toByte()
                result[at + 2] = blue(pixel).toByte()
            }
        }
        return result
    }

    /**
     * Returns by what a decoder divides the sides of an image, such as `inSampleSize` of Android:
     * 2 for a JPEG of more than 89,478,485 pixels, otherwise 1.
     *
     * @param width Pixels across in the file.
     * @param height Pixels down in the file.
     * @throws BundleException The image then has more than [maxPixels] pixels.
     */
    public fun sampleSize(width: Int, height: Int, isJpeg: Boolean): Int {
        val isHalved = isJpeg && width.toLong() * height > MAX_PIXELS
        if (!isHalved) {
            checkSize(width, height)
            return 1
        }
        // Rounded up, without the overflow of (side + 1) / 2.
        checkSize(width - width / 2, height - height / 2)
        return 2
    }

    private fun checkSize(width: Int, height: Int) {
        if (width.toLong() * height > maxPixels) {
            throw BundleException(
                "Image of $width by $height pixels: more than $maxPixels." +
                    " Pass it at a lower resolution.",
            )
        }
    }

    public companion object {
        private const val MAX_PIXELS = 89_478_485
        private val MIRRORED = setOf(2, 3, 6, 7)
        private val UPENDED = setOf(3, 4, 7, 8)
        private val SIDES = 1..8192

        /**
         * Reads `image` of preprocess.json.
         *
         * @throws BundleException It is not JSON, states another preprocessing than this
         *   library's, or a key is missing or has a wrong value.
         */
        public fun read(content: ByteArray): ImageSpec {
            val json = Json.parse(content, "preprocess.json")
            json["schema_version"].expect(1L)
            val image = json["image"]
            image["resize"].expect("pillow-bilinear-antialiased-uint8")
            image["orientation"].expect("exif")
            image["background"].expect(listOf(255L, 255L, 255L))
            image["color"].expect("RGB")
            image["dtype"].expect("uint8")
            image["normalization"].expect("inside the model")
            val sides = image["size"].items().map { it.int(SIDES) }
            if (sides.size != 2) image["size"].fail("is not a height and a width")
            val name = image["mode"].text()
            val mode = ResizeMode.entries.find { it.key == name }
                ?: image["mode"].fail("is \"$name\", not fit or crop")
            val maxPixels = image.find("max_pixels")?.int(1..Int.MAX_VALUE) ?: MAX_PIXELS
            return ImageSpec(sides[0], sides[1], mode, maxPixels)
        }

        /** Returns side * target / other, rounded half up, and at least 1. */
        private fun scaled(side: Int, target: Int, other: Int): Long =
            max(1L, (2L * side * target + other) / (2L * other))
    }
}

/** Returns the scaled pixels of an image whose stored rows are upright rows. */
private fun resize(picture: Picture, horizontal: Side, vertical: Side): IntArray {
    val sums = Sums(vertical, horizontal.count)
    val most = rowsOfBlock(vertical, horizontal.reach)
    val block = IntArray(most * horizontal.reach)
    for (first in 0 until vertical.reach step most) {
        val rows = min(most, vertical.reach - first)
        val y = vertical.firstStored + first
        picture.readOverWhite(block, horizontal.firstStored, y, horizontal.reach, rows)
        sums.add(resizedRows(block, rows, horizontal), first, rows)
    }
    return sums.pixels()
}

/**
 * Returns the scaled pixels of an image whose stored columns are upright rows.
 *
 * The upright horizontal pass, along stored columns, comes first here as well. It takes so many
 * columns at a time that their results fill a block.
 */
private fun resizeTurned(picture: Picture, horizontal: Side, vertical: Side): IntArray {
    val sums = Sums(vertical, horizontal.count)
    val most = rowsOfBlock(vertical, horizontal.count)
    for (first in 0 until vertical.reach step most) {
        val columns = min(most, vertical.reach - first)
        val x = vertical.firstStored + first
        sums.add(turned(resizedColumns(picture, x, columns, horizontal), columns), first, columns)
    }
    return sums.pixels()
}

/** Returns stored columns resized to [Side.count] pixels each. */
private fun resizedColumns(picture: Picture, x: Int, columns: Int, side: Side): IntArray {
    val sums = Sums(side, columns)
    val most = rowsOfBlock(side, columns)
    val block = IntArray(most * columns)
    for (first in 0 until side.reach step most) {
        val rows = min(most, side.reach - first)
        picture.readOverWhite(block, x, side.firstStored + first, columns, rows)
        sums.add(block, first, rows)
    }
    return sums.pixels()
}

/** Returns the pixels of rows column by column. */
private fun turned(pixels: IntArray, width: Int): IntArray {
    val height = pixels.size / width
    return IntArray(pixels.size) { pixels[it % height * width + it / height] }
}

/** Returns how many rows along a side are handled at a time. */
private fun rowsOfBlock(side: Side, rowLength: Int): Int =
    min(side.reach, max(1, BLOCK_PIXELS / rowLength))

/** Resizes along rows of [Side.reach] pixels. */
private fun resizedRows(block: IntArray, rows: Int, side: Side): IntArray {
    val result = IntArray(rows * side.count)
    val step = if (side.isReversed) -1 else 1
    for (target in 0 until side.count) {
        val start = side.starts[target]
        val weights = IntArray(side.ends[target] - start) { side.weight(target, start + it) }
        for (row in 0 until rows) {
            var at = row * side.reach + side.storedIndex(start)
            var red = HALF
            var green = HALF
            var blue = HALF
            for (weight in weights) {
                val pixel = block[at]
                red += weight * red(pixel)
                green += weight * green(pixel)
                blue += weight * blue(pixel)
                at += step
            }
            result[row * side.count + target] = rounded(red, green, blue)
        }
    }
    return result
}

/**
 * The weighted sums of a resize along columns, to which blocks of rows are added.
 *
 * 32 bits are enough for a sum: rounding at most doubles a weight, and 2 * 2^22 * 255 + 2^21 is
 * less than 2^31.
 *
 * @param rowLength Pixels of a row.
 */
private class Sums(private val side: Side, private val rowLength: Int) {
    private val sums = IntArray(side.count * rowLength * 3) { HALF }

    fun add(block: IntArray, firstRow: Int, rows: Int) {
        val stored = side.positions(firstRow, rows)
        for (target in 0 until side.count) {
            val first = max(side.starts[target], stored.first)
            val last = min(side.ends[target] - 1, stored.last)
            for (position in first..last) {
                val start = (side.storedIndex(position) - firstRow) * rowLength
                add(block, start, side.weight(target, position), target)
            }
        }
    }

    private fun add(block: IntArray, start: Int, weight: Int, target: Int) {
        var at = target * rowLength * 3
        for (index in start until start + rowLength) {
            val pixel = block[index]
            sums[at++] += weight * red(pixel)
            sums[at++] += weight * green(pixel)
            sums[at++] += weight * blue(pixel)
        }
    }

    fun pixels(): IntArray = IntArray(side.count * rowLength) {
        rounded(sums[3 * it], sums[3 * it + 1], sums[3 * it + 2])
    }
}

/**
 * The weights of a resize along one side of the upright image, for the pixels that are kept.
 *
 * @param size Pixels before.
 * @param target Pixels of the whole scaled side.
 * @param kept The most pixels that are kept, from the middle of the scaled side.
 * @property isReversed Whether pixels are stored in reverse order.
 */
private class Side(
    private val size: Int,
    target: Long,
    kept: Int,
    val isReversed: Boolean,
) {
    /** The number of target pixels. */
    val count: Int = min(target, kept.toLong()).toInt()

    /** By target pixel, the first pixel with a weight, and the end of them. */
    val starts = IntArray(count)
    val ends = IntArray(count)

    private val firstTarget = max(0L, (target - kept) / 2)
    private val scale = size.toDouble() / target
    private val support = max(1.0, scale)
    private val totals = DoubleArray(count)

    init {
        for (index in 0 until count) {
            val centre = centre(index)
            starts[index] = max(0, (centre - support + 0.5).toInt())
            ends[index] = min(size.toDouble(), centre + support + 0.5).toInt()
            for (position in starts[index] until ends[index]) {
                totals[index] += triangle(index, position)
            }
        }
    }

    /** The number of pixels with a weight for any target pixel. */
    val reach: Int = ends.last() - starts.first()

    /** The stored index of the first of them. */
    val firstStored: Int = if (isReversed) size - ends.last() else starts.first()

    /** Returns the stored index of a pixel, from [firstStored] on. */
    fun storedIndex(position: Int): Int =
        if (isReversed) ends.last() - 1 - position else position - starts.first()

    /** Returns the pixels at some stored indexes, from [firstStored] on. */
    fun positions(index: Int, length: Int): IntRange {
        val first = if (isReversed) ends.last() - index - length else starts.first() + index
        return first until first + length
    }

    /** Returns the weight of a pixel for a target pixel, with 22 bits after the point. */
    fun weight(target: Int, position: Int): Int =
        floor(triangle(target, position) / totals[target] * ONE + 0.5).toInt()

    private fun triangle(target: Int, position: Int): Double =
        max(0.0, 1.0 - abs((position + 0.5 - centre(target)) / support))

    private fun centre(target: Int): Double = (firstTarget + target + 0.5) * scale
}

private fun red(pixel: Int) = pixel shr 16 and 255

private fun green(pixel: Int) = pixel shr 8 and 255

private fun blue(pixel: Int) = pixel and 255

private fun packed(red: Int, green: Int, blue: Int) = red shl 16 or (green shl 8) or blue

private fun rounded(red: Int, green: Int, blue: Int) = packed(
    min(red shr FRACTION_BITS, 255),
    min(green shr FRACTION_BITS, 255),
    min(blue shr FRACTION_BITS, 255),
)
