package org.msddeploy

import java.nio.charset.CharacterCodingException

private const val REMEDY = "Replace the bundle with one that `msd bundle` has just written."
private const val DEEPEST = 64
private val WORD = Regex("[A-Za-z0-9_]+")

/**
 * A value of a JSON file, with the file and its path there for error messages.
 *
 * [value] is a Map, a List, a String, a Long, a Double, a Boolean or null. Unknown keys are
 * ignored, since a later version may add some.
 */
internal class Json private constructor(
    private val value: Any?,
    private val file: String,
    private val parent: Json? = null,
    private val step: Any? = null,
) {
    private val map: Map<*, *>
        get() = value as? Map<*, *> ?: fail("is ${shown()}, not an object")

    /** Returns the value of a key; fails if this is not an object or lacks the key. */
    operator fun get(key: String): Json {
        if (key !in map) fail("lacks the key \"$key\"")
        return Json(map[key], file, this, key)
    }

    /** Returns the value of a key, or null if the object lacks it or it is null. */
    fun find(key: String): Json? = map[key]?.let { get(key) }

    fun entries(): Map<String, Json> = map.keys.associate { it as String to get(it) }

    fun items(): List<Json> {
        val items = value as? List<*> ?: fail("is ${shown()}, not a list")
        return items.mapIndexed { index, item -> Json(item, file, this, index) }
    }

    fun text(): String = value as? String ?: fail("is ${shown()}, not a string")

    fun flag(): Boolean = value as? Boolean ?: fail("is ${shown()}, not true or false")

    /** Returns an integer; one with a fraction or exponent, such as 1.0, is not an integer. */
    fun int(allowed: IntRange): Int {
        if (value is Long && value in allowed.first..allowed.last) return value.toInt()
        fail("is ${shown()}, not an integer from ${allowed.first} to ${allowed.last}")
    }

    fun number(): Double = (value as? Number)?.toDouble() ?: fail("is ${shown()}, not a number")

    /** Fails unless the value is the expected one: a Long, a String, or a List of them. */
    fun expect(expected: Any) {
        if (value != expected) fail("is ${shown()}, not $expected")
    }

    fun fail(problem: String): Nothing =
        throw BundleException("$file: ${path()}$problem. $REMEDY")

    private fun path(): String =
        generateSequence(this) { it.parent }.mapNotNull { it.step }.toList().asReversed()
            .joinToString("") { step ->
                when {
                    step is Int -> "[$step]"
                    WORD.matches("$step") -> ".$step"
                    else -> "[\"$step\"]"
                }
            }
            .removePrefix(".").let { if (it.isEmpty()) it else "$it " }

    private fun shown(): String =
        value.toString().let { if (it.length > 60) "${it.take(60)}..." else it }

    companion object {
        /**
         * Parses a file strictly by RFC 8259: valid UTF-8 without a byte order mark, no duplicate
         * key, at most 64 levels. Escapes may stand for lone surrogates, as in Python's output.
         *
         * @param file Name of the file, for error messages.
         */
        fun parse(content: ByteArray, file: String): Json {
            val text = try {
                content.decodeToString(throwOnInvalidSequence = true)
            } catch (error: CharacterCodingException) {
                throw BundleException("$file: is not valid UTF-8. $REMEDY", error)
            }
            return Json(JsonParser(text, file).document(), file)
        }
    }
}

/**
 * Returns a value as JSON in ASCII: a Map of strings to values, a List, a String, an Int, a Long, a
 * Double, a Boolean or null.
 *
 * @throws BundleException A number is not finite.
 */
internal fun jsonText(value: Any?): String = when (value) {
    is Map<*, *> -> value.entries.joinToString(", ", "{", "}") { (key, item) ->
        "${quoted(key as String)}: ${jsonText(item)}"
    }
    is List<*> -> value.joinToString(", ", "[", "]", transform = ::jsonText)
    is String -> quoted(value)
    is Double -> {
        if (!value.isFinite()) throw BundleException("$value has no JSON. Pass finite numbers.")
        value.toString()
    }
    null, is Boolean, is Int, is Long -> value.toString()
    else -> throw IllegalArgumentException("${value.javaClass} has no JSON")
}

private fun quoted(text: String): String = buildString {
    append('"')
    for (letter in text) {
        when (letter) {
            '"', '\\' -> append('\\').append(letter)
            in ' '..'~' -> append(letter)
            else -> append("\\u").append(letter.code.toString(16).padStart(4, '0'))
        }
    }
    append('"')
}

private class JsonParser(private val text: String, private val file: String) {
    private var at = 0

    fun document(): Any? {
        val value = value(DEEPEST)
        skipSpace()
        if (at < text.length) fail("expected the end of the file")
        return value
    }

    private fun value(levels: Int): Any? {
        skipSpace()
        return when {
            takes('{') -> entries(levels)
            takes('[') -> items(levels)
            takes('"') -> string()
            takes("true") -> true
            takes("false") -> false
            takes("null") -> null
            else -> number()
        }
    }

    private fun entries(levels: Int): Map<String, Any?> {
        val entries = LinkedHashMap<String, Any?>()
        separated('}', levels) {
            need('"')
            val key = string()
            if (key in entries) fail("duplicate key \"$key\"")
            skipSpace()
            need(':')
            entries[key] = value(levels - 1)
        }
        return entries
    }

    private fun items(levels: Int): List<Any?> {
        val items = ArrayList<Any?>()
        separated(']', levels) { items.add(value(levels - 1)) }
        return items
    }

    private inline fun separated(end: Char, levels: Int, readOne: () -> Unit) {
        if (levels == 0) fail("more than $DEEPEST levels")
        skipSpace()
        if (takes(end)) return
        do {
            skipSpace()
            readOne()
            skipSpace()
        } while (takes(','))
        need(end)
    }

    private fun string(): String {
        val result = StringBuilder()
        while (!takes('"')) {
            val letter = text.getOrNull(at) ?: fail("expected the end of a string")
            if (letter < ' ') fail("control character in a string")
            at++
            result.append(if (letter == '\\') escaped() else letter)
        }
        return result.toString()
    }

    private fun escaped(): Char = when (val letter = text.getOrNull(at++)) {
        '"', '\\', '/' -> letter
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> codeUnit()
        else -> fail("unknown escape")
    }

    private fun codeUnit(): Char {
        val digits = text.substring(at, minOf(at + 4, text.length))
        if (digits.length < 4 || !digits.all { it in "0123456789abcdefABCDEF" }) {
            fail("expected four hexadecimal digits")
        }
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun number(): Any {
        val start = at
        takes('-')
        if (!takes('0')) digits()
        val endOfInteger = at
        if (takes('.')) digits()
        if (takes('e') || takes('E')) {
            if (!takes('+')) takes('-')
            digits()
        }
        val written = text.substring(start, at)
        val value = written.toDouble()
        if (value.isInfinite()) fail("number too large")
        return if (at == endOfInteger) written.toLongOrNull() ?: value else value
    }

    private fun digits() {
        val start = at
        while (at < text.length && text[at] in '0'..'9') at++
        if (at == start) fail("expected a value")
    }

    private fun skipSpace() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun takes(letter: Char): Boolean {
        if (text.getOrNull(at) != letter) return false
        at++
        return true
    }

    private fun takes(word: String): Boolean {
        if (!text.startsWith(word, at)) return false
        at += word.length
        return true
    }

    private fun need(letter: Char) {
        if (!takes(letter)) fail("expected $letter")
    }

    private fun fail(problem: String): Nothing =
        throw BundleException("$file: is not JSON at character $at: $problem. $REMEDY")
}
