package org.msddeploy

import java.io.InputStream
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

private const val WARM_UP_RUNS = 10

// Before the first view of a round: processors raise their frequency with some delay.
private const val WARM_UP_NS = 250_000_000L
private const val MOST_SAMPLES = 1000
private const val STAGE_WARM_UPS = 3
private const val STAGE_SAMPLES = 20
private const val CLOCK_READING_NS = 20_000_000L
private const val MOST_ROUNDS = 100
private const val MOST_SECONDS = 3600.0
private const val MOST_CHARACTERS = 500
private val UNPRINTABLE = Regex("[^\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}]+")

/**
 * How long [MultimodalClassifier.benchmark] measures.
 *
 * A round of a view ends when it has its share of the runs and of the seconds, or 1,000 samples.
 *
 * @property rounds The rounds in which the views take turns, 1 to 100.
 * @property runs The least samples of a view, over all rounds, 1 or more.
 * @property seconds The least time of a view's samples, over all rounds, 0 to 3,600.
 * @throws BundleException A value is out of range.
 */
public class BenchmarkOptions(
    public val rounds: Int = 4,
    public val runs: Int = 200,
    public val seconds: Double = 3.0,
) {
    init {
        if (rounds !in 1..MOST_ROUNDS) {
            throw BundleException("rounds is $rounds. Pass 1 to $MOST_ROUNDS.")
        }
        if (runs < 1) throw BundleException("runs is $runs. Pass 1 or more.")
        if (seconds !in 0.0..MOST_SECONDS) {
            throw BundleException("seconds is $seconds. Pass a number from 0 to 3600.")
        }
    }
}

/**
 * What is measured on. Names lose what cannot be printed; an empty one becomes "unknown".
 *
 * @param model The manufacturer and model, such as "Google Pixel 8".
 * @param system The operating system, such as "Android 16".
 * @param cores The number of processor cores; less than 1 becomes 1.
 */
public class Device(model: String, system: String, cores: Int) {
    public val model: String = printable(model)
    public val system: String = printable(system)
    public val cores: Int = cores.coerceAtLeast(1)
}

/** How much a device is slowed down by its temperature; the names are Android's. */
public enum class Thermal(internal val key: String) {
    NONE("none"),
    LIGHT("light"),
    MODERATE("moderate"),
    SEVERE("severe"),
    CRITICAL("critical"),
}

/**
 * The state of a device; null where it is not known.
 *
 * @property battery The charge of the battery, 0 to 1.
 * @property isLowPower Whether the device saves power.
 * @throws BundleException [battery] is not from 0 to 1.
 */
public data class Conditions(
    public val thermal: Thermal? = null,
    public val battery: Double? = null,
    public val isCharging: Boolean? = null,
    public val isLowPower: Boolean? = null,
) {
    init {
        if (battery != null && battery !in 0.0..1.0) {
            throw BundleException("battery is $battery. Pass a number from 0 to 1.")
        }
    }

    internal fun toMap(): Map<String, Any> = buildMap {
        thermal?.let { put("thermal", it.key) }
        battery?.let { put("battery", it) }
        isCharging?.let { put("charging", it) }
        isLowPower?.let { put("low_power", it) }
    }
}

/** A stage of a classification; [TOTAL] is the time from its beginning to its end. */
public enum class Stage(internal val key: String) {
    DECODE("decode"),
    RESIZE("resize"),
    TOKENIZE("tokenize"),
    INFERENCE("inference"),
    TOTAL("total"),
}

/**
 * The photo and the text of the measured classifications.
 *
 * @property bytes The size of the file.
 * @property width Stored pixels across, as decoded.
 * @property height Stored pixels down, as decoded.
 * @property characters Code points of the text.
 */
public data class MeasuredPhoto(
    public val bytes: Int,
    public val width: Int,
    public val height: Int,
    public val characters: Int,
)

/**
 * What [MultimodalClassifier.benchmark] measured. Times are milliseconds.
 *
 * @property form The model's format and precision, such as "onnx-fp32".
 * @property bundleDigest The digest of the bundle.
 * @property exportDigest The digest of the export that the bundle was made of.
 * @property runtime The name and version of the runtime.
 * @property threads The number of threads of a run, or null if the runtime decides it.
 * @property measuredUtc When the measurement began, such as "2026-11-30T18:20:00Z".
 * @property loadMs Time to read, verify and open the bundle; null if not known.
 * @property firstMs Time of the classifier's first run, which may be long before the benchmark.
 * @property clockStepMs The smallest step of the clock.
 * @property latencyMs By view, the samples of each round: times of the model alone.
 * @property stagesMs By stage, the samples of whole classifications.
 * @property before The state of the device before the measurement.
 * @property after The state of the device after it.
 */
public class BenchmarkResult internal constructor(
    public val form: String,
    public val bundleDigest: String,
    public val exportDigest: String,
    public val runtime: String,
    public val threads: Int?,
    public val device: Device,
    public val measuredUtc: String,
    public val loadMs: Double?,
    public val firstMs: Double?,
    public val clockStepMs: Double,
    public val latencyMs: Map<ModelView, List<List<Double>>>,
    public val photo: MeasuredPhoto,
    public val stagesMs: Map<Stage, List<Double>>,
    public val before: Conditions,
    public val after: Conditions,
) {
    /** Returns the result as `msd bench --import` reads it. */
    public fun toJson(): String = jsonText(
        mapOf(
            "schema_version" to 1,
            "kind" to "app_benchmark",
            "platform" to "android",
            "form" to form,
            "bundle_digest" to bundleDigest,
            "export_digest" to exportDigest,
            "runtime" to runtime,
            "threads" to threads,
            "device" to mapOf(
                "model" to device.model,
                "system" to device.system,
                "cores" to device.cores,
            ),
            "measured_utc" to measuredUtc,
            "load_ms" to loadMs,
            "first_ms" to firstMs,
            "clock_step_ms" to clockStepMs,
            "latency_ms" to latencyMs.mapKeys { (view, _) -> view.key },
            "photo" to mapOf(
                "bytes" to photo.bytes,
                "width" to photo.width,
                "height" to photo.height,
                "characters" to photo.characters,
            ),
            "stages_ms" to stagesMs.mapKeys { (stage, _) -> stage.key },
            "conditions" to mapOf("before" to before.toMap(), "after" to after.toMap()),
        ),
    )
}

/** The photo and the text of whole classifications. */
internal class Whole(val file: ByteArray, val text: String, val measured: MeasuredPhoto)

/**
 * The parts of [MultimodalClassifier.benchmark].
 *
 * @param clock Returns nanoseconds, and never goes back.
 */
internal class Benchmark(
    private val bundle: Bundle,
    private val decoder: Decoder,
    private val files: (String) -> InputStream,
    private val clock: () -> Long,
    private val infer: (ModelInput) -> ModelOutput,
) {
    private val examples: Json

    init {
        val vectors = Json.parse(readAll(files, VECTORS), VECTORS)
        vectors["schema_version"].expect(1L)
        examples = vectors["examples"]
    }

    /** Returns the smallest step between readings of the clock during 20 ms, at least 0.0001. */
    fun clockStepMs(): Double {
        val begin = clock()
        var last = begin
        var step = Long.MAX_VALUE
        while (last - begin < CLOCK_READING_NS) {
            val now = clock()
            if (now > last) step = minOf(step, now - last)
            last = now
        }
        return milliseconds(step).coerceAtLeast(0.0001)
    }

    /** Returns the samples of each round by view. */
    fun latencyMs(options: BenchmarkOptions): Map<ModelView, List<List<Double>>> {
        val inputs = inputs()
        val samples = ModelView.entries.associateWith { ArrayList<List<Double>>() }
        for (round in 0 until options.rounds) {
            val isBackwards = round % 2 == 1
            val views = if (isBackwards) ModelView.entries.asReversed() else ModelView.entries
            for (view in views) {
                val ofView = inputs.getValue(view)
                val next =
                    generateSequence(0) { (it + 1) % ofView.size }.map(ofView::get).iterator()
                warmUp(next, if (view == views.first()) WARM_UP_NS else 0)
                samples.getValue(view).add(samples(next, options))
            }
        }
        return samples
    }

    private fun warmUp(inputs: Iterator<ModelInput>, leastNs: Long) {
        val begin = clock()
        var runs = 0
        while (runs < WARM_UP_RUNS || clock() - begin < leastNs) {
            endIfInterrupted()
            infer(inputs.next())
            runs++
        }
    }

    private fun samples(inputs: Iterator<ModelInput>, options: BenchmarkOptions): List<Double> {
        val least = minOf(MOST_SAMPLES, 1 + (options.runs - 1) / options.rounds)
        val leastNs = options.seconds * 1e9 / options.rounds
        val samples = ArrayList<Double>()
        val begin = clock()
        var end = begin
        while (samples.size < least || (samples.size < MOST_SAMPLES && end - begin < leastNs)) {
            endIfInterrupted()
            val input = inputs.next()
            val start = clock()
            infer(input)
            end = clock()
            samples.add(milliseconds(end - start))
        }
        return samples
    }

    /** Returns the inputs of all examples of a view, prepared, by view. */
    private fun inputs(): Map<ModelView, List<ModelInput>> {
        val inputs = ModelView.entries.associateWith { ArrayList<ModelInput>() }
        for (example in examples.items()) {
            val image = example.find("image")
            val pixels = image?.let { decoder.decode(read(it)).use(bundle.image::pixels) }
            for ((view, input) in inputsOf(bundle, example, pixels)) {
                if (view == ModelView.TEXT || pixels != null) inputs.getValue(view) += input
            }
        }
        for ((view, ofView) in inputs) {
            if (ofView.isEmpty()) examples.fail("has no example of the view ${view.key}")
        }
        return inputs
    }

    /**
     * Returns what whole classifications are of, by default the first example that has an image.
     *
     * Decodes and resizes the photo once, so that a wrong one is refused before anything runs.
     */
    fun whole(givenPhoto: ByteArray?, givenText: String?): Whole {
        val example = examples.items().find { it.find("image") != null }
            ?: examples.fail("has no example with an image")
        val file = givenPhoto ?: read(example["image"])
        val text = givenText ?: example["text"].text()
        val measured = decoder.decode(file).use {
            bundle.image.pixels(it)
            MeasuredPhoto(file.size, it.width, it.height, text.codePointCount(0, text.length))
        }
        return Whole(file, text, measured)
    }

    /** Returns the samples of whole classifications by stage. */
    fun stagesMs(whole: Whole): Map<Stage, List<Double>> {
        val samples = Stage.entries.associateWith { ArrayList<Double>() }
        repeat(STAGE_WARM_UPS) { measure(whole) }
        repeat(STAGE_SAMPLES) {
            for ((stage, nanoseconds) in measure(whole)) {
                samples.getValue(stage).add(milliseconds(nanoseconds))
            }
        }
        return samples
    }

    /** Returns the nanoseconds of each stage of one classification. */
    private fun measure(whole: Whole): Map<Stage, Long> {
        endIfInterrupted()
        val begin = clock()
        return decoder.decode(whole.file).use { picture ->
            val decoded = clock()
            val pixels = bundle.image.pixels(picture)
            val resized = clock()
            val tokens = bundle.tokenizer.encode(whole.text)
            val tokenized = clock()
            infer(modelInput(bundle, pixels, tokens))
            val end = clock()
            mapOf(
                Stage.DECODE to decoded - begin,
                Stage.RESIZE to resized - decoded,
                Stage.TOKENIZE to tokenized - resized,
                Stage.INFERENCE to end - tokenized,
                Stage.TOTAL to end - begin,
            )
        }
    }

    private fun endIfInterrupted() {
        if (Thread.interrupted()) throw InterruptedException("The benchmark was interrupted.")
    }

    private fun read(name: Json): ByteArray = readAll(files, name.text())
}

internal fun milliseconds(nanoseconds: Long): Double = rounded(nanoseconds / 1e6)

/** Returns milliseconds with 4 decimals; from 1e12 on, where a Double has no more, as they are. */
internal fun rounded(milliseconds: Double): Double =
    if (milliseconds < 1e12) Math.round(milliseconds * 1e4) / 1e4 else milliseconds

/** Returns a name as `msd bench --import` reads it: of what can be printed, 1 to 500 characters. */
internal fun printable(name: String): String =
    name.replace(UNPRINTABLE, " ").trim().take(MOST_CHARACTERS).ifEmpty { "unknown" }

internal fun utcNow(): String = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT)
    .apply { timeZone = TimeZone.getTimeZone("UTC") }
    .format(Date())
