package org.msddeploy

import java.io.File
import java.util.Collections
import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** Answers as the test vectors state for the inputs of their examples. */
private class StatedAnswers(bundle: Bundle, vectors: Json) : Runtime {
    override val name = "Stated answers"
    override val threads = null
    var timesClosed = 0
    var last: ModelInput? = null
    private val answers = HashMap<List<Any>, ModelOutput>()

    init {
        for (example in vectors["examples"].items()) {
            val picture = decode(File(VECTORS, example["image"].text()).readBytes())
            val image = IntArray(picture.width * picture.height)
            picture.readOverWhite(image, 0, 0, picture.width, picture.height)
            for ((view, answer) in example["views"].entries()) {
                val text = if (view == "image") "" else example["text"].text()
                val key = key(
                    image.takeIf { view != "text" },
                    bundle.tokenizer.encode(text).inputIds,
                )
                val logits = floats(answer["logits"])
                answers[key] = ModelOutput(logits, floats(answer["probabilities"]))
            }
        }
    }

    override fun run(input: ModelInput): ModelOutput {
        last = input
        val image = IntArray(input.image.size / 3) { pixel ->
            (0..2).fold(0) { value, channel ->
                value shl 8 or (input.image[3 * pixel + channel].toInt() and 255)
            }
        }
        return answers[key(image.takeIf { input.isImagePresent }, input.inputIds)]
            ?: ModelOutput(floatArrayOf(0f, 0f), floatArrayOf(.5f, .5f))
    }

    override fun close() {
        timesClosed++
    }

    private fun floats(json: Json) = json.items().map { it.number().toFloat() }.toFloatArray()

    private fun key(image: IntArray?, ids: IntArray) =
        listOf(image?.map { it and 0xFFFFFF } ?: "no image", ids.toList())
}

private val vectors = File(VECTORS, "vectors.json").readText()
private val bundle = Bundle.open(streams(bundleFiles()))
private val runtime = StatedAnswers(bundle, Json.parse(vectors.toByteArray(), "vectors.json"))
private val classifier = MultimodalClassifier(bundle, runtime)
private val image = decode(File(VECTORS, "examples/000.png").readBytes())
private val text = "the visitors again send them back"

internal fun Tests.classifierTests() {
    test("an image and a text are classified together and alone") {
        val both = classifier.classify(image, text)
        assertEquals(ModelView.MULTIMODAL, both.view)
        assertEquals(listOf("hateful"), both.decided)
        assertEquals(
            listOf(LabelProbability("hateful", 0.9468016f), LabelProbability("benign", 0.0531984f)),
            both.labels,
        )
        assertEquals(false, both.isTextCut)
        val alone = classifier.classify(image, " \n", topK = 1)
        assertEquals(ModelView.IMAGE, alone.view)
        assertEquals(listOf(LabelProbability("hateful", 0.7228835f)), alone.labels)
        val read = classifier.classify(null, text)
        assertEquals(ModelView.TEXT, read.view)
        assertEquals(0.5725555f, read.labels[0].probability)
        assertContentEquals(ByteArray(48 * 48 * 3), runtime.last!!.image)
        assertTrue(classifier.classify(null, "the ".repeat(99)).isTextCut)
    }

    test("a threshold takes the place of the operating point") {
        assertEquals(emptyList(), classifier.classify(image, text, threshold = 0.95).decided)
        assertEquals(listOf("hateful"), classifier.classify(image, text, threshold = 0.94).decided)
    }

    test("neither an image nor a text is refused") {
        for (text in listOf(null, "", " \u3000")) {
            val error = assertFailsWith<BundleException> { classifier.classify(null, text) }
            assertTrue("neither an image nor a text" in error.message!!)
        }
        assertFailsWith<BundleException> { classifier.classify(image, text, topK = 0) }
    }

    test("closing the classifier closes its runtime") {
        val runtime = StatedAnswers(bundle, jsonOf(File(VECTORS, "vectors.json")))
        val closed = MultimodalClassifier(bundle, runtime)
        closed.use { }
        closed.close()
        assertEquals(1, runtime.timesClosed)
        val error = assertFailsWith<BundleException> { closed.classify(image, text) }
        assertTrue("The classifier is closed." in error.message!!)
    }

    test("closing while the model runs waits for its end") {
        val isRunning = CountDownLatch(1)
        val mayEnd = CountDownLatch(1)
        val events = Collections.synchronizedList(ArrayList<String>())
        val slow = object : Runtime {
            override val name = "Slow"
            override val threads = null

            override fun run(input: ModelInput): ModelOutput {
                isRunning.countDown()
                mayEnd.await()
                events += "ran"
                return ModelOutput(floatArrayOf(0f, 0f), floatArrayOf(.5f, .5f))
            }

            override fun close() {
                events += "closed"
            }
        }
        val classifier = MultimodalClassifier(bundle, slow)
        val running = thread(isDaemon = true) { classifier.classify(null, text) }
        isRunning.await()
        val closing = thread(isDaemon = true) { classifier.close() }
        val waitsOrEnded = setOf(Thread.State.BLOCKED, Thread.State.TERMINATED)
        while (closing.state !in waitsOrEnded) Thread.yield()
        mayEnd.countDown()
        running.join()
        closing.join()
        assertEquals(listOf("ran", "closed"), events.toList())
        assertFailsWith<BundleException> { classifier.classify(null, text) }
    }

    test("a classifier whose runtime fails to close is closed") {
        var timesClosed = 0
        val failing = object : Runtime {
            override val name = "Failing"
            override val threads = null

            override fun run(input: ModelInput) = throw AssertionError("closed before")

            override fun close() {
                timesClosed++
                throw BundleException("It cannot be closed.")
            }
        }
        val classifier = MultimodalClassifier(bundle, failing)
        assertFailsWith<BundleException> { classifier.close() }
        classifier.close()
        assertEquals(1, timesClosed)
        val error = assertFailsWith<BundleException> { classifier.classify(null, text) }
        assertTrue("The classifier is closed." in error.message!!)
    }

    test("classes are ranked by their logits") {
        val saturated = object : Runtime {
            override val name = "Saturated"
            override val threads = null

            override fun run(input: ModelInput) =
                ModelOutput(floatArrayOf(30f, 40f), floatArrayOf(1f, 1f))

            override fun close() = Unit
        }
        val answer = MultimodalClassifier(bundle, saturated).classify(null, text)
        assertEquals(listOf("hateful", "benign"), answer.labels.map { it.label })
        assertEquals(listOf("hateful"), answer.decided)
    }

    test("a self-test with equal answers finds no difference") {
        assertEquals(emptyList(), selfTest(vectors))
    }

    test("a self-test returns every difference") {
        val changes = listOf(
            "\"words\": []" to "\"words\": [\"x\"]",
            "\"ids\": [2]" to "\"ids\": [3]",
            "6b348b61d93cf47e" to "0000000000000000",
            "-3.2581394" to "-3.2781394",
            "0.2771165" to "0.2791165",
            "\"decided\": [\"hateful\"]" to "\"decided\": []",
        )
        val changed = changes.fold(vectors) { text, (given, other) ->
            assertTrue(given in text, given)
            text.replaceFirst(given, other)
        }
        val found = selfTest(changed)
        val views = "examples[0].views"
        assertEquals(
            listOf(
                "texts[0]",
                "texts[0]",
                "noise[0]",
                "$views.multimodal.logits",
                "$views.multimodal.decided",
                "$views.image.probabilities",
            ),
            found.map { it.vector },
        )
        assertEquals("words are [], not [x]", found[0].description)
        assertEquals("identifiers are [2], not [3]", found[1].description)
        assertEquals("[hateful], not []", found[4].description)
    }

    test("a tolerance of the vectors is of probabilities, and logits are not compared") {
        fun changed(tolerance: String) = vectors
            .replaceFirst("-3.2581394", "7")
            .replaceFirst("0.2771165", "0.3171165")
            .replaceFirst("{", "{\"tolerance\": $tolerance, ")
        assertEquals(emptyList(), selfTest(changed("0.05")))
        assertEquals(
            listOf("examples[0].views.image.probabilities"),
            selfTest(changed("0.03")).map { it.vector },
        )
        for (wrong in listOf("-1", "2", "\"0\"")) {
            val error = assertFailsWith<BundleException> { selfTest(changed(wrong)) }
            assertTrue("vectors.json: tolerance is " in error.message!!, error.message)
        }
    }

    test("an image that is not decoded is a difference of its example") {
        val refused = File(VECTORS, "examples/000.png").readBytes()
        val decoder = Decoder { file ->
            if (file.contentEquals(refused)) throw BundleException("No PNG here.")
            decode(file)
        }
        val found = classifier.selfTest(decoder) { File(VECTORS, it).inputStream() }
        assertEquals(
            listOf(Difference("examples[0]", "its image is not decoded: No PNG here.")),
            found,
        )
    }

    test("vectors that would compare nothing are refused") {
        for (key in listOf("texts", "noise", "examples")) {
            val renamed = vectors.replaceFirst("\"$key\":", "\"$key\": [], \"x\":")
            val error = assertFailsWith<BundleException> { selfTest(renamed) }
            assertTrue("vectors.json: $key is empty" in error.message!!, error.message)
        }
    }

    test("a self-test replays the vectors of the bundle") {
        val stated = Json.parse(vectors.toByteArray(), "vectors.json")
        val files = stated["examples"].items().associate { example ->
            example["image"].text().let { it to File(VECTORS, it).readBytes() }
        }
        val whole = bundleFiles(files + ("vectors.json" to vectors.toByteArray()))
        val replayed = MultimodalClassifier(Bundle.open(streams(whole)), runtime)
        assertEquals(emptyList(), replayed.selfTest({ decode(it) }))
        val error = assertFailsWith<BundleException> { classifier.selfTest({ decode(it) }) }
        assertTrue("vectors.json: is not listed" in error.message!!)
    }
}

private fun selfTest(vectors: String): List<Difference> =
    classifier.selfTest({ decode(it) }) { name ->
        if (name == "vectors.json") {
            vectors.byteInputStream()
        } else {
            File(VECTORS, name).inputStream()
        }
    }
