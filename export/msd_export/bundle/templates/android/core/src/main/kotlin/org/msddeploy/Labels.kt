package org.msddeploy

/** The modalities of an input. */
public enum class ModelView(internal val key: String) {
    MULTIMODAL("multimodal"),
    IMAGE("image"),
    TEXT("text"),
}

/** The kind of a model's task. */
public enum class Problem(internal val key: String) {
    SINGLE_LABEL("single_label"),
    MULTI_LABEL("multi_label"),
    SOFT_LABEL("soft_label"),
}

/**
 * A model's classes, and which of them are decided at which probabilities, as labels.json has it.
 *
 * @property problem The kind of the task: in [Problem.MULTI_LABEL] any number of classes is
 *   decided, otherwise one or none.
 * @property names The classes in the order of the model's outputs.
 */
public class Labels private constructor(
    public val problem: Problem,
    public val names: List<String>,
    private val thresholds: Map<ModelView, List<Double>>,
) {
    /**
     * Returns the classes that are decided, in the order of [names]; none is an abstention.
     *
     * A threshold of 1 is never reached. The most probable class is that with the largest logit,
     * of equal ones the first: probabilities may round to the same number.
     *
     * @param probabilities The probability of each class, 0 to 1.
     * @param logits The logit of each class.
     * @param view The modalities of the input.
     * @param threshold The least probability of every class, 0 to 1, instead of the operating
     *   point's.
     * @throws BundleException The number of probabilities or logits is not that of the classes, a
     *   probability or the threshold is not from 0 to 1, or a logit is not a number.
     */
    public fun decide(
        probabilities: FloatArray,
        logits: FloatArray,
        view: ModelView,
        threshold: Double? = null,
    ): List<String> {
        checkCount("probabilities", probabilities.size)
        probabilities.find { it !in 0f..1f }?.let {
            throw BundleException("$it is not a probability from 0 to 1. $OTHER_MODEL")
        }
        if (threshold != null && threshold !in 0.0..1.0) {
            throw BundleException("threshold is $threshold. Pass a number from 0 to 1.")
        }
        val ranked = ranked(logits)
        val candidates = if (problem == Problem.MULTI_LABEL) names.indices else ranked.take(1)
        val ofView = thresholds.getValue(view)
        return candidates.filter {
            val least = threshold ?: ofView[it]
            least < 1 && probabilities[it] >= least
        }.map(names::get)
    }

    /** Returns the indexes of the classes by descending logit; of equal ones the first is first. */
    internal fun ranked(logits: FloatArray): List<Int> {
        checkCount("logits", logits.size)
        logits.find(Float::isNaN)?.let { throw BundleException("A logit is $it. $OTHER_MODEL") }
        // Adding 0 makes -0 equal to 0, which compareTo would rank higher.
        return names.indices.sortedByDescending { logits[it] + 0f }
    }

    private fun checkCount(name: String, count: Int) {
        if (count != names.size) {
            throw BundleException("$count $name for ${names.size} classes. $OTHER_MODEL")
        }
    }

    public companion object {
        private const val OTHER_MODEL = "Use the model and labels.json of the same bundle."

        /**
         * Reads labels.json.
         *
         * @throws BundleException It is not JSON, states an unknown problem or decision, or a key
         *   is missing or has a wrong value.
         */
        public fun read(content: ByteArray): Labels {
            val json = Json.parse(content, "labels.json")
            json["schema_version"].expect(1L)
            val name = json["problem"].text()
            val problem = Problem.entries.find { it.key == name }
                ?: json["problem"].fail("is $name, not one of ${Problem.entries.map { it.key }}")
            val names = json["labels"].items().map { it.text() }
            if (names.isEmpty() || names.toSet().size < names.size) {
                json["labels"].fail("is not a list of different names")
            }
            return Labels(problem, names, thresholds(json, problem, names.size))
        }

        /** Returns the thresholds of all classes by view; 0 for argmax alone. */
        private fun thresholds(
            json: Json,
            problem: Problem,
            classes: Int,
        ): Map<ModelView, List<Double>> {
            val point = json.find("operating_point")
            val isMultiLabel = problem == Problem.MULTI_LABEL
            val key = if (isMultiLabel) "thresholds" else "abstain_below"
            json["decision"].expect(
                when {
                    isMultiLabel && point == null -> "probability >= 0.5"
                    isMultiLabel -> "probability >= thresholds"
                    point == null -> "argmax"
                    else -> "argmax, if probability >= abstain_below"
                },
            )
            return ModelView.entries.associateWith { view ->
                val given = point?.get(key)?.get(view.key)
                when {
                    given == null -> List(classes) { if (isMultiLabel) 0.5 else 0.0 }
                    !isMultiLabel -> List(classes) { given.threshold() }
                    given.items().size != classes -> given.fail("has not $classes thresholds")
                    else -> given.items().map { it.threshold() }
                }
            }
        }

        private fun Json.threshold(): Double {
            val value = number()
            if (value !in 0.0..1.0) fail("is $value, not a number from 0 to 1")
            return value
        }
    }
}
