package org.msddeploy

import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

internal fun Tests.jsonTests() {
    test("values of every kind are read") {
        val json =
            parse(""" {"a": [1, -2.5e1, true, null], "b\n\u00e9\ud83d\uDE00": "\ud800/\/"} """)
        assertEquals(1, json["a"].items()[0].int(0..9))
        assertEquals(-25.0, json["a"].items()[1].number())
        assertTrue(json["a"].items()[2].flag())
        assertEquals("\ud800//", json["b\né😀"].text())
        assertEquals(emptyList(), parse("[]").items().map { it.text() })
    }

    test("what is not JSON is refused with its position") {
        val wrong = listOf(
            "", "{", "[1,]", "{\"a\":1,}", "{a:1}", "[1 2]", "01", "1.", ".5", "+1", "1e", "-",
            "\"", "\"\u0001\"", "\"\\x\"", "\"\\u12g4\"", "\"\\u12", "tru", "1 1", "1e999",
            "\uFEFF1", "/**/1", "\u00a01",
            "{\"a\":1,\"a\":2}", "'a'", "NaN", "\"\\", "[".repeat(65) + "]".repeat(65),
            "\"\\u٠٠٠٠\"", "١",
        )
        for (text in wrong) {
            val error = assertFailsWith<BundleException>(text) { parse(text) }
            assertTrue("a.json: is not JSON at character" in error.message!!, error.message)
        }
        assertFailsWith<BundleException> { Json.parse(byteArrayOf(34, -1, 34), "a.json") }
        parse("[".repeat(64) + "]".repeat(64))
    }

    test("values are written in ASCII, and read again") {
        val text = jsonText(
            mapOf(
                "\"\\\n" to listOf(1, 2L, 0.0001, true, null, emptyList<Int>()),
                "é" to mapOf("a" to "~\u007f😀\ud800"),
            ),
        )
        val expected = """{"\"\\\u000a": [1, 2, 1.0E-4, true, null, []], """ +
            """"\u00e9": {"a": "~\u007f\ud83d\ude00\ud800"}}"""
        assertEquals(expected, text)
        val json = parse(text)
        assertEquals(0.0001, json["\"\\\n"].items()[2].number())
        assertEquals("~\u007f😀\ud800", json["é"]["a"].text())
    }

    test("a number that is not finite is not written") {
        for (number in listOf(Double.NaN, Double.POSITIVE_INFINITY)) {
            val error = assertFailsWith<BundleException> { jsonText(listOf(number)) }
            assertTrue("$number has no JSON" in error.message!!)
        }
    }

    test("a wrong value is named by its place") {
        val json = parse("""{"a": {"b": [1, "x"]}}""")
        val error = assertFailsWith<BundleException> { json["a"]["b"].items()[1].int(0..9) }
        assertTrue("a.json: a.b[1] is x, not an integer from 0 to 9." in error.message!!)
    }
}

private fun parse(text: String) = Json.parse(text.toByteArray(), "a.json")
