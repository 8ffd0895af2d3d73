package org.msddeploy

import java.io.InputStream
import kotlin.math.abs

internal const val VECTORS = "vectors.json"

// Of vectors.json without a tolerance: runtimes differ by some 1e-5 in float32.
private const val TOLERANCE = 0.001

/**
 * A difference from a test vector.
 *
 * @property vector The path in vectors.json, such as "noise[3]".
 * @property description The result and the expected one.
 */
public data class Difference(public val vector: String, public val description: String)

/** The replay of vectors.json. docs/preprocessing.md of msd-deploy defines its keys. */
internal class SelfTest(
    private val bundle: Bundle,
    private val decoder: Decoder,
    private val files: (String) -> InputStream,
    private val infer: (ModelInput) -> ModelOutput,
) {
    private val found = ArrayList<Difference>()
    private var tolerance = TOLERANCE
    private var areLogitsCompared = true

    fun differences(): List<Difference> {
        val vectors = Json.parse(readAll(files, VECTORS), VECTORS)
        vectors["schema_version"].expect(1L)
        vectors.find("tolerance")?.let { stated ->
            tolerance = stated.number()
            if (tolerance !in 0.0..1.0) stated.fail("is $tolerance, not a number from 0 to 1")
            areLogitsCompared = false
        }
        compareAll(vectors["texts"], "texts", ::compareText)
        compareAll(vectors["noise"], "noise", ::compareNoise)
        compareAll(vectors["examples"], "examples", ::compareExample)
        return found
    }

    private fun compareAll(vectors: Json, key: String, compare: (String, Json) -> Unit) {
        val items = vectors.items()
        if (items.isEmpty()) vectors.fail("is empty, and would compare nothing")
        items.forEachIndexed { index, vector -> compare("$key[$index]", vector) }
    }

    private fun compareText(name: String, vector: Json) {
        val text = vector["text"].text()
        val expectedWords = vector["words"].items().map { it.text() }
        val words = bundle.tokenizer.words(text)
        if (words != expectedWords) report(name, "words are $words, not $expectedWords")
        val expected = vector["ids"].items().map { it.int(0..Int.MAX_VALUE) }
        val tokens = bundle.tokenizer.encode(text)
        val ids = tokens.inputIds.take(tokens.attentionMask.sum())
        if (ids != expected) report(name, "identifiers are $ids, not $expected")
    }

    private fun compareNoise(name: String, vector: Json) {
        val sides = 1..65_536
        val width = vector["width"].int(sides)
        val height = vector["height"].int(sides)
        val channels = vector["channels"].int(1..4)
        var value = vector["seed"].int(0..Int.MAX_VALUE)
        val bytes = ByteArray(width * height * channels) {
            value = 1_664_525 * value + 1_013_904_223
            (value ushr 24).toByte()
        }
        val orientation = vector["orientation"].int(1..8)
        val picture = Picture.ofBytes(bytes, width, height, channels, orientation)
        val digest = hexadecimal(sha256().digest(bundle.image.pixels(picture)))
        val expected = vector["model_pixels"].text()
        if (digest != expected) {
            report(name, "pixels of $width by $height noise have SHA-256 $digest, not $expected")
        }
    }

    private fun compareExample(name: String, vector: Json) {
        val file = vector.find("image")?.let { readAll(files, it.text()) }
        val picture = try {
            file?.let(decoder::decode)
        } catch (error: Exception) {
            // Whatever a decoder throws, the other examples are compared.
            return report(name, "its image is not decoded: ${error.message ?: error}")
        }
        val pixels = picture?.use(bundle.image::pixels)
        for ((view, input) in inputsOf(bundle, vector, pixels)) {
            val expected = vector["views"][view.key]
            val output = infer(input)
            val place = "$name.views.${view.key}"
            if (areLogitsCompared) {
                compareNumbers("$place.logits", output.logits, expected["logits"])
            }
            val stated = expected["probabilities"]
            if (compareNumbers("$place.probabilities", output.probabilities, stated)) {
                compareDecision("$place.decided", output, view, expected)
            }
        }
    }

    private fun compareNumbers(name: String, numbers: FloatArray, json: Json): Boolean {
        val expected = json.items().map { it.number() }
        val isClose = numbers.size == expected.size &&
            numbers.indices.all { abs(numbers[it] - expected[it]) <= tolerance }
        if (!isClose) report(name, "${numbers.toList()}, not $expected")
        return isClose
    }

    /**
     * Reports another decision, unless the expected numbers give the expected one: then it is
     * within the tolerance of a tie or a threshold.
     */
    private fun compareDecision(
        name: String,
        output: ModelOutput,
        view: ModelView,
        vector: Json,
    ) {
        val expected = vector["decided"].items().map { it.text() }
        val decided = bundle.labels.decide(output.probabilities, output.logits, view)
        if (decided == expected) return
        val probabilities = floats(vector["probabilities"])
        if (bundle.labels.decide(probabilities, floats(vector["logits"]), view) != expected) {
            report(name, "$decided, not $expected")
        }
    }

    private fun floats(json: Json) = json.items().map { it.number().toFloat() }.toFloatArray()

    private fun report(name: String, description: String) {
        found.add(Difference(name, description))
    }
}
