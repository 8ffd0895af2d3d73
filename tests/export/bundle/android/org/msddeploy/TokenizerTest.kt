package org.msddeploy

import java.io.ByteArrayOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Locale
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

internal fun Tests.tokenizerTests() {
    test("identifiers of 10,000 texts equal those of Python") {
        val vectors = jsonOf(File(VECTORS, "texts.json"))
        val texts = vectors["texts"].items().map { it.text() }
        val size = vectors["texts_a_digest"].int(1..10_000)
        val digests = texts.chunked(size).map { part ->
            val ids = part.flatMap { TOKENIZER.encode(it).inputIds.toList() }
            val bytes = ByteBuffer.allocate(4 * ids.size).order(ByteOrder.LITTLE_ENDIAN)
            ids.forEach(bytes::putInt)
            sha256Of(bytes.array())
        }
        assertEquals(10_000, texts.size)
        assertEquals(vectors["ids"].items().map { it.text() }, digests)
    }

    test("words of 10,000 texts equal those of Python") {
        val vectors = jsonOf(File(VECTORS, "texts.json"))
        val texts = vectors["texts"].items().map { it.text() }
        val digests = texts.chunked(vectors["texts_a_digest"].int(1..10_000)).map { part ->
            sha256Of(part.joinToString("") { line(it) }.toByteArray())
        }
        assertEquals(vectors["words_of_texts"].items().map { it.text() }, digests)
    }

    test("words of every character of Unicode equal those of Python") {
        val vectors = jsonOf(File(VECTORS, "texts.json"))
        val size = vectors["characters_a_digest"].int(1..0x110000)
        var count = 0
        val digests = (0..0x10FFFF step size).map { start ->
            val lines = StringBuilder()
            for (scalar in start until start + size) {
                if (scalar in 0xD800..0xDFFF) continue
                val text = "a${String(Character.toChars(scalar))}b"
                lines.append(line(text))
                count++
            }
            sha256Of(lines.toString().toByteArray())
        }
        assertEquals(1_112_064, count)
        assertEquals(vectors["words"].items().map { it.text() }, digests)
    }

    test("words of texts with many marks equal those of Python") {
        // Words of the Python library tokenizers, of random marks, barriers and other characters.
        val vectors = jsonOf(File(SPEC, "words.json"))["texts"].items()
        assertEquals(1_000, vectors.size)
        for (vector in vectors) {
            val expected = vector["words"].items().map { it.text() }
            assertEquals(expected, TOKENIZER.words(vector["text"].text()))
        }
    }

    test("a Turkish phone splits the same words") {
        val usual = Locale.getDefault()
        Locale.setDefault(Locale("tr", "TR"))
        try {
            assertEquals(listOf("istanbul", "i"), TOKENIZER.words("ISTANBUL İ"))
        } finally {
            Locale.setDefault(usual)
        }
    }

    test("a lone surrogate counts as the replacement character and a pair as one character") {
        for (text in listOf("the\uD800m", "\uDC00them", "them\uD83D", "t\uDFFFhem")) {
            assertEquals(listOf("them"), TOKENIZER.words(text))
        }
        assertEquals(listOf("a😀"), TOKENIZER.words("a\uD83D\uDE00"))
        assertContentEquals(intArrayOf(2, 3), TOKENIZER.encode("\uD800").inputIds.copyOf(2))
        assertFalse(TOKENIZER.isAbsent("\uD800"))
    }

    test("white space alone is absent and a zero-width space is not") {
        val absent = TOKENIZER.encode(" \u3000\u0085\u001c")
        assertContentEquals(IntArray(16) { if (it == 0) 2 else 0 }, absent.inputIds)
        assertContentEquals(IntArray(16) { if (it == 0) 1 else 0 }, absent.attentionMask)
        val empty = TOKENIZER.encode("\u200b")
        assertContentEquals(intArrayOf(2, 3, 0), empty.inputIds.copyOf(3))
        assertEquals(2, empty.attentionMask.sum())
    }

    test("a text is cut only if it has more pieces than the model takes") {
        assertFalse(TOKENIZER.encode("the ".repeat(14)).isCut)
        val cut = TOKENIZER.encode("the ".repeat(15))
        assertTrue(cut.isCut)
        assertEquals(3, cut.inputIds[15])
        assertEquals(16, cut.attentionMask.sum())
        assertFalse(TOKENIZER.encode("the ".repeat(13) + "thez").isCut)
        assertContentEquals(
            TOKENIZER.encode("the ".repeat(14)).inputIds.copyOf(14) + intArrayOf(1, 3),
            TOKENIZER.encode("the ".repeat(13) + "thethethez").inputIds,
        )
    }

    test("a word of more than the longest length is unknown, counted in scalars") {
        val tokenizer = tokenizer("\"vocabulary\"" to """["?", "a", "##a", "😀", "##😀"]""")
        assertEquals(List(100) { if (it == 0) 3 else 4 }, tokenizer.ids("😀".repeat(100)))
        assertEquals(listOf(0), tokenizer.ids("😀".repeat(101)))
    }

    test("marks are sorted by place, stably, up to a barrier") {
        val tokenizer = tokenizer(
            "\"order\"" to "[[98, 2], [99, 1], [100, 1]]",
            "\"removed\"" to "[120, 121]",
            "\"barriers\"" to "[121, 121]",
        )
        assertEquals(listOf("adcb"), tokenizer.words("abdc"))
        assertEquals(listOf("acb"), tokenizer.words("abxc"))
        assertEquals(listOf("abc"), tokenizer.words("abyc"))
    }

    test("a megabyte of any text takes little time and memory") {
        val million = 1_000_000
        val texts = listOf(
            "the ".repeat(million / 4),
            "a".repeat(million),
            " ".repeat(million),
            "\u200b".repeat(million),
            "\u0301".repeat(million),
            "a" + "\u08d4\ud80d\udc00".repeat(million / 3),
            "a" + "\u08d4".repeat(million),
            "thethez ".repeat(million / 8),
        )
        for (text in texts) {
            val start = System.nanoTime()
            val bytes = allocatedBytes { TOKENIZER.encode(text) }
            val millis = (System.nanoTime() - start) / 1_000_000
            assertTrue(bytes < 40_000_000, "${text.take(4)}: $bytes bytes")
            assertTrue(millis < 5_000, "${text.take(4)}: $millis ms")
        }
    }

    test("a wrong text json is refused with its key") {
        val wrong = mapOf(
            "schema_version" to "2",
            "max_length" to "\"16\"",
            "max_length " to "1",
            "pad_id" to "1.0",
            "unknown_id" to "203",
            "start_id" to "-1",
            "splits_hangul" to "1",
            "inside_word" to "null",
            "longest_word" to "0",
            "removed" to "[3]",
            "blank" to "[5, 4]",
            "absent" to "[1, 4, 4, 5]",
            "spaced" to "[0, 1114112]",
            "replaced" to "[[65]]",
            "replaced " to "[[65, 97], [65, 98]]",
            "order" to "[[65, 1, 2]]",
            "order " to "[[55296, 1]]",
            "vocabulary" to "[]",
            "vocabulary " to "[\"a\", \"a\"]",
        )
        for ((key, value) in wrong) {
            val error = assertFailsWith<BundleException> { tokenizer("\"${key.trim()}\"" to value) }
            assertTrue("text.json: ${key.trim()}" in error.message!!, error.message)
        }
        val error = assertFailsWith<BundleException> { Tokenizer.read("{}".toByteArray()) }
        assertTrue("text.json: lacks the key \"schema_version\"" in error.message!!)
    }
}

private fun line(text: String): String = TOKENIZER.words(text).joinToString(" ") + "\n"

private fun Tokenizer.ids(text: String): List<Int> = encode(text).let { tokens ->
    tokens.inputIds.take(tokens.attentionMask.sum()).drop(1).dropLast(1)
}

/** Returns a small tokenizer with some keys replaced, each in quotes. */
private fun tokenizer(vararg changes: Pair<String, String>): Tokenizer {
    val entries = linkedMapOf(
        "\"schema_version\"" to "1", "\"max_length\"" to "128", "\"pad_id\"" to "0",
        "\"absent_id\"" to "0", "\"start_id\"" to "0", "\"end_id\"" to "0",
        "\"unknown_id\"" to "0", "\"inside_word\"" to "\"##\"", "\"longest_word\"" to "100",
        "\"splits_hangul\"" to "true", "\"absent\"" to "[]", "\"removed\"" to "[]",
        "\"barriers\"" to "[]", "\"blank\"" to "[]", "\"spaced\"" to "[]",
        "\"punctuation\"" to "[]", "\"replaced\"" to "[]", "\"order\"" to "[]",
        "\"vocabulary\"" to "[\"a\"]",
    )
    entries.putAll(changes)
    val json = entries.entries.joinToString(",", "{", "}") { "${it.key}:${it.value}" }
    return Tokenizer.read(json.toByteArray())
}
