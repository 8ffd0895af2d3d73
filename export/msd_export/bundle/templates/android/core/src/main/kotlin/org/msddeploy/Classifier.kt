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

/** Runs the model of a bundle. A classifier calls it from one thread at a time. */
public interface Runtime {
    /** The name and version, such as "ONNX Runtime 1.29.0". */
    public val name: String

    /** The number of threads of a run, or null if the runtime decides it. */
    public val threads: Int?

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
 * Safe from any thread: runs of the model take turns, and [close] waits for the one that goes on.
 *
 * @property bundle The model's files, classes and preprocessing.
 */
public class MultimodalClassifier internal constructor(
    public val bundle: Bundle,
    private val runtime: Runtime,
    private val loadMs: Double?,
    private val clock: () -> Long,
) : AutoCloseable {
    private val lock = Any()
    private var isClosed = false
    private var firstMs: Double? = null

    init {
        if (loadMs != null && !(loadMs >= 0 && loadMs.isFinite())) {
            throw BundleException("loadMs is $loadMs. Pass milliseconds from 0, or null.")
        }
    }

    /**
     * @param loadMs The milliseconds that opening bundle and runtime took, for [benchmark]; null if
     *   not known.
     */
    public constructor(bundle: Bundle, runtime: Runtime, loadMs: Double? = null) :
        this(bundle, runtime, loadMs, System::nanoTime)

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
        val output = infer(modelInput(bundle, picture?.let(bundle.image::pixels), tokens))
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
     * @param decoder Decodes the PNG files of the examples. One that it refuses is a difference.
     * @param files Opens vectors.json, and the images that it names, by name; by default those of
     *   the bundle.
     * @throws BundleException A file is missing or malformed, vectors.json has no texts or no
     *   examples, or the classifier is closed.
     */
    public fun selfTest(
        decoder: Decoder,
        files: (String) -> InputStream = { bundle.read(it).inputStream() },
    ): List<Difference> = SelfTest(bundle, decoder, files, ::infer).differences()

    /**
     * Measures the model on this device.
     *
     * The views take turns, in rounds, every other round backwards. A sample is the time of one run
     * of the model, on the examples of the self-test, which are decoded, resized and tokenized
     * before. Then whole classifications of one photo and text are measured, stage by stage.
     *
     * Takes about 10 seconds by default, more from some 15 ms a run, and 1 to 2 seconds for a tiny
     * model. An interrupt of the thread ends it. For comparable numbers use a release build on a
     * cool device that is not charging.
     *
     * @param decoder Decodes the images.
     * @param device The device, for the result.
     * @param photo An image file; null for the first image of the self-test.
     * @param text The text of the photo; null for that of the same example.
     * @param options The number of rounds and samples.
     * @param conditions Returns the state of the device, before and after.
     * @param files Opens vectors.json, and the images that it names, by name; by default those of
     *   the bundle.
     * @throws BundleException A file is missing or malformed, vectors.json has no example of a
     *   view, the photo cannot be decoded, or the classifier is closed.
     * @throws InterruptedException The thread was interrupted.
     */
    public fun benchmark(
        decoder: Decoder,
        device: Device,
        photo: ByteArray? = null,
        text: String? = null,
        options: BenchmarkOptions = BenchmarkOptions(),
        conditions: () -> Conditions = { Conditions() },
        files: (String) -> InputStream = { bundle.read(it).inputStream() },
    ): BenchmarkResult {
        val measuredUtc = utcNow()
        val before = conditions()
        val benchmark = Benchmark(bundle, decoder, files, clock, ::infer)
        val whole = benchmark.whole(photo, text)
        val clockStepMs = benchmark.clockStepMs()
        val latencyMs = benchmark.latencyMs(options)
        val stagesMs = benchmark.stagesMs(whole)
        return BenchmarkResult(
            form = bundle.form,
            bundleDigest = bundle.digest,
            exportDigest = bundle.exportDigest,
            runtime = printable(runtime.name),
            threads = runtime.threads,
            device = device,
            measuredUtc = measuredUtc,
            loadMs = loadMs?.let(::rounded),
            firstMs = firstMs,
            clockStepMs = clockStepMs,
            latencyMs = latencyMs,
            photo = whole.measured,
            stagesMs = stagesMs,
            before = before,
            after = conditions(),
        )
    }

    /** Frees the runtime, after a run that goes on. Further calls do nothing. */
    override fun close(): Unit = synchronized(lock) {
        if (isClosed) return
        isClosed = true
        runtime.close()
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

    private fun infer(input: ModelInput): ModelOutput = synchronized(lock) {
        if (isClosed) throw BundleException("The classifier is closed. Load it again.")
        if (firstMs != null) return runtime.run(input)
        val start = clock()
        val output = runtime.run(input)
        firstMs = milliseconds(clock() - start)
        output
    }
}

/** Returns the inputs of an image, of [ImageSpec.pixels], and a text. */
internal fun modelInput(bundle: Bundle, pixels: ByteArray?, tokens: Tokens): ModelInput {
    val image = pixels ?: ByteArray(bundle.image.height * bundle.image.width * 3)
    return ModelInput(image, pixels != null, tokens.inputIds, tokens.attentionMask)
}

/**
 * Returns the inputs of an example of vectors.json by its views.
 *
 * @param pixels Its image, of [ImageSpec.pixels]; null if it has none.
 */
internal fun inputsOf(bundle: Bundle, example: Json, pixels: ByteArray?): Map<ModelView, ModelInput> {
    val tokens = bundle.tokenizer.encode(example["text"].text())
    val absent = bundle.tokenizer.encode("")
    val views = ModelView.entries.filter { example["views"].find(it.key) != null }
    return views.associateWith { view ->
        modelInput(
            bundle,
            pixels.takeIf { view != ModelView.TEXT },
            if (view == ModelView.IMAGE) absent else tokens,
        )
    }
}
