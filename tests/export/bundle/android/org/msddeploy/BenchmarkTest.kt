package org.msddeploy

import java.io.File
import java.io.InputStream
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** A runtime with a clock of its own, on which a run takes [runNs] and a reading 1,000 ns. */
private class FakeRuntime(var runNs: Long = 1_000_000) : Runtime {
    override val name = "Fake 1.0"
    override val threads = 1
    val inputs = ArrayList<ModelInput>()
    private var now = 0L

    fun clock(): Long {
        now += 1000
        return now
    }

    override fun run(input: ModelInput): ModelOutput {
        inputs += input
        now += runNs
        return ModelOutput(floatArrayOf(0f, 0f), floatArrayOf(.5f, .5f))
    }

    override fun close() = Unit
}

private val bundle = Bundle.open(streams(bundleFiles()))
private val photo = File(VECTORS, "examples/000.png").readBytes()
private val google = Device("Google Pixel 8", "Android 16", 9)
private val vectors = """
    {"schema_version": 1, "examples": [
        {"image": null, "text": "him", "views": {"text": {}}},
        {"image": "examples/000.png", "text": "look at him", "views":
            {"multimodal": {}, "image": {}, "text": {}}}
    ]}
"""

private fun files(vectors: String): (String) -> InputStream =
    { if (it == "vectors.json") vectors.byteInputStream() else File(VECTORS, it).inputStream() }

private fun benchmark(
    runtime: FakeRuntime,
    options: BenchmarkOptions,
    vectors: String = org.msddeploy.vectors,
    loadMs: Double? = null,
): BenchmarkResult = MultimodalClassifier(bundle, runtime, loadMs, runtime::clock)
    .benchmark({ decode(it) }, google, options = options, files = files(vectors))

private fun viewOf(input: ModelInput): ModelView = when {
    !input.isImagePresent -> ModelView.TEXT
    input.attentionMask.sum() == 1 -> ModelView.IMAGE
    else -> ModelView.MULTIMODAL
}

/** Returns the views of runs, each with the number of runs in succession. */
private fun successions(inputs: List<ModelInput>): List<Pair<ModelView, Int>> {
    val found = ArrayList<Pair<ModelView, Int>>()
    for (view in inputs.map(::viewOf)) {
        val last = found.lastOrNull()?.takeIf { it.first == view }
        if (last != null) found.removeAt(found.lastIndex)
        found += view to (last?.second ?: 0) + 1
    }
    return found
}

internal fun Tests.benchmarkTests() {
    test("views take turns, every other round backwards, each after runs to warm up") {
        val runtime = FakeRuntime()
        val result = benchmark(runtime, BenchmarkOptions(rounds = 4, runs = 4, seconds = 0.0))
        val first = 250 + 1
        val other = 10 + 1
        assertEquals(
            listOf(
                ModelView.MULTIMODAL to first,
                ModelView.IMAGE to other,
                ModelView.TEXT to other + first,
                ModelView.IMAGE to other,
                ModelView.MULTIMODAL to other + first,
                ModelView.IMAGE to other,
                ModelView.TEXT to other + first,
                ModelView.IMAGE to other,
                ModelView.MULTIMODAL to other + 3 + 20,
            ),
            successions(runtime.inputs),
        )
        assertEquals(ModelView.entries, result.latencyMs.keys.toList())
        for (rounds in result.latencyMs.values) {
            assertEquals(List(4) { listOf(1.001) }, rounds)
        }
    }

    test("a round has its share of the runs and of the seconds, and at most 1,000 samples") {
        val counts = mapOf(
            BenchmarkOptions(rounds = 4, runs = 10, seconds = 0.0) to 3,
            BenchmarkOptions(rounds = 2, runs = 1, seconds = 0.4) to 200,
            BenchmarkOptions(rounds = 1, runs = 1, seconds = 3.0) to 1000,
            BenchmarkOptions(rounds = 1, runs = Int.MAX_VALUE, seconds = 0.0) to 1000,
        )
        for ((options, count) in counts) {
            for (rounds in benchmark(FakeRuntime(), options).latencyMs.values) {
                assertEquals(List(options.rounds) { count }, rounds.map { it.size })
            }
        }
    }

    test("a view is measured on its examples in turn") {
        val runtime = FakeRuntime()
        benchmark(runtime, BenchmarkOptions(rounds = 1, runs = 2, seconds = 0.0))
        val pixels = bundle.image.pixels(decode(photo))
        val blank = ByteArray(pixels.size)
        val both = bundle.tokenizer.encode("look at him").inputIds
        val alone = bundle.tokenizer.encode("him").inputIds
        val absent = bundle.tokenizer.encode("").inputIds
        val byView = runtime.inputs.groupBy(::viewOf)
        for (input in byView.getValue(ModelView.MULTIMODAL)) {
            assertContentEquals(pixels, input.image)
            assertContentEquals(both, input.inputIds)
        }
        for (input in byView.getValue(ModelView.IMAGE)) {
            assertContentEquals(pixels, input.image)
            assertContentEquals(absent, input.inputIds)
        }
        byView.getValue(ModelView.TEXT).forEachIndexed { index, input ->
            assertContentEquals(blank, input.image)
            assertContentEquals(if (index % 2 == 0) alone else both, input.inputIds)
        }
    }

    test("stages are measured on the first example with an image") {
        var decoded = 0
        val runtime = FakeRuntime()
        val result = MultimodalClassifier(bundle, runtime, null, runtime::clock).benchmark(
            { file -> decode(file).also { decoded++ } },
            google,
            options = BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0),
            files = files(vectors),
        )
        assertEquals(MeasuredPhoto(photo.size, 48, 48, "look at him".length), result.photo)
        assertEquals(1 + 3 + 20 + 1, decoded)
        val stages = listOf(0.001, 0.001, 0.001, 1.001, 1.004)
        assertEquals(
            Stage.entries.zip(stages).associate { (stage, time) -> stage to List(20) { time } },
            result.stagesMs,
        )
    }

    test("stages are measured on a given photo and text") {
        val runtime = FakeRuntime()
        val other = File(VECTORS, "images/90-by-11.png").readBytes()
        val result = MultimodalClassifier(bundle, runtime, null, runtime::clock).benchmark(
            { decode(it) },
            google,
            other,
            "him 😀",
            BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0),
            files = files(vectors),
        )
        assertEquals(MeasuredPhoto(other.size, 90, 11, characters = 5), result.photo)
        val last = runtime.inputs.last()
        assertContentEquals(bundle.image.pixels(decode(other)), last.image)
        assertContentEquals(bundle.tokenizer.encode("him 😀").inputIds, last.inputIds)
    }

    test("the smallest step of the clock is found") {
        fun step(clock: () -> Long) = Benchmark(bundle, { decode(it) }, files(vectors), clock) {
            throw AssertionError("nothing runs")
        }.clockStepMs()
        var readings = 0L
        assertEquals(5.0, step { readings++ / 7 * 5_000_000 })
        assertEquals(30.0, step { readings++ / 7 * 30_000_000 })
        assertEquals(0.0001, step { readings++ * 20 })
        assertEquals(0.001, step { readings++.let { it / 2 * 4000 + it % 2 * 1000 } })
    }

    test("the first run is that of the classifier, whoever asked for it") {
        val runtime = FakeRuntime(runNs = 5_000_000)
        val classifier = MultimodalClassifier(bundle, runtime, 51.23456, runtime::clock)
        classifier.classify(null, "him")
        runtime.runNs = 1_000_000
        val options = BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0)
        val result =
            classifier.benchmark({ decode(it) }, google, options = options, files = files(vectors))
        assertEquals(5.001, result.firstMs)
        assertEquals(51.2346, result.loadMs)
        assertEquals(1.001, benchmark(FakeRuntime(), options).firstMs)
    }

    test("a result of a bundle that Python has written is JSON, which Python reads") {
        val folder = File(System.getProperty("msddeploy.bundle"))
        val bundle = Bundle.open { File(folder, it).inputStream() }
        val runtime = FakeRuntime()
        val states = listOf(
            Conditions(Thermal.NONE, 0.81, isCharging = false, isLowPower = false),
            Conditions(Thermal.CRITICAL, 0.8, isCharging = true, isLowPower = true),
        ).iterator()
        val result = MultimodalClassifier(bundle, runtime, 51.2, runtime::clock).benchmark(
            { decode(it) },
            google,
            options = BenchmarkOptions(rounds = 2, runs = 20, seconds = 0.0),
            conditions = states::next,
        )
        val text = result.toJson()
        File(System.getProperty("msddeploy.build"), "benchmark.json").writeText(text)
        val json = Json.parse(text.toByteArray(), "benchmark.json")
        val texts = mapOf(
            "kind" to "app_benchmark",
            "platform" to "android",
            "form" to "onnx-fp32",
            "bundle_digest" to sha256Of(File(folder, "manifest.json").readBytes()),
            "export_digest" to jsonOf(File(folder, "manifest.json"))["export_digest"].text(),
            "runtime" to "Fake 1.0",
        )
        for ((key, expected) in texts) assertEquals(expected, json[key].text())
        json["schema_version"].expect(1L)
        json["threads"].expect(1L)
        assertEquals("Google Pixel 8", json["device"]["model"].text())
        assertEquals("Android 16", json["device"]["system"].text())
        assertEquals(9, json["device"]["cores"].int(0..99))
        val time = Regex("""\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ""")
        assertTrue(time.matches(json["measured_utc"].text()))
        assertEquals(51.2, json["load_ms"].number())
        assertEquals(1.001, json["first_ms"].number())
        assertEquals(0.001, json["clock_step_ms"].number())
        for (view in listOf("multimodal", "image", "text")) {
            val rounds = json["latency_ms"][view].items()
            assertEquals(listOf(10, 10), rounds.map { it.items().size })
            assertEquals(1.001, rounds[1].items()[9].number())
        }
        val bytes = File(folder, "examples/000.png").length()
        assertEquals(bytes, json["photo"]["bytes"].int(0..Int.MAX_VALUE).toLong())
        for (stage in listOf("decode", "resize", "tokenize", "inference", "total")) {
            assertEquals(20, json["stages_ms"][stage].items().size)
        }
        val before = json["conditions"]["before"]
        assertEquals("none", before["thermal"].text())
        assertEquals(0.81, before["battery"].number())
        assertEquals(false, before["charging"].flag())
        assertEquals(false, before["low_power"].flag())
        assertEquals("critical", json["conditions"]["after"]["thermal"].text())
    }

    test("what is not known is null, and an unknown state of the device has no key") {
        val options = BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0)
        val json = Json.parse(
            benchmark(FakeRuntime(), options).toJson().toByteArray(),
            "benchmark.json",
        )
        assertTrue("load_ms" in json.entries())
        assertEquals(null, json.find("load_ms"))
        assertEquals(emptySet(), json["conditions"]["before"].entries().keys)
        assertEquals(emptySet(), json["conditions"]["after"].entries().keys)
    }

    test("arguments that are out of range are refused") {
        val wrong = mapOf(
            "rounds is 0" to { BenchmarkOptions(rounds = 0) },
            "rounds is 101" to { BenchmarkOptions(rounds = 101) },
            "runs is 0" to { BenchmarkOptions(runs = 0) },
            "seconds is -1.0" to { BenchmarkOptions(seconds = -1.0) },
            "seconds is NaN" to { BenchmarkOptions(seconds = Double.NaN) },
            "seconds is 3600.1" to { BenchmarkOptions(seconds = 3600.1) },
            "seconds is 1.0E300" to { BenchmarkOptions(seconds = 1e300) },
            "battery is 81.0" to { Conditions(battery = 81.0) },
            "loadMs is -1.0" to { MultimodalClassifier(bundle, FakeRuntime(), loadMs = -1.0) },
        )
        for ((message, action) in wrong) {
            val error = assertFailsWith<BundleException> { action() }
            assertTrue(message in error.message!!, error.message)
        }
    }

    test("a time that is too large to be rounded is kept as it is") {
        BenchmarkOptions(seconds = 3600.0)
        val options = BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0)
        for (loadMs in listOf(0.0, 51.2346, 1e12, 1e308)) {
            assertEquals(loadMs, benchmark(FakeRuntime(), options, loadMs = loadMs).loadMs)
        }
    }

    test("a device has names that can be printed, and a core") {
        val device = Device("Fairphone\t5\u0007 \u202eé😀\ud800", " \u0000\n", 0)
        assertEquals("Fairphone 5 é😀", device.model)
        assertEquals("unknown", device.system)
        assertEquals(1, device.cores)
        assertEquals(500, Device("x".repeat(999), "Android 16", 8).model.length)
    }

    test("an interrupt of the thread ends the benchmark") {
        val options = BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0)
        // At a run to warm up, a sample of the latency, and a whole classification.
        for (last in listOf(1, 251, 290)) {
            val runtime = FakeRuntime()
            val interrupted = object : Runtime by runtime {
                override fun run(input: ModelInput) = runtime.run(input).also {
                    if (runtime.inputs.size == last) Thread.currentThread().interrupt()
                }
            }
            val classifier = MultimodalClassifier(bundle, interrupted, null, runtime::clock)
            assertFailsWith<InterruptedException> {
                classifier.benchmark(
                    { decode(it) },
                    google,
                    options = options,
                    files = files(vectors),
                )
            }
            assertEquals(last, runtime.inputs.size)
            assertEquals(false, Thread.interrupted())
        }
    }

    test("a wrong photo is refused before the model runs") {
        val runtime = FakeRuntime()
        val wrong = byteArrayOf(1, 2, 3)
        val large = byteArrayOf(4)
        val decoder = Decoder { file ->
            when {
                file === wrong -> throw BundleException("It cannot be decoded.")
                file === large -> Picture(1 shl 16, 1 shl 16) { _, _, _, _, _ -> }
                else -> decode(file)
            }
        }
        val messages = mapOf(wrong to "It cannot be decoded.", large to "pixels: more than")
        for ((photo, message) in messages) {
            val error = assertFailsWith<BundleException> {
                MultimodalClassifier(bundle, runtime)
                    .benchmark(decoder, google, photo, files = files(vectors))
            }
            assertTrue(message in error.message!!, error.message)
        }
        assertEquals(0, runtime.inputs.size)
    }

    test("a view without an example, a wrong photo and a closed classifier are errors") {
        val options = BenchmarkOptions(rounds = 1, runs = 1, seconds = 0.0)
        val without = mapOf(
            "has no example of the view image" to vectors.replace("\"image\": {}", "\"x\": {}"),
            "has no example with an image" to
                vectors.replace("\"examples/000.png\"", "null"),
            "schema_version is 2" to vectors.replace(": 1,", ": 2,"),
        )
        for ((message, changed) in without) {
            val error = assertFailsWith<BundleException> {
                benchmark(FakeRuntime(), options, changed)
            }
            assertTrue(message in error.message!!, error.message)
        }
        val classifier = MultimodalClassifier(bundle, FakeRuntime())
        val damaged = BundleException("It cannot be decoded.")
        val error = assertFailsWith<BundleException> {
            classifier.benchmark({ throw damaged }, google, files = files(vectors))
        }
        assertTrue(error === damaged)
        classifier.close()
        val closed = assertFailsWith<BundleException> {
            classifier.benchmark({ decode(it) }, google, files = files(vectors))
        }
        assertTrue("The classifier is closed." in closed.message!!)
    }
}
