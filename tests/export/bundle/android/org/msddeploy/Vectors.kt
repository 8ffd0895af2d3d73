package org.msddeploy

import java.awt.image.IndexColorModel
import java.io.ByteArrayInputStream
import java.io.File
import java.security.MessageDigest
import javax.imageio.ImageIO
import javax.imageio.metadata.IIOMetadataNode

/** The folder of the specification, with `vectors/` that `msd vectors` wrote. */
internal val SPEC = File(System.getProperty("msddeploy.spec"))
internal val VECTORS = File(SPEC, "vectors")

internal fun jsonOf(file: File): Json = Json.parse(file.readBytes(), file.name)

internal fun sha256Of(content: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }

internal val TOKENIZER by lazy { Tokenizer.read(File(VECTORS, "text.json").readBytes()) }

/** Returns the bytes that a test allocates: a bound of the memory that it takes. */
internal fun allocatedBytes(action: () -> Unit): Long {
    val threads = java.lang.management.ManagementFactory.getThreadMXBean()
        as com.sun.management.ThreadMXBean
    val before = threads.currentThreadAllocatedBytes
    action()
    return threads.currentThreadAllocatedBytes - before
}

internal fun noise(vector: Json): Picture {
    val sides = 1..10_000
    val width = vector["width"].int(sides)
    val height = vector["height"].int(sides)
    val channels = vector["channels"].int(1..4)
    var value = vector["seed"].int(sides).toLong()
    val bytes = ByteArray(width * height * channels) {
        value = (1_664_525 * value + 1_013_904_223) % (1L shl 32)
        (value shr 24).toByte()
    }
    return Picture.ofBytes(bytes, width, height, channels, vector["orientation"].int(1..8))
}

/** Returns the stored pixels of a lossless file, with the transparent colour of a PNG. */
internal fun decode(file: ByteArray, orientation: Int = 1): Picture {
    val input = ImageIO.createImageInputStream(ByteArrayInputStream(file))
    val reader = ImageIO.getImageReaders(input).next()
    reader.input = input
    val image = reader.read(0)
    val metadata = reader.getImageMetadata(0)
    val transparent = transparentColour(metadata.getAsTree(metadata.nativeMetadataFormatName))
    val raster = image.raster
    val palette = image.colorModel as? IndexColorModel
    val shift = image.colorModel.getComponentSize(0) - 8
    val sample = IntArray(raster.numBands)
    return Picture(image.width, image.height, orientation) { into, left, top, across, down ->
        for (index in 0 until across * down) {
            raster.getPixel(left + index % across, top + index / across, sample)
            into[index] = when {
                palette != null -> palette.getRGB(sample[0])
                else -> {
                    val isGrey = sample.size < 3
                    val colours = IntArray(3) { if (isGrey) sample[0] else sample[it] }
                    val stored = if (isGrey) listOf(sample[0]) else colours.toList()
                    val opacity = when {
                        stored == transparent -> 0
                        sample.size % 2 == 0 -> sample.last() shr shift
                        else -> 255
                    }
                    colours.fold(opacity) { pixel, value -> pixel shl 8 or (value shr shift) }
                }
            }
        }
    }
}

private fun transparentColour(metadata: org.w3c.dom.Node): List<Int>? {
    val root = metadata as IIOMetadataNode
    val grey = root.getElementsByTagName("tRNS_Grayscale").item(0)?.attributes
    if (grey != null) return listOf(grey.getNamedItem("gray").nodeValue.toInt())
    val rgb = root.getElementsByTagName("tRNS_RGB").item(0)?.attributes ?: return null
    return listOf("red", "green", "blue").map { rgb.getNamedItem(it).nodeValue.toInt() }
}
