package org.msddeploy

import java.io.InputStream

/**
 * The model's inputs, of a batch of one.
 *
 * @property image RGB, uint8 `[1, height, width, 3]`; zeros without an image.
 * @property isImagePresent `image_present`: 1 or 0, int32 `[1]`.
 * @property inputIds `input_ids`, int32 `[1, max_length]`.
 * @property attentionMask `attention_mask`, int32 `[1, max_length]`.
 */
public class ModelInput(
    public val image: ByteArray,
    public val isImagePresent: Boolean,
    public val inputIds: IntArray,
    public val attentionMask: IntArray,
)

/**
 * The model's outputs, of a batch of one.
 *
 * @property logits float32 `[1, classes]`.
 * @property probabilities Calibrated, float32 `[1, classes]`.
 */
public class ModelOutput(
    public val logits: FloatArray,
    public val probabilities: FloatArray,
)

/** Runs the model of a bundle. */
public interface Runtime {
    public fun run(input: ModelInput): ModelOutput

    /** Frees the model; `run` must not be called afterwards. */
    public fun close()
}

/** Decodes image files. */
public fun interface Decoder {
    /**
     * Returns the stored pixels of a file, with the orientation that it states.
     *
     * @throws BundleException The file cannot be decoded, or has too many pixels.
     */
    public fun decode(file: ByteArray): Picture
}

/** A class and its calibrated probability, 0 to 1. */
public data class LabelProbability(public val label: String, public val probability: Float)

/**
 * The result of a classification.
 *
 * @property labels The most probable classes, by descending logit.
 * @property view The modalities of the input.
 * @property decided The classes that are decided, in the order of labels.json; empty for an
 *   abstention.
 * @property isTextCut Whether the text was truncated.
 */
public data class Classification(
    public val labels: List<LabelProbability>,
    public val view: ModelView,
    public val decided: List<String>,
    public val isTextCut: Boolean,
)

/**
 * Classifies an image, a text or both.
 *
 * Safe from one thread at a time. [close] frees the runtime.
 *
 * @property bundle The model's files, classes and preprocessing.
 */
public class MultimodalClassifier(public val bundle: Bundle, private val runtime: Runtime) :
    AutoCloseable {
    private var isClosed = false

    /**
     * Classifies an image and a text.
     *
     * @param picture The image, or null. It is not closed.
     * @param text The text, or null; a blank one counts as none.
     * @param topK The most classes in [Classification.labels].
     * @param threshold The least probability of a decision, 0 to 1, instead of the bundle's.
     * @throws BundleException There is neither an image nor a text, the image is too large, an
     *   argument is out of range, or the classifier is closed.
     */
    public fun classify(
        picture: Picture?,
        text: String?,
        topK: Int = 5,
        threshold: Double? = null,
    ): Classification {
        if (topK < 1) throw BundleException("topK is $topK. Pass 1 or more.")
        val tokens = bundle.tokenizer.encode(text ?: "")
        val view = viewOf(picture, text)
        val output = run(picture, tokens)
        val decided =
            bundle.labels.decide(output.probabilities, output.logits, view, threshold)
        val labels = bundle.labels.ranked(output.logits).take(topK)
            .map { LabelProbability(bundle.labels.names[it], output.probabilities[it]) }
        return Classification(labels, view, decided, tokens.isCut)
    }

    /**
     * Replays test vectors and returns every difference; an empty list means that the results
     * equal those of Python.
     *
     * Words, identifiers and pixels are compared exactly, and probabilities by the `tolerance` of
     * vectors.json. A file without one is of `msd vectors`: there logits and probabilities may
     * differ by 0.001.
     *
     * @param decoder Decodes the PNG files of the examples.
     * @param files Opens vectors.json, and the images that it names, by name; by default those of
     *   the bundle.
     * @throws BundleException A file is missing or malformed, or the classifier is closed.
     */
    public fun selfTest(
        decoder: Decoder,
        files: (String) -> InputStream = { bundle.read(it).inputStream() },
    ): List<Difference> = SelfTest(bundle, decoder, files, ::run).differences()

    /** Frees the runtime. Further calls do nothing. */
    override fun close() {
        if (!isClosed) runtime.close()
        isClosed = true
    }

    private fun viewOf(picture: Picture?, text: String?): ModelView {
        val hasText = text != null && !bundle.tokenizer.isAbsent(text)
        return when {
            picture != null -> if (hasText) ModelView.MULTIMODAL else ModelView.IMAGE
            hasText -> ModelView.TEXT
            else -> throw BundleException(
                "There is neither an image nor a text. Pass at least one of them.",
            )
        }
    }

    private fun run(picture: Picture?, tokens: Tokens): ModelOutput {
        if (isClosed) throw BundleException("The classifier is closed. Load it again.")
        val image = picture?.let(bundle.image::pixels)
            ?: ByteArray(bundle.image.height * bundle.image.width * 3)
        return runtime.run(
            ModelInput(image, picture != null, tokens.inputIds, tokens.attentionMask),
        )
    }
}
