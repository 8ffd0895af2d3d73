import Foundation
import Testing

@testable import MsdDeployCore

/// Words as texts.json hashes them.
private func line(of words: [String]) -> [UInt8] {
    words.joined(separator: " ").utf8 + [0x0A]
}

@Test func everyTextHasTheSameIdentifiersAndWords() throws {
    let json = try Spec.json("texts.json")
    let tokenizer = try Tokenizer(json: Spec.text())
    let texts = try json["texts"].list().map { try $0.text() }
    #expect(texts.count == 10_000)
    let step = try json["texts_a_digest"].int(from: 1, to: 10_000)
    let parts = stride(from: 0, to: texts.count, by: step).map { texts[$0..<$0 + step] }
    let ids = parts.map { part in
        let ids = part.flatMap { tokenizer.encode($0).inputIDs.map(\.littleEndian) }
        return SHA256.hexDigest(of: ids.withUnsafeBytes(Array.init))
    }
    #expect(try ids == json["ids"].list().map { try $0.text() })
    let words = parts.map { part in
        SHA256.hexDigest(of: part.flatMap { line(of: tokenizer.words(of: $0)) })
    }
    #expect(try words == json["words_of_texts"].list().map { try $0.text() })
}

@Test func everyScalarOfUnicodeHasTheSameWords() throws {
    let json = try Spec.json("texts.json")
    let tokenizer = try Tokenizer(json: Spec.text())
    let step = try json["characters_a_digest"].int(from: 1, to: 0x110000)
    var count = 0
    let digests = stride(from: 0, to: 0x110000, by: step).map { start in
        let numbers = UInt32(start)..<UInt32(start + step)
        var lines: [UInt8] = []
        for scalar in numbers.compactMap(Unicode.Scalar.init) {
            lines += line(of: tokenizer.words(of: "a\(scalar)b"))
            count += 1
        }
        return SHA256.hexDigest(of: lines)
    }
    #expect(count == 1_112_064)
    #expect(try digests == json["words"].list().map { try $0.text() })
}

@Test(
    .timeLimit(.minutes(1)),
    arguments: [
        ("a", false), ("a ", true), ("a.", true), ("\u{200B}", false), (" ", false),
        ("\u{302E}\u{1B44}", false), ("\u{302E}\u{34F}", false), ("\u{AC00}", false),
    ])
func aMegabyteOfTextIsEncodedInLittleMemory(part: String, isCut: Bool) throws {
    let tokenizer = try Tokenizer(json: Spec.text())
    let text = String(repeating: part, count: 1_000_000 / part.utf8.count)
    let before = peakMemoryBytes()
    let tokens = tokenizer.encode(text)
    #expect(tokens.isCut == isCut)
    #expect(tokens.inputIDs.count == 16)
    #expect(peakMemoryBytes() - before < 64_000_000)
}

@Test func aTextThatFitsExactlyIsNotCut() throws {
    let tokenizer = try Tokenizer(json: Spec.text())
    let (whole, longer) = (String(repeating: "a ", count: 14), String(repeating: "a ", count: 15))
    #expect(!tokenizer.encode(whole).isCut)
    #expect(tokenizer.encode(longer).isCut)
    #expect(tokenizer.encode(whole).inputIDs == tokenizer.encode(longer).inputIDs)
}

@Test func textsWithoutPiecesAreNotAbsentTexts() throws {
    let tokenizer = try Tokenizer(json: Spec.text())
    let padding = [Int32](repeating: 0, count: 13)
    #expect(tokenizer.encode("\u{200B}").inputIDs == [2, 3, 0] + padding)
    #expect(tokenizer.encode("\u{1C}\u{3000}").inputIDs == [2, 0, 0] + padding)
    #expect(tokenizer.encode("\u{1C}\u{3000}").attentionMask == [1, 0, 0] + padding)
}

@Test func equivalentTextsAreDifferentPieces() throws {
    var json = try Spec.text()
    for key in ["removed", "replaced", "order"] { json = try changed(json, key, to: "[]") }
    let pieces = #"["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u00e9", "e\u0301"]"#
    let tokenizer = try Tokenizer(json: changed(json, "vocabulary", to: pieces))
    #expect(tokenizer.encode("\u{E9} e\u{301} e").inputIDs[..<5] == [2, 4, 5, 1, 3])
}

@Test(arguments: [
    ("schema_version", "2", "schema_version is not 1. Use the Swift package"),
    ("schema_version", nil, "has no schema_version"),
    ("max_length", #""16""#, "max_length is not a whole number from 2 to 65536"),
    ("max_length", "1", "max_length is not a whole number from 2 to 65536"),
    ("pad_id", "-1", "pad_id is not a whole number from 0 to "),
    ("start_id", "1000000", "start_id is not a whole number from 0 to "),
    ("end_id", "1e300", "end_id is not a whole number from 0 to "),
    ("unknown_id", "1.5", "unknown_id is not a whole number from 0 to "),
    ("unknown_id", "true", "unknown_id is not a whole number"),
    ("absent_id", "null", "absent_id is not a whole number"),
    ("longest_word", "0", "longest_word is not a whole number from 1 to"),
    ("inside_word", "7", "inside_word is not a text"),
    ("splits_hangul", "1", "splits_hangul is not true or false"),
    ("absent", "{}", "absent is not a list"),
    ("removed", "[1, 2, 3]", "removed has a range without end"),
    ("blank", "[9, 10, 10, 13]", "blank[2] is not a whole number from 11 to 1114111"),
    ("spaced", "[5, 4]", "spaced[1] is not a whole number from 5 to 1114111"),
    ("spaced", "[5, 1114111, 6, 7]", "spaced[2] is not a whole number from 1114112"),
    ("punctuation", "[0, 1114112]", "punctuation[1] is not a whole number from 0 to"),
    ("barriers", "[-1, 4]", "barriers[0] is not a whole number from 0 to 1114111"),
    ("replaced", "[[65]]", "replaced[0] is not a new scalar and others"),
    ("replaced", "[[65, 97], [65, 98]]", "replaced[1] is not a new scalar"),
    ("replaced", "[[65, 55296]]", "replaced[0][1] is a surrogate"),
    ("order", "[[2260]]", "order[0] is not a scalar and its place"),
    ("order", "[[2260, 0.5]]", "order[0][1] is not a whole number from 0 to"),
    ("vocabulary", "[]", "vocabulary is empty"),
    ("vocabulary", #"["a", 1]"#, "vocabulary[1] is not a text"),
    ("vocabulary", #"["a", "b", "c", "d", "a"]"#, "vocabulary[4] occurs twice"),
])
func anInvalidTextJSONIsRefusedByItsKey(key: String, value: String?, expected: String) throws {
    let json = try changed(Spec.text(), key, to: value)
    let message = message { try Tokenizer(json: json) }
    #expect(message?.hasPrefix("text.json: \(expected)") == true, "\(message ?? "no error")")
}
