package org.msddeploy

/**
 * The model's inputs of a text.
 *
 * @property inputIds Identifiers of pieces, int32 `[max_length]`, padded on the right.
 * @property attentionMask 1 for tokens, 0 for padding, int32 `[max_length]`.
 * @property isCut Whether the text was truncated.
 */
public class Tokens internal constructor(
    public val inputIds: IntArray,
    public val attentionMask: IntArray,
    public val isCut: Boolean,
)

/** The tokenizer of text.json. It is immutable and safe for use by several threads. */
public class Tokenizer private constructor(json: Json) {
    init {
        json["schema_version"].expect(1L)
    }

    /** The number of identifiers of a text, padding included. */
    public val maxLength: Int = json["max_length"].int(2..65_536)

    private val rules = WordRules(json)
    private val padId: Int
    private val absentId: Int
    private val startId: Int
    private val endId: Int
    private val unknownId: Int
    private val longestWord = json["longest_word"].int(1..65_536)
    private val firstPieces = HashMap<String, Int>()
    private val innerPieces = HashMap<String, Int>()
    private val longestPiece: Int

    init {
        val prefix = json["inside_word"].text()
        val vocabulary = json["vocabulary"].items()
        for ((id, entry) in vocabulary.withIndex()) {
            val piece = entry.text()
            if (firstPieces.put(piece, id) != null) entry.fail("is a duplicate")
            if (piece.startsWith(prefix)) innerPieces[piece.substring(prefix.length)] = id
        }
        longestPiece = firstPieces.keys.maxOfOrNull { it.length }
            ?: json["vocabulary"].fail("is empty")
        fun id(key: String) = json[key].int(vocabulary.indices)
        padId = id("pad_id")
        absentId = id("absent_id")
        startId = id("start_id")
        endId = id("end_id")
        unknownId = id("unknown_id")
    }

    /** Returns whether a text counts as no text: it is empty or white space alone. */
    public fun isAbsent(text: String): Boolean = rules.isAbsent(text)

    /**
     * Returns the model's inputs of a text, truncated on the right; an absent text is one token.
     *
     * Stops reading at the first piece that is cut off.
     */
    public fun encode(text: String): Tokens {
        if (isAbsent(text)) {
            val ids = IntArray(maxLength) { if (it == 0) absentId else padId }
            return Tokens(ids, ones(1), isCut = false)
        }
        val pieces = Pieces()
        rules.split(text, longestWord, pieces)
        return pieces.tokens()
    }

    /** Returns the words of a text after normalisation, for comparison with test vectors. */
    public fun words(text: String): List<String> {
        val words = ArrayList<String>()
        rules.split(text, Int.MAX_VALUE) { word, length -> words.add(String(word, 0, length)) }
        return words
    }

    private inner class Pieces : WordSink {
        private val ids = IntArray(maxLength)
        private var count = 0

        override fun add(word: IntArray, length: Int): Boolean {
            val before = count
            if (length > longestWord || !divide(String(word, 0, length))) {
                count = before
                add(unknownId)
            }
            return count <= maxLength - 2
        }

        fun tokens(): Tokens {
            val kept = minOf(count, maxLength - 2)
            ids[0] = startId
            ids[kept + 1] = endId
            ids.fill(padId, kept + 2)
            return Tokens(ids, ones(kept + 2), isCut = count > kept)
        }

        /** Adds the longest pieces from the start on; returns false at a place where none fits. */
        private fun divide(word: String): Boolean {
            var start = 0
            while (start < word.length) {
                val pieces = if (start == 0) firstPieces else innerPieces
                var end = minOf(word.length, start + longestPiece)
                var id = pieces[word.substring(start, end)]
                while (id == null) {
                    end = word.offsetByCodePoints(end, -1)
                    if (end <= start) return false
                    id = pieces[word.substring(start, end)]
                }
                add(id)
                start = end
            }
            return true
        }

        private fun add(id: Int) {
            if (count < maxLength - 2) ids[count + 1] = id
            count++
        }
    }

    private fun ones(count: Int) = IntArray(maxLength) { if (it < count) 1 else 0 }

    public companion object {
        /**
         * Reads text.json.
         *
         * @throws BundleException It is not JSON, has another schema_version, or a key is missing
         *   or has a wrong value.
         */
        public fun read(content: ByteArray): Tokenizer =
            Tokenizer(Json.parse(content, "text.json"))
    }
}
