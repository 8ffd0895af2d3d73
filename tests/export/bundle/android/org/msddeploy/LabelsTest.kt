package org.msddeploy

import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

private val noPoint = ""
private val abstainBelow =
    ", \"operating_point\": {\"rule\": \"precision=0.95\", \"abstain_below\":" +
        " {\"multimodal\": 0.5, \"image\": 0.75, \"text\": 1}}"
private val thresholds =
    ", \"operating_point\": {\"rule\": \"f1\", \"thresholds\":" +
        " {\"multimodal\": [0.25, 0.5, 1], \"image\": [0, 0.75, 1.0], \"text\": [1, 1, 1]}}"

internal fun Tests.labelsTests() {
    test("without an operating point the most probable class is decided, the first of equal ones") {
        for (problem in listOf("single_label", "soft_label")) {
            val labels = labels(problem, "argmax")
            for (view in ModelView.entries) {
                assertEquals(listOf("b"), labels.decide(floatArrayOf(.1f, .6f, .3f), view))
                assertEquals(listOf("a"), labels.decide(floatArrayOf(.4f, .4f, .2f), view))
                assertEquals(listOf("a"), labels.decide(floatArrayOf(0f, 0f, 0f), view))
            }
        }
    }

    test("the most probable class has the largest logit, where probabilities are equal") {
        val ones = floatArrayOf(1f, 1f, 1f)
        val labels = labels("soft_label", "argmax")
        val decided = labels.decide(ones, floatArrayOf(17f, 40f, 39f), ModelView.TEXT)
        assertEquals(listOf("b"), decided)
        for (logits in listOf(floatArrayOf(1f, 5f, 5f), floatArrayOf(-1f, -0f, 0f))) {
            assertEquals(listOf("b"), labels.decide(ones, logits, ModelView.TEXT))
        }
        val point = labels("soft_label", "argmax, if probability >= abstain_below", abstainBelow)
        val half = floatArrayOf(.5f, .5f, .49f)
        assertEquals(
            emptyList(),
            point.decide(half, floatArrayOf(0f, 0f, 1f), ModelView.MULTIMODAL),
        )
    }

    test("below its view's threshold the most probable class is not decided") {
        for (problem in listOf("single_label", "soft_label")) {
            val labels = labels(problem, "argmax, if probability >= abstain_below", abstainBelow)
            val half = floatArrayOf(.5f, .5f, 0f)
            assertEquals(listOf("a"), labels.decide(half, ModelView.MULTIMODAL))
            val less = floatArrayOf(.49f, .2f, 0f)
            assertEquals(emptyList(), labels.decide(less, ModelView.MULTIMODAL))
            assertEquals(emptyList(), labels.decide(half, ModelView.IMAGE))
            assertEquals(listOf("c"), labels.decide(floatArrayOf(0f, 0f, .75f), ModelView.IMAGE))
            assertEquals(emptyList(), labels.decide(floatArrayOf(0f, 0f, 1f), ModelView.TEXT))
            assertEquals(listOf("a"), labels.decide(half, ModelView.TEXT, threshold = 0.5))
        }
    }

    test("in a multi-label task every class is decided that reaches its threshold") {
        val plain = labels("multi_label", "probability >= 0.5")
        val some = floatArrayOf(.5f, .49f, 1f)
        for (view in ModelView.entries) assertEquals(listOf("a", "c"), plain.decide(some, view))
        assertEquals(emptyList(), plain.decide(floatArrayOf(0f, 0f, 0f), ModelView.IMAGE))
        val labels = labels("multi_label", "probability >= thresholds", thresholds)
        assertEquals(
            listOf("a", "b"),
            labels.decide(floatArrayOf(.25f, .5f, 1f), ModelView.MULTIMODAL),
        )
        assertEquals(listOf("a"), labels.decide(floatArrayOf(0f, .5f, 1f), ModelView.IMAGE))
        assertEquals(emptyList(), labels.decide(floatArrayOf(1f, 1f, 1f), ModelView.TEXT))
        assertEquals(listOf("b"), labels.decide(floatArrayOf(0f, .5f, .1f), ModelView.TEXT, 0.5))
        assertEquals(emptyList(), labels.decide(floatArrayOf(1f, 1f, 1f), ModelView.IMAGE, 1.0))
    }

    test("what is no probability is refused") {
        val labels = labels("single_label", "argmax")
        for (value in listOf(-0.1f, 1.1f, Float.NaN, Float.POSITIVE_INFINITY)) {
            val error = assertFailsWith<BundleException> {
                labels.decide(floatArrayOf(0f, value, 0f), ModelView.TEXT)
            }
            assertTrue("$value is not a probability" in error.message!!, error.message)
        }
        val error = assertFailsWith<BundleException> {
            labels.decide(floatArrayOf(1f), ModelView.TEXT)
        }
        assertTrue("1 probabilities for 3 classes" in error.message!!)
        val some = floatArrayOf(1f, 0f, 0f)
        val wrong = mapOf(
            "2 logits for 3 classes" to floatArrayOf(1f, 0f),
            "A logit is NaN." to floatArrayOf(1f, Float.NaN, 0f),
        )
        for ((message, logits) in wrong) {
            val failure = assertFailsWith<BundleException> {
                labels.decide(some, logits, ModelView.TEXT)
            }
            assertTrue(message in failure.message!!, failure.message)
        }
        for (threshold in listOf(-.1, 1.1, Double.NaN)) {
            assertFailsWith<BundleException> {
                labels.decide(floatArrayOf(1f, 0f, 0f), ModelView.TEXT, threshold)
            }
        }
    }

    test("a wrong labels json is refused with its key") {
        val point = "argmax, if probability >= abstain_below"
        val wrong = mapOf<String, () -> Labels>(
            "problem" to { labels("ranking", "argmax") },
            "decision" to { labels("single_label", "probability >= 0.5") },
            "decision " to { labels("single_label", "argmax", abstainBelow) },
            "decision  " to { labels("single_label", point) },
            "operating_point.abstain_below.multimodal" to {
                labels("single_label", point, abstainBelow.replace("0.5", "1.5"))
            },
            "operating_point lacks the key \"abstain_below\"" to {
                labels("single_label", point, thresholds)
            },
            "operating_point.abstain_below lacks the key \"text\"" to {
                labels("single_label", point, abstainBelow.replace("text", "texts"))
            },
            "operating_point.thresholds.image has not 3 thresholds" to {
                labels("multi_label", "probability >= thresholds", thresholds.replace("0.75, ", ""))
            },
        )
        for ((key, read) in wrong) {
            val error = assertFailsWith<BundleException>(key) { read() }
            assertTrue("labels.json: ${key.trim()}" in error.message!!, error.message)
        }
    }
}

/** With probabilities as logits, which rank the classes alike. */
private fun Labels.decide(
    probabilities: FloatArray,
    view: ModelView,
    threshold: Double? = null,
): List<String> = decide(probabilities, probabilities, view, threshold)

private fun labels(problem: String, decision: String, point: String = noPoint) = Labels.read(
    """{"schema_version": 1, "problem": "$problem", "decision": "$decision",
        "labels": ["a", "b", "c"]$point}""".toByteArray(),
)
