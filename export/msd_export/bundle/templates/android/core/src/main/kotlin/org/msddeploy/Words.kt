package org.msddeploy

/** Receiver of the words of a text. */
internal fun interface WordSink {
    /**
     * Receives the next word.
     *
     * @param word Its scalars, at most as many as are kept of a word; reused for the next word.
     * @param length The number of its scalars, including those that are not kept.
     * @return Whether to continue.
     */
    fun add(word: IntArray, length: Int): Boolean
}

/**
 * Normalisation of a text and its division into words, by the tables of text.json alone, whatever
 * the platform's language and version of Unicode.
 */
internal class WordRules(json: Json) {
    private val splitsHangul = json["splits_hangul"].flag()
    private val flags = ByteArray(SCALARS.last + 1)
    private val replacements = HashMap<Int, IntArray>()
    private val places = HashMap<Int, Int>()

    init {
        for ((key, flag) in RANGES) readRanges(json[key], flag)
        for (entry in json["replaced"].items()) {
            val scalars = entry.items().map { it.scalar() }
            if (scalars.size < 2) entry.fail("is not a character and what it becomes")
            val becomes = IntArray(scalars.size - 1) { scalars[it + 1] }
            if (replacements.put(scalars[0], becomes) != null) entry.fail("is a duplicate")
            mark(scalars[0], REPLACED)
        }
        for (entry in json["order"].items()) {
            val pair = entry.items()
            if (pair.size != 2) entry.fail("is not a character and its place")
            val mark = pair[0].scalar()
            if (places.put(mark, pair[1].int(PLACES)) != null) entry.fail("is a duplicate")
            mark(mark, PLACED)
        }
    }

    /** Returns whether a text counts as no text: it is empty or white space alone. */
    fun isAbsent(text: String): Boolean {
        var at = 0
        while (at < text.length) {
            val scalar = scalarAt(text, at)
            if (!has(scalar, ABSENT)) return false
            at += Character.charCount(scalar)
        }
        return true
    }

    /**
     * Divides a text into words until the sink returns false.
     *
     * Time is linear in the text (n log n in a run of marks), memory in the longest run of marks.
     *
     * @param longest The most scalars of a word that are kept.
     */
    fun split(text: String, longest: Int, sink: WordSink) {
        val splitter = Splitter(longest, sink)
        var at = 0
        while (at < text.length && splitter.isOpen) {
            val scalar = scalarAt(text, at)
            splitter.read(scalar)
            at += Character.charCount(scalar)
        }
        splitter.finish()
    }

    private inner class Splitter(private val longest: Int, private val sink: WordSink) {
        var isOpen = true
            private set
        private var word = IntArray(minOf(longest, 64))
        private var length = 0

        // A run of marks, each packed as place, position and scalar, so that sorting is stable.
        private var marks = LongArray(16)
        private var markCount = 0

        fun read(scalar: Int) {
            when {
                has(scalar, REMOVED) -> if (has(scalar, BARRIER)) orderMarks()
                has(scalar, BLANK) -> write(SPACE)
                has(scalar, SPACED) -> {
                    write(SPACE)
                    replace(scalar)
                    write(SPACE)
                }
                else -> replace(scalar)
            }
        }

        fun finish() {
            orderMarks()
            endWord()
        }

        private fun replace(scalar: Int) {
            when {
                has(scalar, REPLACED) -> replacements.getValue(scalar).forEach(::write)
                splitsHangul && scalar in HANGUL -> writeSyllable(scalar - HANGUL.first)
                else -> write(scalar)
            }
        }

        /** The Unicode Standard, section 3.12. */
        private fun writeSyllable(index: Int) {
            write(0x1100 + index / 588)
            write(0x1161 + index % 588 / 28)
            if (index % 28 > 0) write(0x11A7 + index % 28)
        }

        private fun write(scalar: Int) {
            if (has(scalar, PLACED)) {
                if (markCount == marks.size) marks = marks.copyOf(2 * markCount)
                val place = places.getValue(scalar).toLong()
                marks[markCount] = (place shl 53) or (markCount.toLong() shl 21) or scalar.toLong()
                markCount++
            } else {
                orderMarks()
                divide(scalar)
            }
        }

        private fun orderMarks() {
            if (markCount > 1) marks.sort(0, markCount)
            for (index in 0 until markCount) divide((marks[index] and 0x1FFFFF).toInt())
            markCount = 0
        }

        private fun divide(scalar: Int) {
            when {
                has(scalar, PUNCTUATION) -> {
                    endWord()
                    extend(scalar)
                    endWord()
                }
                scalar == SPACE -> endWord()
                else -> extend(scalar)
            }
        }

        private fun extend(scalar: Int) {
            if (length < longest) {
                if (length == word.size) word = word.copyOf(minOf(longest, 2 * length))
                word[length] = scalar
            }
            length++
        }

        private fun endWord() {
            if (length > 0 && isOpen) isOpen = sink.add(word, length)
            length = 0
        }
    }

    private fun readRanges(ranges: Json, flag: Int) {
        val ends = ranges.items().map { it.int(SCALARS) }
        val isRight = ends.size % 2 == 0 &&
            ends.indices.all { it == 0 || ends[it] > ends[it - 1] - it % 2 }
        if (!isRight) ranges.fail("is not ascending ranges: first, last, first, last, ...")
        for (index in ends.indices step 2) {
            for (scalar in ends[index]..ends[index + 1]) mark(scalar, flag)
        }
    }

    private fun mark(scalar: Int, flag: Int) {
        flags[scalar] = (flags[scalar].toInt() or flag).toByte()
    }

    private fun has(scalar: Int, flag: Int): Boolean = flags[scalar].toInt() and flag != 0

    private companion object {
        val SCALARS = 0..0x10FFFF
        val HANGUL = 0xAC00..0xD7A3
        val SURROGATES = 0xD800..0xDFFF
        val PLACES = 0..1023
        const val SPACE = 0x20
        const val REPLACEMENT = 0xFFFD

        const val ABSENT = 1
        const val REMOVED = 2
        const val BARRIER = 4
        const val BLANK = 8
        const val SPACED = 16
        const val PUNCTUATION = 32
        const val REPLACED = 64
        const val PLACED = 128
        val RANGES = mapOf(
            "absent" to ABSENT,
            "removed" to REMOVED,
            "barriers" to BARRIER,
            "blank" to BLANK,
            "spaced" to SPACED,
            "punctuation" to PUNCTUATION,
        )

        fun Json.scalar(): Int = int(SCALARS).also {
            if (it in SURROGATES) fail("is the surrogate $it, not a character")
        }

        /** A lone surrogate counts as U+FFFD; both take one unit of UTF-16. */
        fun scalarAt(text: String, at: Int): Int {
            val scalar = text.codePointAt(at)
            return if (scalar in SURROGATES) REPLACEMENT else scalar
        }
    }
}
