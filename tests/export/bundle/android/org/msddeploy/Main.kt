package org.msddeploy

import kotlin.system.exitProcess

/** The tests by name, in the order in which they are added. */
internal class Tests {
    private val bodies = LinkedHashMap<String, () -> Unit>()

    fun test(name: String, body: () -> Unit) {
        check(bodies.put(name, body) == null) { "Two tests are named \"$name\"." }
    }

    /** Runs all tests, prints a line per failure and the counts; returns whether all passed. */
    fun run(): Boolean {
        var failed = 0
        for ((name, body) in bodies) {
            try {
                body()
            } catch (error: Throwable) {
                failed++
                println("FAILED $name: ${described(error)}")
            }
        }
        println("${bodies.size - failed} passed, $failed failed")
        return failed == 0
    }

    private fun described(error: Throwable): String {
        val place = error.stackTrace.find { it.className.startsWith("org.msddeploy.") }
        return "$error at ${place?.fileName}:${place?.lineNumber}".replace('\n', ' ')
    }
}

/** Runs all tests; ends with 1 if one fails. */
fun main() {
    val tests = Tests()
    tests.jsonTests()
    tests.labelsTests()
    tests.tokenizerTests()
    tests.pixelsTests()
    tests.bundleTests()
    tests.classifierTests()
    tests.benchmarkTests()
    exitProcess(if (tests.run()) 0 else 1)
}
