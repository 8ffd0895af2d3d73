package org.msddeploy

import java.io.File
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt
import kotlin.random.Random
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

private val preprocess = File(SPEC, "preprocess.json").readText()
private val spec = ImageSpec.read(preprocess.toByteArray())
private val vectors = jsonOf(File(VECTORS, "vectors.json"))

internal fun Tests.pixelsTests() {
    test("noise becomes the pixels that Python computes") {
        val noise = vectors["noise"].items()
        assertEquals(36, noise.size)
        for (vector in noise) assertNoise(spec, vector)
    }

    test("noise becomes the pixels that Python computes in other sizes and by cropping") {
        // Digests of load_pixels in msd_deploy/data/images.py, of the same noise as PNG files.
        for (json in jsonOf(File(SPEC, "noise.json"))["sizes"].items()) {
            val (height, width) = json["size"].items().map { it.int(1..999) }
            val mode = ResizeMode.valueOf(json["mode"].text().uppercase())
            val spec = ImageSpec(height, width, mode)
            for (vector in json["noise"].items()) assertNoise(spec, vector)
        }
    }

    test("lossless files become the pixels that Python computes") {
        val files = vectors["images"].items().filter {
            it["file"].text().run { endsWith(".png") || endsWith(".bmp") || endsWith(".gif") }
        }
        assertEquals(34, files.size)
        for (vector in files) {
            val name = vector["file"].text()
            val turn = Regex("orientation-(\\d)").find(name)?.groupValues?.get(1)
            val orientation = turn?.toInt() ?: 1
            val picture = decode(File(VECTORS, name).readBytes(), orientation)
            val sides = 1..999
            val whole =
                ImageSpec(vector["height"].int(sides), vector["width"].int(sides), ResizeMode.FIT)
            assertEquals(vector["pixels"].text(), sha256Of(whole.pixels(picture)), name)
            assertEquals(vector["model_pixels"].text(), sha256Of(spec.pixels(picture)), name)
        }
    }

    test("any shape and orientation equals a resize of the whole image by the document") {
        val random = Random(7)
        repeat(150) {
            val width = max(1, Math.exp(random.nextDouble(0.0, 6.0)).toInt())
            val height = max(1, Math.exp(random.nextDouble(0.0, 6.0)).toInt())
            val bytes = random.nextBytes(width * height * 4)
            val orientation = random.nextInt(0, 10)
            val mode = ResizeMode.entries.random(random)
            val spec = ImageSpec(random.nextInt(1, 40), random.nextInt(1, 40), mode)
            val picture = Picture.ofBytes(bytes, width, height, 4, orientation)
            val place = "$width by $height, $orientation, $mode ${spec.height}, ${spec.width}"
            assertContentEquals(
                Reference(bytes, width, height, orientation).pixels(spec),
                spec.pixels(picture),
                place,
            )
        }
    }

    test("a turned image that is handled in several parts equals the document's") {
        // 2^18 / 40 columns are handled at a time, and 2^18 / 6,553 rows of them.
        val (width, height) = 16_000 to 50
        val bytes = Random(8).nextBytes(width * height * 3)
        for (orientation in 5..8) {
            for (mode in ResizeMode.entries) {
                val spec = ImageSpec(30, 40, mode)
                val picture = Picture.ofBytes(bytes, width, height, 3, orientation)
                val straight = ByteArray(width * height * 4) {
                    if (it % 4 == 3) -1 else bytes[it / 4 * 3 + it % 4]
                }
                assertContentEquals(
                    Reference(straight, width, height, orientation).pixels(spec),
                    spec.pixels(picture),
                    "$orientation, $mode",
                )
            }
        }
    }

    test("premultiplied colours become those of straight ones") {
        val pairs = (0..255).flatMap { c -> (0..255).map { a -> c to a } }
        fun picture(isPremultiplied: Boolean) =
            Picture(256, 256, isPremultiplied = isPremultiplied) { into, x, y, width, height ->
                for (index in 0 until width * height) {
                    val (c, a) = pairs[(y + index / width) * 256 + x + index % width]
                    val value = if (isPremultiplied) (c * a / 255.0).roundToInt() else c
                    into[index] = a shl 24 or (value shl 16) or (value shl 8) or value
                }
            }
        val whole = ImageSpec(256, 256, ResizeMode.FIT)
        assertContentEquals(whole.pixels(picture(false)), whole.pixels(picture(true)))
    }

    test("a line of a million pixels takes few megabytes") {
        val length = 1_000_000
        for (mode in ResizeMode.entries) {
            for (orientation in listOf(1, 3, 6, 8)) {
                for (isHigh in listOf(true, false)) {
                    val (width, height) = if (isHigh) 1 to length else length to 1
                    val picture = Picture(width, height, orientation) { into, x, y, across, down ->
                        for (index in 0 until across * down) {
                            val at = x + index % across + y + index / across
                            into[index] = -0x1000000 or (at * 251L / length).toInt() * 0x10101
                        }
                    }
                    val spec = ImageSpec(48, 48, mode)
                    var pixels = ByteArray(0)
                    val bytes = allocatedBytes { pixels = spec.pixels(picture) }
                    assertTrue(bytes < 32_000_000, "$bytes bytes, $width, $orientation, $mode")
                    val isUprightHigh = isHigh == (orientation < 5)
                    val isReversed =
                        orientation in if (isUprightHigh) listOf(3, 8) else listOf(3, 6)
                    for (i in 0 until 48) {
                        val at = if (isUprightHigh) i * 48 + 23 else 23 * 48 + i
                        val place = if (isReversed) 47 - i else i
                        val expected = if (mode == ResizeMode.FIT) 250.0 * place / 47 else 125.0
                        val found = pixels[3 * at].toInt() and 255
                        assertEquals(expected, found.toDouble(), 3.0, "$width $orientation $mode")
                    }
                }
            }
        }
    }

    test("a photo takes little more memory than a block of rows") {
        for ((width, height, orientation) in listOf(
            Triple(4000, 3000, 1),
            Triple(4000, 3000, 6),
            // The longest side of a JPEG, and as high as allowed.
            Triple(65_500, 1_366, 6),
        )) {
            val picture = Picture(width, height, orientation) { into, x, y, across, down ->
                for (index in 0 until across * down) into[index] = -0x1000000 or index * 31 + x + y
            }
            val spec = ImageSpec(224, 224, ResizeMode.FIT)
            val bytes = allocatedBytes { spec.pixels(picture) }
            assertTrue(bytes < 32_000_000, "$bytes bytes")
        }
    }

    test("an image with more pixels than allowed is refused and one with as many is not") {
        val small = ImageSpec(4, 4, ResizeMode.FIT, maxPixels = 6)
        small.pixels(Picture.ofBytes(ByteArray(6), 2, 3, 1))
        val error = assertFailsWith<BundleException> {
            small.pixels(Picture.ofBytes(ByteArray(7), 7, 1, 1))
        }
        assertTrue("7 by 1 pixels: more than 6." in error.message!!)
        assertFailsWith<BundleException> { Picture.ofBytes(ByteArray(5), 2, 3, 1) }
        assertFailsWith<BundleException> { Picture.ofBytes(ByteArray(12), 2, 3, 2) }
        assertFailsWith<BundleException> { Picture.ofBytes(ByteArray(0), 0, 3, 1) }
    }

    test("a large JPEG is decoded at half its size, and no other file") {
        val usual = ImageSpec(4, 4, ResizeMode.FIT)
        assertEquals(1, usual.sampleSize(89_478_485, 1, isJpeg = true))
        assertEquals(2, usual.sampleSize(89_478_486, 1, isJpeg = true))
        assertEquals(2, usual.sampleSize(16_320, 12_240, isJpeg = true))
        assertEquals(1, usual.sampleSize(4, 4, isJpeg = true))
        assertEquals(1, usual.sampleSize(4, 4, isJpeg = false))
        val wrong = listOf(
            Triple(89_478_486, 1, false) to "89478486 by 1 pixels",
            Triple(20_001, 20_001, true) to "10001 by 10001 pixels",
            Triple(Int.MAX_VALUE, Int.MAX_VALUE, true) to "1073741824 by 1073741824 pixels",
        )
        for ((file, message) in wrong) {
            val (width, height, isJpeg) = file
            val error = assertFailsWith<BundleException> {
                usual.sampleSize(width, height, isJpeg)
            }
            assertTrue(message in error.message!!, error.message)
        }
        val small = ImageSpec(4, 4, ResizeMode.FIT, maxPixels = 6)
        assertEquals(1, small.sampleSize(3, 2, isJpeg = true))
        assertFailsWith<BundleException> { small.sampleSize(7, 1, isJpeg = true) }
    }

    test("an image is freed when it is closed") {
        var isFreed = false
        Picture(1, 1, onClose = { isFreed = true }) { _, _, _, _, _ -> }.use { }
        assertTrue(isFreed)
    }

    test("another preprocessing is refused with its key") {
        val plain = preprocess.filterNot { it.isWhitespace() }
        val changes = mapOf(
            "\"schema_version\":1" to "\"schema_version\":2",
            "\"mode\":\"fit\"" to "\"mode\":\"stretch\"",
            "\"resize\":\"pillow-bilinear-antialiased-uint8\"" to "\"resize\":\"bicubic\"",
            "\"orientation\":\"exif\"" to "\"orientation\":\"ignored\"",
            "\"background\":[255,255,255]" to "\"background\":[0,0,0]",
            "\"color\":\"RGB\"" to "\"color\":\"BGR\"",
            "\"dtype\":\"uint8\"" to "\"dtype\":\"float32\"",
            "\"size\":[48,48]" to "\"size\":[48]",
            "\"size\":[48,48],\"m" to "\"size\":[0,48],\"m",
        )
        for ((given, other) in changes) {
            assertTrue(given in plain.replace("insidethemodel", "inside the model"), given)
            val changed = plain.replace("insidethemodel", "inside the model").replace(given, other)
            val error = assertFailsWith<BundleException> { ImageSpec.read(changed.toByteArray()) }
            assertTrue(given.split('"')[1] in error.message!!, error.message)
        }
    }
}

private fun assertNoise(spec: ImageSpec, vector: Json) {
    val picture = noise(vector)
    val place = "${picture.width} by ${picture.height}, ${picture.orientation}, ${spec.mode}"
    assertEquals(vector["model_pixels"].text(), sha256Of(spec.pixels(picture)), place)
}

/** docs/preprocessing.md step by step, on the whole image, in floating point and 64 bits. */
private class Reference(bytes: ByteArray, width: Int, height: Int, orientation: Int) {
    private var rows: List<List<IntArray>> = List(height) { y ->
        List(width) { x ->
            val at = (y * width + x) * 4
            val a = bytes[at + 3].toInt() and 255
            IntArray(3) { ((bytes[at + it].toInt() and 255) * a + 255 * (255 - a) + 127) / 255 }
        }
    }

    init {
        if (orientation in 5..8) rows = transposed(rows)
        if (orientation in listOf(2, 3, 6, 7)) rows = rows.map { it.asReversed() }
        if (orientation in listOf(3, 4, 7, 8)) rows = rows.asReversed()
    }

    fun pixels(spec: ImageSpec): ByteArray {
        val (h, w) = spec.height to spec.width
        val height = rows.size
        val width = rows[0].size
        val byWidth = (width * h > height * w) == (spec.mode == ResizeMode.FIT)
        val scaledWidth = if (byWidth) w else max(1, (2 * width * h + height) / (2 * height))
        val scaledHeight = if (byWidth) max(1, (2 * height * w + width) / (2 * width)) else h
        val across = rows.map { resized(it, scaledWidth) }
        val scaled = transposed(transposed(across).map { resized(it, scaledHeight) })
        val left = (w - scaledWidth) / 2
        val top = (h - scaledHeight) / 2
        return ByteArray(h * w * 3) { at ->
            val pixel = scaled.getOrNull(at / 3 / w - top)?.getOrNull(at / 3 % w - left)
            (pixel?.get(at % 3) ?: 255).toByte()
        }
    }

    private fun resized(line: List<IntArray>, target: Int): List<IntArray> {
        if (line.size == target) return line
        val scale = line.size.toDouble() / target
        val support = max(1.0, scale)
        return List(target) { i ->
            val centre = (i + 0.5) * scale
            val first = max(0, (centre - support + 0.5).toInt())
            val last = min(line.size, (centre + support + 0.5).toInt())
            val weights =
                (first until last).map { max(0.0, 1.0 - abs((it + 0.5 - centre) / support)) }
            val total = weights.sum()
            val fixed = weights.map { Math.floor(it / total * (1 shl 22) + 0.5).toLong() }
            IntArray(3) { channel ->
                val sum = fixed.indices.sumOf { fixed[it] * line[first + it][channel] }
                (sum + (1 shl 21) shr 22).coerceIn(0, 255).toInt()
            }
        }
    }

    private fun transposed(lines: List<List<IntArray>>) =
        List(lines[0].size) { x -> List(lines.size) { y -> lines[y][x] } }
}
